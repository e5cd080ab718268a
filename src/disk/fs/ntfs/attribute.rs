//! Attributes of a record: in it, or mapped by a list of runs (linux-ntfs documentation, "Attribute headers", "Data runs").

use super::record::Record;
use super::text;
use crate::disk::fs::Run;
use crate::image::ReadError;
use crate::image::fields::Fields;

pub(super) const STANDARD_INFORMATION: u32 = 0x10;
pub(super) const ATTRIBUTE_LIST: u32 = 0x20;
pub(super) const FILE_NAME: u32 = 0x30;
pub(super) const OBJECT_ID: u32 = 0x40;
pub(super) const VOLUME_NAME: u32 = 0x60;
pub(super) const VOLUME_INFORMATION: u32 = 0x70;
pub(super) const DATA: u32 = 0x80;
pub(super) const INDEX_ROOT: u32 = 0x90;
pub(super) const INDEX_ALLOCATION: u32 = 0xa0;
pub(super) const BITMAP: u32 = 0xb0;
pub(super) const REPARSE_POINT: u32 = 0xc0;
const END: u32 = 0xffff_ffff;

const COMPRESSED: u16 = 0xff;
const ENCRYPTED: u16 = 0x4000;

/// One attribute.
#[derive(Debug, Clone)]
pub(super) struct Attribute {
    pub(super) kind: u32,
    /// Empty for the one without.
    pub(super) name: Vec<u8>,
    pub(super) flags: u16,
    pub(super) value: Value,
}

/// Where its value is.
#[derive(Debug, Clone)]
pub(super) enum Value {
    /// In the record.
    Resident(Vec<u8>),
    /// In clusters.
    Mapped(Mapping),
}

/// A value in clusters, or the part of one that a record maps.
#[derive(Debug, Clone, Default)]
pub(super) struct Mapping {
    /// First cluster of the value that is mapped here, and the one behind the last.
    pub(super) from: u64,
    pub(super) to: u64,
    /// In order; what no run covers is sparse.
    pub(super) runs: Vec<Run>,
    /// Length in bytes.
    pub(super) size: u64,
    /// Bytes that were ever written; zeros behind.
    pub(super) valid: u64,
    /// Clusters that are compressed together; 0 if none are.
    pub(super) unit: u64,
    /// What of the map could not be read.
    pub(super) damaged: Option<String>,
}

impl Attribute {
    pub(super) fn is(&self, kind: u32, name: &[u8]) -> bool {
        self.kind == kind && self.name == name
    }

    pub(super) fn is_encrypted(&self) -> bool {
        self.flags & ENCRYPTED != 0
    }

    pub(super) fn is_compressed(&self) -> bool {
        self.flags & COMPRESSED != 0
    }

    /// The value, if it is in the record.
    pub(super) fn resident(&self) -> Option<&[u8]> {
        match &self.value {
            Value::Resident(bytes) => Some(bytes),
            Value::Mapped(_) => None,
        }
    }

    /// Length in bytes.
    pub(super) fn size(&self) -> u64 {
        match &self.value {
            Value::Resident(bytes) => bytes.len() as u64,
            Value::Mapped(mapping) => mapping.size,
        }
    }
}

/// The attributes of one record; `clusters` is how many the volume has. What ends the list early goes to `odd`.
pub(super) fn all(record: &Record, clusters: u64, odd: &mut Vec<String>) -> Vec<Attribute> {
    let mut list = Vec::new();
    let mut at = record.attributes;
    let used = record.bytes.get(..record.used).unwrap_or_default();
    loop {
        match one(record, used, at, clusters) {
            Ok(Some((attribute, len))) => {
                list.push(attribute);
                at += len;
            }
            Ok(None) => return list,
            Err(error) => {
                odd.push(error.to_string());
                return list;
            }
        }
    }
}

/// The attribute at `at` and its length; none at the end.
fn one(record: &Record, used: &[u8], at: usize, clusters: u64) -> Result<Option<(Attribute, usize)>, ReadError> {
    let place = record.at.saturating_add(at as u64);
    let rest = Fields::new("NTFS attribute", place, used.get(at..).unwrap_or_default());
    let kind = rest.u32(0)?;
    if kind == END {
        return Ok(None);
    }
    let len = usize::try_from(rest.u32(4)?).unwrap_or(usize::MAX);
    if len < 24 || len % 8 != 0 {
        return Err(rest.corrupt(4, "a length of 24 or more", len));
    }
    let fields = Fields::new("NTFS attribute", place, rest.slice(0, len)?);
    let name = fields.slice(usize::from(fields.u16(10)?), usize::from(fields.u8(9)?) * 2)?;
    let flags = fields.u16(12)?;
    let value = if fields.u8(8)? == 0 {
        let size = usize::try_from(fields.u32(16)?).unwrap_or(usize::MAX);
        Value::Resident(fields.slice(usize::from(fields.u16(20)?), size)?.to_vec())
    } else {
        Value::Mapped(mapping(&fields, flags, clusters)?)
    };
    Ok(Some((Attribute { kind, name: text::name(name), flags, value }, len)))
}

