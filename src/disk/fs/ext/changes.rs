//! What the journal tells of changes: each block of the log, when its transaction was committed, and what the block was that
//! it holds a copy of. An inode counts as changed if it differs from the copy before.

use std::collections::{BTreeMap, HashMap};

use super::books::Part;
use super::journal::{Copy, Journal, Record, What};
use super::lost::directory_blocks;
use super::{Ext, inside};
use crate::disk::fs::{Change, Filesystem};
use crate::disk::us;
use crate::image::ReadError;
use jiff::Timestamp;

/// Inodes that are named in one note.
const NAMED: usize = 16;

type Each<'a> = &'a mut dyn FnMut(Change) -> Result<(), ReadError>;

/// Hands every entry to `each`, by transaction, and in one by its place.
pub(super) fn all(ext: &Ext, each: Each<'_>) -> Result<(), ReadError> {
    let Some(journal) = &ext.journal else {
        return Err(ReadError::unsupported(format!("the journal of {}", ext.name()), "there is none that can be read"));
    };
    let mut records: Vec<_> = journal.records().collect();
    records.sort_by_key(|record| (record.sequence, record.at));
    let mut times = HashMap::new();
    for record in &records {
        if let What::Commit(time, _) = record.what {
            times.insert(record.sequence, time);
        }
    }
    let mut told = Told { ext, journal, directories: directory_blocks(ext)?, tables: HashMap::new(), times };
    records.iter().try_for_each(|record| told.record(record, each))
}

struct Told<'a> {
    ext: &'a Ext,
    journal: &'a Journal,
    /// Which directory a block belongs to.
    directories: BTreeMap<u64, u64>,
    /// Checksums of the inodes in the last copy of a block of the inode table.
    tables: HashMap<u64, Vec<u32>>,
    times: HashMap<u32, Option<Timestamp>>,
}

impl Told<'_> {
    fn change(&self, sequence: u32, at: u32, kind: &str, note: &str) -> Change {
        let waits = if self.journal.is_waiting(sequence) { "not yet in its place" } else { "" };
        let open = if self.times.contains_key(&sequence) { "" } else { "no commit" };
        let notes = [note, open, waits].into_iter().filter(|part| !part.is_empty());
        Change {
            at: u64::from(at).saturating_mul(self.ext.sb.block_size),
            sequence: u64::from(sequence),
            time: self.times.get(&sequence).copied().flatten(),
            kind: kind.to_owned(),
            inode: None,
            name: None,
            block: None,
            note: notes.collect::<Vec<_>>().join("; "),
        }
    }

    fn record(&mut self, record: &Record, each: Each<'_>) -> Result<(), ReadError> {
        let (sequence, at) = (record.sequence, record.at);
        match &record.what {
            What::Commit(_, sound) => {
                let note = if *sound { "" } else { "its checksum does not fit" };
                each(self.change(sequence, at, "commit", note))
            }
            What::Revoke(blocks) => blocks.iter().try_for_each(|block| {
                each(Change { block: Some(*block), ..self.change(sequence, at, "revoke", &self.role(*block)) })
            }),
            What::Descriptor(copies) => {
                each(self.change(sequence, at, "descriptor", &format!("{} blocks", copies.len())))?;
                copies.iter().try_for_each(|copy| self.copy(copy, each))
            }
        }
    }

    fn role(&self, block: u64) -> String {
        match self.directories.get(&block) {
            Some(directory) => format!("directory {directory}"),
            None => self.ext.purpose(block).unwrap_or_default(),
        }
    }

    fn copy(&mut self, copy: &Copy, each: Each<'_>) -> Result<(), ReadError> {
        let mut inode = self.directories.get(&copy.block).copied();
        let mut note = self.role(copy.block);
        if !self.journal.holds(copy) {
            note.push_str(if note.is_empty() { "overwritten since" } else { "; overwritten since" });
        } else if let Some(Part::InodeTable(_, first)) = self.ext.part(copy.block) {
            let changed = self.changed(copy, first)?;
            inode = changed.first().copied().filter(|_| changed.len() == 1);
            let names: Vec<_> = changed.iter().take(NAMED).map(ToString::to_string).collect();
            let more = if changed.len() > NAMED { ", …" } else { "" };
            let list = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            note = format!("{note}; changed: {list}{more}");
        }
        each(Change { inode, block: Some(copy.block), ..self.change(copy.sequence, copy.at, "data", &note) })
    }

    /// Inodes of a block of the inode table that differ from its last copy; without one, those that are in use.
    fn changed(&mut self, copy: &Copy, first: u64) -> Result<Vec<u64>, ReadError> {
        let block = self.journal.content(copy)?;
        let size = usize::from(self.ext.sb.inode_size);
        let slots = us(self.ext.sb.inodes_per_block());
        let raw = (0..slots).map(|index| inside(&block, index, size).unwrap_or_default());
        let (used, now): (Vec<_>, Vec<_>) =
            raw.map(|raw| (raw.iter().any(|byte| *byte != 0), crc32c::crc32c(&raw))).unzip();
        let before = self.tables.get(&copy.block);
        let differs = |index: &usize| match before {
            Some(before) => before.get(*index) != now.get(*index),
            None => used.get(*index) == Some(&true),
        };
        let changed = (0..slots).filter(differs).map(|index| first + index as u64).collect();
        self.tables.insert(copy.block, now);
        Ok(changed)
    }
}
