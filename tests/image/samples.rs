//! The damaged disks of `tests/damaged/image/{qcow2,vmdk,vdi,vhd}`, each as the smallest sound image with one thing wrong.
//! `cargo test --test image -- --ignored write_the_samples` writes them anew.

use std::fs;
use std::path::{Path, PathBuf};

use crate::deltas::{Grain, cowd, descriptor, put, sesparse};
use crate::vdi_vhd::{seal, vhd};

type Sample = (&'static str, Vec<u8>);

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/damaged/image")
}

fn with(good: &[u8], at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut file = good.to_vec();
    put(&mut file, at, bytes);
    file
}

/// Version 3, clusters of 512 bytes: L1 at 0x200, two L2 tables at 0x400 and 0x600, one cluster of data at 0x800.
pub(crate) fn qcow2() -> Vec<u8> {
    let mut file = Vec::new();
    put(&mut file, 0, b"QFI\xfb\0\0\0\x03");
    put(&mut file, 20, &9_u32.to_be_bytes());
    put(&mut file, 24, &65_536_u64.to_be_bytes());
    put(&mut file, 36, &2_u32.to_be_bytes());
    put(&mut file, 40, &0x200_u64.to_be_bytes());
    put(&mut file, 96, &4_u32.to_be_bytes());
    put(&mut file, 100, &104_u32.to_be_bytes());
    put(&mut file, 0x200, &(1 << 63 | 0x400_u64).to_be_bytes());
    put(&mut file, 0x208, &(1 << 63 | 0x600_u64).to_be_bytes());
    put(&mut file, 0x400, &(1 << 63 | 0x800_u64).to_be_bytes());
    put(&mut file, 0x800, &[7; 512]);
    file
}

fn qcow2_samples() -> Vec<Sample> {
    let good = qcow2();
    let entry = |at: usize, value: u64| with(&good, at, &value.to_be_bytes());
    let name = |text: &[u8], at: u64| {
        let file = with(&good, 8, &at.to_be_bytes());
        let file = with(&file, 16, &u32::try_from(text.len()).unwrap().to_be_bytes());
        with(&with(&file, 112, text), 104, &[0; 8])
    };
    vec![
        ("version-9", with(&good, 4, &9_u32.to_be_bytes())),
        ("cluster-bits-63", with(&good, 20, &63_u32.to_be_bytes())),
        ("size-claims-too-much", entry(24, 1 << 60)),
        ("size-needs-a-longer-l1", entry(24, 1 << 40)),
        ("l1-at-the-header", entry(40, 0)),
        ("l1-outside", entry(40, 1 << 40)),
        ("l2-outside", entry(0x200, 1 << 40)),
        ("l2-is-the-l1", entry(0x200, 0x200)),
        ("l2-of-two-entries", entry(0x208, 0x400)),
        ("l2-with-reserved-bits", entry(0x200, 0x0100_0000_0000_0401)),
        ("cluster-outside", entry(0x400, 0x10_0000)),
        ("cluster-is-an-l2", entry(0x400, 0x600)),
        ("cluster-is-the-l1", entry(0x400, 0x200)),
        ("compressed-outside", entry(0x400, 1 << 62 | 0x10_0000)),
        ("compressed-garbage", entry(0x400, 1 << 62 | 0x800)),
        ("refcount-order-7", with(&good, 96, &7_u32.to_be_bytes())),
        ("header-of-8-bytes", with(&good, 100, &8_u32.to_be_bytes())),
        ("extension-without-end", with(&good, 104, &[0xe2, 0x79, 0x2a, 0xca, 0xff, 0xff, 0xff, 0xff])),
        ("snapshots-without-number", with(&good, 60, &[0xff; 4])),
        ("snapshot-table-outside", with(&with(&good, 60, &1_u32.to_be_bytes()), 64, &(1_u64 << 40).to_be_bytes())),
        ("backing-file-is-etc-shadow", name(b"/etc/shadow", 112)),
        ("backing-file-is-a-device", name(b"/dev/zero", 112)),
        ("backing-name-outside", name(b"x", 1 << 40)),
        ("unknown-feature", with(&good, 72, &(1_u64 << 40).to_be_bytes())),
        ("cut", good[..0x900].to_vec()),
    ]
}

