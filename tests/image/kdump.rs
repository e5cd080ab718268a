//! kdump-compressed dumps. QEMU's and makedumpfile's own are in `tests/qemu/image.rs`; the writer here makes pages of every
//! compression, filtered ones and those that were cut off.

use std::io::Write;

use impound::image::{Kind, map};
use impound_backends::Why;

use crate::kit;
use crate::memory::{self, PAGE, put, with};

const BLOCKS: usize = 1;

/// What a page frame is.
#[derive(Clone)]
enum Frame {
    Page(Vec<u8>),
    Filtered,
    Absent,
}

fn frames() -> Vec<Frame> {
    let content = kit::content(48 * PAGE);
    let page = |i: usize| Frame::Page(content[i * PAGE..(i + 1) * PAGE].to_vec());
    let mut all: Vec<Frame> = (0..20).map(page).collect();
    all.extend(vec![Frame::Filtered; 5]);
    all.extend(vec![Frame::Absent; 7]);
    all.extend((20..48).map(page));
    all.extend(vec![Frame::Page(vec![0; PAGE]); 3]);
    all
}

/// LZO1X: one run of literals and the end mark.
fn lzo(page: &[u8]) -> Vec<u8> {
    let rest = page.len() - 18;
    // The length above 18: a zero byte for each 255, and what is left, which is never zero.
    let mut packed = vec![0; 1 + (rest - 1) / 255];
    packed.push(u8::try_from((rest - 1) % 255 + 1).unwrap());
    packed.extend_from_slice(page);
    packed.extend_from_slice(&[0x11, 0, 0]);
    packed
}

fn pack(page: &[u8], kind: usize) -> (u32, Vec<u8>) {
    let (flag, packed) = match kind {
        0 => {
            let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(page).unwrap();
            (0x01, encoder.finish().unwrap())
        }
        1 => (0x02, lzo(page)),
        2 => (0x04, snap::raw::Encoder::new().compress_vec(page).unwrap()),
        3 => (0x20, zstd::bulk::compress(page, 1).unwrap()),
        _ => (0, page.to_vec()),
    };
    if packed.len() >= page.len() { (0, page.to_vec()) } else { (flag, packed) }
}

/// A dump, version 6, x86-64. All kinds of compression in turn.
fn kdump(frames: &[Frame]) -> Vec<u8> {
    let mut file = vec![0; (2 + 2 * BLOCKS) * PAGE];
    put(&mut file, 0, b"KDUMP   ");
    put(&mut file, 8, &6_u32.to_le_bytes());
    put(&mut file, 12, b"Linux");
    put(&mut file, 142, b"6.1.0-test");
    let count = u32::try_from(frames.len()).unwrap();
    for (at, word) in [(428, 4096), (432, 1), (436, 2), (440, count), (460, 1)] {
        put(&mut file, at, &u32::to_le_bytes(word));
    }
    put(&mut file, PAGE + 8, &31_u32.to_le_bytes());
    put(&mut file, PAGE + 96, &u64::from(count).to_le_bytes());
    let mut pages = Vec::new();
    for (number, frame) in frames.iter().enumerate() {
        let bit = 1_u8 << (number % 8);
        if !matches!(frame, Frame::Absent) {
            file[2 * PAGE + number / 8] |= bit;
        }
        if let Frame::Page(page) = frame {
            file[3 * PAGE + number / 8] |= bit;
            pages.push(page);
        }
    }
    let (mut from, mut data, mut zero) = (file.len() + 24 * pages.len(), Vec::new(), None);
    for (number, page) in pages.iter().enumerate() {
        let is_zero = page.iter().all(|&byte| byte == 0);
        let (flag, at, len) = zero.filter(|_| is_zero).unwrap_or_else(|| {
            let (flag, packed) = pack(page, number % 5);
            let placed = (flag, from as u64, u32::try_from(packed.len()).unwrap());
            from += packed.len();
            data.extend_from_slice(&packed);
            placed
        });
        zero = if is_zero { Some((flag, at, len)) } else { zero };
        file.extend_from_slice(&at.to_le_bytes());
        file.extend_from_slice(&len.to_le_bytes());
        file.extend_from_slice(&flag.to_le_bytes());
        file.extend_from_slice(&[0; 8]);
    }
    file.extend_from_slice(&data);
    file
}

/// The flattened form, in pieces of odd length, the header written again at the end.
fn flatten(file: &[u8]) -> Vec<u8> {
    let mut flat = b"makedumpfile\0\0\0\0".to_vec();
    for word in [1_u64, 1] {
        flat.extend_from_slice(&word.to_be_bytes());
    }
    flat.resize(4096, 0);
    let mut piece = |at: usize, bytes: &[u8]| {
        flat.extend_from_slice(&(at as u64).to_be_bytes());
        flat.extend_from_slice(&(bytes.len() as u64).to_be_bytes());
        flat.extend_from_slice(bytes);
    };
    piece(0, &vec![0xaa; PAGE]);
    for (index, bytes) in file.chunks(777).enumerate().skip(1) {
        piece(index * 777, bytes);
    }
    piece(0, &file[..777]);
    flat.extend_from_slice(&[0xff; 16]);
    flat
}

fn small() -> Vec<u8> {
    // A page of text, which every compression makes small.
    let text: Vec<u8> = b"the quick brown fox ".iter().copied().cycle().take(PAGE).collect();
    kdump(&[Frame::Page(text.clone()), Frame::Absent, Frame::Filtered])
}

