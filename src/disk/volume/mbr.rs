//! The PC partition table and its chain of extended partitions, numbered as Linux does: 1 to 4 by slot, logical ones from 5.
//!
//! No specification was ever written; the closest is the UEFI specification, section 5.2 "LBA 0 Format". CHS fields are
//! ignored. BSD labels and Solaris slices inside a partition are not read.

use std::collections::BTreeSet;

use super::Use;
use super::tables::Raw;
use crate::image::fields::Fields;
use crate::image::{ReadAt, ReadError, read_vec};

const SECTOR: u64 = 512;
/// The most logical partitions that are followed.
const LOGICAL: usize = 512;

#[derive(Clone, Copy)]
struct Slot {
    active: u8,
    kind: u8,
    first: u32,
    sectors: u32,
}

fn slots(disk: &dyn ReadAt, at: u64) -> Result<Option<[Slot; 4]>, ReadError> {
    if at.checked_add(SECTOR).is_none_or(|end| end > disk.len()) {
        return Ok(None);
    }
    let sector = read_vec(disk, at, 512)?;
    let fields = Fields::new("partition table", at, &sector);
    if fields.slice(510, 2)? != b"\x55\xaa" {
        return Ok(None);
    }
    let mut slots = [Slot { active: 0, kind: 0, first: 0, sectors: 0 }; 4];
    for (slot, from) in slots.iter_mut().zip([446, 462, 478, 494]) {
        slot.active = fields.u8(from)?;
        slot.kind = fields.u8(from + 4)?;
        slot.first = fields.u32(from + 8)?;
        slot.sectors = fields.u32(from + 12)?;
    }
    Ok(Some(slots))
}

/// A boot sector of a file system ends with the same two bytes: only a table that makes sense is one.
fn sane(slots: &[Slot; 4], disk: &dyn ReadAt) -> bool {
    let used = slots.iter().filter(|slot| slot.kind != 0);
    let good = |slot: &Slot| {
        matches!(slot.active, 0 | 0x80)
            && slot.first > 0
            && slot.sectors > 0
            && u64::from(slot.first) * SECTOR < disk.len()
    };
    used.clone().count() > 0 && used.clone().all(good)
}

fn extended(kind: u8) -> bool {
    matches!(kind, 0x05 | 0x0f | 0x85)
}

/// The partitions of the table in sector 0, if there is one.
pub(super) fn read(disk: &dyn ReadAt, odd: &mut Vec<String>) -> Result<Option<Vec<Raw>>, ReadError> {
    let Some(slots) = slots(disk, 0)?.filter(|slots| sane(slots, disk)) else { return Ok(None) };
    let mut all =
        vec![Raw { number: None, from: 0, len: SECTOR, what: Use::Table, kind: "MBR".to_owned(), name: None }];
    let mut logical = Vec::new();
    for (number, slot) in (1_u32..).zip(slots).filter(|(_, slot)| slot.kind != 0) {
        let from = u64::from(slot.first) * SECTOR;
        all.push(raw(Some(number), from, slot));
        if extended(slot.kind) {
            chain(disk, from, &mut logical, odd)?;
        }
    }
    all.extend(logical);
    Ok(Some(all))
}

fn raw(number: Option<u32>, from: u64, slot: Slot) -> Raw {
    let what = if extended(slot.kind) { Use::Holder } else { Use::Volume };
    let kind = format!("{:#04x} {}", slot.kind, name_of(slot.kind)).trim_end().to_owned();
    Raw { number, from, len: u64::from(slot.sectors) * SECTOR, what, kind, name: None }
}

/// Follows the chain of an extended partition that begins at `base`.
fn chain(disk: &dyn ReadAt, base: u64, into: &mut Vec<Raw>, odd: &mut Vec<String>) -> Result<(), ReadError> {
    let (mut at, mut seen) = (base, BTreeSet::new());
    loop {
        if !seen.insert(at) || into.len() >= LOGICAL {
            odd.push(format!("the chain of logical partitions comes back to {at:#x} or has no end; it was left there"));
            return Ok(());
        }
        let Some(slots) = slots(disk, at)? else {
            odd.push(format!("no table of a logical partition at {at:#x}"));
            return Ok(());
        };
        into.push(Raw { number: None, from: at, len: SECTOR, what: Use::Table, kind: "EBR".to_owned(), name: None });
        let mut next = None;
        for slot in slots.into_iter().filter(|slot| slot.kind != 0 && slot.sectors > 0) {
            if extended(slot.kind) {
                next = next.or(Some(base.saturating_add(u64::from(slot.first) * SECTOR)));
            } else {
                let count = into.iter().filter(|raw| raw.number.is_some()).count();
                let number = 5 + u32::try_from(count).unwrap_or(u32::MAX - 5);
                into.push(raw(Some(number), at.saturating_add(u64::from(slot.first) * SECTOR), slot));
            }
        }
        match next {
            Some(next) => at = next,
            None => return Ok(()),
        }
    }
}

fn name_of(kind: u8) -> &'static str {
    match kind {
        0x01 => "FAT12",
        0x04 | 0x06 | 0x0e => "FAT16",
        0x05 | 0x0f | 0x85 => "extended",
        0x07 => "NTFS/exFAT",
        0x0b | 0x0c => "FAT32",
        0x27 => "Windows recovery",
        0x82 => "Linux swap",
        0x83 => "Linux",
        0x8e => "Linux LVM",
        0xa5 => "FreeBSD",
        0xa8 | 0xaf => "Apple",
        0xee => "GPT protective",
        0xef => "EFI system",
        0xfd => "Linux RAID",
        _ => "",
    }
}