/// A hosted sparse extent, grains of one sector: directory at 0x200, one table at 0x400, one grain at 0xc00.
pub(crate) fn hosted() -> Vec<u8> {
    let mut file = Vec::new();
    put(&mut file, 0, b"KDMV\x01\0\0\0\x01\0\0\0");
    for (at, value) in [(12, 512_u64), (20, 1), (48, 0), (56, 1), (64, 6)] {
        put(&mut file, at, &value.to_le_bytes());
    }
    put(&mut file, 44, &512_u32.to_le_bytes());
    put(&mut file, 73, b"\n \r\n");
    put(&mut file, 0x200, &2_u32.to_le_bytes());
    put(&mut file, 0x400, &6_u32.to_le_bytes());
    put(&mut file, 0xc00, &[7; 512]);
    file
}

fn vmdk_samples() -> Vec<Sample> {
    let good = hosted();
    let text = |parent, line: &str| descriptor("1", parent, &[line.to_owned()]).into_bytes();
    let delta = cowd(9, &[]);
    let se = sesparse(9000, &[(5, Grain::Zero)])[..4608].to_vec();
    vec![
        ("descriptor-extent-is-etc-shadow", text(None, "RW 1 FLAT \"/etc/shadow\" 0")),
        ("descriptor-extent-is-a-device", text(None, "RW 1 FLAT \"/dev/zero\" 0")),
        ("descriptor-extent-is-itself", text(None, "RW 1 FLAT \"descriptor-extent-is-itself\" 0")),
        ("descriptor-without-extents", text(None, "")),
        ("descriptor-extent-without-type", text(None, "RW 1")),
        ("descriptor-of-a-raw-device", text(None, "RW 1 VMFSRDM \"x-rdmp.vmdk\"")),
        ("descriptor-claims-too-much", text(None, "RW 18446744073709551615 ZERO")),
        ("descriptor-parent-is-etc-shadow", text(Some(("2", "/etc/shadow")), "RW 1 ZERO")),
        ("descriptor-parent-is-itself", text(Some(("1", "descriptor-parent-is-itself")), "RW 1 ZERO")),
        ("descriptor-parent-without-name", b"# Disk DescriptorFile\nCID=1\nparentCID=2\nRW 1 ZERO\n".to_vec()),
        ("descriptor-cid-is-no-number", b"# Disk DescriptorFile\nCID=what\nRW 1 ZERO\n".to_vec()),
        ("sparse-cut", good[..0xd00].to_vec()),
        ("sparse-copied-as-text", with(&good, 73, b"\n \n\n")),
        ("sparse-grain-of-3-sectors", with(&good, 20, &3_u64.to_le_bytes())),
        ("sparse-claims-too-much", with(&good, 12, &(1_u64 << 50).to_le_bytes())),
        ("sparse-directory-outside", with(&good, 56, &(1_u64 << 30).to_le_bytes())),
        ("sparse-directory-is-the-header", with(&good, 56, &[0; 8])),
        ("sparse-table-outside", with(&good, 0x200, &u32::MAX.to_le_bytes())),
        ("sparse-grain-outside", with(&good, 0x400, &u32::MAX.to_le_bytes())),
        ("sparse-grain-is-the-directory", with(&good, 0x400, &1_u32.to_le_bytes())),
        ("sparse-compressed-garbage", with(&good, 8, &0x3_0001_u32.to_le_bytes())),
        ("sparse-footer-missing", with(&good, 56, &[0xff; 8])),
        ("cowd-directory-too-short", with(&delta, 24, &[0; 4])),
        ("cowd-directory-outside", with(&delta, 20, &[0xff; 4])),
        ("sesparse-version-3", with(&se, 8, &3_u64.to_le_bytes())),
        ("sesparse-dirty-journal", with(&se, 512 + 24, &[1])),
        ("sesparse-entry-of-no-type", with(&se, 4096, &[0xff; 8])),
    ]
}

/// Dynamic, blocks of 512 bytes: map at 0x200, blocks from 0x400 on.
pub(crate) fn vdi() -> Vec<u8> {
    let mut file = Vec::new();
    put(&mut file, 0, b"<<< impound sample >>>\n");
    for (at, value) in [
        (0x40, 0xbeda_107f_u32),
        (0x44, 0x1_0001),
        (0x48, 0x180),
        (0x4c, 1),
        (0x154, 0x200),
        (0x158, 0x400),
        (0x168, 512),
        (0x170, 4096),
        (0x178, 512),
        (0x180, 8),
        (0x184, 2),
    ] {
        put(&mut file, at, &value.to_le_bytes());
    }
    put(&mut file, 0x200, &[0xff; 32]);
    put(&mut file, 0x200, &0_u32.to_le_bytes());
    put(&mut file, 0x204, &1_u32.to_le_bytes());
    put(&mut file, 0x400, &[7; 1024]);
    file
}

