//! Volume descriptors: primary, Joliet, boot record. ECMA-119, section 8; Joliet, section 2.

use crate::image::fields::{Fields, read_structure};
use crate::image::{ReadAt, ReadError};

/// Bytes of a sector: descriptors stand one in each.
pub(super) const SECTOR: u64 = 2048;
/// The first descriptor, counted from where the session begins.
pub(super) const FIRST: u64 = 16;
/// The most descriptors that are read.
const MOST: u64 = 64;

/// What a descriptor tells of its tree.
#[derive(Debug, Clone)]
pub(super) struct Descriptor {
    /// Bytes of a logical block.
    pub(super) block: u64,
    /// Logical blocks of the volume.
    pub(super) blocks: u32,
    /// Where the record of the root directory stands.
    pub(super) root: u64,
    /// First block and bytes of the path table.
    pub(super) path_table: (u32, u32),
}

/// What the descriptors of a session tell.
#[derive(Debug, Clone)]
pub(super) struct Disc {
    pub(super) primary: Descriptor,
    pub(super) joliet: Option<Descriptor>,
    /// Block of the boot catalog.
    pub(super) catalog: Option<u32>,
    /// The first sector behind the descriptors.
    pub(super) end: u64,
    pub(super) facts: Vec<(String, String)>,
    pub(super) odd: Vec<String>,
}

/// A number in both byte orders. What differs is odd.
pub(super) fn both32(fields: &Fields<'_>, at: usize, what: &str, odd: &mut Vec<String>) -> Result<u32, ReadError> {
    let (little, big) = (fields.u32(at)?, fields.be32(at + 4)?);
    if little != big {
        odd.push(format!("{what} is {little} in one byte order and {big} in the other"));
    }
    Ok(little)
}

fn both16(fields: &Fields<'_>, at: usize, what: &str, odd: &mut Vec<String>) -> Result<u16, ReadError> {
    let (little, big) = (fields.u16(at)?, fields.be16(at + 2)?);
    if little != big {
        odd.push(format!("{what} is {little} in one byte order and {big} in the other"));
    }
    Ok(little)
}

impl Disc {
    /// The descriptors of the session that begins at sector `session`.
    pub(super) fn read(volume: &dyn ReadAt, session: u64) -> Result<Self, ReadError> {
        let first = session.saturating_add(FIRST);
        let mut found = Listed { end: first, ..Listed::default() };
        let end = first.saturating_add(MOST);
        while found.next(volume, end)? {}
        let Listed { end, primary, joliet, catalog, facts, mut odd } = found;
        let none =
            || ReadError::corrupt("ISO 9660 volume descriptors", first.saturating_mul(SECTOR), "a primary one", "none");
        let primary = primary.ok_or_else(none)?;
        let len = u64::from(primary.blocks).saturating_mul(primary.block);
        if len > volume.len() {
            odd.push(format!("the file system has {len} bytes; the volume ends after {}", volume.len()));
        }
        if has_udf(volume, end) {
            odd.push("it holds UDF as well; what stands only there is not shown".to_owned());
        }
        Ok(Self { primary, joliet, catalog, end, facts, odd })
    }
}

/// What the list of descriptors has told so far.
#[derive(Default)]
struct Listed {
    /// Sector behind the last one.
    end: u64,
    primary: Option<Descriptor>,
    joliet: Option<Descriptor>,
    catalog: Option<u32>,
    facts: Vec<(String, String)>,
    odd: Vec<String>,
}

