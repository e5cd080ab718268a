//! Page tables of x86-64: four or five levels, pages of 4 KiB, 2 MiB and 1 GiB.
//!
//! Layout: Intel SDM volume 3, "Paging", chapters 4.5 and 4.7; the bits of entries that are not present are Linux's
//! (`arch/x86/include/asm/pgtable_64.h`, `pgtable-invert.h`). Depth is fixed by the number of levels, so no table can
//! lead a walk in a circle. Entries of a Xen PV guest hold frames of the machine, which
//! [`Physical::guest_address`] knows. Protection keys and nested paging are not looked at.

use super::super::{Fault, Physical};
use super::Mapping;

const PRESENT: u64 = 1;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const ACCESSED: u64 = 1 << 5;
const LARGE: u64 = 1 << 7;
/// In an entry that is not present: the page is there and nobody may touch it (`PROT_NONE`).
const PROT_NONE: u64 = 1 << 8;
const NO_EXECUTE: u64 = 1 << 63;
/// Bits of an entry that are a physical address.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// Walks the tables below `root` to `at`. The bits of CR3 that are no address (PCID, PWT, PCD) are ignored.
pub fn walk(memory: &Physical, root: u64, levels: u8, at: u64) -> Result<Mapping, Fault> {
    let levels = u32::from(levels.clamp(4, 5));
    let width = 12 + 9 * levels;
    let top = (at as i64) >> (width - 1);
    if top != 0 && top != -1 {
        return Err(Fault::NoAddress(at));
    }
    let (mut table, mut may) = (root & ADDRESS, WRITABLE | USER);
    let mut executable = true;
    for level in (0..levels).rev() {
        let entry = present(entry(memory, table, level, at)?, at)?;
        may &= entry;
        executable &= entry & NO_EXECUTE == 0;
        let size = 1_u64 << (12 + 9 * level);
        if level == 0 || (entry & LARGE != 0 && level <= 2) {
            let base = entry & ADDRESS & !(size - 1);
            return Ok(Mapping {
                physical: memory.guest_address(base | (at & (size - 1)))?,
                size,
                writable: may & WRITABLE != 0,
                user: may & USER != 0,
                executable,
                accessed: entry & ACCESSED != 0,
            });
        }
        table = memory.guest_address(entry & ADDRESS)?;
    }
    Err(Fault::NotMapped(at))
}

/// Is there a table of pages of 2 MiB for `at` below `root`? Without one nothing around it is mapped, up to a gigabyte, but by one large page.
pub fn has_table(memory: &Physical, root: u64, levels: u8, at: u64) -> bool {
    let levels = u32::from(levels.clamp(4, 5));
    let table = (2..levels).rev().try_fold(root & ADDRESS, |table, level| {
        let entry = entry(memory, table, level, at).ok()?;
        memory.guest_address(entry & ADDRESS).ok().filter(|_| entry & (PRESENT | LARGE) == PRESENT)
    });
    table.is_some_and(|table| memory.u64(table).is_ok())
}

/// The entry for `at` in a table of this level, counted from that of single pages.
fn entry(memory: &Physical, table: u64, level: u32, at: u64) -> Result<u64, Fault> {
    memory.u64(table + ((at >> (12 + 9 * level)) & 0x1ff) * 8)
}

/// The entry as if it were present, or why there is no page.
fn present(entry: u64, at: u64) -> Result<u64, Fault> {
    match entry {
        _ if entry & PRESENT != 0 => Ok(entry),
        0 => Err(Fault::NotMapped(at)),
        // Linux stores the frame inverted, so that a processor which speculates past the missing bit finds nothing.
        _ if entry & PROT_NONE != 0 => Ok((entry & !ADDRESS) | (!entry & ADDRESS)),
        _ => Err(Fault::Swapped(at)),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::image::InMemory;

    fn memory(entries: &[(usize, u64)]) -> Physical {
        let mut bytes = vec![0; 0x8000];
        for &(at, entry) in entries {
            bytes[at..at + 8].copy_from_slice(&entry.to_le_bytes());
        }
        Physical::new(Arc::new(InMemory(bytes)))
    }

    #[test]
    fn each_size_of_page_is_found_and_each_absence_is_named() {
        let at = 0xffff_8000_0000_0000_u64;
        let (l4, l3, l2, l1) = (0x1000 + 256 * 8, 0x2000, 0x3000, 0x4000);
        let tables = [(l4, 0x2003), (l3, 0x3003), (l2, 0x4003), (l1, 0x5003 | NO_EXECUTE), (l1 + 8, 0x600)];
        let memory_small = memory(&tables);
        // PCID bits of CR3 do not matter.
        let found = walk(&memory_small, 0x1fff, 4, at + 0x123).unwrap();
        assert_eq!((found.physical, found.size, found.writable, found.executable), (0x5123, 4096, true, false));
        assert_eq!(walk(&memory_small, 0x1000, 4, at + 0x1000), Err(Fault::Swapped(at + 0x1000)));
        assert_eq!(walk(&memory_small, 0x1000, 4, at + 0x2000), Err(Fault::NotMapped(at + 0x2000)));
        assert_eq!(walk(&memory_small, 0x1000, 4, 1 << 60), Err(Fault::NoAddress(1 << 60)));
        let below = |at| has_table(&memory_small, 0x1fff, 4, at);
        assert!(below(at) && below(at + (1 << 30) - 1) && !below(at + (1 << 30)) && !below(0));
        let large = memory(&[(l4, 0x2003), (l3, 0x3003), (l2 + 8, 0x20_0083), (l3 + 8, 0x4000_0083), (l3 + 16, 0x83)]);
        assert_eq!(walk(&large, 0x1000, 4, at + 0x20_1234).unwrap().physical, 0x20_1234);
        assert_eq!(walk(&large, 0x1000, 4, at + 0x4000_5678).unwrap().size, 1 << 30);
        assert!(has_table(&large, 0x1000, 4, at) && !has_table(&large, 0x1000, 4, at + 0x4000_5678));
        // A large page is none, though what it maps could be read as one.
        assert!(!has_table(&large, 0x1000, 4, at + 0x8000_0000));
    }

    #[test]
    fn five_levels_and_a_page_that_nobody_may_touch() {
        let none = (!0x5000_u64 & ADDRESS) | PROT_NONE;
        let tables = [(0x1000 + 511 * 8, 0x2003), (0x2000, 0x3003), (0x3000, 0x4003), (0x4000, 0x6003), (0x6000, none)];
        let memory = memory(&tables);
        assert_eq!(walk(&memory, 0x1000, 5, 0xffff_0000_0000_0000).unwrap().physical, 0x5000);
    }

    #[test]
    fn a_table_that_points_at_itself_ends_the_walk() {
        let memory = memory(&[(0x1000, 0x1003)]);
        assert!(walk(&memory, 0x1000, 5, 0).is_ok_and(|found| found.physical == 0x1000));
        let away = self::memory(&[(0x1000, 0x000f_ffff_ffff_f003)]);
        assert!(matches!(walk(&away, 0x1000, 4, 0), Err(Fault::NotInImage(_))));
        assert!(has_table(&memory, 0x1000, 5, 0) && !has_table(&away, 0x1000, 4, 0));
    }
}
