//! Where an address of the item lies in the stored file.
//!
//! - raw: a sparse file, addresses one to one.
//! - `LiME` version 1 (`LiME/doc/README.md`, "Memory Range Header"): before each range 32 bytes: magic `0x4C694D45`,
//!   version 1, first address, last address *inclusive*, 8 bytes reserved, all little-endian.
//! - ELF64 core (System V gABI, "Object Files"): `ET_CORE`, one `PT_LOAD` a range with its address in `p_paddr`, data
//!   aligned to pages; more than 65,534 ranges by `PN_XNUM` (count in `sh_info` of section header 0).
//!
//! Registers and other notes are not written here; they are in the manifest.

use std::ops::Range;

use impound_backends::{GRAIN, Region};

use super::Format;

const LIME_MAGIC: u32 = 0x4C69_4D45;
const LIME_HEADER: u64 = 32;
const ELF_HEADER: u64 = 64;
const PROGRAM_HEADER: u64 = 56;
const SECTION_HEADER: u64 = 64;
/// From here on the count of program headers does not fit its field.
const PN_XNUM: u16 = 0xffff;

/// A range of addresses and its place in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Segment {
    /// First address.
    pub(crate) at: u64,
    /// Length in bytes.
    pub(crate) len: u64,
    /// Offset of its first byte in the file.
    pub(crate) file: u64,
}

impl Segment {
    fn end(&self) -> u64 {
        self.at.saturating_add(self.len)
    }
}

/// The map from addresses to the stored file.
#[derive(Debug)]
pub(crate) struct Layout {
    /// Ascending in address and in the file.
    segments: Vec<Segment>,
    /// What has to be written besides the data: offset and bytes.
    pub(crate) headers: Vec<(u64, Vec<u8>)>,
    /// Length of the file in bytes.
    pub(crate) len: u64,
    /// Addresses are offsets.
    pub(crate) flat: bool,
}

impl Layout {
    /// The layout of an item of `len` bytes of which `regions` are there. `machine` is `e_machine` of an ELF file.
    /// `Err` says why the regions make no sense.
    pub(crate) fn new(format: Format, regions: &[Range<u64>], len: u64, machine: u16) -> Result<Self, String> {
        match format {
            Format::Raw => {
                let segments = vec![Segment { at: 0, len, file: 0 }];
                Some(Self { segments, headers: Vec::new(), len, flat: true })
            }
            Format::Lime => lime(regions),
            Format::Elf => elf(regions, machine),
        }
        .ok_or_else(|| "the ranges together are longer than a file can be".to_owned())
    }

    /// Where `len` bytes at `at` go: offset in the file and range within these bytes, piece by piece.
    /// `None` if a part of them has no place.
    pub(crate) fn places(&self, at: u64, len: u64) -> Option<Vec<(u64, Range<usize>)>> {
        let end = at.checked_add(len)?;
        let first = self.segments.partition_point(|segment| segment.end() <= at);
        let (mut places, mut next) = (Vec::with_capacity(1), at);
        for segment in self.segments.iter().skip(first) {
            if next >= end || segment.at > next {
                break;
            }
            let stop = segment.end().min(end);
            let within = usize::try_from(next - at).ok()?..usize::try_from(stop - at).ok()?;
            places.push((segment.file + (next - segment.at), within));
            next = stop;
        }
        (next >= end).then_some(places)
    }

    /// How much of the beginning of the file is final once everything below address `at` has come.
    pub(crate) fn filled(&self, at: u64) -> u64 {
        let next = self.segments.partition_point(|segment| segment.end() <= at);
        self.segments.get(next).map_or(self.len, |segment| segment.file + at.saturating_sub(segment.at))
    }
}

