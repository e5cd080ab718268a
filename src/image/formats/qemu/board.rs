//! Where a machine type puts its RAM: QEMU's `hw/i386/pc_piix.c`, `pc_q35.c` and `microvm.c` (unchanged from 2.0 to 10.0 for
//! the machine types whose names are matched here; options such as `max-ram-below-4g` are not in the stream).

use super::stream::Block;
use crate::image::{Layer, ReadError};

/// Behind the hole for devices.
const FOUR_GIB: u64 = 1 << 32;
/// The VGA window: RAM behind it is not seen by the CPU.
const VGA: (u64, u64) = (0xa_0000, 0xc_0000);
/// With this much RAM, QEMU may move its upper part on AMD CPUs with an IOMMU.
const HYPERTRANSPORT: u64 = 1010 << 30;

/// `len` bytes of RAM from its byte `from` on are at `at`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) at: u64,
    pub(super) from: u64,
    pub(super) len: u64,
}

/// The blocks that make up the RAM of the machine, in order.
pub(super) fn main_memory<'a>(blocks: &'a [Block], layer: &mut Layer) -> Result<Vec<&'a Block>, ReadError> {
    let last = |block: &&Block| block.name.rsplit('/').next().unwrap_or_default().to_owned();
    let mut found: Vec<_> =
        blocks.iter().filter(|block| matches!(last(block).as_str(), "pc.ram" | "microvm.ram")).collect();
    if found.is_empty() {
        let node = |block: &&Block| last(block).strip_prefix("ram-node").and_then(|number| number.parse::<u32>().ok());
        found = blocks.iter().filter(|block| node(block).is_some()).collect();
        found.sort_by_key(node);
    }
    if found.is_empty() {
        found = blocks.iter().max_by_key(|block| block.len).into_iter().collect();
        if let Some(block) = found.first() {
            layer.odd(format!(
                "no RAM block has a name that is known: the largest, {}, is assumed to be all of RAM",
                block.name
            ));
        }
    }
    if found.is_empty() {
        return Err(ReadError::unsupported("this migration stream", "it holds no RAM blocks"));
    }
    let names: Vec<_> = found.iter().map(|block| block.name.as_str()).collect();
    layer.fact("RAM", format!("{} bytes in {}", found.iter().map(|block| block.len).sum::<u64>(), names.join(", ")));
    Ok(found)
}

/// Where `total` bytes of RAM go on `machine`.
pub(super) fn split(machine: Option<&str>, total: u64, layer: &mut Layer) -> Vec<Place> {
    let kind = machine.unwrap_or_default();
    let low = if kind.starts_with("pc-q35") || kind == "q35" {
        if total >= 0xb000_0000 { 0x8000_0000 } else { total }
    } else if kind.starts_with("pc-") || matches!(kind, "pc" | "isapc") {
        if total >= 0xe000_0000 { 0xc000_0000 } else { total }
    } else if kind.starts_with("microvm") {
        if total > 0xc000_0000 { 0xc000_0000 } else { total }
    } else {
        layer.odd("where this machine type has its RAM is not known: one range from address 0 is assumed");
        return vec![Place { at: 0, from: 0, len: total }];
    };
    layer.fact("below 4 GiB", format!("{low} bytes, by the machine type"));
    let mut places = Vec::new();
    for (from, end) in [(0, VGA.0.min(low)), (VGA.1.min(low), low)] {
        if from < end {
            places.push(Place { at: from, from, len: end - from });
        }
    }
    if low > VGA.0 {
        layer.fact("left out", "0xa0000 to 0xbffff of RAM: the CPU sees the VGA window there");
    }
    if total > low {
        layer.fact("above 4 GiB", format!("{} bytes", total - low));
        places.push(Place { at: FOUR_GIB, from: low, len: total - low });
    }
    if total > HYPERTRANSPORT {
        layer.odd(
            "with this much RAM QEMU moves its upper part to 1 TiB on AMD CPUs with an IOMMU: here it is at 4 GiB",
        );
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Content;

    #[test]
    fn memory_moves_behind_the_hole() {
        let at = |machine, mib: u64| {
            let mut layer = Layer::new("test", Content::Memory);
            let places = split(Some(machine), mib << 20, &mut layer);
            (places.last().copied().unwrap(), layer.odd.len())
        };
        assert_eq!(at("pc-i440fx-10.0", 3583).0.at, 0xc_0000);
        assert_eq!(at("pc-i440fx-10.0", 3584).0, Place { at: 1 << 32, from: 0xc000_0000, len: 512 << 20 });
        assert_eq!(at("pc-q35-10.0", 2815).0.at, 0xc_0000);
        assert_eq!(at("pc-q35-10.0", 2816).0, Place { at: 1 << 32, from: 0x8000_0000, len: 768 << 20 });
        assert_eq!(at("virt-10.0", 64), (Place { at: 0, from: 0, len: 64 << 20 }, 1));
    }
}
