//! Volumes made of volumes, layer by layer: LUKS is opened, arrays and volume groups are put together, tables of partitions
//! inside are read; what comes out may be any of these again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Beside, Use, Volume, Volumes, bitlocker, luks, lvm, md, tables};
use crate::image::ReadAt;

/// The most layers above each other. Real ones have three or four: RAID, LUKS, LVM, partitions.
const LAYERS: usize = 8;
/// The most volumes in all.
const MOST: usize = 1 << 14;

/// What has been found so far.
pub(super) struct Stack<'a> {
    pub(super) list: &'a mut Vec<Volume>,
    pub(super) odd: &'a mut Vec<String>,
    pub(super) beside: &'a Beside,
    /// What may still be done to open LUKS volumes.
    pub(super) luks: luks::Left,
    /// How often each label was given out.
    labels: BTreeMap<String, u64>,
    /// Arrays and groups that were put together: hostile metadata may lead back to itself.
    seen: BTreeSet<String>,
}

/// Puts together whatever the volumes in `found` are parts of.
pub(super) fn build(found: &mut Volumes, beside: &Beside) {
    let labels = found.list.iter().filter_map(|volume| Some((volume.label.clone()?, 1))).collect();
    let mut stack = Stack {
        list: &mut found.list,
        odd: &mut found.odd,
        beside,
        luks: luks::Left::default(),
        labels,
        seen: BTreeSet::new(),
    };
    let mut fresh: Vec<usize> = (0..stack.list.len()).collect();
    for _ in 0..LAYERS {
        fresh = stack.layer(&fresh);
        if fresh.is_empty() {
            return;
        }
    }
    stack.odd.push(format!("volumes lie in each other more than {LAYERS} layers deep; they were left there"));
}

impl Stack<'_> {
    /// Looks into the fresh volumes; gives those that came out, and those that still wait for others.
    fn layer(&mut self, fresh: &[usize]) -> Vec<usize> {
        let holding = |list: &[Volume], what: &str| -> Vec<usize> {
            let is = |index: &&usize| {
                list.get(**index).is_some_and(|one| one.what == Use::Volume && one.holds == Some(what))
            };
            fresh.iter().filter(is).copied().collect()
        };
        for index in holding(self.list, "bitlocker") {
            bitlocker::tell(self, index);
        }
        let mut next: Vec<usize> =
            holding(self.list, "luks").into_iter().filter(|&index| luks::open(self, index)).collect();
        let arrays = md::assemble(self, &holding(self.list, "md"));
        next.extend(self.take(arrays));
        for &index in fresh {
            let inside = self.partitions(index);
            next.extend(self.take(inside));
        }
        let physical = holding(self.list, "lvm2");
        if !next.is_empty() {
            // What comes out may hold another part of the same group.
            // What LUKS held is in both by now.
            next.extend(physical);
            next.sort_unstable();
            next.dedup();
            return next;
        }
        let logical = lvm::assemble(self, &physical);
        self.take(logical)
    }

    /// Adds volumes to the list, each under a label of its own; gives their places.
    fn take(&mut self, made: Vec<Volume>) -> Vec<usize> {
        let mut places = Vec::new();
        for mut volume in made {
            if self.list.len() >= MOST {
                self.odd.push(format!("there are more than {MOST} volumes; the rest was left out"));
                break;
            }
            if let Some(label) = volume.label.take() {
                volume.label = Some(self.own(label));
            }
            places.push(self.list.len());
            self.list.push(volume);
        }
        places
    }

    /// A label that no other volume has; `~` is in no name of LVM.
    fn own(&mut self, label: String) -> String {
        let count = self.labels.entry(label.clone()).or_insert(0);
        *count += 1;
        if *count == 1 { label } else { format!("{label}~{count}") }
    }

    /// The volumes of a table of partitions inside a volume that is none of a table itself.
    fn partitions(&mut self, index: usize) -> Vec<Volume> {
        if self.list.len() >= MOST {
            return Vec::new();
        }
        let Some(outer) = self.list.get_mut(index).filter(|one| one.what == Use::Volume && one.holds.is_none()) else {
            return Vec::new();
        };
        let (Some(bytes), Some(label)) = (outer.bytes.clone(), outer.label.clone()) else { return Vec::new() };
        let Some(found) = tables::scan(&bytes).ok().filter(|found| found.table != "none") else { return Vec::new() };
        outer.what = Use::Holder;
        self.odd.extend(found.odd.into_iter().map(|line| format!("{label}: {line}")));
        let mut list = found.list;
        for volume in &mut list {
            volume.label = volume.label.take().map(|inner| format!("{label}{inner}"));
            (volume.on, volume.foreign) = (Some(label.clone()), outer.foreign);
        }
        list
    }

    /// Name and bytes of a volume.
    pub(super) fn member(&self, index: usize) -> Option<(String, Arc<dyn ReadAt>)> {
        let volume = self.list.get(index)?;
        Some((volume.label.clone().unwrap_or_default(), volume.bytes.clone()?))
    }

    /// It is part of others from now on.
    pub(super) fn is_member(&mut self, index: usize, note: String) {
        if let Some(volume) = self.list.get_mut(index) {
            volume.what = Use::Member;
            volume.note = Some(match volume.note.take() {
                Some(before) => format!("{before}; {note}"),
                None => note,
            });
        }
    }

    /// It looks like part of something, and cannot be read as that.
    pub(super) fn broken(&mut self, index: usize, why: String) {
        if let Some(volume) = self.list.get_mut(index) {
            volume.lacks = Some(why);
        }
    }

    /// Is the volume of this name on the disk itself?
    pub(super) fn is_own(&self, name: &str) -> bool {
        self.list.iter().any(|one| !one.foreign && one.label.as_deref() == Some(name))
    }

    /// Is this array or group met for the first time?
    pub(super) fn first(&mut self, name: &str) -> bool {
        self.seen.insert(name.to_owned())
    }
}
