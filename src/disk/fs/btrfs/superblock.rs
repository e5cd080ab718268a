//! The superblock and its mirrors. Kernel include/uapi/linux/btrfs_tree.h, `struct btrfs_super_block`.
//!
//! It stands at 64 KiB, 64 MiB and 256 GiB. The newest whose checksum fits counts, and what the others are is said.

use super::checksum::{Checksum, LONGEST};
use super::tree::Pointer;
use crate::disk::fs::words::{flags, uuid};
use crate::image::fields::{Fields, read_structure};
use crate::image::{ReadAt, ReadError};

const WHAT: &str = "btrfs superblock";
/// Where the mirrors are, in bytes.
pub(super) const PLACES: [u64; 3] = [64 << 10, 64 << 20, 256 << 30];
/// Length of each.
pub(super) const LEN: usize = 4096;
const MAGIC: &[u8] = b"_BHRfS_M";
/// Where the chunks of the chunk tree itself are told, and how many bytes there are at most.
const SYSTEM_CHUNKS: (usize, u32) = (0x32b, 2048);
/// Four older sets of roots.
const BACKUPS: (usize, usize) = (0xb2b, 168);

const MIXED_GROUPS: u64 = 4;
const METADATA_UUID: u64 = 0x400;
const INCOMPAT: &[(u64, &str)] = &[
    (1, "mixed-backref"),
    (2, "default-subvol"),
    (MIXED_GROUPS, "mixed-groups"),
    (8, "compress-lzo"),
    (0x10, "compress-zstd"),
    (0x20, "big-metadata"),
    (0x40, "extended-iref"),
    (0x80, "raid56"),
    (0x100, "skinny-metadata"),
    (0x200, "no-holes"),
    (METADATA_UUID, "metadata-uuid"),
    (0x800, "raid1c34"),
    (0x1_0000, "simple-quota"),
    (0x1000, "zoned"),
    (0x2000, "extent-tree-v2"),
    (0x4000, "raid-stripe-tree"),
];
/// Of these, the ones that cannot be read here: they put things elsewhere.
const REFUSED: u64 = 0x1000 | 0x2000 | 0x4000;
const COMPAT_RO: &[(u64, &str)] =
    &[(1, "free-space-tree"), (2, "free-space-tree-valid"), (4, "verity"), (8, "block-group-tree")];

/// An older set of roots.
#[derive(Debug, Clone, Copy)]
pub(super) struct Backup {
    pub(super) tree: Pointer,
    pub(super) chunk: Pointer,
}

/// See the module. Sizes were checked: dividing by them and multiplying them is safe.
#[derive(Debug, Clone)]
pub(super) struct Superblock {
    pub(super) checksum: Checksum,
    /// What stands in every node.
    pub(super) node_uuid: [u8; 16],
    pub(super) root: Pointer,
    pub(super) chunk_root: Pointer,
    /// The log of what was synced since the last commit, if there is one; its generation is the next.
    pub(super) log_root: Option<Pointer>,
    pub(super) total: u64,
    pub(super) sector: u64,
    pub(super) node: u64,
    /// The number of this device.
    pub(super) device: u64,
    pub(super) devices: u64,
    pub(super) system_chunks: Vec<u8>,
    pub(super) backups: Vec<Backup>,
    pub(super) facts: Vec<(String, String)>,
    pub(super) odd: Vec<String>,
}

/// What is at one of the places.
enum Mirror {
    Good(Box<(u64, Vec<u8>)>),
    Bad(String),
    None,
}

impl Superblock {
    pub(super) fn read(volume: &dyn ReadAt) -> Result<Self, ReadError> {
        let mut odd = Vec::new();
        let mut best: Option<(u64, u64, Vec<u8>)> = None;
        let mut told = Vec::new();
        for at in PLACES {
            match mirror(volume, at) {
                Mirror::Good(found) => {
                    told.push((at, format!("generation {}", found.0)));
                    if best.as_ref().is_none_or(|(_, generation, _)| *generation < found.0) {
                        best = Some((at, found.0, found.1));
                    }
                }
                Mirror::Bad(why) => told.push((at, why)),
                Mirror::None => {}
            }
        }
        let Some((at, generation, bytes)) = best else {
            let why = told.into_iter().next().map_or_else(|| "nothing".to_owned(), |(_, why)| why);
            return Err(ReadError::corrupt(WHAT, PLACES[0], "one whose checksum fits", why));
        };
        for (place, state) in &told {
            if *state != format!("generation {generation}") {
                odd.push(format!(
                    "the superblock at {place:#x}: {state}; the one at {at:#x} has generation {generation}"
                ));
            }
        }
        if at != PLACES[0] {
            odd.push(format!("the mirror of the superblock at {at:#x} is used"));
        }
        let mut this = Self::parse(&Fields::new(WHAT, at, &bytes))?;
        this.odd = odd;
        if this.total > volume.len() && this.devices == 1 {
            this.odd.push(format!("the file system has {} bytes; the volume ends at {}", this.total, volume.len()));
        }
        let mirrors = told.iter().map(|(at, state)| format!("{at:#x} {state}")).collect::<Vec<_>>().join(", ");
        this.facts.push(("superblocks".to_owned(), mirrors));
        Ok(this)
    }

