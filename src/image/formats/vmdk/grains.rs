//! Grain directory and grain tables of a sparse extent.

use std::sync::Arc;

use crate::image::cache::Cache;
use crate::image::fields::{Fields, read_structure};
use crate::image::{ReadAt, ReadError, inflate, read_vec};

use super::super::shared::mapped::{Home, Map, Run, Table, joined};
use super::sparse::{Layout, SECTOR, Sort};

const DIRECTORY: &str = "VMDK grain directory";
const TABLE: &str = "VMDK grain table";
const GRAIN: &str = "VMDK grain";
/// Longest grain directory in bytes.
const DIRECTORY_MOST: u64 = 64 << 20;
/// Grain tables that are looked through when an extent is opened.
const LOOK: usize = 2048;
/// Bytes of grain tables that are kept.
const CACHE: usize = 32 << 20;

/// The tables of one extent.
pub(super) struct Grains {
    file: Arc<dyn ReadAt>,
    layout: Layout,
    /// Length of the extent: the descriptor may use less than the header says.
    len: u64,
    directory_at: u64,
    directory: Vec<u64>,
    /// Where the tables are, ascending.
    sorted: Vec<u64>,
    tables: Cache,
}

impl Grains {
    /// Reads the directory; if the first is damaged, its copy. `odd` gets what was found.
    pub(super) fn new(
        file: Arc<dyn ReadAt>,
        layout: Layout,
        len: u64,
        odd: &mut Vec<String>,
    ) -> Result<Self, ReadError> {
        odd.extend(layout.odd.iter().cloned());
        let first = directory(file.as_ref(), &layout, layout.directory_at);
        let spare = layout.spare_at.map(|at| (at, directory(file.as_ref(), &layout, at)));
        let (directory_at, directory) = match (first, spare) {
            (Ok(first), Some((at, Ok(spare)))) => {
                compare(file.as_ref(), &layout, (&first, &spare), at, odd);
                (layout.directory_at, first)
            }
            (Ok(first), Some((_, Err(error)))) => {
                odd.push(format!("the redundant grain directory is damaged: {error}"));
                (layout.directory_at, first)
            }
            (Ok(first), None) => (layout.directory_at, first),
            (Err(error), Some((at, Ok(spare)))) => {
                odd.push(format!("the redundant grain directory was used, since the first is damaged: {error}"));
                (at, spare)
            }
            (Err(error), _) => return Err(error),
        };
        let mut sorted: Vec<u64> = directory.iter().copied().filter(|&entry| entry != 0).collect();
        sorted.sort_unstable();
        let grains = Self { file, layout, len, directory_at, directory, sorted, tables: Cache::new(CACHE) };
        if grains.layout.sort == Sort::SeSparse {
            grains.count_unmapped(odd);
        }
        Ok(grains)
    }

    fn table_bytes(&self) -> u64 {
        self.layout.per_table * self.layout.width()
    }

    fn covered(&self) -> u64 {
        self.layout.grain * self.layout.per_table
    }

    /// The grain table of this entry and where it is; `None` if there is none.
    fn table(&self, index: u64) -> Result<Option<Table>, ReadError> {
        let entry = usize::try_from(index).ok().and_then(|index| self.directory.get(index)).copied().unwrap_or(0);
        if entry == 0 {
            return Ok(None);
        }
        let entry_at = self.directory_at + index * self.layout.width();
        let at = table_at(&self.layout, self.file.len(), entry, entry_at)?;
        let first = self.sorted.partition_point(|&other| other < entry);
        if self.sorted.get(first + 1) == Some(&entry) {
            let expected = "a grain table of its own, not that of another entry too";
            return Err(ReadError::corrupt(DIRECTORY, entry_at, expected, format_args!("{entry:#x}")));
        }
        let len = usize::try_from(self.table_bytes()).unwrap_or(usize::MAX);
        let table = self.tables.get(index, || read_structure(self.file.as_ref(), TABLE, at, len))?;
        Ok(Some((at, table)))
    }

