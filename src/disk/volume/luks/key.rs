//! From a passphrase to the key of a volume: derivation, the key material of a slot, its merging, and the digest that tells
//! whether the passphrase was right.
//!
//! Source: "LUKS On-Disk Format Specification 1.2.3", sections 2.4 and 3 (anti-forensic splitter, PBKDF2), and "LUKS2 On-Disk Format
//! Specification 1.1.3". What a header asks for is bounded: it is evidence, and may have been made to keep us busy.

use argon2::{Algorithm, Argon2, Params, Version};
use pbkdf2::pbkdf2_hmac;
use sha1::Sha1;
use sha2::{Sha224, Sha256, Sha384, Sha512};
use zeroize::Zeroizing;

use super::cipher::Cipher;
use crate::disk::us;
use crate::image::fields::read_structure;
use crate::image::{ReadAt, ReadError};

/// A secret.
pub(super) type Secret = Zeroizing<Vec<u8>>;

/// The most rounds of PBKDF2; cryptsetup takes some million for two seconds of work.
const ROUNDS: u64 = 1 << 26;
/// The most memory for Argon2, in KiB: 4 GiB is the most that cryptsetup itself accepts, and it asks for 1 GiB at most unless told otherwise.
const MEMORY: u64 = 4 << 20;
/// The most work for Argon2: passes times KiB.
const WORK: u64 = 64 << 20;
/// The most key material of one slot, in bytes; a usual one has 256 KiB.
const MATERIAL: u64 = 16 << 20;
/// The longest key, in bytes.
const KEY: u64 = 512;

/// How a key is made of a passphrase.
#[derive(Debug, Clone)]
pub(super) enum Derivation {
    Pbkdf2 { hash: String, rounds: u64, salt: Vec<u8> },
    Argon2 { kind: Algorithm, passes: u64, memory: u64, lanes: u64, salt: Vec<u8> },
}

/// A slot: the key of the volume, locked by one passphrase.
#[derive(Debug, Clone)]
pub(super) struct Slot {
    pub(super) number: String,
    pub(super) derivation: Derivation,
    /// First byte of its key material.
    pub(super) at: u64,
    /// What the material is encrypted with, and the length of that key.
    pub(super) cipher: String,
    pub(super) cipher_key: u64,
    /// Stripes of the anti-forensic splitter, and its hash.
    pub(super) stripes: u64,
    pub(super) hash: String,
    /// Length of the volume's key.
    pub(super) key: u64,
}

/// What tells that a key is the right one.
#[derive(Debug, Clone)]
pub(super) struct Digest {
    pub(super) derivation: Derivation,
    pub(super) value: Vec<u8>,
}

fn too_much(what: &str, asked: impl std::fmt::Display, most: impl std::fmt::Display) -> ReadError {
    let why = format!("the header asks for {asked}, and at most {most} is given; cryptsetup can open it");
    ReadError::unsupported(what, why)
}

impl Derivation {
    /// How much work it is to make `len` bytes of key: rounds of a hash, or KiB that Argon2 goes over, each of very roughly a
    /// microsecond. An error if that is more than is ever done.
    fn cost(&self, len: u64) -> Result<u64, ReadError> {
        if len == 0 || len > KEY {
            return Err(too_much("a key", format_args!("{len} bytes"), format_args!("{KEY}")));
        }
        match self {
            Self::Pbkdf2 { rounds, .. } if !(1..=ROUNDS).contains(rounds) => {
                Err(too_much("PBKDF2", format_args!("{rounds} rounds"), ROUNDS))
            }
            Self::Pbkdf2 { hash, rounds, .. } => {
                let digest = match hash.as_str() {
                    "sha1" => 20,
                    "sha224" => 28,
                    "sha256" => 32,
                    "sha384" => 48,
                    _ => 64,
                };
                Ok(rounds.saturating_mul(len.div_ceil(digest)))
            }
            Self::Argon2 { memory, .. } if *memory > MEMORY => {
                Err(too_much("Argon2", format_args!("{memory} KiB"), format_args!("{MEMORY} KiB")))
            }
            Self::Argon2 { passes, memory, .. } => {
                let asked = format_args!("{passes} passes over {memory} KiB");
                let cost = passes.saturating_mul(*memory);
                if cost > WORK { Err(too_much("Argon2", asked, "64 GiB of passes")) } else { Ok(cost) }
            }
        }
    }

