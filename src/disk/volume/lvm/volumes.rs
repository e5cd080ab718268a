//! The logical volumes of a group as bytes, and what of the group is not given out.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::super::mapping::{Mapping, Place, Segment, Source};
use super::super::stack::Stack;
use super::super::tables::gap;
use super::super::{Use, Volume};
use super::group::{self, Group, Kind, Lv};
use super::snapshot::View;
use crate::disk::us;
use crate::image::ReadAt;

/// As `/dev/mapper` spells it: hyphens inside a name are doubled. What no name of LVM has becomes `_`.
fn label(group: &str, lv: &str) -> String {
    let part = |name: &str| -> String {
        name.chars()
            .map(|c| if c.is_ascii_alphanumeric() || "+_.-".contains(c) { c } else { '_' })
            .flat_map(|c| std::iter::repeat_n(c, if c == '-' { 2 } else { 1 }))
            .collect()
    };
    format!("{}-{}", part(group), part(lv))
}

/// A group, and what its physical volumes are here.
struct Making<'a> {
    group: &'a Group,
    sources: Arc<Vec<Source>>,
    /// Index of a physical volume by the name that segments use.
    index: BTreeMap<&'a str, usize>,
}

/// All volumes of the group; nothing if no part of it is on the disk itself.
pub(super) fn all(stack: &mut Stack<'_>, group: &Group, sources: Vec<Source>) -> Vec<Volume> {
    if !sources.iter().any(|source| source.bytes.is_ok() && stack.is_own(&source.name)) {
        return Vec::new();
    }
    let index = group.pvs.iter().enumerate().map(|(index, pv)| (pv.name.as_str(), index)).collect();
    let making = Making { group, sources: Arc::new(sources), index };
    // Store of a snapshot: its origin, and whether it is being merged back.
    let mut stores = BTreeMap::new();
    for segment in group.lvs.iter().flat_map(|lv| &lv.segments) {
        if let Kind::Snapshot { origin, store, merging } = &segment.kind {
            stores.insert(store.as_str(), (origin.as_str(), *merging));
        }
    }
    let plain: BTreeMap<_, _> =
        group.lvs.iter().filter(|lv| !lv.is_snapshot()).map(|lv| (lv.name.as_str(), making.volume(lv))).collect();
    let (mut made, mut left) = (Vec::new(), making.sectors());
    for (name, volume) in &plain {
        match stores.get(name) {
            Some((origin, merging)) => {
                let origin = plain.get(origin).filter(|_| !merging);
                made.extend(making.snapshot(volume.clone(), origin, &mut left));
            }
            None => made.push(volume.clone()),
        }
    }
    let merged: BTreeSet<_> =
        stores.values().filter(|(_, merging)| *merging).map(|(origin, _)| label(&group.name, origin)).collect();
    for volume in &mut made {
        if volume.label.as_ref().is_some_and(|label| merged.contains(label)) {
            (volume.bytes, volume.holds) = (None, None);
            volume.lacks = Some("a snapshot is being merged into it, which is not read here".to_owned());
        }
    }
    made.extend(making.gaps(stack.odd));
    made
}

