//! The metadata of VMware's saved memory, written as public parsers describe it.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, dead_code, unreachable_pub, reason = "this is test code")]

/// Bytes of a page.
const PAGE: u64 = 4096;

fn le(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn put(bytes: &mut [u8], at: usize, with: &[u8]) {
    bytes[at..at + with.len()].copy_from_slice(with);
}

pub fn word(name: &str, index: &[u32], value: u16) -> u16 {
    u16::try_from(name.len() << 8 | index.len() << 6).unwrap() | value
}

pub fn tag(name: &str, index: &[u32], value: &[u8]) -> Vec<u8> {
    let word = word(name, index, u16::try_from(value.len()).unwrap());
    let mut tag = word.to_le_bytes().to_vec();
    tag.extend_from_slice(name.as_bytes());
    for index in index {
        tag.extend_from_slice(&index.to_le_bytes());
    }
    tag.extend_from_slice(value);
    tag
}

/// A block whose content begins at a multiple of 64 when the tag stands at `at`.
pub fn block(name: &str, index: &[u32], at: usize, value: &[u8], kind: u16) -> Vec<u8> {
    let word = word(name, index, kind);
    let mut tag = word.to_le_bytes().to_vec();
    tag.extend_from_slice(name.as_bytes());
    for index in index {
        tag.extend_from_slice(&index.to_le_bytes());
    }
    tag.extend_from_slice(&le(&[value.len() as u64, value.len() as u64]));
    let end = at + tag.len() + 2;
    let pad = end.next_multiple_of(64) - end;
    tag.extend_from_slice(&u16::try_from(pad).unwrap().to_le_bytes());
    tag.resize(tag.len() + pad, 0);
    tag.extend_from_slice(value);
    tag
}

pub fn pages(bytes: u64) -> [u8; 4] {
    u32::try_from(bytes / PAGE).unwrap().to_le_bytes()
}

pub fn cpu_tags() -> Vec<u8> {
    let mut idtr = vec![0xff, 0x0f];
    idtr.extend_from_slice(&0xffff_fe00_0000_0000_u64.to_le_bytes());
    [
        tag("numVCPUs", &[], &1_u32.to_le_bytes()),
        tag("CR64", &[0, 0], &0x8005_0033_u64.to_le_bytes()),
        tag("CR64", &[0, 3], &0x1ad_000_u64.to_le_bytes()),
        tag("CR64", &[0, 4], &0x6f0_u64.to_le_bytes()),
        tag("rip", &[0], &0xffff_8000_u64.to_le_bytes()),
        tag("IDTR", &[0], &idtr),
        vec![0, 0],
    ]
    .concat()
}

/// The regions of the ranges, in the order in which the memory file has them.
pub fn regions(ranges: &[(u64, Vec<u8>)]) -> Vec<u8> {
    let ranges: Vec<_> = ranges.iter().map(|(at, bytes)| (*at, bytes.len() as u64)).collect();
    regions_of(&ranges)
}

/// The same of their lengths alone, in bytes.
pub fn regions_of(ranges: &[(u64, u64)]) -> Vec<u8> {
    let (mut tags, mut from) = (tag("regionsCount", &[], &u32::try_from(ranges.len()).unwrap().to_le_bytes()), 0);
    for (index, (at, len)) in ranges.iter().enumerate() {
        let index = [u32::try_from(index).unwrap()];
        tags.extend(tag("regionPageNum", &index, &pages(from)));
        tags.extend(tag("regionPPN", &index, &pages(*at)));
        tags.extend(tag("regionSize", &index, &pages(*len)));
        from += len;
    }
    tags.extend(tag("align_mask", &[], &0xffff_u32.to_le_bytes()));
    tags
}

/// A metadata file; `inline` is the memory inside it.
pub fn vmsn(magic: u32, cpu: &[u8], memory_tags: &[u8], inline: Option<(&[u8], u16)>) -> Vec<u8> {
    let mut file = vec![0; 12 + 2 * 80];
    put(&mut file, 0, &magic.to_le_bytes());
    put(&mut file, 4, &8_u32.to_le_bytes());
    put(&mut file, 8, &2_u32.to_le_bytes());
    put(&mut file, 12, b"cpu");
    let begin = file.len() as u64;
    put(&mut file, 12 + 64, &le(&[begin, cpu.len() as u64]));
    file.extend_from_slice(cpu);
    let begin = file.len() as u64;
    file.extend_from_slice(memory_tags);
    if let Some((bytes, kind)) = inline {
        file.extend_from_slice(&block("Memory", &[0, 0], file.len(), bytes, kind));
    }
    file.extend_from_slice(&[0, 0]);
    let size = file.len() as u64 - begin;
    put(&mut file, 92, b"memory");
    put(&mut file, 92 + 64, &le(&[begin, size]));
    file
}
