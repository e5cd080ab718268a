//! Linux software RAID (md): members are gathered by the UUID of their array.
//!
//! RAID 1 is read from its newest member, RAID 0 and linear from all of them. Others are named with their level, roles and
//! event counts. A member whose events are behind those of the rest is not read: what it holds is of an earlier time.

mod superblock;

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Volume;
use super::mapping::{Mapping, Place, Segment, Source};
use super::stack::Stack;
use crate::image::{Part, ReadAt};
use superblock::{Role, Superblock};

/// A member that was found.
struct Member {
    index: usize,
    name: String,
    bytes: Arc<dyn ReadAt>,
    own: Superblock,
}

/// Makes arrays of the volumes in `members`.
pub(super) fn assemble(stack: &mut Stack<'_>, members: &[usize]) -> Vec<Volume> {
    let mut arrays: BTreeMap<String, Vec<Member>> = BTreeMap::new();
    for &index in members {
        let Some((name, bytes)) = stack.member(index) else { continue };
        match superblock::read(bytes.as_ref()) {
            Ok(own) => {
                stack.odd.extend(own.odd.iter().map(|why| format!("{name}: {why}")));
                arrays.entry(own.uuid.clone()).or_default().push(Member { index, name, bytes, own });
            }
            Err(error) => stack.broken(index, error.to_string()),
        }
    }
    let mut made = Vec::new();
    for (uuid, members) in arrays {
        if !members.iter().any(|member| stack.is_own(&member.name)) {
            continue;
        }
        if !stack.first(&format!("array {uuid}")) {
            stack.odd.push(format!("array {uuid} was met before; its other members are not read"));
            continue;
        }
        made.extend(array(stack, members));
    }
    made
}

/// The array of these members, of which there is at least one.
fn array(stack: &mut Stack<'_>, mut members: Vec<Member>) -> Option<Volume> {
    let newest = members.iter().map(|member| member.own.events).max()?;
    for Member { index, name, own, .. } in &members {
        let what = format!("{} of md {} {}, events {}", own.role_name(), own.version, own.level_name(), own.events);
        stack.is_member(*index, what);
        if stale(own, newest) {
            stack.odd.push(format!(
                "{name} is out of date: it has seen {} events of its array, another member {newest}; it is not read",
                own.events
            ));
        }
    }
    members.retain(|member| !stale(&member.own, newest));
    let first = members.first()?;
    let (level, uuid) = (first.own.level_name(), first.own.uuid.clone());
    let active = members.iter().filter(|member| matches!(member.own.role, Role::Active(_))).count();
    let bytes = match first.own.level {
        _ if !members.iter().all(|member| member.own.settled) && first.own.level != 1 => {
            Err("it was being reshaped or recovered, which is not read here".to_owned())
        }
        1 => mirror(&members),
        0 => striped(&members),
        -1 => linear(&members),
        _ => Err(format!("a {level} array is not read here")),
    };
    let len = bytes.as_ref().map_or(first.own.size, |bytes| bytes.len());
    let mut volume = Volume::made(label(&first.own), format!("md {level}"), bytes, len);
    volume.name = Some(first.own.name.clone()).filter(|name| !name.is_empty());
    volume.on = Some(members.iter().map(|member| member.name.as_str()).collect::<Vec<_>>().join(", "));
    volume.note = Some(format!("{active} of {} devices, events {newest}, array {uuid}", first.own.devices));
    Some(volume)
}

/// The kernel lets a difference of one pass: a crash may come between two superblocks.
fn stale(own: &Superblock, newest: u64) -> bool {
    own.events.saturating_add(1) < newest
}

/// `md0` if the array has that number, else `md-` and its name without the machine's.
fn label(own: &Superblock) -> String {
    let name = own.name.rsplit(':').next().unwrap_or_default();
    let safe = |c: char| if c.is_ascii_alphanumeric() || "+_.-".contains(c) { c } else { '_' };
    match own.minor {
        Some(minor) => format!("md{minor}"),
        None if !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_digit()) => format!("md{name}"),
        None if name.is_empty() => format!("md-{}", own.uuid.get(..8).unwrap_or_default()),
        None => format!("md-{}", name.chars().map(safe).collect::<String>()),
    }
}

/// RAID 1: all of it is on each member that is in sync.
fn mirror(members: &[Member]) -> Result<Arc<dyn ReadAt>, String> {
    let sound = |member: &&Member| matches!(member.own.role, Role::Active(_)) && member.own.settled;
    let best = members.iter().filter(sound).max_by_key(|member| member.own.events);
    let best = best.ok_or("no member that is in sync is here; give its image by --with")?;
    let part = Part::new(Arc::clone(&best.bytes), best.own.data_at, best.own.size);
    part.map(|part| Arc::new(part) as Arc<dyn ReadAt>).map_err(|error| format!("{}: {error}", best.name))
}

/// The active members by their role, if all are here.
fn in_order(members: &[Member]) -> Result<Vec<&Member>, String> {
    let devices = members.first().map_or(0, |member| member.own.devices);
    let mut all = Vec::new();
    // A hostile count ends at the first role that nobody has.
    for wanted in 0..devices {
        let found = members.iter().find(|member| member.own.role == Role::Active(wanted));
        all.push(found.ok_or(format!("member {wanted} of {devices} is not here; give its image by --with"))?);
    }
    if all.is_empty() { Err("it has no members".to_owned()) } else { Ok(all) }
}

/// Bytes of data that make whole chunks.
fn whole(member: &Member, chunk: u64) -> u64 {
    member.own.data_len - member.own.data_len.checked_rem(chunk).unwrap_or(0)
}

fn striped(members: &[Member]) -> Result<Arc<dyn ReadAt>, String> {
    let all = in_order(members)?;
    let chunk = all.first().map_or(0, |member| member.own.chunk);
    let each = all.first().map_or(0, |member| whole(member, chunk));
    if chunk == 0 || all.iter().any(|member| member.own.chunk != chunk) {
        return Err("its members do not agree on the size of a chunk".to_owned());
    }
    if all.iter().any(|member| whole(member, chunk) != each) {
        return Err("its members are not of the same length, which is not read here".to_owned());
    }
    let stripes = all.iter().enumerate().map(|(index, member)| (index, member.own.data_at)).collect();
    let len = each.saturating_mul(all.len() as u64);
    mapped(&all, vec![Segment { at: 0, len, place: Place::Striped { stripes, chunk } }])
}

fn linear(members: &[Member]) -> Result<Arc<dyn ReadAt>, String> {
    let all = in_order(members)?;
    let (mut segments, mut at) = (Vec::new(), 0_u64);
    for (index, member) in all.iter().enumerate() {
        let len = whole(member, member.own.chunk);
        let place = Place::Striped { stripes: vec![(index, member.own.data_at)], chunk: u64::MAX };
        segments.push(Segment { at, len, place });
        at = at.saturating_add(len);
    }
    mapped(&all, segments)
}

fn mapped(all: &[&Member], segments: Vec<Segment>) -> Result<Arc<dyn ReadAt>, String> {
    let source = |member: &&Member| Source { name: member.name.clone(), bytes: Ok(Arc::clone(&member.bytes)) };
    let mapping = Mapping::new(Arc::new(all.iter().map(source).collect()), segments)?;
    Ok(Arc::new(mapping))
}
