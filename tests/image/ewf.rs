//! Expert Witness images as ewfacquire writes them.

use std::fs;
use std::path::{Path, PathBuf};

use impound::image::{Image, Kind, Options, ReadError, map};

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