impl Making<'_> {
    fn volume(&self, lv: &Lv) -> Volume {
        let extent = self.group.extent;
        let segments = lv.segments.iter().map(|one| Segment {
            at: one.start.saturating_mul(extent),
            len: one.count.saturating_mul(extent),
            place: self.place(one),
        });
        let mapping = Mapping::new(Arc::clone(&self.sources), segments.collect());
        let len = lv.extents().saturating_mul(extent);
        let nothing = lv.segments.iter().all(|one| matches!(one.kind, Kind::Other(_) | Kind::Error));
        let lacks = mapping.as_ref().ok().and_then(Mapping::lacks);
        let made = mapping.and_then(|mapping| match &lacks {
            Some(why) if nothing => Err(why.clone()),
            _ => Ok(Arc::new(mapping) as Arc<dyn ReadAt>),
        });
        let mut volume = Volume::made(label(&self.group.name, &lv.name), kind(lv), made, len);
        volume.lacks = volume.lacks.or(lacks);
        (volume.on, volume.from) = self.on(lv);
        volume.note = Some(format!("in volume group {}", self.group.name));
        if !lv.visible {
            volume.what = Use::Member;
        }
        volume
    }

    fn place(&self, segment: &group::Segment) -> Place {
        let (stripes, chunk) = match &segment.kind {
            Kind::Striped { stripes, chunk } => (stripes, *chunk),
            Kind::Zero => return Place::Zero,
            Kind::Error => return Place::Lacking("LVM itself gives errors for this range".to_owned()),
            Kind::Snapshot { .. } => return Place::Lacking("it is no volume of its own".to_owned()),
            Kind::Other(kind) => return Place::Lacking(format!("a volume of type {kind} is not read here")),
        };
        let each = segment.count / (stripes.len() as u64).max(1);
        let mut all = Vec::new();
        for (name, from) in stripes {
            let Some((index, pv)) =
                self.index.get(name.as_str()).and_then(|index| Some((*index, self.group.pvs.get(*index)?)))
            else {
                return Place::Lacking(format!("it lies on {name}, which is no physical volume"));
            };
            if from.checked_add(each).is_none_or(|end| end > pv.count) {
                return Place::Lacking(format!(
                    "its extent {from} and the next {each} are not inside the {} of {name}",
                    pv.count
                ));
            }
            all.push((index, pv.start.saturating_add(from.saturating_mul(self.group.extent))));
        }
        Place::Striped { stripes: all, chunk }
    }

    /// The physical volumes it lies on, and where, if that is one place.
    fn on(&self, lv: &Lv) -> (Option<String>, Option<u64>) {
        let places: Vec<_> = lv.segments.iter().map(|one| self.place(one)).collect();
        let (mut names, mut seen) = (Vec::new(), BTreeSet::new());
        for place in &places {
            let Place::Striped { stripes, .. } = place else { continue };
            let new = stripes.iter().filter(|(index, _)| seen.insert(*index));
            names.extend(new.filter_map(|(index, _)| Some(self.sources.get(*index)?.name.as_str())));
        }
        let from = match places.as_slice() {
            [Place::Striped { stripes, .. }] if stripes.len() == 1 => stripes.first().map(|(_, from)| *from),
            _ => None,
        };
        ((!names.is_empty()).then(|| names.join(", ")), from)
    }

    /// Sectors of all physical volumes that are here.
    fn sectors(&self) -> usize {
        let here = self.sources.iter().filter_map(|source| source.bytes.as_ref().ok());
        us(here.fold(0_u64, |sum, bytes| sum.saturating_add(bytes.len())) / 512)
    }

    /// The store of a snapshot as a member, and the view that it gives of its origin. `left`: chunks that stores may still have.
    fn snapshot(&self, mut store: Volume, origin: Option<&Volume>, left: &mut usize) -> [Volume; 2] {
        let name = store.label.clone().unwrap_or_default();
        let view = match (origin.map(|origin| &origin.bytes), &store.bytes) {
            (Some(Some(origin)), Some(store)) => {
                View::new(Arc::clone(origin), Arc::clone(store), *left).map_err(|error| error.to_string())
            }
            (None, _) => {
                Err("its origin is not here, or it is being merged into that, which is not read here".to_owned())
            }
            (Some(None), _) => Err("its origin cannot be read".to_owned()),
            (_, None) => Err("its store cannot be read".to_owned()),
        };
        let moved = view.as_ref().map_or(0, View::moved);
        *left = left.saturating_sub(moved);
        let view = view.map(|view| Arc::new(view) as Arc<dyn ReadAt>);
        let mut volume = Volume::made(name.clone(), "snapshot".to_owned(), view, origin.map_or(0, |origin| origin.len));
        let origin_name = origin.and_then(|origin| origin.label.clone()).unwrap_or_else(|| "nothing".to_owned());
        volume.note = Some(format!(
            "of {origin_name}, in volume group {}; {moved} chunks were written to since",
            self.group.name
        ));
        let whole = origin.and_then(|origin| origin.lacks.clone()).or_else(|| store.lacks.clone());
        volume.lacks = volume.lacks.or(whole);
        volume.on = Some(format!("{origin_name}, {name}-cow"));
        (store.label, store.what, store.holds) = (Some(format!("{name}-cow")), Use::Member, None);
        store.note = Some("what a snapshot keeps of its origin".to_owned());
        [store, volume]
    }

    /// What of the physical volumes belongs to no logical volume; says what belongs to two.
    fn gaps(&self, odd: &mut Vec<String>) -> Vec<Volume> {
        let mut used: Vec<Vec<(u64, u64)>> = self.group.pvs.iter().map(|_| Vec::new()).collect();
        for segment in self.group.lvs.iter().flat_map(|lv| &lv.segments) {
            let Kind::Striped { stripes, .. } = &segment.kind else { continue };
            let each = segment.count / (stripes.len() as u64).max(1);
            for (name, from) in stripes {
                if let Some(used) = self.index.get(name.as_str()).and_then(|index| used.get_mut(*index)) {
                    used.push((*from, from.saturating_add(each)));
                }
            }
        }
        let mut all = Vec::new();
        for ((pv, source), mut used) in self.group.pvs.iter().zip(self.sources.iter()).zip(used) {
            used.sort_unstable();
            let mut end = 0;
            for (from, to) in used.into_iter().chain([(pv.count, pv.count)]) {
                if from < end && to > from {
                    odd.push(format!(
                        "extents of {} in {} belong to two logical volumes",
                        source.name, self.group.name
                    ));
                }
                if from > end && source.bytes.is_ok() {
                    let at = |extent: u64| pv.start.saturating_add(extent.saturating_mul(self.group.extent));
                    all.push(gap(Some(&source.name), at(end), at(from.min(pv.count))));
                }
                end = end.max(to);
            }
        }
        all
    }
}

/// What LVM calls it.
fn kind(lv: &Lv) -> String {
    let mut kinds: Vec<&str> = Vec::new();
    for segment in &lv.segments {
        let kind = match &segment.kind {
            Kind::Striped { stripes, .. } if stripes.len() == 1 => "linear",
            Kind::Striped { .. } => "striped",
            Kind::Zero => "zero",
            Kind::Error => "error",
            Kind::Snapshot { .. } => "snapshot",
            Kind::Other(kind) => kind,
        };
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
    }
    let kinds = kinds.join(" and ");
    if lv.segments.len() > 1 { format!("{kinds}, {} segments", lv.segments.len()) } else { kinds }
}
