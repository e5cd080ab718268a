//! The boot region and its backup. exFAT specification, section 3.

use crate::disk::fs::clusters::Shape;
use crate::disk::fs::clusters::table::Width;
use crate::image::fields::{Fields, read_structure};
use crate::image::{ReadAt, ReadError, read_vec};

/// Sectors of a boot region, the last of which repeats the checksum of the others.
const SECTORS: u64 = 12;

/// See the module. Numbers were checked: adding and multiplying them is safe.
pub(super) struct Boot {
    pub(super) shape: Shape,
    /// Place and length of the table that counts, in bytes.
    pub(super) table: (u64, u64),
    pub(super) root: u32,
    /// The second table and bitmap count.
    pub(super) second: bool,
    pub(super) facts: Vec<(String, String)>,
    pub(super) odd: Vec<String>,
}

impl Boot {
    /// Of the first region that makes sense and whose checksum fits; if none does, of the first that makes sense.
    pub(super) fn read(volume: &dyn ReadAt) -> Result<Self, ReadError> {
        let mut odd = Vec::new();
        let main = region(volume, 0);
        let error = match main {
            Ok((boot, true)) => return Ok(boot.beside_backup(volume)),
            Ok((boot, false)) => {
                odd.push("the checksum of the boot region does not fit".to_owned());
                Ok(boot)
            }
            Err(error) => {
                odd.push(error.to_string());
                Err(error)
            }
        };
        // Where the backup is depends on the size of a sector, which only a sound sector tells.
        let backup = (9..=12).map(|shift| SECTORS << shift).find_map(|at| match region(volume, at) {
            Ok((boot, true)) if boot.shape.sector * SECTORS == at => Some(boot),
            _ => None,
        });
        let mut boot = match backup {
            Some(boot) => {
                odd.push("the backup of the boot region was used".to_owned());
                boot
            }
            None => error?,
        };
        boot.odd.extend(odd);
        Ok(boot.within(volume))
    }

    fn beside_backup(mut self, volume: &dyn ReadAt) -> Self {
        let len = self.shape.sector * SECTORS;
        let regions = read_vec(volume, 0, crate::disk::us(len)).and_then(|main| {
            let backup = read_vec(volume, len, crate::disk::us(len))?;
            Ok(main.iter().zip(&backup).enumerate().all(|(at, (a, b))| a == b || is_volatile(at)))
        });
        match regions {
            Ok(true) => {}
            Ok(false) => self.odd.push("the boot region differs from its backup".to_owned()),
            Err(error) => self.odd.push(format!("the backup of the boot region cannot be read: {error}")),
        }
        self.within(volume)
    }

    fn within(mut self, volume: &dyn ReadAt) -> Self {
        let len = self.shape.sectors.saturating_mul(self.shape.sector);
        if len > volume.len() {
            self.odd.push(format!("the file system has {len} bytes; the volume ends after {}", volume.len()));
        }
        self
    }

    fn parse(at: u64, bytes: &[u8]) -> Result<Self, ReadError> {
        let fields = Fields::new("exFAT boot sector", at, bytes);
        if fields.slice(3, 8)? != b"EXFAT   " {
            return Err(fields.corrupt(3, "EXFAT", "another name"));
        }
        let (sector, cluster) = (fields.u8(108)?, fields.u8(109)?);
        if !(9..=12).contains(&sector) {
            return Err(fields.corrupt(108, "sectors of 512 to 4096 bytes", format_args!("a shift of {sector}")));
        }
        if cluster > 25 - sector {
            return Err(fields.corrupt(109, "clusters of at most 32 MiB", format_args!("a shift of {cluster}")));
        }
        let (sectors, heap, count) = (fields.u64(72)?, u64::from(fields.u32(88)?), fields.u32(92)?);
        let end = heap + (u64::from(count) << cluster);
        if count == 0 || count > 0xffff_fff5 || end > sectors || sectors > u64::MAX >> sector {
            return Err(fields.corrupt(72, format_args!("{end} sectors or more"), sectors));
        }
        let (from, len) = (u64::from(fields.u32(80)?), u64::from(fields.u32(84)?));
        let (tables, flags) = (fields.u8(110)?, fields.u16(106)?);
        let second = flags & 1 != 0 && tables == 2;
        let room = Width::ExFat.room(len << sector);
        if from < SECTORS * 2 || from + len * u64::from(tables.max(1)) > heap || room < u64::from(count) {
            let found = format_args!("{tables} tables of {len} sectors from {from} on");
            return Err(fields.corrupt(80, format_args!("tables for {count} clusters between boot and data"), found));
        }
        let shape = Shape { sector: 1 << sector, sectors, per_cluster: 1 << cluster, heap, clusters: count };
        let table = ((from + if second { len } else { 0 }) << sector, len << sector);
        let root = fields.u32(96)?;
        if !shape.has(root) {
            return Err(fields.corrupt(96, format_args!("one of {count} clusters"), root));
        }
        let mut this = Self { shape, table, root, second, facts: Vec::new(), odd: Vec::new() };
        this.tell(&fields)?;
        Ok(this)
    }

    fn tell(&mut self, fields: &Fields<'_>) -> Result<(), ReadError> {
        let flags = fields.u16(106)?;
        let (minor, major) = (fields.u8(104)?, fields.u8(105)?);
        let mut fact = |name: &str, value: String| self.facts.push((name.to_owned(), value));
        fact("serial", format!("{:08x}", fields.u32(100)?));
        fact("revision", format!("{major}.{minor:02}"));
        fact("partition offset", format!("{} sectors", fields.u64(64)?));
        fact("sector size", self.shape.sector.to_string());
        fact("cluster size", self.shape.cluster().to_string());
        fact("clusters", self.shape.clusters.to_string());
        fact("first data sector", self.shape.heap.to_string());
        fact("tables", format!("{} of {} bytes, in use at {:#x}", fields.u8(110)?, self.table.1, self.table.0));
        fact("root directory", format!("cluster {}", self.root));
        match fields.u8(112)? {
            0xff => fact("percent in use", "not kept".to_owned()),
            percent => fact("percent in use", percent.to_string()),
        }
        if flags & 2 != 0 {
            self.odd.push("it was not unmounted: what was written last may be missing".to_owned());
        }
        if flags & 4 != 0 {
            self.odd.push("its driver met errors of the disk".to_owned());
        }
        Ok(())
    }
}

/// Bytes that a driver changes without a new checksum.
fn is_volatile(at: usize) -> bool {
    matches!(at, 106 | 107 | 112)
}

/// The boot region at `at`, and whether its checksum fits.
fn region(volume: &dyn ReadAt, at: u64) -> Result<(Boot, bool), ReadError> {
    let boot = Boot::parse(at, &read_structure(volume, "exFAT boot sector", at, 512)?)?;
    let len = crate::disk::us(boot.shape.sector);
    let all = read_structure(volume, "exFAT boot region", at, len * 12)?;
    let (body, told) = all.split_at_checked(len * 11).unwrap_or_default();
    let sum = body.iter().enumerate().filter(|(at, _)| !is_volatile(*at));
    let sum = sum.fold(0_u32, |sum, (_, byte)| sum.rotate_right(1).wrapping_add(u32::from(*byte)));
    let fits = told.as_chunks::<4>().0.iter().all(|told| *told == sum.to_le_bytes());
    Ok((boot, fits))
}
