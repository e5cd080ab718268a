//! Sectors of a volume that is encrypted as dm-crypt does it: AES in XTS or CBC mode, with the ways to make an initial vector
//! that LUKS volumes of the last fifteen years have.
//!
//! Source: Linux's `Documentation/admin-guide/device-mapper/dm-crypt.rst`. Vectors are numbered by sectors of 512 bytes, also
//! where the cipher takes larger ones at once.

use std::sync::Arc;

use aes::cipher::{Array, BlockCipherDecrypt, BlockCipherEncrypt, KeyInit};
use aes::{Aes128, Aes192, Aes256};
use sha2::{Digest, Sha256};
use xts_mode::Xts128;
use zeroize::Zeroizing;

use crate::disk::us;
use crate::image::{Extent, Kind, ReadAt, ReadError, inside};

/// Bytes that are decrypted at once, at most.
const PART: usize = 1 << 20;
const BLOCK: usize = 16;

enum Mode {
    Xts128(Box<Xts128<Aes128>>),
    Xts256(Box<Xts128<Aes256>>),
    Cbc128(Box<Aes128>),
    Cbc192(Box<Aes192>),
    Cbc256(Box<Aes256>),
}

enum Vector {
    /// The number of the sector, its lower 32 bits only.
    Plain,
    Plain64,
    /// The number of the sector, encrypted by a hash of the key.
    Essiv(Box<Aes256>),
}

/// A cipher with its key.
pub(super) struct Cipher {
    mode: Mode,
    vector: Vector,
}

impl Cipher {
    /// The cipher `spec` (`aes-xts-plain64`); says what it is if it is not known here.
    pub(super) fn new(spec: &str, key: &[u8]) -> Result<Self, ReadError> {
        let unknown = || {
            let why = "AES in XTS and CBC mode is; open it with cryptsetup and give what that makes of it";
            ReadError::unsupported(format!("the cipher {spec} with a key of {} bits", key.len().saturating_mul(8)), why)
        };
        let mode = |name: &str| -> Option<Mode> {
            Some(match name {
                "xts" => {
                    let (first, second) = key.split_at(key.len() / 2);
                    match key.len() {
                        32 => Mode::Xts128(Box::new(Xts128::new(keyed(first)?, keyed(second)?))),
                        64 => Mode::Xts256(Box::new(Xts128::new(keyed(first)?, keyed(second)?))),
                        _ => return None,
                    }
                }
                "cbc" => match key.len() {
                    16 => Mode::Cbc128(Box::new(keyed(key)?)),
                    24 => Mode::Cbc192(Box::new(keyed(key)?)),
                    32 => Mode::Cbc256(Box::new(keyed(key)?)),
                    _ => return None,
                },
                _ => return None,
            })
        };
        let mut parts = spec.splitn(3, '-');
        let (name, chain, vector) = (parts.next(), parts.next(), parts.next());
        let vector = match vector {
            Some("plain") => Vector::Plain,
            Some("plain64") => Vector::Plain64,
            Some("essiv:sha256") => Vector::Essiv(Box::new(keyed(&Sha256::digest(key)).ok_or_else(unknown)?)),
            _ => return Err(unknown()),
        };
        let mode = chain.filter(|_| name == Some("aes")).and_then(mode).ok_or_else(unknown)?;
        Ok(Self { mode, vector })
    }

    fn vector(&self, sector: u64) -> [u8; BLOCK] {
        let number = match &self.vector {
            Vector::Plain => sector & 0xffff_ffff,
            Vector::Plain64 | Vector::Essiv(_) => sector,
        };
        let mut block = Array(u128::from(number).to_le_bytes());
        if let Vector::Essiv(cipher) = &self.vector {
            cipher.encrypt_block(&mut block);
        }
        block.0
    }