impl Listed {
    /// Reads the next descriptor; false if the list ends.
    fn next(&mut self, volume: &dyn ReadAt, last: u64) -> Result<bool, ReadError> {
        let at = self.end.saturating_mul(SECTOR);
        let bytes = match read_structure(volume, "ISO 9660 volume descriptor", at, 2048) {
            Err(error) if self.primary.is_none() => return Err(error),
            Err(error) => {
                self.odd.push(error.to_string());
                return Ok(false);
            }
            Ok(bytes) => bytes,
        };
        let fields = Fields::new("ISO 9660 volume descriptor", at, &bytes);
        self.end += 1;
        if fields.slice(1, 5)? != b"CD001" || self.end > last {
            self.odd.push("the list of volume descriptors has no end".to_owned());
            return Ok(false);
        }
        match fields.u8(0)? {
            255 => return Ok(false),
            1 if self.primary.is_none() => {
                self.primary = Some(Descriptor::parse(&fields, at, &mut self.odd)?);
                self.facts.extend(told(&fields, at, &mut self.odd)?);
            }
            2 if self.joliet.is_none() && is_joliet(&fields)? => {
                // A damaged second tree does not take the first away.
                match Descriptor::parse(&fields, at, &mut self.odd) {
                    Ok(descriptor) => self.joliet = Some(descriptor),
                    Err(error) => self.odd.push(error.to_string()),
                }
            }
            0 if fields.text(7, 32)?.starts_with("EL TORITO SPECIFICATION") => self.catalog = Some(fields.u32(71)?),
            _ => {}
        }
        Ok(true)
    }
}

impl Descriptor {
    fn parse(fields: &Fields<'_>, at: u64, odd: &mut Vec<String>) -> Result<Self, ReadError> {
        let block = u64::from(both16(fields, 128, "the block size", odd)?);
        if !matches!(block, 512 | 1024 | 2048) {
            return Err(fields.corrupt(128, "blocks of 512, 1024 or 2048 bytes", block));
        }
        let blocks = both32(fields, 80, "the number of blocks", odd)?;
        let path_len = both32(fields, 132, "the length of the path table", odd)?;
        Ok(Self { block, blocks, root: at + 156, path_table: (fields.u32(140)?, path_len) })
    }
}

/// Level 1, 2 or 3 of UCS-2.
fn is_joliet(fields: &Fields<'_>) -> Result<bool, ReadError> {
    let escape = fields.slice(88, 3)?;
    Ok([b"%/@", b"%/C", b"%/E"].iter().any(|known| escape == *known))
}

fn told(fields: &Fields<'_>, at: u64, odd: &mut Vec<String>) -> Result<Vec<(String, String)>, ReadError> {
    let mut facts = Vec::new();
    let texts = [
        ("label", 40, 32),
        ("system", 8, 32),
        ("volume set", 190, 128),
        ("publisher", 318, 128),
        ("prepared by", 446, 128),
        ("application", 574, 128),
        ("copyright file", 702, 37),
        ("abstract file", 739, 37),
        ("bibliographic file", 776, 37),
    ];
    for (name, from, len) in texts {
        let text = fields.text(from, len)?.trim_end().to_owned();
        if !text.is_empty() {
            facts.push((name.to_owned(), text));
        }
    }
    for (name, from) in [("made", 813), ("changed", 830), ("expires", 847), ("effective", 864)] {
        let time = super::record::long_time(fields.slice(from, 17)?);
        facts.extend(time.map(|time| (name.to_owned(), time.to_string())));
    }
    facts.push(("descriptor".to_owned(), format!("at {at:#x}")));
    let disc = both16(fields, 124, "the number of this disc", odd)?;
    let of = both16(fields, 120, "the number of discs", odd)?;
    facts.push(("disc".to_owned(), format!("{disc} of {of}")));
    facts.push(("block size".to_owned(), fields.u16(128)?.to_string()));
    facts.push(("blocks".to_owned(), fields.u32(80)?.to_string()));
    Ok(facts)
}

/// The recognition sequence of UDF stands behind the descriptors.
fn has_udf(volume: &dyn ReadAt, from: u64) -> bool {
    (from..from.saturating_add(FIRST)).any(|sector| {
        let mut id = [0; 5];
        volume.read_at(sector.saturating_mul(SECTOR) + 1, &mut id).is_ok() && (id == *b"NSR02" || id == *b"NSR03")
    })
}
