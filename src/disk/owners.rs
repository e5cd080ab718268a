//! Whose a block is: one walk over all files, for any number of blocks.

use std::collections::HashSet;
use std::ops::Range;

use super::fs::{Filesystem, Run};
use super::walk::{How, walk};
use crate::image::ReadError;

/// Blocks that are looked for: in order, none twice.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted(Vec<Range<u64>>);

impl Wanted {
    /// Any ranges.
    pub fn new(mut ranges: Vec<Range<u64>>) -> Self {
        ranges.retain(|range| !range.is_empty());
        ranges.sort_unstable_by_key(|range| range.start);
        let mut all: Vec<Range<u64>> = Vec::new();
        for range in ranges {
            match all.last_mut() {
                Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
                _ => all.push(range),
            }
        }
        Self(all)
    }

    /// How many.
    pub fn count(&self) -> u64 {
        self.0.iter().fold(0, |sum, range| sum.saturating_add(range.end - range.start))
    }

    /// The ranges.
    pub fn ranges(&self) -> &[Range<u64>] {
        &self.0
    }

    /// What of `range` is looked for.
    fn of(&self, range: Range<u64>) -> impl Iterator<Item = Range<u64>> {
        let first = self.0.partition_point(|wanted| wanted.end <= range.start);
        let rest = self.0.get(first..).unwrap_or_default().iter();
        let touched = rest.take_while({
            let end = range.end;
            move |wanted| wanted.start < end
        });
        touched.map(move |wanted| wanted.start.max(range.start)..wanted.end.min(range.end))
    }
}

/// Blocks and the file that has them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// The blocks.
    pub blocks: Range<u64>,
    /// The file.
    pub inode: u64,
    /// One of its paths; none if it is not known.
    pub path: Option<Vec<u8>>,
    /// The block of the file that the first one is; none if they hold its map or its attributes.
    pub logical: Option<u64>,
}

/// The owners of blocks, in the order of the blocks.
#[derive(Default)]
pub struct Owners {
    list: Vec<Owner>,
    /// For each, the highest end up to it: files may claim the same blocks.
    reach: Vec<u64>,
}

impl Owners {
    /// Looks through all files that have a name. What cannot be read is told to `odd`.
    pub fn find(fs: &dyn Filesystem, wanted: &Wanted, odd: &mut dyn FnMut(String)) -> Result<Self, ReadError> {
        let (mut list, mut seen) = (Vec::new(), HashSet::new());
        let how = How { recursive: true, deleted: false };
        add(fs, wanted, fs.root(), b"/", &mut list);
        let mut take = |found: super::walk::Found| {
            let more = found.node.as_ref().is_ok_and(|node| node.links > 1);
            // A file with several names is looked at once.
            if found.node.is_ok() && (!more || seen.insert(found.entry.inode)) {
                add(fs, wanted, found.entry.inode, &found.path, &mut list);
            }
            Ok::<_, ReadError>(())
        };
        walk(fs, (fs.root(), b"/"), how, odd, &mut take)?;
        Ok(Self::new(list))
    }

    fn new(mut list: Vec<Owner>) -> Self {
        list.sort_by_key(|owner| (owner.blocks.start, owner.inode));
        let mut highest = 0;
        let reach = list.iter().map(|owner| {
            highest = owner.blocks.end.max(highest);
            highest
        });
        Self { reach: reach.collect(), list }
    }

    /// All of them.
    pub fn all(&self) -> &[Owner] {
        &self.list
    }

    /// Those that have some of these blocks.
    pub fn of(&self, blocks: &Range<u64>) -> impl Iterator<Item = &Owner> {
        let first = self.reach.partition_point(|end| *end <= blocks.start);
        let (start, end) = (blocks.start, blocks.end);
        let rest = self.list.get(first..).unwrap_or_default().iter();
        rest.take_while(move |owner| owner.blocks.start < end).filter(move |owner| owner.blocks.end > start)
    }
}

fn add(fs: &dyn Filesystem, wanted: &Wanted, inode: u64, path: &[u8], list: &mut Vec<Owner>) {
    for run in fs.runs(inode).unwrap_or_default() {
        list.extend(of_run(wanted, &run).map(|(blocks, logical)| {
            let (path, logical) = (Some(path.to_vec()), Some(logical));
            Owner { blocks, inode, path, logical }
        }));
    }
    for block in fs.own_blocks(inode).unwrap_or_default() {
        let found = wanted.of(block..block.saturating_add(1));
        list.extend(found.map(|blocks| Owner { blocks, inode, path: Some(path.to_vec()), logical: None }));
    }
}

/// What of a run is looked for, and which block of the file that is.
pub fn of_run(wanted: &Wanted, run: &Run) -> impl Iterator<Item = (Range<u64>, u64)> {
    let (physical, logical) = (run.physical, run.logical);
    let all = physical..physical.saturating_add(run.len);
    wanted.of(all).map(move |blocks| (blocks.clone(), logical.saturating_add(blocks.start - physical)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_joined_and_cut() {
        let wanted = Wanted::new(vec![10..20, 5..7, 18..25, 7..8, 40..40]);
        assert_eq!(wanted.ranges(), [5..8, 10..25]);
        assert_eq!(wanted.count(), 18);
        assert_eq!(wanted.of(0..100).collect::<Vec<_>>(), [5..8, 10..25]);
        assert_eq!(wanted.of(7..11).collect::<Vec<_>>(), [7..8, 10..11]);
        assert_eq!(wanted.of(8..10).count(), 0);
        let run = Run { logical: 100, len: 10, physical: 16, unwritten: false };
        assert_eq!(of_run(&wanted, &run).collect::<Vec<_>>(), [(16..25, 100)]);
        let run = Run { physical: 3, ..run };
        assert_eq!(of_run(&wanted, &run).collect::<Vec<_>>(), [(5..8, 102), (10..13, 107)]);
    }

    #[test]
    fn owners_that_overlap_are_all_found() {
        let owner = |blocks: Range<u64>, inode| Owner { blocks, inode, path: None, logical: None };
        let owners = Owners::new(vec![owner(30..31, 4), owner(0..100, 1), owner(5..6, 2), owner(20..22, 3)]);
        let of = |blocks: Range<u64>| owners.of(&blocks).map(|owner| owner.inode).collect::<Vec<_>>();
        assert_eq!(of(21..31), [1, 3, 4]);
        assert_eq!(of(99..200), [1]);
        assert_eq!(of(100..200), [0; 0]);
    }
}
