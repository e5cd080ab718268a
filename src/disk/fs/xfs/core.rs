//! Inodes as the log has them: fixed fields in the order of the machine that wrote them, then the forks that changed. The
//! kernel's `xfs_inode_item_recover.c`.

use super::inode::{BTREE, EXTENTS, LOCAL};
use super::items::Item;
use super::replay::put;
use crate::image::ReadError;
use crate::image::fields::Fields;

/// What changed.
const DATA: u32 = 0x2;
const DATA_EXTENTS: u32 = 0x4;
const DATA_ROOT: u32 = 0x8;
const DEVICE: u32 = 0x10;
const ATTR: u32 = 0x40;
const ATTR_EXTENTS: u32 = 0x80;
const ATTR_ROOT: u32 = 0x100;
/// Fields of two, four and eight bytes: place and number in a row.
const TWO: &[(usize, usize)] = &[(0, 2), (6, 1), (20, 2), (88, 2)];
const FOUR: &[(usize, usize)] = &[(8, 3), (72, 1), (84, 1), (92, 1)];
const EIGHT: &[(usize, usize)] = &[(56, 2)];
const EIGHT_V3: &[(usize, usize)] = &[(104, 1), (120, 1)];
const TIMES: &[usize] = &[32, 40, 48];
const BIGTIME: u64 = 8;
const WIDE_COUNTS: u64 = 0x10;
/// Bytes of the fixed fields that count.
const LEN: usize = 96;
const LEN_V3: usize = 152;

/// The fixed fields as they stand on a disk; none if the item has none.
pub(super) fn fixed(item: &Item) -> Result<Option<Vec<u8>>, ReadError> {
    let Some(region) = item.regions.get(1) else { return Ok(None) };
    let fields = Fields::new("xfs log inode", 0, region);
    let v3 = fields.u8(4)? == 3;
    let mut raw = fields.slice(0, if v3 { LEN_V3 } else { LEN })?.to_vec();
    let flags2 = if v3 { fields.u64(120)? } else { 0 };
    let mut swap = |at: usize, len: usize| {
        if let Some(field) = raw.get_mut(at..at + len) {
            field.reverse();
        }
    };
    let rows = |rows: &[(usize, usize)], len: usize, swap: &mut dyn FnMut(usize, usize)| {
        for (at, count) in rows {
            (0..*count).for_each(|index| swap(at + index * len, len));
        }
    };
    rows(TWO, 2, &mut swap);
    rows(FOUR, 4, &mut swap);
    rows(EIGHT, 8, &mut swap);
    if v3 {
        rows(EIGHT_V3, 8, &mut swap);
        swap(128, 4);
    }
    for at in TIMES.iter().copied().chain(v3.then_some(144)) {
        if flags2 & BIGTIME != 0 {
            swap(at, 8);
        } else {
            swap(at, 4);
            swap(at + 4, 4);
        }
    }
    if flags2 & WIDE_COUNTS != 0 {
        swap(24, 8);
        swap(76, 4);
    } else {
        swap(30, 2);
        swap(76, 4);
        swap(80, 2);
    }
    Ok(Some(raw))
}

/// Puts what changed into an inode.
pub(super) fn apply(item: &Item, changed: u32, v3: bool, lsn: u64, raw: &mut [u8]) -> Result<(), ReadError> {
    let Some(fixed) = fixed(item)? else { return Err(item.head().corrupt(2, "fixed fields", "none")) };
    // Version 2 is written to as version 3 only by a damaged log.
    if fixed.get(4) != raw.get(4) || fixed.get(..2) != Some(b"IN") {
        return Err(item.head().corrupt(
            4,
            "the inode's own version",
            crate::image::hex(fixed.get(..5).unwrap_or_default()),
        ));
    }
    let head = if v3 { 176 } else { 100 };
    put(raw, 0, fixed.get(..LEN).unwrap_or_default());
    if v3 {
        put(raw, 104, fixed.get(104..112).unwrap_or_default());
        put(raw, 112, &lsn.to_be_bytes());
        put(raw, 120, fixed.get(120..LEN_V3).unwrap_or_default());
    }
    let fork = usize::from(fixed.get(82).copied().unwrap_or(0)) * 8;
    let room = raw.len().saturating_sub(head);
    let split = if fork == 0 { room } else { fork.min(room) };
    let mut regions = item.regions.iter().skip(2);
    if changed & DEVICE != 0 {
        let device = item.head().u32(24)?;
        put(raw, head, &device.to_be_bytes());
    }
    for (local, root, from, to) in [
        (DATA | DATA_EXTENTS, DATA_ROOT, head, head + split),
        (ATTR | ATTR_EXTENTS, ATTR_ROOT, head + split, head + room),
    ] {
        if changed & (local | root) == 0 {
            continue;
        }
        let Some(region) = regions.next() else { return Err(item.head().corrupt(2, "a region for each fork", "none")) };
        let bytes = if changed & root != 0 { packed_root(region, v3, to - from)? } else { region.clone() };
        let Some(place) = raw.get_mut(from..to).filter(|place| bytes.len() <= place.len()) else {
            return Err(item.head().corrupt(8, format_args!("at most {} bytes", to - from), bytes.len()));
        };
        put(place, 0, &bytes);
    }
    Ok(())
}

/// The root of a tree of extents has a whole head in memory and four bytes of it in an inode.
fn packed_root(region: &[u8], v3: bool, room: usize) -> Result<Vec<u8>, ReadError> {
    let fields = Fields::new("xfs log extent root", 0, region);
    let head = if v3 { 72 } else { 24 };
    let (count, had) = (usize::from(fields.be16(6)?), region.len().saturating_sub(head) / 16);
    let most = room.saturating_sub(4) / 16;
    if count > had || count > most {
        return Err(fields.corrupt(6, format_args!("at most {} pointers", had.min(most)), count));
    }
    let mut packed = vec![0; 4 + most * 16];
    put(&mut packed, 0, fields.slice(4, 4)?);
    put(&mut packed, 4, fields.slice(head, count * 8)?);
    put(&mut packed, 4 + most * 8, fields.slice(head + had * 8, count * 8)?);
    Ok(packed)
}

/// Content of the data fork that an item tells: its format, and the bytes.
pub(super) fn data_fork(item: &Item) -> Option<(u8, &[u8])> {
    let changed = item.head().u32(4).ok()?;
    let format = match changed & (DATA | DATA_EXTENTS | DATA_ROOT) {
        DATA => LOCAL,
        DATA_EXTENTS => EXTENTS,
        DATA_ROOT => BTREE,
        _ => return None,
    };
    Some((format, item.regions.get(2)?.as_slice()))
}
