//! Partition tables as volumes: entries as far as they lie on the disk, and the gaps between them.

use std::sync::Arc;

use super::{Use, Volume, Volumes, gpt, mbr, signature};
use crate::image::{Part, ReadAt, ReadError};

/// Smallest gap that is listed, in bytes.
const GAP: u64 = 512;

/// One entry of a table, before it is checked against the disk.
pub(super) struct Raw {
    pub(super) number: Option<u32>,
    pub(super) from: u64,
    pub(super) len: u64,
    pub(super) what: Use,
    pub(super) kind: String,
    pub(super) name: Option<String>,
}

/// Reads the tables of a disk.
pub(super) fn scan(disk: &Arc<dyn ReadAt>) -> Result<Volumes, ReadError> {
    let mut odd = Vec::new();
    let front = signature::of(disk.as_ref());
    let found = match gpt::read(disk.as_ref(), &mut odd) {
        Some(list) => Some(("gpt", list)),
        None => mbr::read(disk.as_ref(), &mut odd)?.map(|list| ("mbr", list)),
    };
    let Some((table, raw)) = found else {
        let mut whole = plain(Use::Volume, 0, disk.len(), "whole disk".to_owned());
        (whole.label, whole.holds, whole.bytes) = (Some("p0".to_owned()), front, Some(Arc::clone(disk)));
        return Ok(Volumes { table: "none", list: vec![whole], odd });
    };
    if let Some(front) = front {
        odd.push(format!(
            "the front of the disk looks like {front}, older than the partition table or hidden under it"
        ));
    }
    let mut list = Vec::new();
    for entry in raw {
        list.extend(checked(disk, entry, &mut odd));
    }
    // A stable sort: what begins at the same byte stays in the order of the table.
    list.sort_by_key(|volume| (volume.from, volume.what != Use::Holder));
    Ok(Volumes { table, list: with_gaps(list, disk.len(), &mut odd), odd })
}

/// An entry as far as it lies on the disk.
fn checked(disk: &Arc<dyn ReadAt>, raw: Raw, odd: &mut Vec<String>) -> Option<Volume> {
    let name = raw.number.map_or_else(|| raw.kind.clone(), |number| format!("p{number}"));
    if raw.from >= disk.len() {
        odd.push(format!("{name} begins at {:#x}, behind the end of the disk", raw.from));
        return None;
    }
    let len = raw.len.min(disk.len() - raw.from);
    if len < raw.len {
        odd.push(format!("{name} should have {} bytes; the disk ends after {len}", raw.len));
    }
    let mut volume = plain(raw.what, raw.from, len, raw.kind);
    (volume.label, volume.name) = (raw.number.map(|number| format!("p{number}")), raw.name);
    if volume.what == Use::Volume {
        let bytes: Option<Arc<dyn ReadAt>> =
            Part::new(Arc::clone(disk), raw.from, len).ok().map(|part| Arc::new(part) as Arc<dyn ReadAt>);
        volume.holds = bytes.as_ref().and_then(|bytes| signature::of(bytes.as_ref()));
        volume.bytes = bytes;
    }
    Some(volume)
}

/// A range without a name, and nothing known of what it holds.
fn plain(what: Use, from: u64, len: u64, kind: String) -> Volume {
    let (label, on, name, holds, note, lacks, bytes) = (None, None, None, None, None, None, None);
    Volume { label, on, from: Some(from), len, what, kind, name, holds, note, lacks, bytes, foreign: false }
}

/// A range of `on` that belongs to no volume.
pub(super) fn gap(on: Option<&str>, from: u64, to: u64) -> Volume {
    Volume { on: on.map(str::to_owned), ..plain(Use::Gap, from, to.saturating_sub(from), String::new()) }
}

/// Fills in what belongs to no volume, and says what overlaps.
fn with_gaps(list: Vec<Volume>, len: u64, odd: &mut Vec<String>) -> Vec<Volume> {
    let (mut all, mut end) = (Vec::new(), 0_u64);
    for volume in list {
        if volume.what == Use::Holder {
            all.push(volume);
            continue;
        }
        let from = volume.from.unwrap_or(end);
        if from.saturating_sub(end) >= GAP {
            all.push(gap(None, end, from));
        } else if from < end && volume.what == Use::Volume {
            odd.push(format!("{} overlaps what stands before it", volume.label.as_deref().unwrap_or_default()));
        }
        end = end.max(from.saturating_add(volume.len));
        all.push(volume);
    }
    if len.saturating_sub(end) >= GAP {
        all.push(gap(None, end, len));
    }
    all
}
