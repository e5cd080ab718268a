//! LUKS1 and LUKS2: named without a passphrase, decrypted in memory with one. Nothing is written, and no secret leaves here.
//!
//! `one` and `two` read the headers, `key` goes from the passphrase to the volume's key, `cipher` decrypts sectors as they are read.
//! A detached header, dm-integrity and a re-encryption that was interrupted are named and not opened.

mod cipher;
mod header;
mod key;
mod one;
mod two;

use std::sync::Arc;

use zeroize::Zeroizing;

use super::{Use, signature, stack::Stack};
use crate::image::fields::{Fields, read_structure};
use crate::image::{ReadAt, ReadError};
use cipher::{Cipher, Decrypted};
use header::Header;
use key::{Digest, Secret, Slot};

/// How a LUKS volume begins, and how the second header of LUKS2 does.
const FIRST: &[u8; 6] = b"LUKS\xba\xbe";
const SECOND: &[u8; 6] = b"SKUL\xba\xbe";

/// A passphrase or key file. It is wiped when it is dropped, and never printed.
pub struct Passphrase(Zeroizing<Vec<u8>>);

impl Passphrase {
    /// Longest one, in bytes: as in cryptsetup.
    pub const LONGEST: usize = 8 << 20;

    /// Takes the bytes of a file.
    pub fn new(bytes: Zeroizing<Vec<u8>>) -> Self {
        Self(bytes)
    }

    /// What it may mean: an editor puts a newline behind a passphrase, a key file may end with one of its own.
    fn readings(&self) -> impl Iterator<Item = &[u8]> {
        let line = self.0.strip_suffix(b"\n");
        line.into_iter().chain(std::iter::once(self.0.as_slice()))
    }
}

/// The most headers of one disk that are read: a hostile table of partitions may name thousands.
const HEADERS: u32 = 256;
/// The most work that passphrases are tried with, for all volumes of a disk together, as [`key::cost`] counts: some minutes. A
/// slot that cryptsetup made takes up to some 4 million.
const WORK: u64 = 1 << 28;

/// What may still be done for one disk.
pub(super) struct Left {
    headers: u32,
    work: u64,
}

impl Default for Left {
    fn default() -> Self {
        Self { headers: HEADERS, work: WORK }
    }
}

impl Left {
    /// Takes away what it costs to try a secret on a slot.
    fn spend(&mut self, slot: &Slot, digest: &Digest) -> Result<(), ReadError> {
        let rest = self.work.checked_sub(key::cost(slot, digest)?);
        self.work = rest.ok_or_else(|| {
            let why = "the LUKS headers of this disk ask for more work than is done; cryptsetup can try it";
            ReadError::caller("try the passphrase on it", why)
        })?;
        Ok(())
    }
}

/// Opens the volume at `index` if it can be; tells whether there is something new in it.
pub(super) fn open(stack: &mut Stack<'_>, index: usize) -> bool {
    let Some((name, bytes)) = stack.member(index) else { return false };
    let Some(headers) = stack.luks.headers.checked_sub(1) else {
        stack.broken(index, format!("{HEADERS} LUKS headers of this disk were read; this one was not"));
        return false;
    };
    stack.luks.headers = headers;
    let header = match read(bytes.as_ref()) {
        Ok(header) => header,
        Err(error) => {
            stack.broken(index, error.to_string());
            return false;
        }
    };
    stack.odd.extend(header.odd.iter().map(|line| format!("{name}: {line}")));
    let opened = match &stack.beside.passphrase {
        Some(passphrase) => decrypt(&bytes, &header, passphrase, &mut stack.luks).map_err(|error| error.to_string()),
        None => Err("it is encrypted; --passphrase-file FILE opens it".to_owned()),
    };
    let Some(volume) = stack.list.get_mut(index) else { return false };
    let about = about(&header);
    let (inside, slot) = match opened {
        Ok(opened) => opened,
        Err(why) => {
            (volume.note, volume.lacks) = (Some(about), Some(why));
            return false;
        }
    };
    volume.note = Some(format!("{about}, opened by key slot {slot}"));
    volume.holds = signature::of(inside.as_ref());
    volume.len = inside.len();
    volume.bytes = Some(inside);
    volume.what = Use::Volume;
    true
}

