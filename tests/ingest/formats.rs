//! Each form of an image, parsed back by other means than wrote it.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use impound::case::ingest::{Digest, Format, IngestOptions, Outcome, ZSTD_FRAME, Zstd};
use impound_backends::{ItemKind, Piece, Why};

use crate::kit::*;

const MIB: u64 = 1 << 20;
/// 3 MiB, a hole of 2 MiB, and an end that lies on no page.
const REGIONS: [(u64, u64); 2] = [(0, 3 * MIB), (5 * MIB, 2 * MIB + 777)];
const LEN: u64 = 7 * MIB + 777;

/// Memory with a hole, in a mixed order, with zeros and a small file beside it.
fn memory() -> Vec<Sent> {
    let mut pieces = sequence(0, 3 * MIB, 64 << 10);
    pieces.extend(sequence(5 * MIB, 6 * MIB, 4096));
    pieces.push(zero(6 * MIB, MIB));
    pieces.push(data(7 * MIB, 777));
    pieces.push(gap(3 * MIB, MIB, Why::NotRam));
    let mut pieces = mixed(pieces);
    let aside = |text: &'static str| Ok(Piece::Aside { name: "device-state.bin", bytes: text.into() });
    pieces.insert(3, aside("device "));
    pieces.push(aside("state"));
    pieces
}

/// What is in the two regions.
fn expected() -> [Vec<u8>; 2] {
    let mut high = bytes(5 * MIB, MIB);
    high.resize(usize::try_from(2 * MIB).unwrap(), 0);
    high.extend(bytes(7 * MIB, 777));
    [bytes(0, 3 * MIB), high]
}

fn stored(draft: &Path, format: Format) -> Vec<u8> {
    let options = IngestOptions { format, digests: Digest::ALL.into(), stem: "memory".into(), ..options() };
    let report = run(capture(ItemKind::Memory, LEN, &REGIONS, memory()), draft, &options);
    assert_eq!(report.outcome, Outcome::Complete);
    assert_eq!(report.gap_totals.not_ram, 2 * MIB, "the half the target named, and the half it did not");
    assert_eq!((report.bytes_data, report.bytes_zero), (4 * MIB + 777, MIB));
    let (path, image) = checked_image(draft, &report);
    for (digest, program) in [(Digest::Sha512, "sha512sum"), (Digest::Sha1, "sha1sum"), (Digest::Md5, "md5sum")] {
        assert_eq!(report.stored[0].others[&digest], tool(program, &path));
    }
    assert_eq!(report.stored[0].others[&Digest::Blake3], blake3::hash(&image).to_string());
    assert_eq!(report.content_sha256.as_ref(), Some(&report.stored[0].sha256));
    let aside = &report.stored[1];
    assert_eq!(
        (aside.path.as_str(), aside.len, &aside.sha256),
        ("data/device-state.bin", 12, &sha256(b"device state"))
    );
    assert_eq!(std::fs::read(draft.join(&aside.path)).unwrap(), b"device state");
    image
}

#[test]
fn raw_is_the_address_space() {
    let folder = tempfile::tempdir().unwrap();
    let image = stored(folder.path(), Format::Raw);
    let [low, high] = expected();
    assert_eq!(image.len() as u64, LEN);
    assert_eq!(image[..low.len()], low);
    assert!(image[low.len()..5 << 20].iter().all(|byte| *byte == 0));
    assert_eq!(image[5 << 20..], high);
    assert_eq!(walk(folder.path()), ["blocks.jsonl", "data/device-state.bin", "data/memory.raw"]);
}

#[test]
fn lime_holds_the_ranges_behind_their_headers() {
    let folder = tempfile::tempdir().unwrap();
    let image = stored(folder.path(), Format::Lime);
    let (mut at, mut found) = (0, Vec::new());
    while at < image.len() {
        let field = |from: usize| u64::from_le_bytes(image[at + from..at + from + 8].try_into().unwrap());
        assert_eq!(field(0), 0x1_4c69_4d45, "magic and version");
        let len = usize::try_from(field(16) - field(8) + 1).unwrap();
        found.push((field(8), image[at + 32..at + 32 + len].to_vec()));
        at += 32 + len;
    }
    let [low, high] = expected();
    assert!(found == [(0, low), (5 * MIB, high)]);
}

#[test]
fn elf_holds_the_ranges_as_segments_that_readelf_reads() {
    let folder = tempfile::tempdir().unwrap();
    let image = stored(folder.path(), Format::Elf);
    let half = |at: usize| u64::from(u16::from_le_bytes(image[at..at + 2].try_into().unwrap()));
    let field = |at: usize| usize::try_from(u64::from_le_bytes(image[at..at + 8].try_into().unwrap())).unwrap();
    assert_eq!((&image[..4], half(16), half(18), half(56)), (b"\x7fELF".as_slice(), 4, 62, 2));
    for (index, bytes) in expected().iter().enumerate() {
        let header = field(32) + index * 56;
        let (offset, address, len) = (field(header + 8), field(header + 24), field(header + 32));
        assert_eq!((offset % 4096, address as u64), (0, REGIONS[index].0));
        assert!(image[offset..offset + len] == *bytes);
    }
    let out = Command::new("readelf").arg("-lW").arg(folder.path().join("data/memory.elf")).output();
    let Ok(out) = out else { return println!("skipped: no readelf here") };
    let text = String::from_utf8(out.stdout).unwrap();
    assert!(text.contains("CORE") && text.matches("LOAD").count() == 2, "{text}");
    assert!(out.stderr.is_empty(), "{}", String::from_utf8_lossy(&out.stderr));
}

