//! LVM2: physical volumes are gathered into volume groups, and these give logical volumes.
//!
//! The newest copy of the metadata counts, wherever it was found. Linear and striped volumes and snapshots are read; what else
//! there is (thin pools, RAID, mirrors, caches) is named. `label` finds the text, `text` reads it, `group` understands it,
//! `volumes` makes bytes of it.

mod group;
mod label;
mod snapshot;
mod text;
mod volumes;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::mapping::Source;
use super::stack::Stack;
use super::{Use, Volume};
use crate::image::ReadAt;
use group::Group;

/// A physical volume that was found.
struct Found {
    /// Its place in the list of volumes.
    index: usize,
    name: String,
    uuid: String,
    bytes: Arc<dyn ReadAt>,
    /// Volume groups it carries metadata of.
    groups: BTreeSet<String>,
}

/// Makes volumes of the physical volumes in `members`.
pub(super) fn assemble(stack: &mut Stack<'_>, members: &[usize]) -> Vec<Volume> {
    let (mut found, mut groups): (Vec<Found>, BTreeMap<String, Group>) = (Vec::new(), BTreeMap::new());
    for &index in members {
        let one = physical(stack, index, &found, &mut groups);
        found.extend(one);
    }
    let mut made = Vec::new();
    for group in groups.values() {
        if !stack.first(&format!("volume group {}", group.id)) {
            stack
                .odd
                .push(format!("volume group {} ({}) was met before; its other copy is not read", group.name, group.id));
            continue;
        }
        let sources = sources(stack, group, &found);
        made.extend(volumes::all(stack, group, sources));
    }
    for pv in &found {
        let Some(volume) = stack.list.get_mut(pv.index) else { continue };
        if volume.what == Use::Volume && volume.lacks.is_none() && !volume.foreign {
            volume.what = Use::Member;
            volume.note.get_or_insert_with(|| format!("physical volume {} of no volume group that is here", pv.uuid));
        }
    }
    made
}

/// Reads the label of one, and puts the newest copy of each group's metadata into `groups`.
fn physical(
    stack: &mut Stack<'_>,
    index: usize,
    found: &[Found],
    groups: &mut BTreeMap<String, Group>,
) -> Option<Found> {
    let (name, bytes) = stack.member(index)?;
    let label = match label::read(bytes.as_ref()) {
        Ok(label) => label,
        Err(error) => {
            stack.broken(index, error.to_string());
            return None;
        }
    };
    if label.size > bytes.len() {
        stack.odd.push(format!("{name} should have {} bytes, as its label says, and has {}", label.size, bytes.len()));
    }
    let (mut mine, mut damage) = (BTreeSet::new(), Vec::new());
    // Of two with one UUID only the first is read: thousands of partitions may lie over the same bytes.
    let again = found.iter().any(|one| one.uuid == label.uuid);
    for area in label.areas.into_iter().filter(|_| !again) {
        let group = match label::text(bytes.as_ref(), area) {
            Ok(None) => continue,
            Ok(Some(text)) => {
                Group::parse(&text).map_err(|why| format!("the metadata at {:#x} makes no sense: {why}", area.0))
            }
            Err(error) => Err(error.to_string()),
        };
        match group {
            Ok(group) => {
                mine.insert(group.id.clone());
                newest(groups, group, &name, stack.odd);
            }
            Err(why) => damage.push(why),
        }
    }
    if mine.is_empty() && !damage.is_empty() {
        // Another physical volume of its group may still tell what it holds.
        stack.broken(index, damage.join("; "));
    } else {
        stack.odd.extend(damage.into_iter().map(|why| format!("{name}: {why}")));
    }
    Some(Found { index, name, uuid: label.uuid, bytes, groups: mine })
}

/// Keeps the copy with the highest number.
fn newest(groups: &mut BTreeMap<String, Group>, group: Group, from: &str, odd: &mut Vec<String>) {
    let Some(known) = groups.get_mut(&group.id) else {
        groups.insert(group.id.clone(), group);
        return;
    };
    if known.seqno != group.seqno {
        let (old, new) = (known.seqno.min(group.seqno), known.seqno.max(group.seqno));
        odd.push(format!(
            "copies of the metadata of {} differ: number {old} and number {new} (the second was met on {from}); the newer one is used",
            group.name
        ));
    }
    if group.seqno > known.seqno {
        *known = group;
    }
}

/// What the physical volumes of `group` are here, in the order of the group.
fn sources(stack: &mut Stack<'_>, group: &Group, found: &[Found]) -> Vec<Source> {
    let mut all = Vec::new();
    for pv in &group.pvs {
        let mut here = found.iter().filter(|one| one.uuid == pv.id);
        let Some(first) = here.next() else {
            let name = format!("physical volume {} ({})", pv.name, pv.id);
            let why = format!("{name} of {} is not here; give its image by --with", group.name);
            stack.odd.push(why.clone());
            all.push(Source { name, bytes: Err(why) });
            continue;
        };
        for other in here {
            stack.odd.push(format!("{} has the same UUID as {}; the first is read", other.name, first.name));
        }
        let note = format!("physical volume {} of {}, {} extents", pv.id, group.name, pv.count);
        stack.is_member(first.index, note);
        all.push(Source { name: first.name.clone(), bytes: Ok(Arc::clone(&first.bytes)) });
    }
    for one in found.iter().filter(|one| one.groups.contains(&group.id)) {
        if !group.pvs.iter().any(|pv| pv.id == one.uuid) {
            stack.odd.push(format!(
                "{} carries metadata of {}, which does not count it among its own",
                one.name, group.name
            ));
        }
    }
    all
}
