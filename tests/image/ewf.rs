//! Expert Witness images as ewfacquire writes them.

use std::fs;
use std::path::{Path, PathBuf};

use impound::image::{self, Image, Kind, Options, ReadError, map};
use impound::progress::Silent;

use crate::kit;

/// Lets ewfacquire make an image of `bytes`; answers its first segment.
fn acquire(folder: &Path, bytes: &[u8], format: &str, ending: &str, more: &[&str]) -> PathBuf {
    let raw = folder.join("disk.raw");
    fs::write(&raw, bytes).unwrap();
    let target = folder.join(format!("{format}-image"));
    let mut args = vec!["-u", "-f", format, "-t", target.to_str().unwrap(), "-C", "2026-17", "-E", "3", "-e", "Ada"];
    args.extend(["-D", "a disk", "-N", "none", "-d", "sha1"]);
    args.extend(more);
    args.push(raw.to_str().unwrap());
    kit::tool("ewfacquire", args);
    target.with_extension(ending)
}

fn fact<'a>(image: &'a Image, name: &str) -> &'a str {
    let layer = &image.layers()[0];
    layer.facts.iter().find(|(known, _)| *known == name).map_or("", |(_, value)| value)
}

#[test]
fn what_ewfacquire_writes_is_read_with_its_digests() {
    let folder = tempfile::tempdir().unwrap();
    let want = kit::content((5 << 20) + 512);
    for (format, ending, more) in [
        ("encase6", "E01", &["-c", "fast"][..]),
        ("encase5", "E01", &["-c", "none", "-S", "2MiB"]),
        ("ftk", "E01", &["-c", "best", "-b", "128"]),
        ("smart", "s01", &["-c", "fast"]),
        ("ewfx", "e01", &["-c", "empty-block", "-S", "2MiB"]),
        ("linen7", "E01", &["-c", "fast", "-b", "16"]),
    ] {
        let first = acquire(folder.path(), &want, format, ending, more);
        let image = kit::open(&first);
        assert_eq!(kit::wrappings(&image), ["ewf"], "{format}");
        kit::holds(&image, &want);
        assert_eq!(fact(&image, "case number"), "2026-17", "{format}");
        assert_eq!(fact(&image, "examiner"), "Ada", "{format}");
        let layer = &image.layers()[0];
        assert!(layer.odd.is_empty(), "{format}: {:?}", layer.odd);
        let md5 = layer.digests.iter().find(|digest| digest.algorithm == "md5").unwrap();
        let info = kit::tool("ewfinfo", [&first]);
        assert!(String::from_utf8_lossy(&info.stdout).contains(&md5.hex), "{format}");
        assert_eq!(!layer.files.is_empty(), more.contains(&"2MiB"), "{format}: {:?}", layer.files);
        kit::tool("rm", [folder.path().join("disk.raw")]);
    }
}

#[test]
fn a_segment_that_is_missing_or_out_of_place_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let first = acquire(folder.path(), &kit::content(6 << 20), "encase6", "E01", &["-c", "none", "-S", "2MiB"]);
    let (second, third) = (first.with_extension("E02"), first.with_extension("E03"));
    let refused = |path: &Path| impound::image::open(path, &Options::default()).err().unwrap().to_string();
    let error = refused(&second);
    assert!(error.contains("expected segment number 1, found 2"), "{error}");
    let spare = folder.path().join("spare");
    fs::rename(&second, &spare).unwrap();
    let error = refused(&first);
    assert!(error.contains("segment 2 (encase6-image.E02) is not in the folder"), "{error}");
    fs::rename(&third, &second).unwrap();
    let error = refused(&first);
    assert!(error.contains("encase6-image.E02") || error.contains("segment number 2, found 3"), "{error}");
}

#[test]
fn an_acquisition_that_was_cut_off_keeps_what_it_has_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let want = kit::content(6 << 20);
    let first = acquire(folder.path(), &want, "encase6", "E01", &["-c", "none", "-S", "2MiB"]);
    let (second, third) = (first.with_extension("E02"), first.with_extension("E03"));
    fs::remove_file(&third).unwrap();
    // The second segment now ends where its last table does.
    let bytes = fs::read(&second).unwrap();
    let next = bytes.windows(16).rposition(|name| name == b"next\0\0\0\0\0\0\0\0\0\0\0\0").unwrap();
    fs::write(&second, &bytes[..next]).unwrap();
    fs::remove_file(first.with_extension("E04")).ok();
    let error = impound::image::open(&first, &Options::default()).err().unwrap().to_string();
    assert!(error.contains("segment 3"), "{error}");
    let mut all = fs::read(&first).unwrap();
    let next = all.windows(16).rposition(|name| name == b"next\0\0\0\0\0\0\0\0\0\0\0\0").unwrap();
    let done = b"done\0\0\0\0\0\0\0\0\0\0\0\0";
    all[next..next + 16].copy_from_slice(done);
    let sum = adler(&all[next..next + 72]);
    all[next + 72..next + 76].copy_from_slice(&sum.to_le_bytes());
    fs::write(&first, &all).unwrap();
    let image = kit::open(&first);
    assert_eq!(image.bytes().len(), want.len() as u64);
    assert!(image.layers()[0].odd.iter().any(|odd| odd.contains("cut off")), "{:?}", image.layers()[0].odd);
    let extents: Vec<_> = map::walk(image.bytes().as_ref(), 0..u64::MAX).map(|extent| extent.unwrap()).collect();
    assert_eq!(extents.len(), 2);
    assert!(matches!(extents[1].kind, Kind::Gap(_)));
    let there = usize::try_from(extents[0].len).unwrap();
    let mut bytes = vec![0; there];
    image.bytes().read_at(0, &mut bytes).unwrap();
    assert!(bytes == want[..there] && there > 1 << 20);
    assert!(matches!(image.bytes().read_at(extents[1].at, &mut [0]), Err(ReadError::Gap { .. })));
}

