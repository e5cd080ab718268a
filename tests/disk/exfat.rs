//! exFAT: what exfat-fuse wrote, and sets of entries that are planted by hand, which needs no mount.
//!
//! No image here was written by Windows.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use impound::disk::fs::{Confidence, FileKind};
use impound::disk::walk::find;

use crate::ext::{files, same};
use crate::fat::{lost_at, noise};
use crate::kit::{folder, mounted_as, open, read, tool};

fn make(temp: &Path) -> PathBuf {
    let image = temp.join("disk.img");
    std::fs::File::create(&image).unwrap().set_len(16 << 20).unwrap();
    tool("mkfs.exfat", ["-L".as_ref(), "EVIDENCE".as_ref(), "-c".as_ref(), "4096".as_ref(), image.as_os_str()]);
    image
}

fn little(raw: &[u8], at: usize, len: usize) -> usize {
    raw[at..at + len].iter().rev().fold(0, |value, byte| value << 8 | usize::from(*byte))
}

/// First byte of a cluster.
fn cluster(raw: &[u8], number: usize) -> usize {
    (little(raw, 88, 4) << raw[108]) + ((number - 2) << raw[108] << raw[109])
}

/// The checksum of a set as the specification has it.
fn seal(set: &mut [u8]) {
    let bytes = set.iter().enumerate().filter(|(at, _)| !matches!(at, 2 | 3));
    let sum = bytes.fold(0_u16, |sum, (_, byte)| sum.rotate_right(1).wrapping_add(u16::from(*byte)));
    set[2..4].copy_from_slice(&sum.to_le_bytes());
}

/// A set of three entries for a file in one piece.
pub(crate) fn set(name: &str, first: u32, size: u64, valid: u64) -> [u8; 96] {
    let mut set = [0; 96];
    (set[0], set[1], set[4]) = (0x85, 2, 0x20);
    let day = (2026_u32 - 1980) * 512 + 11 * 32 + 24;
    let date = day << 16 | (20 * 2048 + 30 * 32 + 5);
    for at in [8, 12, 16] {
        set[at..at + 4].copy_from_slice(&date.to_le_bytes());
    }
    // 1.5 seconds more; two hours to the east, one to the west, unknown.
    (set[20], set[22], set[23], set[24]) = (150, 0x80 | 8, 0x80 | 0x7c, 0);
    (set[32], set[33], set[35]) = (0xc0, 3, u8::try_from(name.len()).unwrap());
    set[40..48].copy_from_slice(&valid.to_le_bytes());
    set[52..56].copy_from_slice(&first.to_le_bytes());
    set[56..64].copy_from_slice(&size.to_le_bytes());
    set[64] = 0xc1;
    for (at, unit) in (66..).step_by(2).zip(name.encode_utf16()) {
        set[at..at + 2].copy_from_slice(&unit.to_le_bytes());
    }
    seal(&mut set);
    set
}

/// Puts a set into the root directory, and its content (three clusters at most) into clusters from 100 on.
pub(crate) fn plant(raw: &mut [u8], set: &[u8], content: &[u8]) -> usize {
    let root = cluster(raw, little(raw, 96, 4));
    let at = (root..).step_by(32).find(|at| raw[*at] == 0).unwrap();
    raw[at..at + set.len()].copy_from_slice(set);
    let first = cluster(raw, 100);
    raw[first..first + content.len()].copy_from_slice(content);
    // The bitmap is the first file of the volume: clusters 100 to 102 are bits 98 to 100.
    let bitmap = cluster(raw, 2);
    raw[bitmap + 12] |= 0b1_1100;
    at
}

fn planted(temp: &Path, valid: u64) -> (PathBuf, Vec<u8>, usize) {
    let image = make(temp);
    let mut raw = std::fs::read(&image).unwrap();
    let at = plant(&mut raw, &set("planted.bin", 100, 10_000, valid), &noise(12_288, 5));
    std::fs::write(&image, &raw).unwrap();
    (image, raw, at)
}

