//! Page tables of 64-bit ARM: granules of 4, 16 and 64 KiB, addresses of up to 52 bits.
//!
//! Layout: Arm Architecture Reference Manual, "The AArch64 Virtual Memory System Architecture": chapters on translation table
//! descriptors, and `FEAT_LPA`, `FEAT_LPA2` for the bits of addresses beyond 48. What an entry that is not valid means is Linux's
//! (`arch/arm64/include/asm/pgtable-prot.h`). The upper half is walked from the kernel's tables, the lower half from a program's; both
//! have one geometry in Linux. Stage 2, contiguous hints and memory tagging are not looked at.

use super::super::{Fault, Physical};
use super::Mapping;

const VALID: u64 = 1;
/// A table where one can stand, a page at the last level.
const TABLE: u64 = 1 << 1;
const USER: u64 = 1 << 6;
const READ_ONLY: u64 = 1 << 7;
const ACCESSED: u64 = 1 << 10;
/// Linux: writable, though the processor has not marked it written yet (dirty bit management).
const MAY_WRITE: u64 = 1 << 51;
const KERNEL_NO_EXECUTE: u64 = 1 << 53;
const USER_NO_EXECUTE: u64 = 1 << 54;
/// What a table forbids to all below it.
const TABLE_KERNEL_NO_EXECUTE: u64 = 1 << 59;
const TABLE_USER_NO_EXECUTE: u64 = 1 << 60;
const TABLE_READ_ONLY: u64 = 1 << 62;

/// How addresses are cut into indexes, and where an entry holds its address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    /// Bits of an address within a page: 12, 14 or 16.
    pub granule: u8,
    /// Bits of an address that are translated.
    pub bits: u8,
    /// Entries hold addresses of 52 bits in the form of `FEAT_LPA2` (4 and 16 KiB); of 64 KiB pages they always may.
    pub wide: bool,
}

impl Geometry {
    /// All that Linux can be built with, the most common first.
    pub fn all() -> impl Iterator<Item = Self> {
        let of = |granule, bits: &'static [u8]| bits.iter().map(move |&bits| Self { granule, bits, wide: false });
        let wide = |granule| Self { granule, bits: 52, wide: true };
        of(12, &[48, 39]).chain([wide(12)]).chain(of(16, &[48, 52, 42])).chain(of(14, &[47, 48, 36])).chain([
            wide(14),
            Self { granule: 14, bits: 47, wide: true },
            Self { granule: 12, bits: 48, wide: true },
        ])
    }

    /// Bits of an index.
    fn index_bits(self) -> u32 {
        u32::from(self.granule).saturating_sub(3)
    }

    /// Levels of its tables.
    pub fn levels(self) -> u8 {
        (u32::from(self.bits.saturating_sub(self.granule))).div_ceil(self.index_bits().max(1)) as u8
    }

    /// The physical address in an entry.
    fn address(self, entry: u64) -> u64 {
        let low = entry & 0x0000_ffff_ffff_ffff & !((1 << self.granule) - 1);
        match (self.granule, self.wide) {
            (16, _) => low | (entry >> 12 & 0xf) << 48,
            (_, true) => (entry & 0x0003_ffff_ffff_ffff & !((1 << self.granule) - 1)) | (entry >> 8 & 3) << 50,
            _ => low,
        }
    }
}

/// What is allowed on the way down.
struct May {
    write: bool,
    user: bool,
    execute: bool,
}

impl May {
    /// A table takes away, for all below it.
    fn through_table(&mut self, entry: u64, low: bool) {
        self.write &= entry & TABLE_READ_ONLY == 0;
        let no_execute = if low { TABLE_USER_NO_EXECUTE } else { TABLE_KERNEL_NO_EXECUTE };
        self.execute &= entry & no_execute == 0;
    }

    fn at_page(&mut self, entry: u64, low: bool) {
        self.write &= entry & READ_ONLY == 0 || entry & MAY_WRITE != 0;
        self.user = entry & USER != 0;
        let no_execute = if low { USER_NO_EXECUTE } else { KERNEL_NO_EXECUTE };
        self.execute &= entry & no_execute == 0;
    }
}