    fn parse(fields: &Fields<'_>) -> Result<Self, ReadError> {
        let incompat = fields.u64(0xbc)?;
        let known = INCOMPAT.iter().fold(0, |all, (bit, _)| all | bit) & !REFUSED;
        if incompat & !known != 0 {
            let what = flags(incompat & !known, INCOMPAT).join(", ");
            return Err(ReadError::unsupported("btrfs file system", format!("it uses the feature {what}")));
        }
        let (sector, node) = (fields.u32(0x90)?, fields.u32(0x94)?);
        if !(512..=0x1_0000).contains(&sector) || !sector.is_power_of_two() {
            return Err(fields.corrupt(0x90, "sectors of 512 bytes to 64 KiB", sector));
        }
        if node < sector || node > 0x1_0000 || !node.is_power_of_two() {
            return Err(fields.corrupt(0x94, "nodes of a sector to 64 KiB", node));
        }
        let system = fields.u32(0xa0)?;
        if system > SYSTEM_CHUNKS.1 {
            return Err(fields.corrupt(0xa0, format_args!("at most {} bytes", SYSTEM_CHUNKS.1), system));
        }
        let generation = fields.u64(0x48)?;
        let log = Pointer { at: fields.u64(0x60)?, generation: generation.saturating_add(1), level: fields.u8(0xc8)? };
        let node_uuid = if incompat & METADATA_UUID != 0 { fields.array(0x23b)? } else { fields.array(0x20)? };
        let mut this = Self {
            checksum: checksum(fields)?,
            node_uuid,
            root: Pointer { at: fields.u64(0x50)?, generation, level: fields.u8(0xc6)? },
            chunk_root: Pointer { at: fields.u64(0x58)?, generation: fields.u64(0xa4)?, level: fields.u8(0xc7)? },
            log_root: Some(log).filter(|log| log.at != 0),
            total: fields.u64(0x70)?,
            sector: u64::from(sector),
            node: u64::from(node),
            device: fields.u64(0xc9)?,
            devices: fields.u64(0x88)?,
            system_chunks: fields.slice(SYSTEM_CHUNKS.0, crate::disk::us(u64::from(system)))?.to_vec(),
            backups: (0..4).map(|n| backup(fields, BACKUPS.0 + n * BACKUPS.1)).collect::<Result<_, _>>()?,
            facts: Vec::new(),
            odd: Vec::new(),
        };
        this.tell(fields)?;
        Ok(this)
    }

    fn tell(&mut self, fields: &Fields<'_>) -> Result<(), ReadError> {
        let mut fact = |name: &str, value: String| self.facts.push((name.to_owned(), value));
        let (incompat, compat_ro) = (fields.u64(0xbc)?, fields.u64(0xb4)?);
        fact("uuid", uuid(fields.slice(0x20, 16)?));
        if incompat & METADATA_UUID != 0 {
            fact("metadata uuid", uuid(fields.slice(0x23b, 16)?));
        }
        fact("label", fields.text(0x12b, 256)?);
        fact("generation", self.root.generation.to_string());
        fact("checksums", self.checksum.name().to_owned());
        fact("sector size", self.sector.to_string());
        fact("node size", self.node.to_string());
        fact("bytes", self.total.to_string());
        fact("bytes used", fields.u64(0x78)?.to_string());
        fact("devices", self.devices.to_string());
        fact("this device", format!("{}, {}", self.device, uuid(fields.slice(0xc9 + 66, 16)?)));
        fact("flags", flags(fields.u64(0x38)?, &[(1, "written"), (1 << 32, "seeding")]).join(" "));
        fact("incompatible", flags(incompat, INCOMPAT).join(" "));
        fact("read-only compatible", flags(compat_ro, COMPAT_RO).join(" "));
        Ok(())
    }
}

/// Reads what is at `at`; a place behind the end of the volume has none.
fn mirror(volume: &dyn ReadAt, at: u64) -> Mirror {
    if at.checked_add(LEN as u64).is_none_or(|end| end > volume.len()) {
        return Mirror::None;
    }
    let good = || -> Result<(u64, Vec<u8>), String> {
        let bytes = read_structure(volume, WHAT, at, LEN).map_err(|error| error.to_string())?;
        let fields = Fields::new(WHAT, at, &bytes);
        let words = |error: ReadError| error.to_string();
        if fields.slice(0x40, MAGIC.len()).map_err(words)? != MAGIC {
            return Err("not there".to_owned());
        }
        let kind = checksum(&fields).map_err(words)?;
        let body = bytes.get(LONGEST..).unwrap_or_default();
        if !kind.fits(body, &bytes) {
            return Err("its checksum does not fit".to_owned());
        }
        if fields.u64(0x30).map_err(words)? != at {
            return Err(format!("it says that it is at {:#x}", fields.u64(0x30).map_err(words)?));
        }
        Ok((fields.u64(0x48).map_err(words)?, bytes))
    };
    match good() {
        Ok(found) => Mirror::Good(Box::new(found)),
        Err(why) => Mirror::Bad(why),
    }
}

fn checksum(fields: &Fields<'_>) -> Result<Checksum, ReadError> {
    let kind = fields.u16(0xc4)?;
    Checksum::of(kind).ok_or_else(|| fields.corrupt(0xc4, "a checksum of type 0 to 3", kind))
}

fn backup(fields: &Fields<'_>, at: usize) -> Result<Backup, ReadError> {
    let pointer = |root: usize, level: usize| -> Result<Pointer, ReadError> {
        Ok(Pointer {
            at: fields.u64(at + root)?,
            generation: fields.u64(at + root + 8)?,
            level: fields.u8(at + level)?,
        })
    };
    Ok(Backup { tree: pointer(0, 152)?, chunk: pointer(16, 153)? })
}