fn adler(bytes: &[u8]) -> u32 {
    let (mut a, mut b) = (1_u32, 0_u32);
    for byte in bytes {
        a = (a + u32::from(*byte)) % 65_521;
        b = (b + a) % 65_521;
    }
    b << 16 | a
}

#[test]
fn every_damaged_byte_of_a_chunk_or_a_table_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let want = kit::content(512 << 10);
    for (compression, ending) in [("fast", "E01"), ("none", "E01")] {
        let path = acquire(folder.path(), &want, "encase6", ending, &["-c", compression]);
        let len = usize::try_from(fs::metadata(&path).unwrap().len()).unwrap();
        // The descriptors, the volume, the chunks, the tables; what only text or padding holds may differ unseen.
        let refused = kit::survives(&path, (0..90).chain((2000..len).step_by(len / 40)));
        assert!(refused > 100, "{compression}: only {refused}");
        fs::remove_file(&path).unwrap();
    }
}

/// One section of version 2: its data, then the descriptor that points back at the section before.
fn section(out: &mut Vec<u8>, kind: u32, data: &[u8], last: &mut u64) {
    out.extend_from_slice(data);
    let padding = (16 - out.len() % 16) % 16;
    out.resize(out.len() + padding, 0);
    let at = out.len();
    let mut descriptor = kind.to_le_bytes().to_vec();
    descriptor.extend([0; 4]);
    descriptor.extend(last.to_le_bytes());
    descriptor.extend(((data.len() + padding) as u64).to_le_bytes());
    descriptor.extend(64_u32.to_le_bytes());
    descriptor.extend(u32::try_from(padding).unwrap().to_le_bytes());
    descriptor.resize(60, 0);
    let sum = adler(&descriptor);
    descriptor.extend(sum.to_le_bytes());
    out.extend(descriptor);
    *last = at as u64;
}

fn deflated(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn utf16(text: &str) -> Vec<u8> {
    [0xff, 0xfe].into_iter().chain(text.encode_utf16().flat_map(u16::to_le_bytes)).collect()
}

/// An Ex01 of `bytes`, which no tool here writes: chunks deflated, plain with a checksum, and of a pattern.
fn ex01(bytes: &[u8]) -> Vec<u8> {
    let sectors = bytes.len() / 512;
    let mut out = b"EVF2\x0d\x0a\x81\x00\x02\x01\x01\x00\x01\x00\x00\x00".to_vec();
    out.extend([7; 16]);
    let mut last = 0;
    let device = format!("2\nmain\nts\tbp\n{sectors}\t512\n\n");
    section(&mut out, 1, &deflated(&utf16(&device)), &mut last);
    section(&mut out, 2, &deflated(&utf16("1\nmain\ncn\ten\tex\tsb\n2026-17\t3\tAda\t64\n\n")), &mut last);
    let (mut data, mut table) = (Vec::new(), Vec::new());
    let base = out.len() as u64;
    for (number, chunk) in bytes.chunks(32 << 10).enumerate() {
        let at = base + data.len() as u64;
        let (offset, len, flags) = if chunk.iter().all(|byte| *byte == 0) {
            (0, 0, 4_u32)
        } else if number % 2 == 0 {
            let packed = deflated(chunk);
            data.extend_from_slice(&packed);
            (at, packed.len(), 1)
        } else {
            data.extend_from_slice(chunk);
            data.extend(adler(chunk).to_le_bytes());
            (at, chunk.len() + 4, 2)
        };
        table.extend(u64::to_le_bytes(offset));
        table.extend(u32::try_from(len).unwrap().to_le_bytes());
        table.extend(flags.to_le_bytes());
    }
    section(&mut out, 3, &data, &mut last);
    let mut head = 0_u64.to_le_bytes().to_vec();
    head.extend(u32::try_from(table.len() / 16).unwrap().to_le_bytes());
    head.extend([0; 4]);
    let sum = adler(&head);
    head.extend(sum.to_le_bytes());
    head.resize(32, 0);
    let sum = adler(&table);
    head.extend(table);
    head.extend(sum.to_le_bytes());
    head.resize(head.len() + 12, 0);
    section(&mut out, 4, &head, &mut last);
    let mut md5 = <md5::Md5 as md5::Digest>::digest(bytes).to_vec();
    let sum = adler(&md5);
    md5.extend(sum.to_le_bytes());
    section(&mut out, 8, &md5, &mut last);
    section(&mut out, 15, &[], &mut last);
    out
}

#[test]
fn an_ex01_is_read_with_its_digest() {
    let folder = tempfile::tempdir().unwrap();
    let want = kit::content((1 << 20) + 1024);
    let path = folder.path().join("disk.Ex01");
    fs::write(&path, ex01(&want)).unwrap();
    let image = kit::open(&path);
    assert_eq!(kit::wrappings(&image), ["ewf"]);
    kit::holds(&image, &want);
    assert_eq!(fact(&image, "case number"), "2026-17");
    let digests = image::digest::of_content(image.bytes().as_ref(), want.len() as u64, &["md5"], &Silent).unwrap();
    assert_eq!(image.layers()[0].digests, digests);
    let len = usize::try_from(fs::metadata(&path).unwrap().len()).unwrap();
    let refused = kit::survives(&path, (0..32).chain((len - 700..len).step_by(7)).chain((200..len).step_by(len / 20)));
    assert!(refused > 150, "only {refused}");
}
