//! Where the kernel's image lies: in its own addresses, in physical memory, and below which page tables.
//!
//! The image is one piece in both, so one difference tells it all: `phys_base` on x86-64, `kimage_voffset` on ARM. Nothing is taken on
//! trust: tables and a difference are right if the tables lead from the kernel's first byte to where the difference says it is.

use super::super::Physical;
use super::super::paging::Tables;
use super::super::paging::arm64::Geometry;
use super::super::symbols::kallsyms::{KERNEL_MAP, Kallsyms};

/// Bytes that x86-64 maps the kernel's image within.
const MAP_BYTES: u64 = 1 << 30;
/// The difference between virtual and physical addresses is a multiple of this: x86-64, and ARM, where firmware chose.
const ALIGNED_X86: u64 = 2 << 20;
const ALIGNED_ARM64: u64 = 64 << 10;

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// An address in the image, less its physical one.
    pub offset: u64,
    /// Physical address of the top page table.
    pub root: u64,
    /// How it is walked.
    pub tables: Tables,
}

impl Place {
    /// Where an address of the image lies in physical memory.
    pub fn physical(&self, address: u64) -> u64 {
        address.wrapping_sub(self.offset)
    }
}

/// What of the symbols tells where the image lies.
struct Marks {
    text: u64,
    end: u64,
    root: u64,
    x86: bool,
}

impl Marks {
    fn of(symbols: &Kallsyms) -> Result<Self, String> {
        let text = symbols.address("_text").or(symbols.address("_stext")).ok_or("it names no _text")?;
        let end = symbols.address("_end").ok_or("it names no _end")?;
        let x86 = symbols.address("init_top_pgt");
        let root =
            x86.or(symbols.address("swapper_pg_dir")).ok_or("it names neither init_top_pgt nor swapper_pg_dir")?;
        Ok(Self { text, end, root, x86: x86.is_some() })
    }

    /// The tables to try: as many levels as a CPU says, or five before four, since tables of five lead nowhere if read as four.
    fn tables(&self, memory: &Physical) -> Vec<Tables> {
        if !self.x86 {
            return Geometry::all().map(Tables::Arm64).collect();
        }
        match memory.cpus().iter().find_map(|cpu| cpu.cr4) {
            Some(cr4) if cr4 >> 12 & 1 == 0 => vec![Tables::X86(4), Tables::X86(5)],
            _ => vec![Tables::X86(5), Tables::X86(4)],
        }
    }

    /// The page tables below which the image is `offset` above its physical place: the kernel's own, or those a CPU uses.
    fn place(&self, memory: &Physical, offset: u64) -> Option<Place> {
        let own = self.root.wrapping_sub(offset);
        let used = memory.cpus().iter().filter_map(|cpu| cpu.cr3).filter_map(|root| memory.guest_address(root).ok());
        let tables = self.tables(memory);
        let leads = |root: u64, tables: Tables| {
            let found = tables.walk(memory, root, self.text);
            found.is_ok_and(|mapped| mapped.physical == self.text.wrapping_sub(offset))
        };
        [own].into_iter().chain(used).find_map(|root| {
            let tables = tables.iter().copied().find(|&tables| leads(root, tables))?;
            Some(Place { offset, root, tables })
        })
    }
}

const NO_TABLES: &str = "no page tables of the kernel are there that map it to where it lies";

/// From symbols at their own addresses, some of which lie at the physical address `hit`.
pub(super) fn by_virtual(memory: &Physical, symbols: &Kallsyms, hit: u64, told: Option<u64>) -> Result<Place, String> {
    let marks = Marks::of(symbols)?;
    let step = if marks.x86 { ALIGNED_X86 } else { ALIGNED_ARM64 };
    // kallsyms leaves its own tables out, but they lie within the image.
    let lowest = marks.text.wrapping_sub(hit).checked_next_multiple_of(step).unwrap_or(0);
    let count = marks.end.saturating_sub(marks.text).min(MAP_BYTES) / step + 1;
    let candidates = told.into_iter().chain((0..count).map(|n| lowest.wrapping_add(n * step)));
    candidates.into_iter().find_map(|offset| marks.place(memory, offset)).ok_or_else(|| NO_TABLES.to_owned())
}

/// From symbols that are `less` above their physical addresses, which need not be where they ran.
pub(super) fn by_physical(
    memory: &Physical,
    symbols: &Kallsyms,
    less: u64,
    told: Option<u64>,
) -> Result<Place, String> {
    let marks = Marks::of(symbols)?;
    let moved = |offset: u64| {
        let moved = |address: u64| address.wrapping_sub(less).wrapping_add(offset);
        Marks { text: moved(marks.text), end: moved(marks.end), root: moved(marks.root), x86: marks.x86 }
    };
    let slots = if marks.x86 { MAP_BYTES / ALIGNED_X86 } else { 0 };
    let first = KERNEL_MAP.wrapping_sub(marks.text.wrapping_sub(less) & !(ALIGNED_X86 - 1));
    let candidates = told.into_iter().chain((0..slots).map(|n| first.wrapping_add(n * ALIGNED_X86)));
    candidates.into_iter().find_map(|offset| moved(offset).place(memory, offset)).ok_or_else(|| NO_TABLES.to_owned())
}
