//! The header of LUKS2: a binary part with a checksum, and JSON behind it; all of it twice.
//!
//! "LUKS2 On-Disk Format Specification 1.1.3", sections 2 and 3. The copy with the higher sequence number counts, of those whose
//! checksum is right.

use std::collections::BTreeMap;

use argon2::Algorithm;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::header::{Header, Segment};
use super::key::{Derivation, Digest, Slot};
use crate::disk::us;
use crate::image::fields::{Fields, read_structure};
use crate::image::{ReadAt, ReadError, hex};

/// Bytes of the binary part.
const BINARY: usize = 4096;
/// Where the second copy may be, and so how long a copy may be.
const LENGTHS: [u64; 9] = [0x4000, 0x8000, 0x1_0000, 0x2_0000, 0x4_0000, 0x8_0000, 0x10_0000, 0x20_0000, 0x40_0000];

/// The most key slots.
const SLOTS: usize = 32;

/// One copy.
struct Copy {
    sequence: u64,
    uuid: String,
    label: String,
    json: Vec<u8>,
}

/// Reads the newest copy whose checksum is right.
pub(super) fn read(volume: &dyn ReadAt) -> Result<Header, ReadError> {
    let mut odd = Vec::new();
    let first = copy(volume, 0);
    let seconds = LENGTHS.iter().filter(|at| is_second(volume, **at)).map(|at| copy(volume, *at));
    let second = seconds.fold(None, |best, next| match (best, next) {
        (Some(Ok(best)), _) => Some(Ok(best)),
        (_, next) => Some(next),
    });
    let best = match (first, second) {
        (Ok(first), Some(Ok(second))) => {
            if first.sequence != second.sequence {
                odd.push(format!(
                    "its two headers have the numbers {} and {}; the newer one is used",
                    first.sequence, second.sequence
                ));
            }
            if second.sequence > first.sequence { second } else { first }
        }
        (Ok(first), second) => {
            odd.push(
                second.and_then(Result::err).map_or("it has no second header".to_owned(), |error| error.to_string()),
            );
            first
        }
        (Err(error), Some(Ok(second))) => {
            odd.push(format!("{error}; the second header is used"));
            second
        }
        (Err(error), _) => return Err(error),
    };
    let json: Json = serde_json::from_slice(&best.json)
        .map_err(|error| ReadError::corrupt("LUKS2 header", BINARY as u64, "JSON as the format says", error))?;
    json.header(best, odd)
}

fn is_second(volume: &dyn ReadAt, at: u64) -> bool {
    let mut magic = [0; 6];
    volume.read_at(at, &mut magic).is_ok() && magic == *super::SECOND
}

fn copy(volume: &dyn ReadAt, at: u64) -> Result<Copy, ReadError> {
    let start = read_structure(volume, "LUKS2 header", at, BINARY)?;
    let fields = Fields::new("LUKS2 header", at, &start);
    let (size, own) = (fields.be64(8)?, fields.be64(256)?);
    if !LENGTHS.contains(&size) || own != at {
        let found = format_args!("{size:#x} bytes at {own:#x}");
        return Err(fields.corrupt(8, format_args!("a length of 16 KiB to 4 MiB at {at:#x}"), found));
    }
    let mut bytes = read_structure(volume, "LUKS2 header", at, us(size))?;
    let algorithm = fields.text(72, 32)?;
    if algorithm != "sha256" {
        return Err(ReadError::unsupported(
            "a LUKS2 header",
            format!("its checksum is by {algorithm}, known is sha256"),
        ));
    }
    let wanted = fields.array::<32>(448)?;
    if let Some(sum) = bytes.get_mut(448..512) {
        sum.fill(0);
    }
    let found = Sha256::digest(&bytes);
    if found.as_slice() != wanted {
        return Err(fields.corrupt(448, format_args!("checksum {}", hex(&wanted)), hex(&found)));
    }
    let json = bytes.get(BINARY..).unwrap_or_default();
    let end = json.iter().position(|byte| *byte == 0).unwrap_or(json.len());
    let json = json.get(..end).unwrap_or_default().to_vec();
    Ok(Copy { sequence: fields.be64(16)?, uuid: fields.text(168, 40)?, label: fields.text(24, 48)?, json })
}

#[derive(Deserialize)]
struct Json {
    keyslots: BTreeMap<String, JsonSlot>,
    #[serde(default)]
    tokens: BTreeMap<String, JsonToken>,
    segments: BTreeMap<String, JsonSegment>,
    digests: BTreeMap<String, JsonDigest>,
    config: JsonConfig,
}

#[derive(Deserialize)]
struct JsonSlot {
    #[serde(rename = "type")]
    kind: String,
    key_size: u64,
    area: Option<JsonArea>,
    kdf: Option<JsonKdf>,
    af: Option<JsonAf>,
}

#[derive(Deserialize)]
struct JsonArea {
    #[serde(default)]
    encryption: String,
    #[serde(default)]
    key_size: u64,
    offset: String,
}

#[derive(Deserialize)]
struct JsonAf {
    stripes: u64,
    hash: String,
}

#[derive(Deserialize)]
struct JsonKdf {
    #[serde(rename = "type")]
    kind: String,
    salt: String,
    hash: Option<String>,
    iterations: Option<u64>,
    time: Option<u64>,
    memory: Option<u64>,
    cpus: Option<u64>,
}

