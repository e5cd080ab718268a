//! exFAT. Microsoft "exFAT file system specification", revision 1.00.
//!
//! Not done: what TexFAT keeps in a second table and bitmap (they are named), access control lists, vendor entries. Names are
//! not compared by the up-case table; its checksum is.

mod boot;
mod entry;

use std::sync::{Arc, OnceLock};

use super::clusters::bits::Bits;
use super::clusters::record::utf16;
use super::clusters::table::{Chain, Link, Table, Width};
use super::clusters::{self, Dialect, Volume};
use super::{Filesystem, Options};
use crate::disk::us;
use crate::image::fields::Fields;
use crate::image::{ReadAt, ReadError, read_vec};
use boot::Boot;
use entry::{Entries, begins};

/// Longest directory in bytes.
const LONGEST: u64 = 256 << 20;
/// Longest up-case table: two bytes for every number of 16 bits.
const UPCASE: u64 = 1 << 17;

static EXFAT: Dialect = Dialect {
    name: "exfat",
    reader: |shape, deleted| Box::new(Entries::new(shape, deleted)),
    begins,
    sized: true,
    longest: LONGEST,
};

/// Opens the file system on a volume.
pub fn open(volume: Arc<dyn ReadAt>, _options: Options) -> Result<Arc<dyn Filesystem>, ReadError> {
    let boot = Boot::read(volume.as_ref())?;
    let shape = boot.shape;
    let table = Table::new(Arc::clone(&volume), Width::ExFat, boot.table, shape.clusters);
    let mut this = Volume {
        bytes: volume,
        shape,
        table,
        used: Bits::default(),
        pointed: Bits::default(),
        root: (clusters::root(boot.root, 0), None),
        system: Vec::new(),
        dialect: &EXFAT,
        facts: boot.facts,
        odd: boot.odd,
        whole: true,
        audit: OnceLock::new(),
    };
    let mut system = System::find(&this);
    this.facts.append(&mut system.facts);
    system.take(&mut this, boot.second);
    Ok(Arc::new(this))
}

/// Where the bitmap and the up-case table are: first cluster, length, for the bitmap which one, for the table its checksum.
#[derive(Default)]
struct System {
    bitmaps: Vec<(u8, u32, u64)>,
    upcase: Option<(u32, u32, u64)>,
    facts: Vec<(String, String)>,
}

impl System {
    fn find(volume: &Volume) -> Self {
        let mut this = Self::default();
        volume.each_root_entry(&mut |raw| {
            // The entry is 32 bytes long, so every field is there.
            this.entry(&Fields::new("exFAT directory entry", 0, raw)).unwrap_or(false)
        });
        this
    }

    /// Looks at one entry; false behind the last.
    fn entry(&mut self, fields: &Fields<'_>) -> Result<bool, ReadError> {
        let mut fact = |name: &str, value: String| self.facts.push((name.to_owned(), value));
        match fields.u8(0)? {
            0 => return Ok(false),
            0x81 => self.bitmaps.push((fields.u8(1)? & 1, fields.u32(20)?, fields.u64(24)?)),
            0x82 => self.upcase = Some((fields.u32(4)?, fields.u32(20)?, fields.u64(24)?)),
            0x83 => {
                let units = (0..usize::from(fields.u8(1)?).min(11)).map(|unit| fields.u16(2 + unit * 2));
                let label = utf16(units.collect::<Result<Vec<_>, _>>()?);
                fact("label", String::from_utf8_lossy(&label).into_owned());
            }
            0xa0 => fact("GUID", crate::image::hex(fields.slice(6, 16)?)),
            _ => {}
        }
        Ok(true)
    }

    /// Reads them into the volume.
    fn take(self, into: &mut Volume, second: bool) {
        let count = into.shape.clusters;
        let need = u64::from(count).div_ceil(8);
        let wanted = self.bitmaps.iter().find(|(which, ..)| *which == u8::from(second)).or(self.bitmaps.first());
        let bitmap = match wanted {
            Some((_, first, len)) => file(into, *first, (*len).min(need)),
            None => Err("the root directory has no allocation bitmap".to_owned()),
        };
        let (bytes, chain) = bitmap.unwrap_or_else(|why| {
            into.odd.push(format!("which clusters are in use is not known, all count as used: {why}"));
            into.whole = false;
            (vec![0xff; us(need)], Chain::default())
        });
        if (bytes.len() as u64) < need {
            into.odd.push(format!("the allocation bitmap has {} bytes for {count} clusters", bytes.len()));
        }
        into.used = Bits::of_bytes(&bytes, 2, count);
        into.system.push(chain);
        let (free, used) = (count - into.used.count(2, count), into.used.count(2, count));
        into.facts.push(("free clusters".to_owned(), free.to_string()));
        into.facts.push(("used clusters".to_owned(), used.to_string()));
        for (_, first, len) in self.bitmaps.iter().filter(|one| Some(*one) != wanted) {
            into.system.extend(file(into, *first, *len).ok().map(|(_, chain)| chain));
        }
        match self.upcase.map(|(sum, first, len)| (sum, file(into, first, len.min(UPCASE)))) {
            Some((sum, Ok((bytes, chain)))) => {
                let found = bytes.iter().fold(0_u32, |sum, byte| sum.rotate_right(1).wrapping_add(u32::from(*byte)));
                if found != sum {
                    into.odd.push("the checksum of the up-case table does not fit".to_owned());
                }
                into.system.push(chain);
            }
            Some((_, Err(why))) => into.odd.push(format!("the up-case table cannot be read: {why}")),
            None => into.odd.push("the root directory has no up-case table".to_owned()),
        }
        into.pointed = pointed(into);
    }
}

/// Clusters that another one of a used chain leads to. Of free clusters and of files in one piece, the table tells nothing.
fn pointed(volume: &Volume) -> Bits {
    let end = volume.shape.clusters.saturating_add(2);
    let mut bits = Bits::new(u64::from(end));
    for cluster in (2..end).filter(|cluster| volume.used.has(*cluster)) {
        if let Ok(Link::Next(next)) = volume.table.get(cluster) {
            bits.set(next);
        }
    }
    bits
}

/// A file of the file system itself, which the table chains.
fn file(volume: &Volume, first: u32, len: u64) -> Result<(Vec<u8>, Chain), String> {
    let cluster = volume.shape.cluster();
    let chain = volume.table.chain(first, len.div_ceil(cluster));
    if let Some(why) = chain.odd {
        return Err(why);
    }
    let mut bytes = Vec::new();
    for span in &chain.spans {
        let left = len.saturating_sub(bytes.len() as u64).min(u64::from(span.len) * cluster);
        let part = read_vec(volume.bytes.as_ref(), volume.shape.at(span.first), us(left));
        bytes.extend(part.map_err(|error| error.to_string())?);
    }
    Ok((bytes, chain))
}