#[test]
fn what_was_never_written_reads_as_zeros_and_times_have_their_zone() {
    let temp = folder();
    let (image, _, at) = planted(temp.path(), 5000);
    let fs = open(&image);
    assert_eq!((fs.odd(), fs.name(), fs.is_whole()), (Vec::new(), "exfat", true));
    let inode = find(fs.as_ref(), b"/planted.bin").unwrap();
    assert_eq!(inode, at as u64 / 32);
    let node = fs.node(inode).unwrap();
    assert_eq!((node.size, node.odd), (10_000, Vec::new()));
    let times = [node.times.born, node.times.modified, node.times.accessed].map(|time| time.unwrap().to_string());
    assert_eq!(times, ["2026-11-24T18:30:11.5Z", "2026-11-24T21:30:10Z", "2026-11-24T20:30:10Z"]);
    assert!(node.facts.iter().any(|(name, _)| name == "zone of the time of its last access"));
    let mut want = noise(12_288, 5);
    assert_eq!(fs.slack(inode).unwrap(), want[10_000..]);
    want.truncate(10_000);
    want[5000..].fill(0);
    let content = fs.content(inode).unwrap();
    assert!(read(content.as_ref()) == want);
    let mut middle = [1; 200];
    content.read_at(4900, &mut middle).unwrap();
    assert_eq!(middle, want[4900..5100]);
    assert!(content.read_at(9_999, &mut [0; 2]).is_err());
    let runs = fs.runs(inode).unwrap();
    assert_eq!(runs.iter().map(|run| (run.logical, run.unwritten)).collect::<Vec<_>>(), [(0, false), (10, true)]);
    assert!(fs.block_in_use(runs[0].physical).unwrap() && !fs.block_in_use(runs[0].physical + 24).unwrap());
}

#[test]
fn a_deleted_set_is_read_whole_or_not_at_all() {
    let temp = folder();
    let (image, mut raw, at) = planted(temp.path(), 10_000);
    for entry in [0, 32, 64] {
        raw[at + entry] &= 0x7f;
    }
    let bitmap = cluster(&raw, 2);
    raw[bitmap + 12] = 0;
    std::fs::write(&image, &raw).unwrap();
    let fs = open(&image);
    assert!(fs.entries(fs.root(), false).unwrap().entries.is_empty());
    let lost = fs.lost().unwrap();
    let one = lost_at(&lost, "/planted.bin");
    assert_eq!((one.confidence, one.blocks, one.reused), (Confidence::Whole, 24, 0));
    assert!(read(one.content.as_ref().unwrap().as_ref()) == noise(12_288, 5)[..10_000]);
    raw[bitmap + 12] = 0b100;
    std::fs::write(&image, &raw).unwrap();
    let lost = open(&image).lost().unwrap();
    let one = lost_at(&lost, "/planted.bin");
    assert_eq!((one.confidence, one.reused), (Confidence::Part, 8));
    raw[at + 70] ^= 1;
    std::fs::write(&image, &raw).unwrap();
    assert!(
        open(&image).lost().unwrap().iter().all(|lost| lost.node.kind != Some(FileKind::File) || lost.path.is_none())
    );
}

#[test]
fn damage_of_the_boot_region_the_bitmap_and_the_set_is_said() {
    let temp = folder();
    let (image, raw, at) = planted(temp.path(), 10_000);
    let says = |from: usize, bytes: &[u8], what: &str| {
        let mut raw = raw.clone();
        raw[from..from + bytes.len()].copy_from_slice(bytes);
        std::fs::write(&image, &raw).unwrap();
        let fs = open(&image);
        let mut odd = fs.odd();
        odd.extend(fs.entries(fs.root(), true).unwrap().odd);
        if let Ok(inode) = find(fs.as_ref(), b"/planted.bin") {
            odd.extend(fs.node(inode).unwrap().odd);
        }
        assert!(odd.iter().any(|line| line.contains(what)), "{what}: {odd:?}");
        fs
    };
    says(200, b"x", "the backup of the boot region was used");
    says(0, &[0; 512], "the backup of the boot region was used");
    says(12 * 512 + 200, b"x", "differs from its backup");
    says(106, &[2], "it was not unmounted");
    says(cluster(&raw, little(&raw, 96, 4)) + 32, &[1], "no allocation bitmap");
    says(at + 4, &[0x21], "the checksum of its entry set does not fit");
    says(at + 32, &[0xc5], "a set of file, stream and name entries");
    let fs = says(at + 1, &[0], "there should be 2 to 18");
    assert!(fs.entries(fs.root(), true).unwrap().entries.is_empty());
    let mut long = set("planted.bin", 100, 90_000_000, 90_000_000);
    seal(&mut long);
    says(at, &long, "behind the last cluster");
    let upcase = cluster(&raw, 3);
    says(upcase + 8, b"x", "up-case table");
}