fn read(volume: &dyn ReadAt) -> Result<Header, ReadError> {
    let bytes = read_structure(volume, "LUKS header", 0, one::LEN)?;
    let fields = Fields::new("LUKS header", 0, &bytes);
    if fields.array::<6>(0)? != *FIRST {
        // Found by its second header.
        return two::read(volume);
    }
    match fields.be16(6)? {
        1 => one::read(&fields),
        2 => two::read(volume),
        other => Err(ReadError::unsupported("a LUKS volume", format!("it has version {other}, known are 1 and 2"))),
    }
}

/// What can be said of it without its key.
fn about(header: &Header) -> String {
    let Header { version, uuid, label, slots, segment, tokens, .. } = header;
    let mut all = vec![
        format!("LUKS{version} {}", segment.cipher),
        format!("sectors of {} bytes", segment.sector),
        format!("{} key slots", slots.len()),
        format!("UUID {uuid}"),
    ];
    if !label.is_empty() {
        all.push(format!("label {label}"));
    }
    if !tokens.is_empty() {
        all.push(format!("tokens {}", tokens.join(" ")));
    }
    all.join(", ")
}

/// The bytes inside, and the slot that was opened.
fn decrypt(
    volume: &Arc<dyn ReadAt>,
    header: &Header,
    passphrase: &Passphrase,
    left: &mut Left,
) -> Result<(Arc<dyn ReadAt>, String), ReadError> {
    let (key, slot) = unlock(volume.as_ref(), header, passphrase, left)?;
    let (segment, end) = (&header.segment, volume.len());
    let cipher = Cipher::new(&segment.cipher, &key)?;
    let rest = end.checked_sub(segment.from).filter(|rest| *rest >= segment.sector);
    let rest = rest.ok_or_else(|| {
        let expected = format_args!("encrypted bytes from {:#x} on", segment.from);
        ReadError::corrupt("LUKS volume", end, expected, "its end (is this a detached header?)")
    })?;
    let len = segment.len.unwrap_or(rest).min(rest);
    let len = len - len % segment.sector;
    let (from, sector, tweak) = (segment.from, segment.sector, segment.tweak);
    Ok((Arc::new(Decrypted { below: Arc::clone(volume), cipher, from, len, sector, tweak }), slot))
}

/// Tries the passphrase on every slot.
fn unlock(
    volume: &dyn ReadAt,
    header: &Header,
    passphrase: &Passphrase,
    left: &mut Left,
) -> Result<(Secret, String), ReadError> {
    let mut odd = Vec::new();
    'slots: for slot in &header.slots {
        for secret in passphrase.readings() {
            let tried =
                left.spend(slot, &header.digest).and_then(|()| key::unlock(volume, slot, secret, &header.digest));
            match tried {
                Ok(Some(key)) => return Ok((key, slot.number.clone())),
                Ok(None) => {}
                Err(error) => {
                    odd.push(format!("key slot {}: {error}", slot.number));
                    continue 'slots;
                }
            }
        }
    }
    let what = format!("open it with the passphrase: it fits none of {} key slots", header.slots.len());
    let why = if odd.is_empty() { "is it the right one?".to_owned() } else { odd.join("; ") };
    Err(ReadError::caller(what, why))
}

#[cfg(test)]
mod tests {
    use super::*;
    use key::Derivation;

    #[test]
    fn all_headers_of_a_disk_together_get_only_so_much_work() {
        let pbkdf2 = |rounds| Derivation::Pbkdf2 { hash: "sha256".to_owned(), rounds, salt: Vec::new() };
        let digest = Digest { derivation: pbkdf2(1000), value: vec![0; 20] };
        let slot = |rounds| Slot {
            number: "0".to_owned(),
            derivation: pbkdf2(rounds),
            at: 0,
            cipher: String::new(),
            cipher_key: 64,
            stripes: 4000,
            hash: String::new(),
            key: 64,
        };
        let mut left = Left::default();
        // Two blocks of a hash for 64 bytes of key, and one for the digest.
        left.spend(&slot(2_000_000), &digest).unwrap();
        assert_eq!(left.work, WORK - 4_001_000);
        let mut tried = 0;
        while left.spend(&slot(1 << 25), &digest).is_ok() {
            tried += 1;
        }
        assert_eq!(tried, WORK / (1 << 26) - 1);
        let error = left.spend(&slot(1 << 25), &digest).unwrap_err().to_string();
        assert!(error.contains("more work than is done"), "{error}");
        left.spend(&slot(1000), &digest).unwrap();
        assert!(left.spend(&slot(1 << 27), &digest).unwrap_err().to_string().contains("at most"));
    }
}