    /// Decrypts the sector of this number.
    fn sector(&self, bytes: &mut [u8], number: u64) {
        let vector = self.vector(number);
        match &self.mode {
            Mode::Xts128(cipher) => cipher.decrypt_sector(bytes, Array(vector)),
            Mode::Xts256(cipher) => cipher.decrypt_sector(bytes, Array(vector)),
            Mode::Cbc128(cipher) => cbc(cipher.as_ref(), bytes, vector),
            Mode::Cbc192(cipher) => cbc(cipher.as_ref(), bytes, vector),
            Mode::Cbc256(cipher) => cbc(cipher.as_ref(), bytes, vector),
        }
    }

    /// Decrypts sectors of `size` bytes; the first has the number `first`, in sectors of 512 bytes.
    pub(super) fn sectors(&self, bytes: &mut [u8], first: u64, size: usize) {
        let step = (size / 512) as u64;
        for (number, sector) in (0_u64..).zip(bytes.chunks_exact_mut(size.max(BLOCK))) {
            self.sector(sector, first.wrapping_add(number.wrapping_mul(step)));
        }
    }
}

fn keyed<C: KeyInit>(key: &[u8]) -> Option<C> {
    C::new_from_slice(key).ok()
}

fn cbc<C: BlockCipherDecrypt<BlockSize = aes::cipher::consts::U16>>(cipher: &C, bytes: &mut [u8], vector: [u8; BLOCK]) {
    let stored = bytes.to_vec();
    let (blocks, _) = Array::slice_as_chunks_mut(bytes);
    cipher.decrypt_blocks(blocks);
    let before = std::iter::once(vector.as_slice()).chain(stored.chunks_exact(BLOCK));
    for (block, before) in bytes.chunks_exact_mut(BLOCK).zip(before) {
        block.iter_mut().zip(before).for_each(|(byte, before)| *byte ^= before);
    }
}

/// A volume, decrypted as it is read.
pub(super) struct Decrypted {
    pub(super) below: Arc<dyn ReadAt>,
    pub(super) cipher: Cipher,
    /// First byte below, and length; both of whole sectors.
    pub(super) from: u64,
    pub(super) len: u64,
    /// Bytes of a sector: 512 to 4096.
    pub(super) sector: u64,
    /// Number of the first sector, in sectors of 512 bytes.
    pub(super) tweak: u64,
}

impl Decrypted {
    /// Fills `into` with whole sectors from `at` on.
    fn whole(&self, at: u64, into: &mut [u8]) -> Result<(), ReadError> {
        let below = self.from.saturating_add(at);
        self.below.read_at(below, into).map_err(|error| error.moved(below, at))?;
        self.cipher.sectors(into, self.tweak.wrapping_add(at / 512), us(self.sector));
        Ok(())
    }
}

impl ReadAt for Decrypted {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, mut at: u64, mut into: &mut [u8]) -> Result<(), ReadError> {
        inside("volume", self.len, at, into.len() as u64)?;
        while !into.is_empty() {
            let skip = at % self.sector;
            let whole = (into.len() as u64 / self.sector).saturating_mul(self.sector);
            let here = if skip == 0 && whole > 0 {
                let (now, _) = into.split_at_mut(us(whole).min(PART));
                self.whole(at, now)?;
                now.len()
            } else {
                let mut sector = Zeroizing::new(vec![0; us(self.sector)]);
                self.whole(at - skip, &mut sector)?;
                let part = sector.get(us(skip)..).unwrap_or_default();
                part.iter().zip(into.iter_mut()).map(|(from, to)| *to = *from).count()
            };
            at = at.saturating_add(here as u64);
            into = into.get_mut(here..).unwrap_or_default();
        }
        Ok(())
    }

    fn extent(&self, at: u64) -> Result<Extent, ReadError> {
        inside("volume", self.len, at, 1)?;
        // Half a sector is none: what lacks below lacks for all of its sector.
        let start = at - at % self.sector;
        let below = self.below.extent(self.from.saturating_add(start))?;
        let len = below.len.next_multiple_of(self.sector).saturating_sub(at - start).min(self.len - at).max(1);
        // Zeros below are zeros that were never encrypted: they read as noise.
        let kind = if below.kind == Kind::Zero { Kind::Data } else { below.kind };
        Ok(Extent { at, len, kind })
    }

    fn unit(&self) -> u64 {
        self.below.unit().max(self.sector)
    }
}