/// Damaged files, for the folder of damaged samples. The first page is zlib.
pub(crate) fn damaged() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let good = small();
    let table = 4 * PAGE;
    let mut broken = good.clone();
    broken[table + 24 + 10] ^= 0xff;
    let flat = flatten(&good[..3000]);
    vec![
        ("kdump", "truncated-header.kdump", good[..300].to_vec()),
        ("kdump", "truncated-bitmap.kdump", good[..3 * PAGE].to_vec()),
        ("kdump", "bad-page.kdump", broken),
        ("kdump", "page-too-long.kdump", with(&good, table + 8, &5000_u32.to_le_bytes())),
        ("kdump", "two-compressions.kdump", with(&good, table + 12, &[3])),
        ("kdump", "bitmaps-too-short.kdump", with(&good, PAGE + 96, &memory::le(&[1 << 30]))),
        ("kdump", "huge-memory.kdump", with(&good, PAGE + 96, &memory::le(&[1 << 60]))),
        ("kdump", "huge-bitmap.kdump", with(&good, 436, &[0xff; 4])),
        (
            "kdump",
            "all-pages-here.kdump",
            with(&with(&good, 3 * PAGE, &[0xff; PAGE]), PAGE + 96, &memory::le(&[32768])),
        ),
        ("kdump", "block-size.kdump", with(&good, 428, &4097_u32.to_le_bytes())),
        ("kdump", "split.kdump", with(&good, PAGE + 12, &[1])),
        ("kdump", "vmcoreinfo-outside.kdump", with(&good, PAGE + 32, &memory::le(&[1 << 50, 100]))),
        ("flattened", "truncated.flat", flat[..4500].to_vec()),
        ("flattened", "no-end.flat", flat[..flat.len() - 16].to_vec()),
        ("flattened", "piece-outside.flat", with(&flat, 4096 + 8, &[0x7f; 8])),
        ("flattened", "offset-huge.flat", with(&flat, 4096, &[0x7f; 8])),
        ("flattened", "type-2.flat", with(&flat, 23, &[2])),
        ("flattened", "nothing-inside.flat", [&flat[..4096], &[0xff; 16]].concat()),
        ("flattened", "kdump-cut-inside.flat", flat.clone()),
    ]
}

fn check(path: &std::path::Path) {
    let image = kit::open(path);
    let (mut at, mut kinds) = (0_u64, Vec::new());
    for frame in frames() {
        let mut page = vec![0xee; PAGE];
        let read = image.bytes().read_at(at, &mut page);
        match frame {
            Frame::Page(want) => {
                read.unwrap_or_else(|error| panic!("{error}"));
                assert!(page == want, "the page at {at:#x}");
                let mut odd = [0; 100];
                image.bytes().read_at(at + 1000, &mut odd).unwrap();
                assert_eq!(odd, want[1000..1100]);
            }
            _ => assert!(read.unwrap_err().is_gap()),
        }
        at += PAGE as u64;
    }
    assert_eq!(image.bytes().len(), at);
    for extent in map::walk(image.bytes().as_ref(), 0..at).map(Result::unwrap) {
        kinds.push((extent.len / PAGE as u64, extent.kind));
    }
    let left_out = Kind::Gap(Why::Unreadable("left out when the dump was made (makedumpfile -d)".to_owned()));
    assert_eq!(kinds, [(20, Kind::Data), (5, left_out), (7, Kind::Gap(Why::NotRam)), (31, Kind::Data)]);
    let mut across = vec![0; 3 * PAGE];
    image.bytes().read_at(at - across.len() as u64, &mut across).unwrap();
    assert!(across.iter().all(|&byte| byte == 0), "the shared page of zeros");
}

#[test]
fn pages_of_every_compression_are_read_and_the_others_told_apart() {
    let (_folder, path) = memory::file("dump.kdump", &kdump(&frames()));
    assert_eq!(kit::wrappings(&kit::open(&path)), ["kdump"]);
    assert_eq!(memory::fact(&kit::open(&path), "release").as_deref(), Some("6.1.0-test"));
    check(&path);
    let (_folder, path) = memory::file("dump.flat", &flatten(&kdump(&frames())));
    assert_eq!(kit::wrappings(&kit::open(&path)), ["flattened", "kdump"]);
    check(&path);
}

#[test]
fn pages_that_were_cut_off_are_unreadable_not_zero() {
    let all = kdump(&frames());
    let (_folder, path) = memory::file("dump.kdump", &all[..all.len() - 4 * PAGE]);
    let image = kit::open(&path);
    assert_eq!(image.layers()[0].odd.len(), 1);
    let totals = map::Totals::of(image.bytes().as_ref()).unwrap();
    assert!(totals.unreadable > 8 * PAGE as u64, "{totals:?}");
    assert!(totals.data > 15 * PAGE as u64, "{totals:?}");
    let error = image.bytes().read_at(image.bytes().len() - 4 * PAGE as u64, &mut [0; 8]).unwrap_err();
    assert!(error.to_string().contains("cut off"), "{error}");
}

#[test]
fn damage_is_named() {
    let file = small();
    let (_folder, path) = memory::file("dump.kdump", &file);
    let places = (0..12).chain(424..464).chain(PAGE..PAGE + 104).chain(2 * PAGE..2 * PAGE + 2);
    let places: Vec<_> = places.chain(3 * PAGE..3 * PAGE + 2).chain(4 * PAGE..file.len()).collect();
    assert!(kit::survives(&path, places) > 150);
    let flat = flatten(&file);
    let (_folder, path) = memory::file("dump.flat", &flat);
    assert!(kit::survives(&path, (0..32).chain(4096..4112).chain(8208..8230)) > 20);
}
