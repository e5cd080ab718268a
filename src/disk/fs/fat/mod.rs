//! FAT12, FAT16 and FAT32, with long names. Microsoft "FAT: General Overview of On-Disk Format" 1.03; the type follows from
//! the number of clusters, as it says, except that a volume without a length for short tables is FAT32, as drivers take it.
//!
//! Times are the local time of the machine that wrote them; nothing says of which zone, and they are given as if it had
//! been UTC. The day of the last access has no time of day: it is a fact of the file, not a time that looks exact.
//! Short names have bytes of an unknown DOS code page and stay as they are. A deleted short name lost its first byte: the
//! checksum of its long name gives it back, or else it is `_`.

mod boot;
mod entry;

use std::sync::{Arc, OnceLock};

use super::clusters::table::{Survey, Table, Width};
use super::clusters::{self, Dialect, Volume};
use super::{Filesystem, Options, Run};
use crate::disk::us;
use crate::image::{ReadAt, ReadError, read_vec};
use boot::Boot;
pub(in crate::disk) use boot::looks_like;
use entry::{Entries, begins, label};

/// Bytes of two tables that are compared at a time: whole entries.
const PIECE: u64 = 3 << 18;
/// Longest directory: 65536 entries.
const LONGEST: u64 = 65536 * 32;

const fn dialect(name: &'static str) -> Dialect {
    Dialect {
        name,
        reader: |shape, deleted| Box::new(Entries::new(shape, deleted)),
        begins,
        sized: false,
        longest: LONGEST,
    }
}

static FAT12: Dialect = dialect("fat12");
static FAT16: Dialect = dialect("fat16");
static FAT32: Dialect = dialect("fat32");

/// Opens the file system on a volume.
pub fn open(volume: Arc<dyn ReadAt>, _options: Options) -> Result<Arc<dyn Filesystem>, ReadError> {
    let mut boot = Boot::read(volume.as_ref())?;
    let table = Table::new(Arc::clone(&volume), boot.width, boot.table(), boot.shape.clusters);
    let survey = table.survey();
    boot.compare_tables(volume.as_ref());
    let mut odd = std::mem::take(&mut boot.odd);
    odd.extend(said(&survey));
    odd.extend(state(&boot, &table));
    let whole = survey.unreadable.is_none();
    let mut facts = std::mem::take(&mut boot.facts);
    facts.extend(counted(&survey));
    let Survey { used, pointed, .. } = survey;
    let shape = boot.shape;
    let area = boot.root_area.map(|(physical, len)| Run { logical: 0, len, physical, unwritten: false });
    let root = clusters::root(boot.root_cluster, 0);
    let dialect = match boot.width {
        Width::Fat12 => &FAT12,
        Width::Fat16 => &FAT16,
        Width::Fat32 | Width::ExFat => &FAT32,
    };
    let mut this = Volume {
        bytes: volume,
        shape,
        table,
        used,
        pointed,
        root: (root, area),
        system: Vec::new(),
        dialect,
        facts,
        odd,
        whole,
        audit: OnceLock::new(),
    };
    let named = label(&this);
    this.facts.extend(named);
    Ok(Arc::new(this))
}

fn counted(survey: &Survey) -> Vec<(String, String)> {
    vec![
        ("free clusters".to_owned(), survey.free.to_string()),
        ("bad clusters".to_owned(), survey.bad.to_string()),
        ("times".to_owned(), "local, of an unknown zone; given as if UTC".to_owned()),
    ]
}

/// What is wrong in the table.
fn said(survey: &Survey) -> Vec<String> {
    let mut odd = Vec::new();
    if let (count, Some(first)) = survey.crossed {
        odd.push(format!("{count} entries of the table lead to a cluster that another one leads to (cross-linked), the first of these is cluster {first}"));
    }
    if let (count, Some(first)) = survey.outside {
        odd.push(format!(
            "{count} entries of the table lead behind the last cluster, the first is that of cluster {first}"
        ));
    }
    if let Some(why) = &survey.unreadable {
        odd.push(format!("not all of the table can be read, and what it would tell counts as in use: {why}"));
    }
    odd
}

/// What the table's entry 1 says of the last use: FAT12 has no room for it.
fn state(boot: &Boot, table: &Table) -> Vec<String> {
    let (clean, sound) = match boot.width {
        Width::Fat16 => (0x8000, 0x4000),
        Width::Fat32 => (0x0800_0000, 0x0400_0000),
        Width::Fat12 | Width::ExFat => return Vec::new(),
    };
    let Ok(value) = table.value(1) else { return Vec::new() };
    let mut odd = Vec::new();
    if value & clean == 0 {
        odd.push("it was not unmounted: what was written last may be missing".to_owned());
    }
    if value & sound == 0 {
        odd.push("its driver met errors of the disk".to_owned());
    }
    odd
}

impl Boot {
    /// Says where the copies of the table differ from the one that is used.
    fn compare_tables(&mut self, volume: &dyn ReadAt) {
        let (used, len) = self.table();
        for copy in 0..self.copies {
            let from = self.reserved.saturating_add(u64::from(copy) * len);
            if from == used || self.apart {
                continue;
            }
            match difference(volume, used, from, len) {
                Ok((0, _)) => {}
                Ok((bytes, first)) => {
                    let cluster = self.width.room(first).saturating_add(2);
                    self.odd.push(format!(
                        "copy {} of the table differs in {bytes} bytes, the first for about cluster {cluster}",
                        copy + 1
                    ));
                }
                Err(error) => self.odd.push(format!("copy {} of the table cannot be compared: {error}", copy + 1)),
            }
        }
    }
}

/// How many bytes differ, and where the first is.
fn difference(volume: &dyn ReadAt, one: u64, other: u64, len: u64) -> Result<(u64, u64), ReadError> {
    let (mut count, mut first, mut at) = (0_u64, 0, 0);
    while at < len {
        let here = us((len - at).min(PIECE));
        let (a, b) = (read_vec(volume, one + at, here)?, read_vec(volume, other + at, here)?);
        if a != b {
            let differ = || a.iter().zip(&b).enumerate().filter(|(_, (a, b))| a != b);
            if count == 0 {
                first = at + differ().next().map_or(0, |(index, _)| index as u64);
            }
            count += differ().count() as u64;
        }
        at += here as u64;
    }
    Ok((count, first))
}
