//! The boot sector: geometry, labels, and for FAT32 its backup and the FSInfo sector. FAT specification 1.03, "Boot Sector
//! and BPB".

use crate::disk::fs::clusters::Shape;
use crate::disk::fs::clusters::table::Width;
use crate::image::fields::{Fields, read_structure};
use crate::image::{ReadAt, ReadError};

/// Where drivers put the backup of a FAT32 boot sector.
const BACKUP: u64 = 6 * 512;
/// Bytes that are read: the smallest sector.
const SIZE: usize = 512;

/// See the module. Numbers were checked: adding and multiplying them is safe.
#[derive(Debug)]
pub(super) struct Boot {
    pub(super) shape: Shape,
    pub(super) width: Width,
    /// First byte of the first table.
    pub(super) reserved: u64,
    /// Bytes of a table.
    table_len: u64,
    pub(super) copies: u8,
    /// The tables are no copies of each other: only one is kept.
    pub(super) apart: bool,
    active: u8,
    pub(super) root_cluster: u32,
    /// First sector and number of sectors of a root directory outside the clusters.
    pub(super) root_area: Option<(u64, u64)>,
    fsinfo: u64,
    backup: u64,
    pub(super) facts: Vec<(String, String)>,
    pub(super) odd: Vec<String>,
}

/// Is this FAT, going by its structure? For volumes without the text that names the type.
pub(in crate::disk) fn looks_like(volume: &dyn ReadAt) -> bool {
    let Ok(bytes) = read_structure(volume, "FAT boot sector", 0, SIZE) else { return false };
    let jump = bytes.starts_with(&[0xeb]) && bytes.get(2) == Some(&0x90) || bytes.starts_with(&[0xe9]);
    let signed = bytes.get(510..512) == Some(b"\x55\xaa");
    let media = bytes.get(21).copied().filter(|media| *media >= 0xf8 || *media == 0xf0);
    let (Some(media), Ok(boot)) = (media, Boot::parse(0, &bytes)) else { return false };
    let mut first = [0; 2];
    // The first entry of the table repeats the kind of medium.
    let table = volume.read_at(boot.reserved, &mut first).is_ok() && first == [media, 0xff];
    (jump || signed) && table
}

/// What is how large, in sectors but for the first.
struct Sizes {
    /// Bytes of a sector.
    sector: u64,
    per_cluster: u64,
    reserved: u64,
    /// Tables, and sectors of each.
    copies: u8,
    table: u64,
    sectors: u64,
    /// The root directory, where it has a place of its own.
    root: u64,
}

impl Sizes {
    fn read(fields: &Fields<'_>) -> Result<Self, ReadError> {
        let sector = u64::from(fields.u16(11)?);
        if !matches!(sector, 512 | 1024 | 2048 | 4096) {
            return Err(fields.corrupt(11, "sectors of 512 to 4096 bytes", sector));
        }
        let per_cluster = u64::from(fields.u8(13)?);
        if !per_cluster.is_power_of_two() {
            return Err(fields.corrupt(13, "a power of two of sectors in a cluster", per_cluster));
        }
        let (reserved, copies) = (u64::from(fields.u16(14)?), fields.u8(16)?);
        if reserved == 0 {
            return Err(fields.corrupt(14, "a reserved sector or more", reserved));
        }
        if copies == 0 || copies > 8 {
            return Err(fields.corrupt(16, "1 to 8 tables", copies));
        }
        // The old fields of 16 bits, or the new ones of 32.
        let either = |short: u16, long: u32| if short == 0 { u64::from(long) } else { u64::from(short) };
        let (table, sectors) = (either(fields.u16(22)?, fields.u32(36)?), either(fields.u16(19)?, fields.u32(32)?));
        let root = (u64::from(fields.u16(17)?) * 32).div_ceil(sector);
        Ok(Self { sector, per_cluster, reserved, copies, table, sectors, root })
    }
}