fn lime(regions: &[Range<u64>]) -> Option<Layout> {
    let (mut segments, mut headers, mut file) = (Vec::new(), Vec::new(), 0_u64);
    for region in regions.iter().filter(|region| !region.is_empty()) {
        let mut header = Vec::with_capacity(32);
        header.extend_from_slice(&LIME_MAGIC.to_le_bytes());
        header.extend_from_slice(&1_u32.to_le_bytes());
        header.extend_from_slice(&region.start.to_le_bytes());
        header.extend_from_slice(&(region.end - 1).to_le_bytes());
        header.extend_from_slice(&[0; 8]);
        headers.push((file, header));
        file = file.checked_add(LIME_HEADER)?;
        let len = region.end - region.start;
        segments.push(Segment { at: region.start, len, file });
        file = file.checked_add(len)?;
    }
    Some(Layout { segments, headers, len: file, flat: false })
}

fn elf(regions: &[Range<u64>], machine: u16) -> Option<Layout> {
    let there: Vec<_> = regions.iter().filter(|region| !region.is_empty()).collect();
    let count = there.len() as u64;
    let many = count >= u64::from(PN_XNUM);
    let table = ELF_HEADER.checked_add(count.checked_mul(PROGRAM_HEADER)?)?;
    let after = if many { table.checked_add(SECTION_HEADER)? } else { table };
    let mut file = after.checked_next_multiple_of(GRAIN)?;
    let mut header = elf_header(machine, count, many.then_some(table));
    let mut segments = Vec::new();
    for region in there {
        let len = region.end - region.start;
        header.extend_from_slice(&1_u32.to_le_bytes()); // p_type: PT_LOAD
        header.extend_from_slice(&7_u32.to_le_bytes()); // p_flags: RWX, physical memory knows no less
        for field in [file, 0, region.start, len, len, GRAIN] {
            header.extend_from_slice(&field.to_le_bytes()); // p_offset, p_vaddr, p_paddr, p_filesz, p_memsz, p_align
        }
        segments.push(Segment { at: region.start, len, file });
        file = file.checked_add(len)?.checked_next_multiple_of(GRAIN)?;
    }
    if many {
        let mut section = vec![0; 44];
        section.extend_from_slice(&u32::try_from(count).ok()?.to_le_bytes()); // sh_info
        section.resize(64, 0);
        header.extend_from_slice(&section);
    }
    // The file ends with the data: nothing but the last segment knows how far that is.
    let len = segments.last().map_or(header.len() as u64, |last: &Segment| last.file + last.len);
    Some(Layout { segments, headers: vec![(0, header)], len, flat: false })
}

/// The 64 bytes of `Elf64_Ehdr`; `sections` is the offset of section header 0 if one is needed for the count.
fn elf_header(machine: u16, count: u64, sections: Option<u64>) -> Vec<u8> {
    let mut out = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    out.extend_from_slice(&4_u16.to_le_bytes()); // e_type: ET_CORE
    out.extend_from_slice(&machine.to_le_bytes());
    out.extend_from_slice(&1_u32.to_le_bytes()); // e_version
    for field in [0, ELF_HEADER, sections.unwrap_or(0)] {
        out.extend_from_slice(&field.to_le_bytes()); // e_entry, e_phoff, e_shoff
    }
    out.extend_from_slice(&0_u32.to_le_bytes()); // e_flags
    let (phnum, shnum, shentsize) = match sections {
        Some(_) => (PN_XNUM, 1, 64),
        None => (u16::try_from(count).unwrap_or(PN_XNUM), 0, 0),
    };
    for field in [64, 56, phnum, shentsize, shnum, 0] {
        out.extend_from_slice(&u16::to_le_bytes(field)); // e_ehsize, e_phentsize, e_phnum, e_shentsize, e_shnum, e_shstrndx
    }
    out
}