    /// What a table says of the grain that holds `at`, from there to its end.
    fn piece(&self, table_at: u64, table: &[u8], at: u64) -> Result<Run, ReadError> {
        let fields = Fields::new(TABLE, table_at, table);
        let (grain, skip) = (at / self.layout.grain, at % self.layout.grain);
        let field = usize::try_from(grain % self.layout.per_table * self.layout.width()).unwrap_or(0);
        let home = match self.entry(&fields, field)? {
            Entry::None => Home::Parent,
            Entry::Zero => Home::Zero,
            Entry::At(from) => {
                let used =
                    if self.layout.compressed { 1 } else { self.layout.grain.min(self.layout.len - (at - skip)) };
                self.check(&fields, field, from, used)?;
                if self.layout.compressed { Home::Packed } else { Home::Stored(from + skip) }
            }
        };
        Ok(Run { len: self.layout.grain - skip, home })
    }

    fn entry(&self, fields: &Fields<'_>, field: usize) -> Result<Entry, ReadError> {
        if self.layout.sort != Sort::SeSparse {
            return Ok(match fields.u32(field)? {
                0 => Entry::None,
                1 if self.layout.zero_grains => Entry::Zero,
                sector => Entry::At(u64::from(sector) * SECTOR),
            });
        }
        let entry = fields.u64(field)?;
        match entry >> 60 {
            0 if entry == 0 => Ok(Entry::None),
            1 | 2 => Ok(Entry::Zero),
            3 => {
                // 60 bits: the low 12 of the number stand above the others.
                let number = (entry >> 48 & 0xfff) | (entry & 0xffff_ffff_ffff) << 12;
                let at = number.checked_mul(self.layout.grain).and_then(|at| at.checked_add(self.layout.grains_at));
                at.map(Entry::At).ok_or_else(|| fields.corrupt(field, "a grain inside the file", entry))
            }
            _ => Err(fields.corrupt(field, "a grain of type 0 to 3", format_args!("{entry:#018x}"))),
        }
    }

    /// `used` bytes at `from` are a place for a grain.
    fn check(&self, fields: &Fields<'_>, field: usize, from: u64, used: u64) -> Result<(), ReadError> {
        let end = from.saturating_add(used);
        let directory_end = self.directory_at + self.directory.len() as u64 * self.layout.width();
        let expected = if from < SECTOR || end > self.file.len() {
            format!("a grain behind the header and inside the {:#x} bytes of the file", self.file.len())
        } else if from < directory_end && self.directory_at < end {
            "a grain outside the grain directory".to_owned()
        } else {
            return Ok(());
        };
        Err(fields.corrupt(field, expected, format_args!("{from:#x}")))
    }

    /// Type 1 (unmapped by the guest) reads as zeros in most readers, as the parent's bytes in others: it is counted.
    fn count_unmapped(&self, odd: &mut Vec<String>) {
        let (mut count, mut seen) = (0_u64, 0);
        for (index, _) in self.directory.iter().enumerate().filter(|(_, entry)| **entry != 0).take(LOOK) {
            seen += 1;
            let Ok(Some((_, table))) = self.table(index as u64) else { continue };
            count += table.as_chunks::<8>().0.iter().filter(|e| u64::from_le_bytes(**e) >> 60 == 1).count() as u64;
        }
        if count > 0 {
            let least = if seen == LOOK && self.sorted.len() > LOOK { "at least " } else { "" };
            odd.push(format!(
                "{least}{count} grains are marked as unmapped (type 1): they are read as zeros; another reader may \
                 show the parent's bytes there"
            ));
        }
    }
}

enum Entry {
    None,
    Zero,
    At(u64),
}

/// The entries of the directory at `at`; all of their tables lie inside the file.
fn directory(file: &dyn ReadAt, layout: &Layout, at: u64) -> Result<Vec<u64>, ReadError> {
    let len = layout.directory_len.saturating_mul(layout.width());
    if len > DIRECTORY_MOST || at < SECTOR {
        let expected = format_args!("a directory behind the header, of at most {DIRECTORY_MOST} bytes");
        return Err(ReadError::corrupt(DIRECTORY, at, expected, format_args!("{len} bytes at {at:#x}")));
    }
    let bytes = read_structure(file, DIRECTORY, at, usize::try_from(len).unwrap_or(usize::MAX))?;
    let entries: Vec<u64> = match layout.width() {
        8 => bytes.as_chunks::<8>().0.iter().map(|entry| u64::from_le_bytes(*entry)).collect(),
        _ => bytes.as_chunks::<4>().0.iter().map(|entry| u32::from_le_bytes(*entry).into()).collect(),
    };
    if layout.spare_at.is_some() {
        // Only then it matters at once: the copy may do.
        for (index, &entry) in entries.iter().enumerate().filter(|(_, entry)| **entry != 0) {
            table_at(layout, file.len(), entry, at + index as u64 * layout.width())?;
        }
    }
    Ok(entries)
}

