//! Windows crash dumps, written after `_DUMP_HEADER64` and `_SUMMARY_DUMP64`.

use impound::image::{Kind, map};
use impound_backends::Why;

use crate::kit;
use crate::memory::{self, PAGE, put, with};

fn header(kind: u32, ranges: &[(u64, Vec<u8>)]) -> Vec<u8> {
    let mut header: Vec<u8> = b"PAGE".iter().copied().cycle().take(0x2000).collect();
    put(&mut header, 4, b"DU64");
    for (at, word) in [(8, 15), (12, 19041), (0x30, 0x8664), (0x34, 2), (0x38, 0xe2), (0xf98, kind)] {
        put(&mut header, at, &u32::to_le_bytes(word));
    }
    put(&mut header, 0x10, &memory::le(&[0x1ad_000, 0, 0xffff_f800_0000_1000, 0xffff_f800_0000_2000]));
    put(&mut header, 0x80, &memory::le(&[0xffff_f800_0000_3000]));
    put(&mut header, 0x88, &memory::le(&[ranges.len() as u64]));
    let total: usize = ranges.iter().map(|(_, bytes)| bytes.len() / PAGE).sum();
    put(&mut header, 0x90, &memory::le(&[total as u64]));
    for (index, (at, bytes)) in ranges.iter().enumerate() {
        put(&mut header, 0x98 + index * 16, &memory::le(&[at / PAGE as u64, (bytes.len() / PAGE) as u64]));
    }
    header
}

/// A complete dump.
fn complete(ranges: &[(u64, Vec<u8>)]) -> Vec<u8> {
    let mut file = header(1, ranges);
    for (_, bytes) in ranges {
        file.extend_from_slice(bytes);
    }
    file
}

/// A bitmap dump of `kept`, of a machine with `ranges`.
fn bitmap(kind: u32, ranges: &[(u64, Vec<u8>)], kept: &[(u64, Vec<u8>)]) -> Vec<u8> {
    let mut file = header(kind, ranges);
    let end = ranges.iter().map(|(at, bytes)| at / PAGE as u64 + (bytes.len() / PAGE) as u64).max().unwrap();
    let mut bits = vec![0_u8; usize::try_from(end.div_ceil(8)).unwrap()];
    let mut present = 0;
    for (at, bytes) in kept {
        for page in 0..bytes.len() / PAGE {
            let frame = usize::try_from(at / PAGE as u64).unwrap() + page;
            bits[frame / 8] |= 1 << (frame % 8);
            present += 1;
        }
    }
    let first = (file.len() + 0x38 + bits.len()).next_multiple_of(PAGE);
    let mut summary = if kind == 5 { b"FDMPDUMP".to_vec() } else { b"SDMPDUMP".to_vec() };
    summary.resize(0x20, 0);
    summary.extend_from_slice(&memory::le(&[first as u64, present, end]));
    file.extend_from_slice(&summary);
    file.extend_from_slice(&bits);
    file.resize(first, 0);
    for (_, bytes) in kept {
        file.extend_from_slice(bytes);
    }
    file
}

/// Damaged files, for the folder of damaged samples.
pub(crate) fn damaged() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let small = vec![(0x1000, kit::content(PAGE)), (0x8000, kit::content(PAGE))];
    let good = complete(&small);
    let bits = bitmap(5, &small, &small);
    let sample = |name: &'static str, bytes: Vec<u8>| ("windows-crash", name, bytes);
    let mut hibernation = b"hibr\0\0\0\0\0\0\0\0\0\x03\0\0".to_vec();
    hibernation.resize(PAGE, 0);
    vec![
        sample("truncated.dmp", good[..good.len() - 100].to_vec()),
        sample("truncated-header.dmp", good[..5000].to_vec()),
        sample("overlapping.dmp", with(&good, 0xa8, &memory::le(&[1]))),
        sample("huge-run.dmp", with(&good, 0xa0, &memory::le(&[1 << 51]))),
        sample("too-many-runs.dmp", with(&good, 0x88, &[200])),
        sample("machine.dmp", with(&good, 0x30, &[1, 2])),
        sample("small-dump.dmp", with(&good, 0xf98, &[4])),
        sample("live-dump.dmp", with(&good, 0xf98, &[8])),
        sample("bitmap-signature.dmp", with(&bits, 0x2000, b"X")),
        sample("bitmap-huge.dmp", with(&bits, 0x2030, &memory::le(&[1 << 39]))),
        sample("bitmap-count.dmp", with(&bits, 0x2028, &memory::le(&[7]))),
        sample("bitmap-truncated.dmp", bits[..bits.len() - 10].to_vec()),
        sample("32-bit.dmp", with(&good, 4, b"DUMP")),
        ("hibernation", "hiberfil.sys", hibernation),
    ]
}

#[test]
fn a_complete_dump_is_its_runs() {
    let (_folder, path) = memory::file("MEMORY.DMP", &complete(&memory::ranges()));
    let image = memory::open(&path, "windows-crash");
    memory::holds(&image, &memory::ranges());
    assert_eq!(image.machine().unwrap().cpus[0].cr3, Some(0x1ad_000));
    assert_eq!(memory::fact(&image, "version").as_deref(), Some("15.19041"));
    let fields = (0..0x40).chain(0x80..0xc8).chain(0xf98..0xf9c);
    assert!(kit::survives(&path, fields) > 60);
}

#[test]
fn a_bitmap_dump_tells_what_it_left_out() {
    let ranges = memory::ranges();
    let kept = vec![ranges[0].clone(), (ranges[1].0, ranges[1].1[..7 * PAGE].to_vec()), ranges[2].clone()];
    for kind in [2, 5, 6] {
        let (_folder, path) = memory::file("MEMORY.DMP", &bitmap(kind, &ranges, &kept));
        let image = memory::open(&path, "windows-crash");
        memory::holds(&image, &kept);
        let gap: Vec<_> = map::walk(image.bytes().as_ref(), 0x10_7000..0x12_8000).map(Result::unwrap).collect();
        assert!(matches!(gap[0].kind, Kind::Gap(Why::Unreadable(_))) && gap.len() == 1, "{gap:?}");
    }
    let file = bitmap(5, &ranges[..2], &ranges[..2]);
    let (_folder, path) = memory::file("MEMORY.DMP", &file);
    assert!(kit::survives(&path, (0x2000..0x2070).chain(0x88..0xb8)) > 60);
}