fn vdi_samples() -> Vec<Sample> {
    let good = vdi();
    let number = |at: usize, value: u32| with(&good, at, &value.to_le_bytes());
    vec![
        ("version-2", number(0x44, 2)),
        ("type-9", number(0x4c, 9)),
        ("differencing", number(0x4c, 4)),
        ("sectors-of-4096", number(0x168, 4096)),
        ("block-size-0", number(0x178, 0)),
        ("block-size-1000", number(0x178, 1000)),
        ("claims-too-much", with(&good, 0x170, &u64::MAX.to_le_bytes())),
        ("too-few-blocks", number(0x180, 7)),
        ("map-is-the-header", number(0x154, 0)),
        ("map-outside", with(&number(0x154, 0x7fff_0000), 0x158, &0x7fff_1000_u32.to_le_bytes())),
        ("blocks-in-the-map", number(0x158, 0x210)),
        ("block-of-two-entries", number(0x204, 0)),
        ("block-outside", number(0x204, 99)),
        ("cut", good[..0x700].to_vec()),
        ("cut-in-the-header", good[..0x100].to_vec()),
    ]
}

fn vhd_samples() -> Vec<Sample> {
    let good = vhd(3, 12_288, (1, 0), "", &[(0, 7), (8, 8)]);
    let number = |at: usize, value: u32| with(&good, at, &value.to_be_bytes());
    // Both footers alike, and the header, with their checksums.
    let sealed = |at: usize, bytes: &[u8]| {
        let mut file = with(&good, at, bytes);
        let last = file.len() - 512;
        if at < 512 {
            put(&mut file, last + at, bytes);
        }
        seal(&mut file[..512], 64);
        seal(&mut file[last..], 64);
        seal(&mut file[512..1536], 36);
        file
    };
    vec![
        ("checksums-of-both-footers", with(&number(64, 0), good.len() - 448, &[0; 4])),
        ("checksum-of-the-header", number(512 + 36, 0)),
        ("version-2", sealed(12, &0x2_0000_u32.to_be_bytes())),
        ("type-7", sealed(60, &7_u32.to_be_bytes())),
        ("claims-too-much", sealed(48, &u64::MAX.to_be_bytes())),
        ("fixed-and-too-short", sealed(60, &2_u32.to_be_bytes()).split_off(good.len() - 512)),
        ("too-few-entries", sealed(512 + 28, &2_u32.to_be_bytes())),
        ("block-size-0", sealed(512 + 32, &0_u32.to_be_bytes())),
        ("table-outside", sealed(512 + 16, &(1_u64 << 40).to_be_bytes())),
        ("header-outside", sealed(16, &(1_u64 << 40).to_be_bytes())),
        ("header-is-the-footer", sealed(16, &0_u64.to_be_bytes())),
        ("block-outside", number(2048, 0xffff)),
        ("block-in-the-table", number(2048, 4)),
        ("block-is-the-footer", number(2048, 0)),
        ("block-of-two-entries", with(&good, 2052, &good[2048..2052])),
        ("parent-is-etc-shadow", vhd(4, 4096, (2, 1), "/etc/shadow", &[])),
        ("parent-without-name", vhd(4, 4096, (2, 1), "", &[])),
        ("cut", good[..good.len() - 600].to_vec()[..3000].to_vec()),
    ]
}

fn samples() -> Vec<(PathBuf, Vec<u8>)> {
    let formats =
        [("qcow2", qcow2_samples()), ("vmdk", vmdk_samples()), ("vdi", vdi_samples()), ("vhd", vhd_samples())];
    let all = formats.into_iter().flat_map(|(format, samples)| {
        samples.into_iter().map(move |(name, bytes)| (root().join(format).join(name), bytes))
    });
    all.collect()
}

#[test]
#[ignore = "writes into the sources"]
fn write_the_samples() {
    for (path, bytes) in samples() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}

#[test]
fn the_samples_are_what_is_written_here_and_small() {
    for (path, bytes) in samples() {
        assert!(bytes.len() <= 20 << 10, "{} is long", path.display());
        assert!(fs::read(&path).unwrap() == bytes, "{} is another", path.display());
    }
}

#[test]
fn before_they_were_damaged_the_samples_were_sound() {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes, first) in [
        ("a.qcow2", qcow2(), 7),
        ("a.vmdk", hosted(), 7),
        ("a.vdi", vdi(), 7),
        ("a.vhd", vhd(3, 12_288, (1, 0), "", &[(0, 7)]), 7),
    ] {
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        let mut found = [0; 512];
        crate::kit::open(&path).bytes().read_at(0, &mut found).unwrap();
        assert_eq!(found, [first; 512], "{name}");
    }
}