#[test]
fn what_exfat_fuse_wrote_and_deleted_is_all_there() {
    let temp = folder();
    let (image, tree) = (make(temp.path()), temp.path().join("put"));
    let deep = (0..15).fold(tree.join("deep"), |path, level| path.join(format!("{level}")));
    std::fs::create_dir_all(&deep).unwrap();
    std::fs::create_dir(tree.join("many")).unwrap();
    for number in 0..200 {
        std::fs::write(tree.join(format!("many/a file with a rather long name {number}")), format!("{number}"))
            .unwrap();
    }
    for (seed, name) in (0..).zip(["big", "Grüße 😀.txt", "deep/0/x", "UPPER.TXT"]) {
        std::fs::write(tree.join(name), noise(300_000, seed)).unwrap();
    }
    std::fs::write(tree.join("empty"), "").unwrap();
    let mut times = Vec::new();
    let done = mounted_as("exfat-fuse", &image, "loop", &temp.path().join("mnt"), |root| {
        let copied = Command::new("cp").arg("-r").arg(tree.join(".")).arg(root).status().unwrap();
        assert!(copied.success());
        std::fs::create_dir(root.join("gone")).unwrap();
        for number in 0..9 {
            let name = format!("gone/a file that will be gone {number}");
            std::fs::write(root.join(name), noise(20_000 + number * 1000, 40)).unwrap();
        }
        std::fs::write(root.join("alone.txt"), "alone").unwrap();
        times.push(root.join("big").metadata().unwrap().mtime());
        std::fs::remove_dir_all(root.join("gone")).unwrap();
        std::fs::remove_file(root.join("alone.txt")).unwrap();
    });
    if !done {
        println!("not run: exfat-fuse cannot mount a loop device here");
        return;
    }
    let fs = open(&image);
    assert_eq!(fs.odd(), Vec::<String>::new());
    let all = files(fs.as_ref());
    assert_eq!(all.len(), same(fs.as_ref(), &all, &tree, &tree, &[]));
    let modified = fs.node(all[&b"/big"[..]]).unwrap().times.modified.unwrap();
    assert_eq!(modified.as_second(), times[0]);
    let lost = fs.lost().unwrap();
    for number in 0..9 {
        let one = lost_at(&lost, &format!("/gone/a file that will be gone {number}"));
        assert_eq!(one.confidence, Confidence::Whole);
        assert!(read(one.content.as_ref().unwrap().as_ref()) == noise(20_000 + number * 1000, 40), "{number}");
    }
    assert_eq!(read(lost_at(&lost, "/alone.txt").content.as_ref().unwrap().as_ref()), b"alone");
    the_sleuth_kit_lists(&image, all.keys());
}

fn the_sleuth_kit_lists<'a>(image: &Path, ours: impl Iterator<Item = &'a Vec<u8>>) {
    let ours: BTreeSet<_> = ours.map(|path| String::from_utf8(path.clone()).unwrap()).collect();
    let output = tool("fls", ["-r".as_ref(), "-p".as_ref(), "-u".as_ref(), image.as_os_str()]);
    let text = String::from_utf8(output.stdout).unwrap();
    let theirs = text.lines().filter(|line| line.starts_with("r/r") || line.starts_with("d/d"));
    let theirs = theirs.map(|line| format!("/{}", line.split_once('\t').unwrap().1));
    let own = |path: &String| path.starts_with("/$") || path.contains("Volume Label Entry");
    let theirs: BTreeSet<_> = theirs.filter(|path| !own(path)).collect();
    assert!(ours == theirs, "{:?}", ours.symmetric_difference(&theirs).collect::<Vec<_>>());
}