#[test]
fn zstd_is_opened_by_zstd_and_its_seek_table_finds_every_frame() {
    for (len, pieces) in [
        (13 * MIB + 5, mixed(sequence(0, 13 * MIB + 5, 256 << 10))),
        (9 * MIB, vec![zero(0, 5 * MIB), data(5 * MIB, MIB), gap(6 * MIB, 3 * MIB, Why::Sparse)]),
        (0, vec![]),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let options =
            IngestOptions { compress: Some(Zstd { level: 3 }), digests: BTreeSet::from([Digest::Md5]), ..options() };
        let report = run(capture(ItemKind::Disk, len, &[], pieces), folder.path(), &options);
        assert_eq!((report.outcome.clone(), report.content_len), (Outcome::Complete, len));
        let (path, packed) = checked_image(folder.path(), &report);
        assert_eq!(report.stored[0].path, "data/vda.raw.zst");
        assert_eq!(report.stored[0].others[&Digest::Md5], tool("md5sum", &path));
        let plain = folder.path().join("plain");
        let zstd = Command::new("zstd").arg("-dqo").arg(&plain).arg(&path).status();
        assert!(zstd.unwrap().success());
        assert_eq!(report.content_sha256, Some(tool("sha256sum", &plain)));
        let plain = std::fs::read(plain).unwrap();
        assert_eq!(plain.len() as u64, len);
        frames(&packed, &plain);
    }
}

/// Walks the seek table and decompresses each frame alone.
fn frames(packed: &[u8], plain: &[u8]) {
    let word = |at: usize| usize::try_from(u32::from_le_bytes(packed[at..at + 4].try_into().unwrap())).unwrap();
    let end = packed.len();
    assert_eq!((word(end - 4), packed[end - 5]), (0x8f92_eab1, 0));
    let count = word(end - 9);
    let table = end - 9 - 8 * count;
    assert_eq!((word(table - 8), word(table - 4)), (0x184d_2a5e, 8 * count + 9));
    let (mut at, mut content) = (0, 0);
    for index in 0..count {
        let (long, short) = (word(table + 8 * index + 4), word(table + 8 * index));
        assert!(long == usize::try_from(ZSTD_FRAME).unwrap() || index + 1 == count);
        let frame = zstd::bulk::decompress(&packed[at..at + short], long).unwrap();
        assert!(frame == plain[content..content + long]);
        (at, content) = (at + short, content + long);
    }
    assert_eq!((at + 8, content), (table, plain.len()));
}

#[test]
fn odd_lengths_down_to_nothing_are_stored_as_they_are() {
    for len in [0, 1, 511, 4096, 4097, MIB, MIB + 1, 3 * MIB] {
        let folder = tempfile::tempdir().unwrap();
        let report = run(capture(ItemKind::Disk, len, &[], sequence(0, len, 4096)), folder.path(), &options());
        assert_eq!(report.outcome, Outcome::Complete, "{len}");
        assert!(checked_image(folder.path(), &report).1 == bytes(0, len));
        assert_eq!(blocks(folder.path()).len() as u64, len.div_ceil(MIB).max(1));
    }
}

#[test]
fn the_hash_of_a_block_is_what_dd_and_sha256sum_say() {
    let folder = tempfile::tempdir().unwrap();
    let pieces = vec![data(0, MIB), zero(MIB, MIB), data(2 * MIB, 100_000)];
    let report = run(capture(ItemKind::Disk, 2 * MIB + 100_000, &[], pieces), folder.path(), &options());
    let path = folder.path().join(&report.stored[0].path);
    for (index, block) in blocks(folder.path()).iter().enumerate() {
        let script = format!("dd if='{}' bs=1M skip={index} count=1 2>/dev/null | sha256sum", path.display());
        let out = Command::new("sh").arg("-c").arg(script).output().unwrap();
        assert_eq!(String::from_utf8(out.stdout).unwrap().split_whitespace().next(), Some(block.sha256.as_str()));
    }
    assert_eq!(blocks(folder.path())[2].chain, report.stored[0].sha256);
}

#[test]
fn a_disk_keeps_what_the_source_said_of_each_range() {
    let folder = tempfile::tempdir().unwrap();
    let bad = || Why::Unreadable("Input/output error".into());
    let pieces = vec![
        data(0, 4096),
        data(4096, 4096),
        zero(8192, 4096),
        gap(12288, 4096, bad()),
        gap(16384, 4096, bad()),
        gap(20480, MIB - 20480, Why::Sparse),
    ];
    let report = run(capture(ItemKind::Disk, MIB, &[], pieces), folder.path(), &options());
    assert_eq!(report.outcome, Outcome::Partial);
    assert_eq!(
        (report.gap_totals.unreadable, report.gap_totals.sparse, report.gap_totals.ranges),
        (8192, MIB - 20480, 2)
    );
    assert_eq!((report.gaps[0].at, report.gaps[0].len, &report.gaps[0].why), (12288, 8192, &bad()));
    let map = std::fs::read_to_string(folder.path().join("allocation.jsonl")).unwrap();
    let lines = [
        r#"{"at":0,"len":8192,"kind":"data"}"#,
        r#"{"at":8192,"len":4096,"kind":"zero"}"#,
        r#"{"at":12288,"len":8192,"kind":"unreadable","why":"Input/output error"}"#,
        r#"{"at":20480,"len":1028096,"kind":"sparse"}"#,
    ];
    assert_eq!(map.lines().collect::<Vec<_>>(), lines);
    assert_eq!(report.tags, ["blocks.jsonl", "allocation.jsonl"]);
}
