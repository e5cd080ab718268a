//! Records that are written over several sectors: FILE records of $MFT and INDX blocks of directories. Each sector ends in
//! two bytes of an update sequence; a record of which they differ was torn (linux-ntfs documentation, "Fixup", "FILE record").

use crate::image::ReadError;
use crate::image::fields::Fields;

/// Bytes for which there is one number of the update sequence, whatever the disk's sectors are.
const STRIDE: usize = 512;
/// In use.
const IN_USE: u16 = 1;
/// A directory.
const DIRECTORY: u16 = 2;

/// Puts the bytes back that the update sequence has replaced.
pub(super) fn fix(what: &'static str, at: u64, bytes: &mut [u8]) -> Result<(), ReadError> {
    let (sequence, from) = {
        let fields = Fields::new(what, at, bytes);
        let (from, count) = (usize::from(fields.u16(4)?), usize::from(fields.u16(6)?));
        if count != bytes.len() / STRIDE + 1 || from < 8 || from % 2 != 0 {
            let expected = format_args!("an update sequence of {}", bytes.len() / STRIDE + 1);
            return Err(fields.corrupt(4, expected, format_args!("{count} at {from}")));
        }
        (fields.slice(from, count * 2)?.to_vec(), from)
    };
    let (number, saved) = sequence.split_at_checked(2).unwrap_or_default();
    for (index, (sector, saved)) in bytes.chunks_exact_mut(STRIDE).zip(saved.chunks_exact(2)).enumerate() {
        let Some(end) = sector.get_mut(STRIDE - 2..) else { continue };
        if end != number || from + sequence.len() > STRIDE - 2 {
            let place = at.saturating_add((index * STRIDE + STRIDE - 2) as u64);
            let found = crate::image::hex(end);
            return Err(ReadError::corrupt(what, place, format_args!("update {}", crate::image::hex(number)), found));
        }
        end.copy_from_slice(saved);
    }
    Ok(())
}

/// A record and which of its uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Reference {
    /// Number of the record.
    pub(super) number: u64,
    /// Counts how often it was given out.
    pub(super) sequence: u16,
}

impl Reference {
    /// From its eight bytes.
    pub(super) fn of(raw: u64) -> Self {
        Self { number: raw & 0xffff_ffff_ffff, sequence: u16::try_from(raw >> 48).unwrap_or(0) }
    }
}

impl std::fmt::Display for Reference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.number, self.sequence)
    }
}

/// A FILE record.
#[derive(Debug, Clone)]
pub(super) struct Record {
    pub(super) number: u64,
    /// Where it stands, in bytes from the front of $MFT.
    pub(super) at: u64,
    pub(super) sequence: u16,
    /// The record that it is a part of; number 0 for one that is whole.
    pub(super) base: Reference,
    /// Number in $LogFile of the last change.
    pub(super) lsn: u64,
    flags: u16,
    /// Where attributes begin, and where what is in use ends.
    pub(super) attributes: usize,
    pub(super) used: usize,
    pub(super) bytes: Vec<u8>,
}

impl Record {
    /// Reads record `number`, found at `at` in $MFT.
    pub(super) fn parse(number: u64, at: u64, mut bytes: Vec<u8>) -> Result<Self, ReadError> {
        let magic = bytes.get(..4).unwrap_or_default();
        if magic != b"FILE" {
            let found = match magic {
                b"BAAD" => "BAAD: chkdsk found it torn".to_owned(),
                [0, 0, 0, 0] => "zeros: it was never in use".to_owned(),
                other => crate::image::hex(other),
            };
            return Err(ReadError::corrupt(format!("record {number} of $MFT"), at, "FILE", found));
        }
        fix("NTFS FILE record", at, &mut bytes)?;
        let fields = Fields::new("NTFS FILE record", at, &bytes);
        let (attributes, used) = (usize::from(fields.u16(20)?), fields.u32(24)?);
        let used = usize::try_from(used).unwrap_or(usize::MAX);
        if used > bytes.len() || attributes > used || attributes % 8 != 0 || attributes < 42 {
            return Err(fields.corrupt(20, "attributes inside the record", format_args!("{attributes} to {used}")));
        }
        let (sequence, flags, lsn) = (fields.u16(16)?, fields.u16(22)?, fields.u64(8)?);
        let base = Reference::of(fields.u64(32)?);
        Ok(Self { number, at, sequence, base, lsn, flags, attributes, used, bytes })
    }

    pub(super) fn in_use(&self) -> bool {
        self.flags & IN_USE != 0
    }

    pub(super) fn is_directory(&self) -> bool {
        self.flags & DIRECTORY != 0
    }

    /// The reference by which names lead here: a record that is given up counts on.
    pub(super) fn reference(&self) -> Reference {
        let sequence = if self.in_use() { self.sequence } else { before(self.sequence) };
        Reference { number: self.number, sequence }
    }

    /// What stands behind its last attribute.
    pub(super) fn slack(&self) -> &[u8] {
        self.bytes.get(self.used..).unwrap_or_default()
    }
}

/// The sequence number before this one: 0 is left out.
fn before(sequence: u16) -> u16 {
    match sequence {
        0 => 0,
        1 => u16::MAX,
        n => n - 1,
    }
}