/// The type: by the number of clusters, but FAT32 also where only that has such fields.
fn width(fields: &Fields<'_>, root: u64, count: u64) -> Result<Width, ReadError> {
    let long = fields.u16(22)? == 0;
    let width = match count {
        _ if long => Width::Fat32,
        0..4085 => Width::Fat12,
        4085..65525 => Width::Fat16,
        _ => Width::Fat32,
    };
    if width == Width::Fat32 && !long || width != Width::Fat32 && root == 0 {
        let found = format_args!("{count} clusters");
        return Err(fields.corrupt(17, "a root directory and tables of one type", found));
    }
    Ok(width)
}

impl Boot {
    /// Of a volume, or of its backup where the first sector makes no sense.
    pub(super) fn read(volume: &dyn ReadAt) -> Result<Self, ReadError> {
        let main = read_structure(volume, "FAT boot sector", 0, SIZE)?;
        let mut this = match Self::parse(0, &main) {
            Ok(this) => this,
            Err(error) => {
                let spare = read_structure(volume, "FAT boot sector", BACKUP, SIZE);
                let spare = spare.and_then(|bytes| Self::parse(BACKUP, &bytes));
                let Ok(mut spare) = spare.map(|spare| Self { backup: 0, ..spare }) else { return Err(error) };
                spare.odd.push(format!("the backup of the boot sector was used: {error}"));
                spare
            }
        };
        this.compare_backup(volume, &main);
        this.read_fsinfo(volume);
        let len = this.shape.sectors.saturating_mul(this.shape.sector);
        if len > volume.len() {
            this.odd.push(format!("the file system has {len} bytes; the volume ends after {}", volume.len()));
        }
        Ok(this)
    }

    /// Where the table is that counts, and its length, in bytes.
    pub(super) fn table(&self) -> (u64, u64) {
        (self.reserved + u64::from(self.active) * self.table_len, self.table_len)
    }

    fn parse(at: u64, bytes: &[u8]) -> Result<Self, ReadError> {
        let fields = Fields::new("FAT boot sector", at, bytes);
        let Sizes { sector, per_cluster, reserved, copies, table, sectors, root } = Sizes::read(&fields)?;
        let heap = reserved + u64::from(copies) * table + root;
        let count = sectors.checked_sub(heap).map_or(0, |data| data / per_cluster);
        if table == 0 || count == 0 || count > 0x0fff_fff5 {
            return Err(fields.corrupt(32, "sectors for tables and clusters", format_args!("{sectors} and {table}")));
        }
        let width = width(&fields, root, count)?;
        let clusters = count.min(width.room(table * sector));
        let shape = Shape { sector, sectors, per_cluster, heap, clusters: u32::try_from(clusters).unwrap_or(0) };
        let wide = width == Width::Fat32;
        let flags = if wide { fields.u16(40)? } else { 0 };
        let apart = flags & 0x80 != 0;
        let mut this = Self {
            shape,
            width,
            reserved: reserved * sector,
            table_len: table * sector,
            copies,
            apart,
            active: if apart { u8::try_from(flags & 0xf).unwrap_or(0) } else { 0 },
            root_cluster: if wide { fields.u32(44)? } else { 0 },
            root_area: (!wide).then_some((heap - root, root)),
            fsinfo: if wide { u64::from(fields.u16(48)?) } else { 0 },
            backup: if wide { u64::from(fields.u16(50)?) } else { 0 },
            facts: Vec::new(),
            odd: Vec::new(),
        };
        if this.active >= copies {
            return Err(fields.corrupt(40, format_args!("one of {copies} tables"), this.active));
        }
        if clusters < count {
            this.odd.push(format!("its table tells of {clusters} clusters, and there is room for {count}"));
        }
        this.tell(&fields, count)?;
        Ok(this)
    }

