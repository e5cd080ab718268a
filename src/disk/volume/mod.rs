//! Which volumes an image has: partitions and the gaps between them, or one file system on the whole disk; and what is made of
//! them: logical volumes of LVM, arrays of md, what LUKS has encrypted.
//!
//! A table of partitions is believed before a signature at the front: a disk that was formatted whole and partitioned
//! later still carries the old superblock, and says so among what is odd. `stack` goes on from there, layer by layer,
//! until nothing new comes out. What cannot be read here (BitLocker, RAID 5, thin pools) is named, with what it says of itself.

mod bitlocker;
pub mod gpt;
pub mod luks;
mod lvm;
mod mapping;
pub mod mbr;
mod md;
pub mod signature;
mod stack;
mod tables;

use std::sync::Arc;

use crate::image::{ReadAt, ReadError};

/// What a range of the disk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// A volume that can be addressed.
    Volume,
    /// It holds other volumes by a table of partitions.
    Holder,
    /// A piece of other volumes: an LVM physical volume, a member of an array, a hidden logical volume.
    Member,
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
            Self::Member => "member",
            Self::Table => "table",
            Self::Gap => "unallocated",
        }
    }
}

/// A range of the disk, or what is made of such ranges.
#[derive(Clone)]
pub struct Volume {
    /// Its name in addresses: `p2`, `vg0-root`, `md0`; `p0` is the whole disk. Gaps and tables have none.
    pub label: Option<String>,
    /// What it lies on, by labels; none: the disk itself.
    pub on: Option<String>,
    /// First byte in what it lies on; none if it is no single range of it.
    pub from: Option<u64>,
    /// Length in bytes; never behind the end of what it lies on.
    pub len: u64,
    /// What the range is.
    pub what: Use,
    /// Type as the table says: `0x83 Linux`, a GUID, `striped`.
    pub kind: String,
    /// Name that the table gives (GPT, md).
    pub name: Option<String>,
    /// What its bytes look like, decrypted if that could be done.
    pub holds: Option<&'static str>,
    /// What its own metadata tells: version, UUID, cipher, role.
    pub note: Option<String>,
    /// Why some or all of its bytes cannot be read.
    pub lacks: Option<String>,
    /// Its bytes, as far as there are any.
    bytes: Option<Arc<dyn ReadAt>>,
    /// It lies on another image that was given beside this one.
    foreign: bool,
}

/// All of a disk.
#[derive(Clone)]
pub struct Volumes {
    /// `gpt`, `mbr` or `none`.
    pub table: &'static str,
    /// In the order of the disk, then in the order in which one is made of the other.
    pub list: Vec<Volume>,
    /// What is not as it should be.
    pub odd: Vec<String>,
}

/// What is given beside the disk.
#[derive(Clone, Default)]
pub struct Beside {
    /// Other images with the rest of arrays and volume groups, each with a name for it.
    pub with: Vec<(String, Arc<dyn ReadAt>)>,
    /// What opens LUKS volumes.
    pub passphrase: Option<Arc<luks::Passphrase>>,
}

impl Volumes {
    /// The volume `p<number>` of the partition table.
    pub fn numbered(&self, number: u32) -> Option<&Volume> {
        self.labelled(&format!("p{number}"))
    }

    /// The volume of this name.
    pub fn labelled(&self, label: &str) -> Option<&Volume> {
        self.list.iter().find(|volume| volume.label.as_deref() == Some(label))
    }

    /// Those that can be addressed and hold something of their own.
    pub fn readable(&self) -> impl Iterator<Item = &Volume> {
        self.list.iter().filter(|volume| volume.what == Use::Volume)
    }
}

impl Volume {
    /// Its bytes, or why there are none.
    pub fn bytes(&self) -> Result<Arc<dyn ReadAt>, ReadError> {
        let why = || self.lacks.clone().unwrap_or_else(|| "it is no volume".to_owned());
        let label = || self.label.clone().unwrap_or_else(|| self.what.name().to_owned());
        self.bytes.clone().ok_or_else(|| ReadError::unsupported(label(), why()))
    }

    /// A volume that is made of others.
    fn made(label: String, kind: String, made: Result<Arc<dyn ReadAt>, String>, len: u64) -> Self {
        let (bytes, lacks) = match made {
            Ok(bytes) => (Some(bytes), None),
            Err(why) => (None, Some(why)),
        };
        let holds = bytes.as_ref().and_then(|bytes| signature::of(bytes.as_ref()));
        let (on, from, name, note) = (None, None, None, None);
        Self {
            label: Some(label),
            on,
            from,
            len,
            what: Use::Volume,
            kind,
            name,
            holds,
            note,
            lacks,
            bytes,
            foreign: false,
        }
    }
}

/// Everything that is on a disk without anything given beside it.
pub fn scan(disk: &Arc<dyn ReadAt>) -> Result<Volumes, ReadError> {
    scan_with(disk, &Beside::default())
}

/// Reads the tables of a disk, and whatever its volumes are made into.
pub fn scan_with(disk: &Arc<dyn ReadAt>, beside: &Beside) -> Result<Volumes, ReadError> {
    let mut found = tables::scan(disk)?;
    for (name, other) in &beside.with {
        let others = tables::scan(other).map_err(ReadError::within(name.clone()))?;
        for mut volume in others.list.into_iter().filter(|volume| volume.what == Use::Volume) {
            volume.label = volume.label.map(|label| format!("{name}:{label}"));
            volume.foreign = true;
            found.list.push(volume);
        }
    }
    stack::build(&mut found, beside);
    // Of another image only what belongs to this one is of interest here.
    found.list.retain(|volume| !volume.foreign || volume.what == Use::Member);
    Ok(found)
}
