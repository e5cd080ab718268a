//! LiME and AVML. The writers follow LiME's description and AVML's source.

use std::io::Write;

use crate::kit;
use crate::memory::{self, PAGE, put, with};

/// A LiME file.
pub(crate) fn lime(ranges: &[(u64, Vec<u8>)]) -> Vec<u8> {
    let mut file = Vec::new();
    for (at, bytes) in ranges {
        file.extend_from_slice(&header(*b"EMiL", 1, *at, bytes.len()));
        file.extend_from_slice(bytes);
    }
    file
}

fn header(magic: [u8; 4], version: u32, at: u64, len: usize) -> Vec<u8> {
    let mut header = magic.to_vec();
    header.extend_from_slice(&version.to_le_bytes());
    header.extend_from_slice(&memory::le(&[at, at + len as u64 - 1, 0]));
    header
}

/// An AVML file: each range through a Snappy framing encoder, page by page, then the length of that.
pub(crate) fn avml(ranges: &[(u64, Vec<u8>)]) -> Vec<u8> {
    let mut file = Vec::new();
    for (at, bytes) in ranges {
        file.extend_from_slice(&header(*b"AVML", 2, *at, bytes.len()));
        let begin = file.len();
        let mut encoder = snap::write::FrameEncoder::new(&mut file);
        bytes.chunks(PAGE).for_each(|page| encoder.write_all(page).unwrap());
        drop(encoder);
        let len = (file.len() - begin) as u64;
        file.extend_from_slice(&len.to_le_bytes());
    }
    file
}

/// Damaged files, for the folder of damaged samples.
pub(crate) fn damaged() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let small = vec![(0x1000, kit::content(PAGE)), (0x10000, kit::content(PAGE))];
    let good = lime(&small);
    let second = 32 + PAGE;
    let mut samples = vec![
        ("lime", "truncated.lime", good[..6000].to_vec()),
        ("lime", "truncated-header.lime", good[..second + 16].to_vec()),
        ("lime", "overlapping.lime", with(&good, second + 8, &memory::le(&[0x1800, 0x27ff]))),
        ("lime", "last-below-first.lime", with(&good, 16, &memory::le(&[0x200]))),
        ("lime", "huge-range.lime", with(&good, second + 16, &memory::le(&[u64::MAX - 1]))),
        ("lime", "version-9.lime", with(&good, 4, &[9])),
        ("lime", "second-magic.lime", with(&good, second, b"LiME")),
    ];
    let good = avml(&small);
    let mut sum = good.clone();
    sum[50] ^= 0x10;
    let first = u64::from_le_bytes(good[good.len() - 8..].try_into().unwrap());
    let first_len = usize::try_from(first).unwrap();
    samples.extend([
        ("avml", "truncated.lime", good[..good.len() - 20].to_vec()),
        ("avml", "bad-checksum.lime", sum),
        ("avml", "wrong-length.lime", with(&good, good.len() - 8, &[1, 2])),
        ("avml", "overlapping.lime", with(&good, good.len() - 8 - first_len - 24, &memory::le(&[0x1000, 0x1fff]))),
        ("avml", "huge-range.lime", with(&good, 16, &memory::le(&[u64::MAX - 1]))),
        ("avml", "frame-too-long.lime", with(&good, 43, &[0xff, 0xff, 0xff])),
        ("avml", "reserved-frame.lime", with(&good, 42, &[0x44])),
    ]);
    samples
}

#[test]
fn lime_reads_at_its_addresses() {
    let (_folder, path) = memory::file("dump.lime", &lime(&memory::ranges()));
    memory::holds(&memory::open(&path, "lime"), &memory::ranges());
    assert!(kit::survives(&path, 0..64) > 60);
}

#[test]
fn ranges_may_stand_in_any_order() {
    let mut turned = memory::ranges();
    turned.reverse();
    let (_folder, path) = memory::file("dump.lime", &lime(&turned));
    memory::holds(&memory::open(&path, "lime"), &memory::ranges());
}

#[test]
fn avml_reads_like_what_it_was_made_of() {
    let file = avml(&memory::ranges());
    let (_folder, path) = memory::file("dump.lime", &file);
    let image = memory::open(&path, "avml");
    memory::holds(&image, &memory::ranges());
    assert_eq!(memory::fact(&image, "ranges").as_deref(), Some("3"));
    assert!(kit::survives(&path, (0..64).chain((64..file.len()).step_by(2003))) > 100);
}

#[test]
fn a_damaged_frame_is_found_when_it_is_read() {
    let mut file = avml(&[(0, kit::content(40 * PAGE))]);
    let last = file.len() - 20;
    let byte = file[last] ^ 1;
    put(&mut file, last, &[byte]);
    let (_folder, path) = memory::file("dump.lime", &file);
    let image = memory::open(&path, "avml");
    image.bytes().read_at(0, &mut [0; PAGE]).unwrap();
    let error = image.bytes().read_at(39 * PAGE as u64, &mut [0; PAGE]).unwrap_err();
    assert!(error.to_string().contains("AVML frame is damaged"), "{error}");
}