    /// Facts, and what is only odd.
    fn tell(&mut self, fields: &Fields<'_>, count: u64) -> Result<(), ReadError> {
        let wide = self.width == Width::Fat32;
        let from = if wide { 64 } else { 36 };
        let extended = fields.u8(from + 2)?;
        let mut fact = |name: &str, value: String| self.facts.push((name.to_owned(), value));
        fact("OEM name", fields.text(3, 8)?.trim_end().to_owned());
        if matches!(extended, 0x28 | 0x29) {
            fact("serial", format!("{:08x}", fields.u32(from + 3)?));
        }
        if extended == 0x29 {
            fact("label (boot sector)", fields.text(from + 7, 11)?.trim_end().to_owned());
        }
        fact("media", format!("{:#04x}", fields.u8(21)?));
        fact("sector size", self.shape.sector.to_string());
        fact("cluster size", self.shape.cluster().to_string());
        fact("clusters", count.to_string());
        fact("first data sector", self.shape.heap.to_string());
        fact("tables", format!("{} of {} bytes from {:#x} on", self.copies, self.table_len, self.reserved));
        fact("hidden sectors", fields.u32(28)?.to_string());
        match self.root_area {
            Some((sector, len)) => fact("root directory", format!("{len} sectors from sector {sector} on")),
            None => fact("root directory", format!("cluster {}", self.root_cluster)),
        }
        if self.apart {
            fact("table in use", (self.active + 1).to_string());
        }
        let said = fields.slice(from + 18, 8)?;
        let types = [(Width::Fat12, b"FAT12   "), (Width::Fat16, b"FAT16   "), (Width::Fat32, b"FAT32   ")];
        if let Some((_, text)) = types.iter().find(|(width, text)| *width != self.width && said == *text) {
            let text = String::from_utf8_lossy(*text).trim_end().to_owned();
            self.odd.push(format!("the boot sector calls it {text}, and its {count} clusters say otherwise"));
        }
        if wide && count < 65525 {
            self.odd.push(format!("{count} clusters are fewer than FAT32 should have"));
        }
        if fields.u8(from + 1)? & 1 != 0 {
            self.odd.push("the boot sector says that it was not unmounted".to_owned());
        }
        if fields.slice(510, 2)? != b"\x55\xaa" {
            self.odd.push("the boot sector does not end with 55 aa".to_owned());
        }
        Ok(())
    }

    fn compare_backup(&mut self, volume: &dyn ReadAt, main: &[u8]) {
        if matches!(self.backup, 0 | 0xffff) {
            return;
        }
        match read_structure(volume, "backup of the FAT boot sector", self.backup * self.shape.sector, SIZE) {
            // Drivers change the byte that says whether it is mounted in the first only.
            Ok(spare) if same(main, &spare) => {}
            Ok(_) => self.odd.push(format!("the boot sector differs from its backup in sector {}", self.backup)),
            Err(error) => self.odd.push(error.to_string()),
        }
    }

    fn read_fsinfo(&mut self, volume: &dyn ReadAt) {
        if matches!(self.fsinfo, 0 | 0xffff) {
            return;
        }
        let at = self.fsinfo * self.shape.sector;
        let told = read_structure(volume, "FAT32 FSInfo sector", at, SIZE).and_then(|bytes| {
            let fields = Fields::new("FAT32 FSInfo sector", at, &bytes);
            if fields.slice(0, 4)? != b"RRaA" || fields.slice(484, 4)? != b"rrAa" {
                return Err(fields.corrupt(0, "RRaA and rrAa", "others"));
            }
            Ok((fields.u32(488)?, fields.u32(492)?))
        });
        match told {
            Ok((free, next)) => {
                self.facts.push(("free clusters (FSInfo)".to_owned(), free.to_string()));
                self.facts.push(("next free cluster (FSInfo)".to_owned(), next.to_string()));
            }
            Err(error) => self.odd.push(error.to_string()),
        }
    }
}

fn same(main: &[u8], spare: &[u8]) -> bool {
    main.iter().zip(spare).enumerate().all(|(at, (a, b))| at == 65 || a == b)
}