#[derive(Deserialize)]
struct JsonToken {
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Deserialize)]
struct JsonSegment {
    #[serde(rename = "type")]
    kind: String,
    offset: String,
    size: String,
    #[serde(default)]
    encryption: String,
    #[serde(default)]
    iv_tweak: String,
    #[serde(default)]
    sector_size: u64,
    integrity: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct JsonDigest {
    keyslots: Vec<String>,
    segments: Vec<String>,
    salt: String,
    digest: String,
    hash: String,
    iterations: u64,
}

#[derive(Deserialize)]
struct JsonConfig {
    #[serde(default)]
    requirements: JsonRequirements,
}

#[derive(Deserialize, Default)]
struct JsonRequirements {
    #[serde(default)]
    mandatory: Vec<String>,
}

fn damage(expected: &str, found: impl std::fmt::Display) -> ReadError {
    ReadError::corrupt("LUKS2 header", BINARY as u64, expected, found)
}

fn number(text: &str) -> Result<u64, ReadError> {
    text.parse().map_err(|_| damage("a number", format_args!("{text:?}")))
}

fn binary(text: &str) -> Result<Vec<u8>, ReadError> {
    STANDARD.decode(text).map_err(|error| damage("base64", error))
}

impl Json {
    fn header(self, copy: Copy, odd: Vec<String>) -> Result<Header, ReadError> {
        if !self.config.requirements.mandatory.is_empty() {
            let why = format!("it requires {}", self.config.requirements.mandatory.join(", "));
            return Err(ReadError::unsupported("a LUKS2 volume", why));
        }
        let mut segments = self.segments.iter();
        let (Some((number, segment)), None) = (segments.next(), segments.next()) else {
            let why = format!(
                "it has {} segments: it was being re-encrypted; finish that with cryptsetup on a copy",
                self.segments.len()
            );
            return Err(ReadError::unsupported("a LUKS2 volume", why));
        };
        if self.keyslots.len() > SLOTS {
            return Err(damage(&format!("at most {SLOTS} key slots"), self.keyslots.len()));
        }
        let digest = self.digests.values().find(|digest| digest.segments.contains(number));
        let digest = digest.ok_or_else(|| damage("a digest for its segment", "none"))?;
        let slots =
            self.keyslots.iter().filter(|(number, slot)| slot.kind == "luks2" && digest.keyslots.contains(number));
        let slots = slots.map(|(number, slot)| slot.slot(number)).collect::<Result<_, _>>()?;
        let (salt, rounds) = (binary(&digest.salt)?, digest.iterations);
        let derivation = Derivation::Pbkdf2 { hash: digest.hash.clone(), rounds, salt };
        let digest = Digest { derivation, value: binary(&digest.digest)? };
        let tokens = self.tokens.values().map(|token| token.kind.clone()).collect();
        let (uuid, label) = (copy.uuid, copy.label);
        Ok(Header { version: 2, uuid, label, slots, digest, segment: segment.segment()?, tokens, odd })
    }
}

impl JsonSegment {
    fn segment(&self) -> Result<Segment, ReadError> {
        if self.kind != "crypt" || self.integrity.is_some() {
            let kind = if self.integrity.is_some() { "authenticated encryption (dm-integrity)" } else { &self.kind };
            return Err(ReadError::unsupported("a LUKS2 volume", format!("its segment is of the kind {kind}")));
        }
        if ![512, 1024, 2048, 4096].contains(&self.sector_size) {
            return Err(damage("sectors of 512 to 4096 bytes", self.sector_size));
        }
        let len = if self.size == "dynamic" { None } else { Some(number(&self.size)?) };
        let (from, tweak) = (number(&self.offset)?, number(&self.iv_tweak)?);
        Ok(Segment { cipher: self.encryption.clone(), from, len, sector: self.sector_size, tweak })
    }
}

impl JsonSlot {
    fn slot(&self, name: &str) -> Result<Slot, ReadError> {
        let (Some(area), Some(kdf), Some(af)) = (&self.area, &self.kdf, &self.af) else {
            return Err(damage("an area, a KDF and stripes of a key slot", format_args!("key slot {name} without")));
        };
        Ok(Slot {
            number: name.to_owned(),
            derivation: kdf.derivation()?,
            at: number(&area.offset)?,
            cipher: area.encryption.clone(),
            cipher_key: area.key_size,
            stripes: af.stripes,
            hash: af.hash.clone(),
            key: self.key_size,
        })
    }
}

impl JsonKdf {
    fn derivation(&self) -> Result<Derivation, ReadError> {
        let salt = binary(&self.salt)?;
        let kind = match self.kind.as_str() {
            "argon2i" => Algorithm::Argon2i,
            "argon2id" => Algorithm::Argon2id,
            "pbkdf2" => {
                let hash = self.hash.clone().unwrap_or_default();
                return Ok(Derivation::Pbkdf2 { hash, rounds: self.iterations.unwrap_or(0), salt });
            }
            other => return Err(ReadError::unsupported("a key slot", format!("its key derivation is {other}"))),
        };
        let of = |n: Option<u64>| n.unwrap_or(0);
        Ok(Derivation::Argon2 { kind, passes: of(self.time), memory: of(self.memory), lanes: of(self.cpus), salt })
    }
}
