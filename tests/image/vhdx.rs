//! VHDX: as qemu-img writes it, with a log that was not played back, and with a parent.

use std::fs;
use std::path::{Path, PathBuf};

use impound::image::{self, Options};

use crate::kit;

const MIB: usize = 1 << 20;
/// GUIDs of the BAT region and of what a parent needs, as they stand in the file.
const BAT: [u8; 16] = [0x66, 0x77, 0xc2, 0x2d, 0x23, 0xf6, 0x00, 0x42, 0x9d, 0x64, 0x11, 0x5e, 0x9b, 0xfd, 0x4a, 0x08];
const PARAMETERS: [u8; 16] =
    [0x37, 0x67, 0xa1, 0xca, 0x36, 0xfa, 0x43, 0x4d, 0xb3, 0xb6, 0x33, 0xf0, 0xaa, 0x44, 0xe7, 0x6b];
const PARENT: [u8; 16] =
    [0x2d, 0x5f, 0xd3, 0xa8, 0x0b, 0xb3, 0x4d, 0x45, 0xab, 0xf7, 0xd3, 0xd8, 0x48, 0x34, 0xab, 0x0c];

fn find(bytes: &[u8], what: &[u8]) -> usize {
    bytes.windows(what.len()).position(|part| part == what).expect("it is not there")
}

fn u64_at(bytes: &[u8], at: usize) -> usize {
    usize::try_from(u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())).unwrap()
}

/// Lets qemu-img make a VHDX of `bytes` in blocks of 1 MiB.
fn made(folder: &Path, name: &str, bytes: &[u8], subformat: &str) -> PathBuf {
    let (raw, path) = (folder.join("disk.raw"), folder.join(name));
    fs::write(&raw, bytes).unwrap();
    let options = format!("subformat={subformat},block_size=1M,block_state_zero=off");
    let (raw, to) = (raw.to_str().unwrap(), path.to_str().unwrap());
    kit::tool("qemu-img", ["convert", "-O", "vhdx", "-o", &options, raw, to]);
    path
}

#[test]
fn what_qemu_img_writes_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let mut want = kit::content(9 * MIB);
    want[2 * MIB..5 * MIB].fill(0);
    for subformat in ["dynamic", "fixed"] {
        let path = made(folder.path(), subformat, &want, subformat);
        let image = kit::open(&path);
        assert_eq!(kit::wrappings(&image), ["vhdx"]);
        kit::holds(&image, &want);
        assert!(image.layers()[0].odd.is_empty(), "{:?}", image.layers()[0].odd);
        let places =
            (0..8).chain((64 << 10..(64 << 10) + 80).step_by(3)).chain((192 << 10..(192 << 10) + 80).step_by(3));
        let bat = {
            let bytes = fs::read(&path).unwrap();
            u64_at(&bytes, find(&bytes, &BAT) + 16)
        };
        kit::survives(&path, places.chain((bat..bat + 72).step_by(5)));
    }
}

#[test]
fn a_log_that_was_not_played_back_is_played_back_in_memory() {
    let folder = tempfile::tempdir().unwrap();
    let mut want = vec![0; 9 * MIB];
    let path = made(folder.path(), "dirty", &want, "dynamic");
    kit::tool("qemu-io", ["-f", "vhdx", "-c", "write -P 0x41 3M 1M", path.to_str().unwrap()]);
    want[3 * MIB..4 * MIB].fill(0x41);
    let mut bytes = fs::read(&path).unwrap();
    let bat = u64_at(&bytes, find(&bytes, &BAT) + 16);
    // The table as it was before: only the log knows where the block is.
    bytes[bat..bat + 4096].fill(0);
    // QEMU flushed its log and says so in the header; as if the power had been cut before, the header names the log again.
    let log = find(&bytes, b"loge");
    for header in [64 << 10, 128 << 10] {
        let guid: [u8; 16] = bytes[log + 32..log + 48].try_into().unwrap();
        bytes[header + 48..header + 64].copy_from_slice(&guid);
        bytes[header + 4..header + 8].fill(0);
        let sum = crc32c::crc32c(&bytes[header..header + 4096]);
        bytes[header + 4..header + 8].copy_from_slice(&sum.to_le_bytes());
    }
    fs::write(&path, &bytes).unwrap();
    let image = kit::open(&path);
    assert!(image.layers()[0].odd[0].contains("played back in memory"), "{:?}", image.layers()[0].odd);
    kit::holds(&image, &want);
    assert!(fs::read(&path).unwrap() == bytes, "the file itself stays as it is");

    // QEMU plays the same log back.
    let repaired = folder.path().join("repaired");
    fs::copy(&path, &repaired).unwrap();
    kit::tool("qemu-img", ["check", "-q", "-r", "all", "-f", "vhdx", repaired.to_str().unwrap()]);
    kit::holds(&kit::open(&repaired), &want);

    bytes[log + 100] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let error = image::open(&path, &Options::default()).err().unwrap().to_string();
    assert!(error.contains("VHDX log is damaged"), "{error}");
}

fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

/// Makes a differencing disk out of a dynamic one, which no tool here writes: flag, locator, a block of sector bitmaps.
fn differ(path: &Path, parent: &str, linkage: &str, block: usize, mine: std::ops::Range<usize>) {
    let mut bytes = fs::read(path).unwrap();
    let bat = u64_at(&bytes, find(&bytes, &BAT) + 16);
    let metadata = find(&bytes, b"metadata");
    let parameters = find(&bytes[metadata..], &PARAMETERS) + metadata;
    let item =
        metadata + usize::try_from(u32::from_le_bytes(bytes[parameters + 16..][..4].try_into().unwrap())).unwrap();
    bytes[item + 4] |= 2;
    let count = usize::from(u16::from_le_bytes(bytes[metadata + 10..][..2].try_into().unwrap()));
    bytes[metadata + 10] += 1;

    let pairs = [("parent_linkage", format!("{{{linkage}}}")), ("relative_path", parent.to_owned())];
    let (mut table, mut texts) = (vec![0; 18], Vec::new());
    table.extend(u16::try_from(pairs.len()).unwrap().to_le_bytes());
    let base = 20 + 12 * pairs.len();
    for (key, value) in &pairs {
        let (key, value) = (utf16(key), utf16(value));
        let at = u32::try_from(base + texts.len()).unwrap();
        table.extend(at.to_le_bytes());
        table.extend((at + u32::try_from(key.len()).unwrap()).to_le_bytes());
        table.extend(u16::try_from(key.len()).unwrap().to_le_bytes());
        table.extend(u16::try_from(value.len()).unwrap().to_le_bytes());
        texts.extend(key);
        texts.extend(value);
    }
    table.extend(texts);
    let at = 512 << 10;
    bytes[metadata + at..metadata + at + table.len()].copy_from_slice(&table);
    let entry = metadata + 32 + count * 32;
    bytes[entry..entry + 16].copy_from_slice(&PARENT);
    bytes[entry + 16..entry + 20].copy_from_slice(&u32::try_from(at).unwrap().to_le_bytes());
    bytes[entry + 20..entry + 24].copy_from_slice(&u32::try_from(table.len()).unwrap().to_le_bytes());

    // The bitmaps are appended; the block's state becomes "partially present".
    let bitmaps = bytes.len().next_multiple_of(MIB);
    bytes.resize(bitmaps + MIB, 0);
    for sector in mine {
        let bit = block * 2048 + sector;
        bytes[bitmaps + bit / 8] |= 1 << (bit % 8);
    }
    bytes[bat + block * 8] = bytes[bat + block * 8] & !7 | 7;
    let entry = bat + 4096 * 8;
    bytes[entry..entry + 8].copy_from_slice(&(bitmaps as u64 | 6).to_le_bytes());
    fs::write(path, bytes).unwrap();
}

fn data_write(path: &Path) -> String {
    let image = kit::open(path);
    image.layers()[0].facts.iter().find(|(name, _)| *name == "data write guid").unwrap().1.clone()
}

#[test]
fn a_differencing_disk_takes_from_its_parent_what_it_has_not() {
    let folder = tempfile::tempdir().unwrap();
    let below = kit::content(6 * MIB);
    let mut above = vec![0; 6 * MIB];
    above[2 * MIB..3 * MIB].fill(0x55);
    above[4 * MIB..5 * MIB].fill(0x66);
    let parent = made(folder.path(), "base.vhdx", &below, "dynamic");
    let child = made(folder.path(), "child.vhdx", &above, "dynamic");
    differ(&child, r"..\elsewhere\base.vhdx", &data_write(&parent).to_uppercase(), 2, 10..700);
    let mut want = below.clone();
    want[2 * MIB + 10 * 512..2 * MIB + 700 * 512].fill(0x55);
    want[4 * MIB..5 * MIB].fill(0x66);
    let image = kit::open(&child);
    kit::holds(&image, &want);
    assert_eq!(image.layers()[0].files, [("parent", "base.vhdx".to_owned())]);
    assert!(image.layers()[0].odd[0].contains("base.vhdx beside it was taken"), "{:?}", image.layers()[0].odd);

    let refused = |path: &Path| image::open(path, &Options::default()).err().unwrap().to_string();
    fs::rename(&parent, folder.path().join("spare")).unwrap();
    assert!(refused(&child).contains("--follow"), "{}", refused(&child));
    let other = made(folder.path(), "base.vhdx", &below, "dynamic");
    assert!(refused(&child).contains("a parent whose data were last written under"), "{}", refused(&child));
    fs::remove_file(other).unwrap();
    std::os::unix::fs::symlink("/dev/zero", folder.path().join("base.vhdx")).unwrap();
    assert!(refused(&child).contains("could not open"), "{}", refused(&child));
    fs::remove_file(folder.path().join("base.vhdx")).unwrap();
    fs::rename(&child, folder.path().join("base.vhdx")).unwrap();
    assert!(refused(&folder.path().join("base.vhdx")).contains("leads back to itself"));
}