/// Walks the tables below `root` to `at`.
pub fn walk(memory: &Physical, root: u64, geometry: Geometry, at: u64) -> Result<Mapping, Fault> {
    if !matches!(geometry.granule, 12 | 14 | 16) || !(25..=52).contains(&geometry.bits) {
        return Err(Fault::NoAddress(at));
    }
    let bits = u32::from(geometry.bits);
    let top = (at as i64) >> bits;
    if top != 0 && top != -1 {
        return Err(Fault::NoAddress(at));
    }
    let low = top == 0;
    let (each, levels) = (geometry.index_bits(), u32::from(geometry.levels()));
    // A top table of few entries is no page of its own. Above it stands the number of the address space.
    let mut table = root & 0x000f_ffff_ffff_ffc0;
    let mut may = May { write: true, user: false, execute: true };
    for level in (0..levels).rev() {
        let shift = u32::from(geometry.granule) + each * level;
        // The top table is as long as the bits that are left.
        let width = each.min(bits - shift);
        let index = at >> shift & ((1 << width) - 1);
        let entry = memory.u64(table.wrapping_add(index * 8))?;
        let leaf = level == 0 || entry & TABLE == 0;
        // At the last level, what is not valid and still says "page" is Linux's `PROT_NONE`: there, and nobody may touch it.
        let there = entry & VALID != 0 || (level == 0 && entry & TABLE != 0);
        if !there {
            return Err(if entry == 0 { Fault::NotMapped(at) } else { Fault::Swapped(at) });
        }
        // At the last level, an entry that is valid and no page is reserved: nothing is there.
        if level == 0 && entry & TABLE == 0 {
            return Err(Fault::NotMapped(at));
        }
        if leaf {
            return page(memory, geometry, entry, 1 << shift, at, may, low);
        }
        may.through_table(entry, low);
        table = geometry.address(entry);
    }
    Err(Fault::NotMapped(at))
}