fn mapping(fields: &Fields<'_>, flags: u16, clusters: u64) -> Result<Mapping, ReadError> {
    let from = fields.u64(16)?;
    let unit = match fields.u8(34)? {
        0 => 0,
        power @ 1..=8 if flags & COMPRESSED != 0 => 1 << power,
        // Sparse attributes may name a unit as well, and are not compressed.
        _ if flags & COMPRESSED == 0 => 0,
        power => return Err(fields.corrupt(34, "a compression unit of at most 256 clusters", power)),
    };
    let list = usize::from(fields.u16(32)?);
    let pairs = fields.bytes().get(list..).unwrap_or_default();
    let mut mapping = Mapping { from, to: from, unit, ..Mapping::default() };
    // Only the part that begins at the front tells the lengths.
    if from == 0 {
        (mapping.size, mapping.valid) = (fields.u64(48)?, fields.u64(56)?);
    }
    if let Err(why) = runs(pairs, clusters, &mut mapping) {
        mapping.damaged = Some(fields.corrupt(list, why, "another").to_string());
    }
    Ok(mapping)
}

/// Decodes the pairs of lengths and distances. What is right up to an error stays.
fn runs(mut pairs: &[u8], clusters: u64, into: &mut Mapping) -> Result<(), &'static str> {
    let mut physical = 0_i64;
    while let Some((head, rest)) = pairs.split_first().filter(|(head, _)| **head != 0) {
        let (wide, far) = (usize::from(head & 15), usize::from(head >> 4));
        let (len, rest) = rest.split_at_checked(wide).ok_or("a length inside the attribute")?;
        let (distance, rest) = rest.split_at_checked(far).ok_or("a distance inside the attribute")?;
        let len = signed(len).and_then(|len| u64::try_from(len).ok()).filter(|len| *len > 0);
        let len = len.ok_or("a run that is not empty")?;
        let to = into.to.checked_add(len).filter(|to| *to <= 1 << 52).ok_or("a file of a length that can be")?;
        if far > 0 {
            let step = signed(distance).ok_or("a distance of at most 8 bytes")?;
            physical = physical.checked_add(step).ok_or("a run inside the volume")?;
            let first = u64::try_from(physical).ok().filter(|first| first.saturating_add(len) <= clusters);
            let first = first.ok_or("a run inside the volume")?;
            push(&mut into.runs, Run { logical: into.to, len, physical: first, unwritten: false });
        }
        into.to = to;
        pairs = rest;
    }
    Ok(())
}

fn push(runs: &mut Vec<Run>, run: Run) {
    if let Some(last) = runs.last_mut()
        && last.logical + last.len == run.logical
        && last.physical + last.len == run.physical
    {
        last.len += run.len;
        return;
    }
    runs.push(run);
}

/// A signed number of up to 8 bytes, little-endian.
fn signed(bytes: &[u8]) -> Option<i64> {
    let last = *bytes.last()?;
    let mut whole = [if last & 0x80 == 0 { 0 } else { 0xff }; 8];
    whole.get_mut(..bytes.len())?.copy_from_slice(bytes);
    Some(i64::from_le_bytes(whole))
}

impl Mapping {
    /// Goes on with the next part of the same value. A part that is missing leaves a gap that is said.
    pub(super) fn append(&mut self, next: Self) {
        if next.from != self.to {
            let why = format!("its map ends at cluster {} and goes on at {}", self.to, next.from);
            self.damaged.get_or_insert(why);
        }
        if next.from < self.to {
            return;
        }
        self.to = next.to;
        next.runs.into_iter().for_each(|run| push(&mut self.runs, run));
        self.damaged = self.damaged.take().or(next.damaged);
    }

    /// Says so if the map ends before the value does.
    pub(super) fn check(&mut self, cluster: u64) {
        let needs = self.size.div_ceil(cluster);
        if self.to < needs && self.damaged.is_none() {
            self.damaged = Some(format!("its map ends at cluster {}, and it needs {needs}", self.to));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The runs as place in the file, length, place on the volume; and whether all of it made sense.
    fn decode(pairs: &[u8]) -> (Vec<[u64; 3]>, bool) {
        let mut mapping = Mapping::default();
        let good = runs(pairs, 10_000, &mut mapping).is_ok();
        (mapping.runs.iter().map(|run| [run.logical, run.len, run.physical]).collect(), good)
    }

    #[test]
    fn runs_go_forth_and_back_and_over_holes() {
        let pairs = [0x21, 4, 0xe8, 3, 0x01, 12, 0x11, 2, 0x9c, 0x11, 1, 2, 0];
        assert_eq!(decode(&pairs), (vec![[0, 4, 1000], [16, 3, 900]], true));
    }

    #[test]
    fn runs_that_make_no_sense_end_the_map_and_what_was_right_stays() {
        for bad in [
            &[0x21, 4, 0xe8, 3, 0x11, 2][..],
            &[0x21, 4, 0xe8, 3, 0x11, 0, 1],
            &[0x21, 4, 0xe8, 3, 0x11, 0xff, 1],
            &[0x21, 4, 0xe8, 3, 0x21, 1, 0, 0x80],
            &[0x21, 4, 0xe8, 3, 0x31, 1, 0, 0, 1],
            &[0x21, 4, 0xe8, 3, 0x08, 0, 0, 0, 0, 0, 0, 0, 0x7f],
            &[0x21, 4, 0xe8, 3, 0x91, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1],
        ] {
            assert_eq!(decode(bad), (vec![[0, 4, 1000]], false), "{bad:x?}");
        }
    }
}
