//! The header of LUKS1. "LUKS On-Disk Format Specification 1.2.3", section 2.1 "The partition header"; big-endian.

use super::header::{Header, Segment};
use super::key::{Derivation, Digest, Slot};
use crate::image::ReadError;
use crate::image::fields::Fields;

pub(super) const LEN: usize = 592;
const ACTIVE: u32 = 0x00ac_71f3;
const INACTIVE: u32 = 0x0000_dead;
const SECTOR: u64 = 512;

pub(super) fn read(fields: &Fields<'_>) -> Result<Header, ReadError> {
    let cipher = format!("{}-{}", fields.text(8, 32)?, fields.text(40, 32)?);
    let (hash, key) = (fields.text(72, 32)?, u64::from(fields.be32(108)?));
    let digest = Digest {
        derivation: Derivation::Pbkdf2 {
            hash: hash.clone(),
            rounds: u64::from(fields.be32(164)?),
            salt: fields.slice(132, 32)?.to_vec(),
        },
        value: fields.slice(112, 20)?.to_vec(),
    };
    let (mut slots, mut odd) = (Vec::new(), Vec::new());
    for number in 0..8_usize {
        let at = 208 + number * 48;
        match fields.be32(at)? {
            ACTIVE => slots.push(Slot {
                number: number.to_string(),
                derivation: Derivation::Pbkdf2 {
                    hash: hash.clone(),
                    rounds: u64::from(fields.be32(at + 4)?),
                    salt: fields.slice(at + 8, 32)?.to_vec(),
                },
                at: u64::from(fields.be32(at + 40)?).saturating_mul(SECTOR),
                cipher: cipher.clone(),
                cipher_key: key,
                stripes: u64::from(fields.be32(at + 44)?),
                hash: hash.clone(),
                key,
            }),
            INACTIVE => {}
            other => odd.push(format!("key slot {number} is neither in use nor free: {other:#x}")),
        }
    }
    let from = u64::from(fields.be32(104)?).saturating_mul(SECTOR);
    let segment = Segment { cipher, from, len: None, sector: SECTOR, tweak: 0 };
    let (uuid, label, tokens) = (fields.text(168, 40)?, String::new(), Vec::new());
    Ok(Header { version: 1, uuid, label, slots, digest, segment, tokens, odd })
}