/// The regions as ranges, checked: ascending, apart, on grains, inside `len`. None at all means everything.
/// `Err` says what is wrong.
pub(crate) fn ranges(regions: &[Region], len: u64) -> Result<Vec<Range<u64>>, String> {
    if regions.is_empty() {
        return Ok(std::iter::once(0..len).collect());
    }
    let mut out: Vec<Range<u64>> = Vec::with_capacity(regions.len());
    for region in regions {
        let after = out.last().map_or(0, |last| last.end);
        let end = region.at.checked_add(region.len).filter(|end| *end <= len);
        let Some(end) = end else { return Err(format!("range `{}` at {} ends outside", region.name, region.at)) };
        let fits = region.at.is_multiple_of(GRAIN) && (end.is_multiple_of(GRAIN) || end == len);
        if !fits || region.at < after || region.len == 0 {
            return Err(format!("range `{}` at {} is empty, misaligned or not apart", region.name, region.at));
        }
        out.push(region.at..end);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two() -> Vec<Range<u64>> {
        vec![0..0x3000, 0x10000..0x12000]
    }

    #[test]
    fn raw_is_one_to_one() {
        let raw = Layout::new(Format::Raw, &two(), 0x12000, 62).unwrap();
        assert_eq!(raw.places(0x2000, 0x4000), Some(vec![(0x2000, 0..0x4000)]));
        assert_eq!(raw.places(0x11000, 0x2000), None);
        assert_eq!(raw.filled(0x5000), 0x5000);
        assert_eq!(raw.filled(0x12000), 0x12000);
    }

    #[test]
    fn lime_puts_a_header_before_each_range() {
        let lime = Layout::new(Format::Lime, &two(), 0x12000, 62).unwrap();
        assert_eq!(lime.len, 64 + 0x5000);
        assert_eq!(lime.places(0x10000, 0x1000), Some(vec![(0x3040, 0..0x1000)]));
        assert_eq!(lime.places(0x3000, 0x1000), None, "a hole has no place");
        assert_eq!(lime.filled(0x1000), 0x1020);
        assert_eq!(lime.filled(0x3000), 0x3040, "the second header is there from the beginning");
        assert_eq!(lime.filled(0x12000), lime.len);
        assert_eq!(lime.headers[1].0, 0x3020);
        assert_eq!(&lime.headers[1].1[..8], b"EMiL\x01\0\0\0");
        assert_eq!(lime.headers[1].1[16..24], 0x11fff_u64.to_le_bytes());
    }

    #[test]
    fn ranges_that_touch_take_a_piece_across_their_border() {
        let lime = Layout::new(Format::Lime, &[0..0x1000, 0x1000..0x3000], 0x3000, 62).unwrap();
        assert_eq!(lime.places(0, 0x2000), Some(vec![(32, 0..0x1000), (0x1040, 0x1000..0x2000)]));
    }

    #[test]
    fn elf_counts_beyond_its_field_in_section_zero() {
        let many: Vec<_> = (0..70_000_u64).map(|i| i * 0x2000..i * 0x2000 + 0x1000).collect();
        let elf = Layout::new(Format::Elf, &many, 70_000 * 0x2000, 62).unwrap();
        let header = &elf.headers[0].1;
        assert_eq!(header[56..58], [0xff, 0xff]);
        let shoff = usize::try_from(u64::from_le_bytes(header[40..48].try_into().unwrap())).unwrap();
        assert_eq!(header[shoff + 44..shoff + 48], 70_000_u32.to_le_bytes());
        assert_eq!(header.len(), shoff + 64);
        let few = Layout::new(Format::Elf, &two(), 0x12000, 183).unwrap();
        assert_eq!(few.headers[0].1[18..20], 183_u16.to_le_bytes());
        assert_eq!(few.headers[0].1[56..58], 2_u16.to_le_bytes());
        assert_eq!(few.places(0x10000, 0x1000), Some(vec![(0x4000, 0..0x1000)]));
    }

    #[test]
    fn regions_that_make_no_sense_are_refused() {
        let region = |at, len| Region { at, len, name: "r".into() };
        assert_eq!(format!("{:?}", ranges(&[], 5)), "Ok([0..5])");
        assert_eq!(ranges(&[region(0, 4096), region(8192, 100)], 8292), Ok(vec![0..4096, 8192..8292]));
        for bad in [
            vec![region(1, 4096)],
            vec![region(0, 0)],
            vec![region(4096, 4096), region(0, 4096)],
            vec![region(0, 8192), region(4096, 4096)],
            vec![region(0, u64::MAX)],
            vec![region(4096, u64::MAX)],
            vec![region(0, 100)],
        ] {
            assert!(ranges(&bad, 1 << 20).is_err(), "{bad:?}");
        }
    }
}