    fn derive(&self, secret: &[u8], len: u64) -> Result<Secret, ReadError> {
        self.cost(len)?;
        let mut key = Zeroizing::new(vec![0; us(len)]);
        let small = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
        match self {
            Self::Pbkdf2 { hash, rounds, salt } => pbkdf2(hash, secret, salt, small(*rounds), &mut key)?,
            Self::Argon2 { kind, passes, memory, lanes, salt } => {
                let params = Params::new(small(*memory), small(*passes), small(*lanes), Some(key.len()));
                let odd = |error: argon2::Error| ReadError::unsupported("an Argon2 key slot", error.to_string());
                let argon2 = Argon2::new(*kind, Version::V0x13, params.map_err(odd)?);
                argon2.hash_password_into(secret, salt, &mut key).map_err(odd)?;
            }
        }
        Ok(key)
    }
}

fn unknown_hash(name: &str) -> ReadError {
    ReadError::unsupported(format!("the hash {name}"), "sha1 and the SHA-2 family are known; cryptsetup can open it")
}

fn pbkdf2(hash: &str, secret: &[u8], salt: &[u8], count: u32, key: &mut [u8]) -> Result<(), ReadError> {
    match hash {
        "sha1" => pbkdf2_hmac::<Sha1>(secret, salt, count, key),
        "sha224" => pbkdf2_hmac::<Sha224>(secret, salt, count, key),
        "sha256" => pbkdf2_hmac::<Sha256>(secret, salt, count, key),
        "sha384" => pbkdf2_hmac::<Sha384>(secret, salt, count, key),
        "sha512" => pbkdf2_hmac::<Sha512>(secret, salt, count, key),
        other => return Err(unknown_hash(other)),
    }
    Ok(())
}

/// How much work it is to try a secret on a slot, as [`Derivation::cost`] counts.
pub(super) fn cost(slot: &Slot, digest: &Digest) -> Result<u64, ReadError> {
    let check = digest.derivation.cost(digest.value.len() as u64)?;
    Ok(slot.derivation.cost(slot.cipher_key)?.saturating_add(check))
}

/// The key of the volume, if `secret` opens this slot.
pub(super) fn unlock(
    volume: &dyn ReadAt,
    slot: &Slot,
    secret: &[u8],
    digest: &Digest,
) -> Result<Option<Secret>, ReadError> {
    let len = slot.key.saturating_mul(slot.stripes);
    if slot.stripes == 0 || len == 0 || len > MATERIAL {
        let asked = format_args!("{} stripes of {} bytes", slot.stripes, slot.key);
        return Err(too_much("key material", asked, format_args!("{MATERIAL} bytes")));
    }
    // Asked for first: it costs nothing, and says what is wrong before much work is done.
    let stored = us(len.next_multiple_of(512));
    let mut material = Zeroizing::new(read_structure(volume, "LUKS key material", slot.at, stored)?);
    let own = slot.derivation.derive(secret, slot.cipher_key)?;
    Cipher::new(&slot.cipher, &own)?.sectors(&mut material, 0, 512);
    material.truncate(us(len));
    let key = merge(&material, us(slot.key), &slot.hash)?;
    let found = digest.derivation.derive(&key, digest.value.len() as u64)?;
    Ok((found.as_slice() == digest.value.as_slice()).then_some(key))
}

/// Puts a key together that was spread over stripes so that it is gone with any of them.
fn merge(material: &[u8], len: usize, hash: &str) -> Result<Secret, ReadError> {
    let mut key = Zeroizing::new(vec![0; len]);
    let last = (material.len() / len.max(1)).saturating_sub(1);
    for (number, stripe) in material.chunks_exact(len.max(1)).enumerate() {
        key.iter_mut().zip(stripe).for_each(|(byte, more)| *byte ^= more);
        if number < last {
            key = diffuse(&key, hash)?;
        }
    }
    Ok(key)
}

/// Hashes pieces of the length of a digest, each with its number in front.
fn diffuse(key: &[u8], hash: &str) -> Result<Secret, ReadError> {
    match hash {
        "sha1" => Ok(diffused::<Sha1>(key)),
        "sha224" => Ok(diffused::<Sha224>(key)),
        "sha256" => Ok(diffused::<Sha256>(key)),
        "sha384" => Ok(diffused::<Sha384>(key)),
        "sha512" => Ok(diffused::<Sha512>(key)),
        other => Err(unknown_hash(other)),
    }
}

fn diffused<D: sha2::Digest>(key: &[u8]) -> Secret {
    let mut all = Zeroizing::new(Vec::with_capacity(key.len()));
    for (number, piece) in (0_u32..).zip(key.chunks(<D as sha2::Digest>::output_size().max(1))) {
        let digest = D::new().chain_update(number.to_be_bytes()).chain_update(piece).finalize();
        all.extend_from_slice(digest.get(..piece.len()).unwrap_or_default());
    }
    all
}