/// Where the table of a directory's entry is, if that is a place for one.
fn table_at(layout: &Layout, file: u64, entry: u64, entry_at: u64) -> Result<u64, ReadError> {
    let len = layout.per_table * layout.width();
    let at = match layout.sort {
        Sort::SeSparse if entry >> 32 == 0x1000_0000 => {
            (entry & 0xffff_ffff).checked_mul(len).and_then(|at| at.checked_add(layout.tables_at))
        }
        Sort::SeSparse => None,
        Sort::Hosted | Sort::Cowd => entry.checked_mul(SECTOR),
    };
    at.filter(|&at| at >= SECTOR && at.checked_add(len).is_some_and(|end| end <= file)).ok_or_else(|| {
        let expected = format_args!("a grain table behind the header and inside the {file:#x} bytes of the file");
        ReadError::corrupt(DIRECTORY, entry_at, expected, format_args!("{entry:#x}"))
    })
}

/// Compares the tables of both directories, as far as [`LOOK`] goes.
fn compare(file: &dyn ReadAt, layout: &Layout, both: (&[u64], &[u64]), at: u64, odd: &mut Vec<String>) {
    let len = usize::try_from(layout.per_table * layout.width()).unwrap_or(usize::MAX);
    let read = |entry: u64| match entry {
        0 => None,
        entry => read_structure(file, TABLE, entry.saturating_mul(SECTOR), len).ok(),
    };
    let pairs = both.0.iter().zip(both.1).filter(|(a, b)| **a != 0 || **b != 0).take(LOOK);
    let differ = pairs.filter(|(a, b)| read(**a) != read(**b)).count();
    if differ > 0 {
        odd.push(format!("{differ} grain tables differ from their redundant copies (directory at {at:#x})"));
    }
}

impl Map for Grains {
    fn len(&self) -> u64 {
        self.len
    }

    fn unit(&self) -> u64 {
        self.layout.grain
    }

    fn run(&self, at: u64, most: u64) -> Result<Run, ReadError> {
        let covered = self.covered();
        let index = at / covered;
        let end = |tables: u64| index.saturating_add(tables).saturating_mul(covered).min(self.len);
        if let Some((table_at, table)) = self.table(index)? {
            return joined(at, most, end(1), |at| self.piece(table_at, &table, at));
        }
        let rest = usize::try_from(index).ok().and_then(|index| self.directory.get(index..)).unwrap_or_default();
        let absent = rest.iter().take_while(|&&entry| entry == 0).count().max(1);
        Ok(Run { len: end(absent as u64).saturating_sub(at), home: Home::Parent })
    }

    fn decode(&self, unit: u64, into: &mut [u8]) -> Result<(), ReadError> {
        let none = || ReadError::caller("decode a grain", "it is not stored");
        let (table_at, table) = self.table(unit / self.layout.per_table)?.ok_or_else(none)?;
        let fields = Fields::new(TABLE, table_at, &table);
        let field = usize::try_from(unit % self.layout.per_table * self.layout.width()).unwrap_or(0);
        let Entry::At(at) = self.entry(&fields, field)? else { return Err(none()) };
        let most = self.layout.grain * 2;
        let (from, len) = if self.layout.markers {
            let marker = read_structure(self.file.as_ref(), GRAIN, at, 12)?;
            let marker = Fields::new(GRAIN, at, &marker);
            let (sector, len) = (marker.u64(0)?, u64::from(marker.u32(8)?));
            let wanted = unit * (self.layout.grain / SECTOR);
            if sector != wanted {
                return Err(marker.corrupt(0, format_args!("the grain of sector {wanted}"), sector));
            }
            if len == 0 || len > most {
                return Err(marker.corrupt(8, format_args!("1 to {most} compressed bytes"), len));
            }
            (at + 12, len)
        } else {
            (at, most.min(self.file.len().saturating_sub(at)))
        };
        let packed = if self.layout.markers {
            read_structure(self.file.as_ref(), GRAIN, from, usize::try_from(len).unwrap_or(usize::MAX))?
        } else {
            read_vec(self.file.as_ref(), from, usize::try_from(len).unwrap_or(usize::MAX))?
        };
        inflate::zlib_or_longer(&packed, into).map_err(|found| {
            ReadError::corrupt(GRAIN, from, format_args!("{} bytes of zlib content", into.len()), found)
        })
    }
}