/// Puts the CRC-32C of a structure right again.
fn sign(bytes: &mut [u8], at: usize, len: usize) {
    bytes[at + 4..at + 8].fill(0);
    let sum = crc32c::crc32c(&bytes[at..at + len]);
    bytes[at + 4..at + 8].copy_from_slice(&sum.to_le_bytes());
}

/// What it is, the structures that are signed (their place counts from there), where, what is written there, what is said.
type Damage<'a> = (&'a str, &'a [usize], usize, &'a [u8], &'a str);

/// Damage that bears a right checksum: where, what is written there, and what the error says.
#[test]
fn damage_behind_a_right_checksum_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = made(folder.path(), "disk.vhdx", &kit::content(3 * MIB), "dynamic");
    let good = fs::read(&path).unwrap();
    let (header, region) = ([64 << 10, 128 << 10], [192 << 10, 256 << 10]);
    let metadata = find(&good, b"metadata");
    let item = |id: &[u8]| {
        let entry = find(&good[metadata..], id) + metadata;
        metadata + usize::try_from(u32::from_le_bytes(good[entry + 16..entry + 20].try_into().unwrap())).unwrap()
    };
    let (parameters, bat) = (item(&PARAMETERS), u64_at(&good, find(&good, &BAT) + 16));
    let size = item(&[0x24, 0x42, 0xa5, 0x2f, 0x1b, 0xcd, 0x76, 0x48, 0xb2, 0x11, 0x5d, 0xbe, 0xd8, 0x3b, 0xf4, 0xb8]);
    let sector =
        item(&[0x1d, 0xbf, 0x41, 0x81, 0x6f, 0xa9, 0x09, 0x47, 0xba, 0x47, 0xf2, 0x33, 0xa8, 0xfa, 0xab, 0x5f]);
    let far = (1_u64 << 50).to_le_bytes();
    let foreign = [&[0x11; 16][..], &good[(192 << 10) + 32..(192 << 10) + 44], &[1]].concat();
    let table: &[Damage<'_>] = &[
        ("version 9", &header, 66, &[9, 0], "VHDX version 9"),
        (
            "a log outside",
            &header,
            48,
            &[&[7; 16][..], &[0, 0, 1, 0], &[0xff; 4], &[0; 8]].concat(),
            "expected a log inside",
        ),
        ("many regions", &region, 8, &[0xff; 4], "at most 2047 entries"),
        ("a region outside", &region, 16 + 16, &far, "expected a region behind the first MiB"),
        ("no region", &region, 8, &[0; 4], "a block allocation table and a metadata region"),
        ("a region that must be known", &region, 16, &foreign, "it requires the region"),
        ("no metadata", &[], metadata, b"METADATA", "expected `metadata`"),
        ("many items", &[], metadata + 10, &[0xff; 2], "at most 2047 entries"),
        ("an item outside", &[], metadata + 32 + 16, &[0xff; 4], "inside the region"),
        ("blocks of 3 MiB", &[], parameters, &(3_u32 << 20).to_le_bytes(), "a power of two"),
        ("no parent", &[], parameters + 4, &[2], "a parent locator"),
        ("a disk of 2^62 bytes", &[], size, &(1_u64 << 62).to_le_bytes(), "at most 64 TiB"),
        ("a table too short", &[], size, &(60_u64 << 40).to_le_bytes(), "a table of"),
        ("sectors of 1000", &[], sector, &1000_u32.to_le_bytes(), "512 or 4096"),
        ("a block outside", &[], bat, &(1_u64 << 50 | 6).to_le_bytes(), "VHDX block allocation table is damaged"),
        ("a block over the header", &[], bat, &6_u64.to_le_bytes(), "VHDX block allocation table is damaged"),
        ("a state that is none", &[], bat, &[5], "a state of 0 to 3"),
        ("parts without a parent", &[], bat, &[good[bat] & !7 | 7], "or 7 with a parent"),
    ];
    for (what, signed, at, with, said) in table {
        let mut bytes = good.clone();
        for base in signed.iter().copied().chain(signed.is_empty().then_some(0)) {
            bytes[base + at..base + at + with.len()].copy_from_slice(with);
            if base > 0 {
                sign(&mut bytes, base, if base < 192 << 10 { 4096 } else { 64 << 10 });
            }
        }
        fs::write(&path, &bytes).unwrap();
        let error = kit::explore(&path).expect_err(what).to_string();
        assert!(error.contains(said), "{what}: {error}");
    }
    for cut in [8, 64 << 10, (192 << 10) + 5, metadata + 5, bat + 3, good.len() - MIB] {
        fs::write(&path, &good[..cut]).unwrap();
        assert!(kit::explore(&path).is_err(), "cut at {cut}");
    }
}
