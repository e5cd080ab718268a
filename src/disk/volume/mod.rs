//! Which volumes an image has: partitions, gaps between them, or one file system on the whole disk.
//!
//! A table of partitions is believed before a signature at the front: a disk that was formatted whole and partitioned
//! later still carries the old superblock, and says so among what is odd. Volumes that cannot be read here (LUKS,
//! BitLocker, md, LVM) are named by their signature.

pub mod gpt;
pub mod mbr;
pub mod signature;

use std::sync::Arc;

use crate::image::{Part, ReadAt, ReadError};

/// Smallest gap that is listed, in bytes.
const GAP: u64 = 512;

/// What a range of the disk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// A volume that can be addressed.
    Volume,
    /// An extended partition: it holds other volumes.
    Holder,
    /// The table itself.
    Table,
    /// Belongs to no volume.
    Gap,
}

impl Use {
    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Volume => "volume",
            Self::Holder => "extended",
            Self::Table => "table",
            Self::Gap => "unallocated",
        }
    }
}

/// A range of the disk.
#[derive(Debug, Clone)]
pub struct Volume {
    /// `p2` is 2; the whole disk is 0; gaps and tables have none.
    pub number: Option<u32>,
    /// First byte.
    pub from: u64,
    /// Length in bytes; never behind the end of the image.
    pub len: u64,
    /// What the range is.
    pub what: Use,
    /// Type as the table says: `0x83 Linux`, a GUID.
    pub kind: String,
    /// Name that the table gives (GPT).
    pub name: Option<String>,
    /// What its bytes look like.
    pub holds: Option<&'static str>,
}

/// All of a disk.
#[derive(Debug, Clone)]
pub struct Volumes {
    /// `gpt`, `mbr` or `none`.
    pub table: &'static str,
    /// In the order of the disk.
    pub list: Vec<Volume>,
    /// What is not as it should be.
    pub odd: Vec<String>,
}

impl Volumes {
    /// The volume `p<number>`.
    pub fn numbered(&self, number: u32) -> Option<&Volume> {
        self.list.iter().find(|volume| volume.number == Some(number))
    }

    /// Those that can be addressed and hold something.
    pub fn readable(&self) -> impl Iterator<Item = &Volume> {
        self.list.iter().filter(|volume| volume.what == Use::Volume)
    }
}

impl Volume {
    /// Its bytes.
    pub fn open(&self, disk: &Arc<dyn ReadAt>) -> Result<Arc<dyn ReadAt>, ReadError> {
        if self.from == 0 && self.len == disk.len() {
            return Ok(Arc::clone(disk));
        }
        Ok(Arc::new(Part::new(Arc::clone(disk), self.from, self.len)?))
    }

    /// Its name in addresses.
    pub fn label(&self) -> Option<String> {
        self.number.map(|number| format!("p{number}"))
    }
}

/// One entry of a table, before it is checked against the disk.
pub(super) struct Raw {
    pub(super) number: Option<u32>,
    pub(super) from: u64,
    pub(super) len: u64,
    pub(super) what: Use,
    pub(super) kind: String,
    pub(super) name: Option<String>,
}

/// Reads the tables of a disk.
pub fn scan(disk: &Arc<dyn ReadAt>) -> Result<Volumes, ReadError> {
    let mut odd = Vec::new();
    let front = signature::of(disk.as_ref());
    let found = match gpt::read(disk.as_ref(), &mut odd) {
        Some(list) => Some(("gpt", list)),
        None => mbr::read(disk.as_ref(), &mut odd)?.map(|list| ("mbr", list)),
    };
    let Some((table, raw)) = found else {
        let whole = Volume {
            number: Some(0),
            from: 0,
            len: disk.len(),
            what: Use::Volume,
            kind: "whole disk".to_owned(),
            name: None,
            holds: front,
        };
        return Ok(Volumes { table: "none", list: vec![whole], odd });
    };
    if let Some(front) = front {
        odd.push(format!(
            "the front of the disk looks like {front}, older than the partition table or hidden under it"
        ));
    }
    let mut list = Vec::new();
    for entry in raw {
        list.extend(checked(disk, entry, &mut odd));
    }
    list.sort_by_key(|volume| (volume.from, volume.what != Use::Holder, volume.number));
    Ok(Volumes { table, list: with_gaps(list, disk.len(), &mut odd), odd })
}

/// An entry as far as it lies on the disk.
fn checked(disk: &Arc<dyn ReadAt>, raw: Raw, odd: &mut Vec<String>) -> Option<Volume> {
    let name = raw.number.map_or_else(|| raw.kind.clone(), |number| format!("p{number}"));
    if raw.from >= disk.len() {
        odd.push(format!("{name} begins at {:#x}, behind the end of the disk", raw.from));
        return None;
    }
    let len = raw.len.min(disk.len() - raw.from);
    if len < raw.len {
        odd.push(format!("{name} should have {} bytes; the disk ends after {len}", raw.len));
    }
    let mut volume =
        Volume { number: raw.number, from: raw.from, len, what: raw.what, kind: raw.kind, name: raw.name, holds: None };
    if volume.what == Use::Volume {
        volume.holds = volume.open(disk).ok().and_then(|bytes| signature::of(bytes.as_ref()));
    }
    Some(volume)
}

/// Fills in what belongs to no volume, and says what overlaps.
fn with_gaps(list: Vec<Volume>, len: u64, odd: &mut Vec<String>) -> Vec<Volume> {
    let gap = |from: u64, to: u64| Volume {
        number: None,
        from,
        len: to.saturating_sub(from),
        what: Use::Gap,
        kind: String::new(),
        name: None,
        holds: None,
    };
    let (mut all, mut end) = (Vec::new(), 0_u64);
    for volume in list {
        if volume.what == Use::Holder {
            all.push(volume);
            continue;
        }
        if volume.from.saturating_sub(end) >= GAP {
            all.push(gap(end, volume.from));
        } else if volume.from < end && volume.what == Use::Volume {
            odd.push(format!("{} overlaps what stands before it", volume.label().unwrap_or_default()));
        }
        end = end.max(volume.from.saturating_add(volume.len));
        all.push(volume);
    }
    if len.saturating_sub(end) >= GAP {
        all.push(gap(end, len));
    }
    all
}
