//! Where the guest's memory lies, from the text of `info mtree -f`, the only place where QEMU tells it.
//!
//! A flat view is what remains when all overlapping memory regions of an address space are resolved: each range of
//! guest-physical addresses with the region that answers there. Lines look like
//! `  0000000000100000-00000000bfffffff (prio 0, ram): pc.ram @0000000000100000`
//! (system/memory.c, `mtree_print_flatview`).

use crate::{BackendError, GRAIN, Region};

/// Most ranges accepted; a machine with thousands of devices has a few thousand.
const RANGES_MAX: usize = 1 << 16;

/// One range of guest-physical addresses backed by memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Range {
    /// First guest-physical address.
    pub at: u64,
    /// Length in bytes.
    pub len: u64,
    /// `ram`, `rom`, `ramd`, `romd`, `nv-ram`, ….
    pub kind: String,
    /// Name of the region: `pc.ram`.
    pub name: String,
    /// Where in the region the range begins.
    pub offset: u64,
}

impl Range {
    fn end(&self) -> u64 {
        self.at.saturating_add(self.len)
    }

    /// Plain memory that can be read without side effects: RAM, or ROM that QEMU keeps as RAM.
    fn is_memory(&self) -> bool {
        matches!(self.kind.as_str(), "ram" | "rom" | "nv-ram" | "nv-rom")
    }
}

/// The guest's memory map, cut down to what belongs into an image of memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryMap {
    /// Memory up to the last byte of main memory, ascending and apart.
    pub ranges: Vec<Range>,
    /// Memory above that: firmware at the top of 4 GiB, video memory. Not part of the image, and said so.
    pub left_out: Vec<Range>,
    /// One past the last byte of main memory: the length of the image.
    pub len: u64,
}

impl MemoryMap {
    /// Reads the flat view of the address space `memory`. `main` are the names of the RAM back ends, whose last byte
    /// ends the image: firmware and video memory above it would stretch the image of a small guest to 4 GiB.
    pub fn parse(text: &str, main: &[String]) -> Result<Self, BackendError> {
        let bad = |expected: &str, found: &str| {
            BackendError::corrupt("read the memory map", "info mtree -f", "the flat view", expected, found)
        };
        let mut ranges = Vec::new();
        for line in memory_section(text) {
            let Some(range) = range(line) else { continue };
            if ranges.len() >= RANGES_MAX {
                return Err(bad("at most 65536 ranges", "more"));
            }
            ranges.push(range);
        }
        ranges.retain(Range::is_memory);
        ranges.sort_by_key(|range| range.at);
        if ranges.windows(2).any(|pair| matches!(pair, [a, b] if a.end() > b.at)) {
            return Err(bad("ranges that lie apart", "two that overlap"));
        }
        let belongs = |range: &Range| main.iter().any(|name| same_block(name, &range.name));
        let len = ranges.iter().filter(|range| belongs(range)).map(Range::end).max();
        let len = len.ok_or_else(|| bad(&format!("memory of {}", main.join(", ")), "none"))?;
        // QEMU itself keeps RAM in pages; anything finer is no memory that an image could hold.
        if ranges.iter().any(|range| range.at % GRAIN != 0 && range.at < len) {
            return Err(bad("ranges that begin on a page", "one that does not"));
        }
        let (mut ranges, left_out): (Vec<_>, Vec<_>) = ranges.into_iter().partition(|range| range.at < len);
        for range in &mut ranges {
            range.len -= range.len % GRAIN;
        }
        ranges.retain(|range| range.len > 0);
        Ok(Self { ranges, left_out, len })
    }

    /// The ranges, neighbours of whatever name joined: what is there, for formats that store ranges only.
    pub fn regions(&self) -> Vec<Region> {
        let mut regions: Vec<Region> = Vec::new();
        for range in &self.ranges {
            match regions.last_mut() {
                Some(last) if last.at.saturating_add(last.len) == range.at && last.name == range.name => {
                    last.len = last.len.saturating_add(range.len);
                }
                _ => regions.push(Region { at: range.at, len: range.len, name: range.name.clone() }),
            }
        }
        regions
    }

    /// The addresses below the image's end where no memory answers, as (address, length).
    pub fn holes(&self) -> Vec<(u64, u64)> {
        let mut holes = Vec::new();
        let mut next = 0;
        for range in &self.ranges {
            if range.at > next {
                holes.push((next, range.at - next));
            }
            next = range.end();
        }
        if self.len > next {
            holes.push((next, self.len - next));
        }
        holes
    }
}

/// Does the migration stream's or back end's `id` mean the memory region `name`? Ids carry the device's path in front
/// (`0000:00:02.0/vga.vram`, `/objects/ram0`), flat views only the last part, or all of it.
pub fn same_block(id: &str, name: &str) -> bool {
    let last = |text: &str| text.rsplit('/').next().map(ToOwned::to_owned);
    id == name || (!name.is_empty() && last(id) == last(name))
}

