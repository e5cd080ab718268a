//! The kernel's image by the page tables that x86-64 brings its processors up with.
//!
//! A processor starts in real mode, below 1 MiB. The top table that it is given there (`trampoline_pgd`,
//! `arch/x86/realmode/init.c`) has for its last entry that of the kernel's own, and stays. So the tables lead from a known place to
//! the image, wherever it was put (KASLR), and tell its code from its constants: nothing has to be looked for in all of memory.
//! What CPUs were using, if the image of memory has registers, leads there as well.

use std::ops::Range;

use super::super::Physical;
use super::super::paging::x86;
use super::super::physical::PAGE;
use super::super::symbols::kallsyms::KERNEL_MAP;

/// Below this a processor starts.
const REAL_MODE: u64 = 1 << 20;
/// The image is mapped by pages of this size, or by tables in place of one.
const STEP: u64 = 2 << 20;
/// Slots for them in the part of the address space that the image has.
const SLOTS: u64 = (1 << 30) / STEP;
/// The most that an image takes, and the least.
const MOST: usize = 128;
const LEAST: usize = 4;
/// Tables that are believed to lead to an image: a guest could fill its first MiB with them.
const TABLES: usize = 8;
/// Where a top table has the entry of the kernel's image.
const LAST: u64 = PAGE - 8;
const PRESENT: u8 = 1;

/// See the module.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Image {
    /// Address of its first byte: of `_text`, which is aligned so.
    pub(super) text: u64,
    /// An address in it less its physical one.
    pub(super) offset: u64,
    /// Physical addresses of its parts: those that are neither executed nor written first.
    pub(super) parts: Vec<Range<u64>>,
}

/// The images that tables lead to.
pub(super) fn images(memory: &Physical) -> Vec<Image> {
    let used = memory.cpus().iter().filter_map(|cpu| cpu.cr3).filter_map(|root| memory.guest_address(root).ok());
    let low = (0..REAL_MODE.min(memory.len())).step_by(PAGE as usize);
    // Most pages are none: one word of each is looked at, and not kept.
    let low = low.filter(|page| matches!(memory.vec(page + LAST, 8).as_deref(), Ok([low, ..]) if low & PRESENT != 0));
    let both = used.chain(low).flat_map(|root| [(root, 4), (root, 5)]);
    let mut images: Vec<Image> = Vec::new();
    for found in both.filter_map(|(root, levels)| image(memory, root, levels)).take(TABLES) {
        if !images.contains(&found) {
            images.push(found);
        }
    }
    images
}

/// The image that is mapped below `root`: one piece in both address spaces.
fn image(memory: &Physical, root: u64, levels: u8) -> Option<Image> {
    // Most are none, which is told by the way to the first slot.
    if !x86::has_table(memory, root, levels, KERNEL_MAP) {
        return None;
    }
    let slots = (0..SLOTS).map(|slot| KERNEL_MAP + slot * STEP);
    let mapped = slots.map(|at| (at, x86::walk(memory, root, levels, at).ok())).skip_while(|(_, page)| page.is_none());
    let mut pages: Vec<_> = mapped.map_while(|(at, page)| Some((at, page?))).take(MOST).collect();
    let &(text, first) = pages.first()?;
    let offset = text.wrapping_sub(first.physical);
    let together = pages.iter().take_while(|(at, page)| at.wrapping_sub(page.physical) == offset).count();
    pages.truncate(together);
    if pages.len() < LEAST {
        return None;
    }
    let part = |at: &u64| at.wrapping_sub(offset)..at.wrapping_sub(offset).saturating_add(STEP);
    let (constant, other): (Vec<_>, Vec<_>) = pages.iter().partition(|(_, page)| !page.executable && !page.writable);
    let parts = constant.iter().chain(&other).map(|(at, _)| part(at)).collect();
    Some(Image { text, offset, parts })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::image::{Cpu, InMemory, Machine};

    const NO_EXECUTE: u64 = 1 << 63;
    const TEXT: u64 = KERNEL_MAP + 5 * STEP;
    const PLACE: u64 = 0x4000_0000;

    /// Tables of four levels at 0x9c000, outside of low memory but for the first, that map five pages: code, two of constants (one of them
    /// through a table), data, and one that lies elsewhere.
    fn tables(put: &mut impl FnMut(u64, u64)) {
        put(0x9_c000 + LAST, 0x11_0003);
        put(0x11_0000 + 510 * 8, 0x11_1003);
        let large = |at: u64, flags: u64| at | 0x81 | flags;
        put(0x11_1000 + 5 * 8, large(PLACE, 0));
        put(0x11_1000 + 6 * 8, large(PLACE + STEP, NO_EXECUTE));
        put(0x11_1000 + 7 * 8, 0x11_2003);
        put(0x11_2000, (PLACE + 2 * STEP) | 1 | NO_EXECUTE);
        put(0x11_1000 + 8 * 8, large(PLACE + 3 * STEP, NO_EXECUTE | 2));
        put(0x11_1000 + 9 * 8, large(PLACE + 5 * STEP, NO_EXECUTE));
    }

    fn memory(fill: impl Fn(&mut dyn FnMut(u64, u64))) -> Physical {
        let mut bytes = vec![0; 2 << 20];
        fill(&mut |at: u64, word: u64| bytes[at as usize..at as usize + 8].copy_from_slice(&word.to_le_bytes()));
        Physical::new(Arc::new(InMemory(bytes)))
    }

    fn expected() -> Image {
        let parts = [1, 2, 0, 3].map(|n| PLACE + n * STEP..PLACE + (n + 1) * STEP);
        Image { text: TEXT, offset: TEXT - PLACE, parts: parts.to_vec() }
    }

    #[test]
    fn tables_below_a_mebibyte_lead_to_the_image_and_its_constants_come_first() {
        let memory = memory(|mut put| tables(&mut put));
        assert_eq!(images(&memory), [expected()]);
    }

    #[test]
    fn five_levels_and_what_a_cpu_uses_lead_there_as_well() {
        let five = memory(|mut put| {
            tables(&mut put);
            put(0x9_c000 + LAST, 0x11_3003);
            put(0x11_3000 + LAST, 0x11_0003);
        });
        assert_eq!(images(&five), [expected()]);
        let high = memory(|mut put| {
            tables(&mut put);
            put(0x9_c000 + LAST, 0);
            put(0x11_4000 + LAST, 0x11_0003);
        });
        assert_eq!(images(&high), []);
        let cpu = Cpu { cr3: Some(0x11_4005), ..Cpu::default() };
        assert_eq!(images(&high.with_machine(Some(&Machine { cpus: vec![cpu], frames: None }))), [expected()]);
    }

    #[test]
    fn low_memory_full_of_tables_is_not_followed_for_ever() {
        // Every page is the top of a tree of its own that maps a gigabyte at another place.
        let memory = memory(|put| {
            for page in 1..256_u64 {
                put(page * PAGE + LAST, 0x10_0000 | page << 12 | 3);
                put((0x10_0000 | page << 12) + 510 * 8, 0x10_0000 | page << 12 | 3);
                for slot in 0..510 {
                    put((0x10_0000 | page << 12) + slot * 8, ((page * 512 + slot) * STEP) | 0x81);
                }
            }
        });
        let found = images(&memory);
        assert!(found.len() == TABLES && found.iter().all(|image| image.parts.len() == MOST), "{}", found.len());
    }
}
