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
use key::Secret;

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

/// Opens the volume at `index` if it can be; tells whether there is something new in it.
pub(super) fn open(stack: &mut Stack<'_>, index: usize) -> bool {
    let Some((name, bytes)) = stack.member(index) else { return false };
    let header = match read(bytes.as_ref()) {
        Ok(header) => header,
        Err(error) => {
            stack.broken(index, error.to_string());
            return false;
        }
    };
    stack.odd.extend(header.odd.iter().map(|line| format!("{name}: {line}")));
    let opened = match &stack.beside.passphrase {
        Some(passphrase) => decrypt(&bytes, &header, passphrase).map_err(|error| error.to_string()),
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
) -> Result<(Arc<dyn ReadAt>, String), ReadError> {
    let (key, slot) = unlock(volume.as_ref(), header, passphrase)?;
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
fn unlock(volume: &dyn ReadAt, header: &Header, passphrase: &Passphrase) -> Result<(Secret, String), ReadError> {
    let mut odd = Vec::new();
    for slot in &header.slots {
        for secret in passphrase.readings() {
            match key::unlock(volume, slot, secret, &header.digest) {
                Ok(Some(key)) => return Ok((key, slot.number.clone())),
                Ok(None) => {}
                Err(error) => {
                    odd.push(format!("key slot {}: {error}", slot.number));
                    break;
                }
            }
        }
    }
    let what = format!("open it with the passphrase: it fits none of {} key slots", header.slots.len());
    let why = if odd.is_empty() { "is it the right one?".to_owned() } else { odd.join("; ") };
    Err(ReadError::caller(what, why))
}