/// The lines of the flat view that the address space `memory` uses.
fn memory_section(text: &str) -> Vec<&str> {
    let mut section = Vec::new();
    let mut ours = false;
    for line in text.lines() {
        if line.starts_with("FlatView #") {
            if ours {
                break;
            }
        } else if line.trim_start().starts_with("AS \"memory\"") {
            ours = true;
        } else if ours {
            section.push(line);
        }
    }
    section
}

/// One line of a flat view; `None` for anything else.
fn range(line: &str) -> Option<Range> {
    let (addresses, rest) = line.trim().split_once(" (prio ")?;
    let (first, last) = addresses.split_once('-')?;
    let first = u64::from_str_radix(first, 16).ok()?;
    let last = u64::from_str_radix(last, 16).ok()?;
    let (kind, rest) = rest.split_once(", ")?.1.split_once("): ")?;
    // An accelerator's name may follow the region's: " KVM".
    let (name, offset) = match rest.split_once(" @") {
        Some((name, offset)) => (name, u64::from_str_radix(offset.split(' ').next()?, 16).ok()?),
        None => (rest.trim_end_matches(" KVM"), 0),
    };
    let len = last.checked_sub(first)?.checked_add(1)?;
    Some(Range { at: first, len, kind: kind.to_owned(), name: name.to_owned(), offset })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PC: &str = r#"FlatView #1
 AS "I/O", root: io
 Root memory region: io
  0000000000000000-0000000000000007 (prio 0, i/o): dma-chan

FlatView #2
 AS "memory", root: system
 AS "cpu-memory-0", root: system
 Root memory region: system
  0000000000000000-000000000009ffff (prio 0, ram): pc.ram KVM
  00000000000a0000-00000000000bffff (prio 1, i/o): vga-lowmem
  00000000000c0000-00000000000cafff (prio 0, rom): pc.ram @00000000000c0000 KVM
  00000000000cb000-00000000bfffffff (prio 0, ram): pc.ram @00000000000cb000
  00000000fd000000-00000000fdffffff (prio 1, ram): vga.vram
  00000000febc0000-00000000febdffff (prio 1, i/o): e1000-mmio
  00000000fffc0000-00000000ffffffff (prio 0, rom): pc.bios
  0000000100000000-000000013fffffff (prio 0, ram): pc.ram @00000000c0000000

FlatView #3
 AS "cpu-smm-0", root: memory
  0000000000000000-00000000000bffff (prio 0, ram): pc.ram
"#;

    fn main_memory() -> Vec<String> {
        vec!["pc.ram".to_owned()]
    }

    #[test]
    fn the_map_of_a_pc_with_four_gib_has_its_hole_and_its_high_memory() {
        let map = MemoryMap::parse(PC, &main_memory()).unwrap();
        assert_eq!(map.len, 0x1_4000_0000);
        assert_eq!(map.ranges.iter().map(|r| r.len).sum::<u64>(), (4 << 30) - 0x20000 + (16 << 20) + 0x40000);
        assert_eq!(map.ranges.last().unwrap().offset, 0xc000_0000);
        assert_eq!(map.holes().first(), Some(&(0xa_0000, 0x2_0000)));
        assert_eq!(map.holes().get(1), Some(&(0xc000_0000, 0x3d00_0000)));
        assert!(map.left_out.is_empty());
    }

    #[test]
    fn firmware_above_a_small_guests_memory_does_not_stretch_the_image() {
        let small = PC.replace("00000000bfffffff", "0000000007ffffff");
        let small: String =
            small.lines().filter(|l| !l.contains("0000000100000000")).fold(String::new(), |t, l| t + l + "\n");
        let map = MemoryMap::parse(&small, &main_memory()).unwrap();
        assert_eq!(map.len, 128 << 20);
        assert_eq!(map.left_out.iter().map(|r| r.name.as_str()).collect::<Vec<_>>(), ["vga.vram", "pc.bios"]);
    }

    #[test]
    fn a_map_without_main_memory_or_with_overlaps_is_damaged() {
        assert!(MemoryMap::parse("", &main_memory()).is_err());
        assert!(MemoryMap::parse(PC, &["other".to_owned()]).is_err());
        let overlapping = PC.replace("00000000fd000000", "00000000b0000000");
        assert!(MemoryMap::parse(&overlapping, &main_memory()).is_err());
        let backwards =
            PC.replace("-000000000009ffff", "-0000000000000000").replace("0000000000000000-", "0000000000000009-");
        assert!(MemoryMap::parse(&backwards, &main_memory()).is_ok());
    }

    #[test]
    fn ids_with_a_path_in_front_mean_the_same_block() {
        assert!(same_block("0000:00:02.0/vga.vram", "vga.vram"));
        assert!(same_block("/objects/ram0", "ram0"));
        assert!(same_block("pc.ram", "pc.ram"));
        assert!(!same_block("pc.ram", "pc.rom"));
        assert!(!same_block("x/", ""));
    }
}