/// The page or block that `entry` describes.
fn page(
    memory: &Physical,
    geometry: Geometry,
    entry: u64,
    size: u64,
    at: u64,
    mut may: May,
    low: bool,
) -> Result<Mapping, Fault> {
    may.at_page(entry, low);
    let base = geometry.address(entry) & !(size - 1);
    Ok(Mapping {
        physical: memory.guest_address(base | (at & (size - 1)))?,
        size,
        writable: may.write,
        executable: may.execute,
        user: may.user,
        accessed: entry & ACCESSED != 0,
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::image::InMemory;

    fn memory(entries: &[(usize, u64)]) -> Physical {
        let mut bytes = vec![0; 0x10_0000];
        for &(at, entry) in entries {
            bytes[at..at + 8].copy_from_slice(&entry.to_le_bytes());
        }
        Physical::new(Arc::new(InMemory(bytes)))
    }

    const PAGE: u64 = VALID | TABLE | ACCESSED;
    const KERNEL: u64 = 0xffff_8000_0000_0000;

    fn of(granule: u8, bits: u8, wide: bool) -> Geometry {
        Geometry { granule, bits, wide }
    }

    #[test]
    fn four_levels_of_4_kib_with_blocks_and_absences() {
        let tables = [
            (0x1000 + 256 * 8, 0x2003),
            (0x2000, 0x3003),
            (0x3000, 0x4003),
            (0x3008, 0x20_0000 | VALID | ACCESSED | READ_ONLY),
            (0x2008, 0x4000_0000 | VALID),
            (0x4000, 0x5000 | PAGE | KERNEL_NO_EXECUTE),
            // Swapped out; nobody may touch it; read-only until written to.
            (0x4010, 0x1234_5600),
            (0x4018, 0x6000 | TABLE | ACCESSED | READ_ONLY),
            (0x4020, 0x7000 | PAGE | READ_ONLY | MAY_WRITE | USER),
            // Reserved.
            (0x4028, 0x8000 | VALID),
        ];
        let memory = memory(&tables);
        let at = |more: u64| walk(&memory, 0x1000, of(12, 48, false), KERNEL + more);
        let small = at(0x123).unwrap();
        assert_eq!((small.physical, small.size, small.writable, small.executable), (0x5123, 4096, true, false));
        assert_eq!(at(0x1000), Err(Fault::NotMapped(KERNEL + 0x1000)));
        assert_eq!(at(0x2000), Err(Fault::Swapped(KERNEL + 0x2000)));
        assert_eq!(at(0x3001).map(|page| (page.physical, page.writable)), Ok((0x6001, false)));
        assert_eq!(at(0x4000).map(|page| (page.physical, page.writable, page.user)), Ok((0x7000, true, true)));
        assert_eq!(at(0x5000), Err(Fault::NotMapped(KERNEL + 0x5000)));
        let block = at(0x20_1234).unwrap();
        assert_eq!((block.physical, block.size, block.writable, block.executable), (0x20_1234, 2 << 20, false, true));
        assert_eq!(at(0x4000_0567).map(|page| (page.physical, page.size)), Ok((0x4000_0567, 1 << 30)));
        assert_eq!(walk(&memory, 0x1000, of(12, 48, false), 1 << 50), Err(Fault::NoAddress(1 << 50)));
    }

    #[test]
    fn what_a_table_forbids_holds_below_it() {
        let forbid = TABLE_READ_ONLY | TABLE_KERNEL_NO_EXECUTE;
        let memory = memory(&[(0x1800, 0x2003 | forbid), (0x2000, 0x3003), (0x3000, 0x4003), (0x4000, 0x5000 | PAGE)]);
        let page = walk(&memory, 0x1000, of(12, 48, false), KERNEL).unwrap();
        assert_eq!((page.writable, page.executable), (false, false));
    }

    #[test]
    fn every_other_granule_and_width() {
        // 16 KiB, 47 bits: three full levels of 2048 entries.
        let table = 0x4000 + 8 * (KERNEL >> 36 & 0x7ff) as usize;
        let memory_16 = memory(&[(table, 0x8003), (0x8000, 0xc003), (0xc000, 0x1_0000 | PAGE)]);
        let found = walk(&memory_16, 0x4000, of(14, 47, false), KERNEL + 0x3456).unwrap();
        assert_eq!((found.physical, found.size), (0x1_3456, 16384));
        // 64 KiB, 52 bits: the top table has 1024 entries; an address of 48 bits is found in its last part.
        let table = 0x1_0000 + 8 * (KERNEL >> 42 & 0x3ff) as usize;
        let memory_64 = memory(&[(table, 0x2_0003), (0x2_0000, 0x3_0003), (0x3_0000, 0x4_0000 | 0xa000 | PAGE)]);
        let found = walk(&memory_64, 0x1_0000, of(16, 52, false), KERNEL + 0xfedc).unwrap();
        assert_eq!((found.physical, found.size), (10 << 48 | 0x4_fedc, 65536));
        // 4 KiB, 52 bits: five levels, and two bits of the address are where others keep shareability.
        let table = 0x1000 + 8 * (KERNEL >> 48 & 0xf) as usize;
        let tables = [(table, 0x2003), (0x2000 + 256 * 8, 0x3003), (0x3000, 0x4003), (0x4000, 0x5003)];
        let memory_wide = memory(&[&tables[..], &[(0x5000, 0x6000 | 2 << 8 | 1 << 49 | PAGE)]].concat());
        assert_eq!(of(12, 52, true).levels(), 5);
        let found = walk(&memory_wide, 0x1000, of(12, 52, true), KERNEL + 0x789).unwrap();
        assert_eq!(found.physical, 2 << 50 | 1 << 49 | 0x6789);
    }

    #[test]
    fn no_geometry_panics_on_anything() {
        let bytes: Vec<u8> = (0..0x4_0000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        let memory = Physical::new(Arc::new(InMemory(bytes)));
        for granule in 0..=255 {
            for bits in [0, 12, 36, 47, 52, 64, 255] {
                for at in [0, 4096, KERNEL, u64::MAX] {
                    let _ = walk(&memory, 0x1000, of(granule, bits, granule % 2 == 0), at);
                }
            }
        }
    }
}
