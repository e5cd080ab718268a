//! FAT12, FAT16, FAT32: files that mtools wrote, deletions, and damage. The Sleuth Kit lists the same.
//!
//! mtools needs no mount. It writes local time, so it is told that the zone is UTC.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use impound::disk::fs::{Confidence, Filesystem, Lost, State};
use impound::disk::volume::signature;
use impound::disk::walk::find;

use crate::ext::{files, same};
use crate::kit::{bytes, folder, open, read, tool};

/// Widths with the size of the image and how `mkfs.fat` is told of them.
const KINDS: &[(&str, u64, &[&str])] = &[
    ("fat12", 4 << 20, &["-F", "12", "-s", "4"]),
    ("fat16", 40 << 20, &["-F", "16", "-s", "4"]),
    ("fat16", 40 << 20, &["-F", "16", "-s", "1", "-S", "4096"]),
    ("fat32", 80 << 20, &["-F", "32", "-s", "2"]),
];

pub(crate) fn make(image: &Path, size: u64, args: &[&str]) {
    std::fs::File::create(image).unwrap().set_len(size).unwrap();
    let args = args.iter().map(OsStr::new).chain(["-n", "EVIDENCE"].map(OsStr::new)).chain([image.as_os_str()]);
    tool("mkfs.fat", args);
}

/// One of mtools on an image.
pub(crate) fn mtool<I: AsRef<OsStr>>(name: &str, image: &Path, args: impl IntoIterator<Item = I>) {
    let mut command = Command::new(name);
    command.arg("-i").arg(image).args(args).env("MTOOLS_SKIP_CHECK", "1").env("LC_ALL", "C.UTF-8").env("TZ", "UTC");
    let output = command.output().unwrap_or_else(|error| panic!("{name}: {error}; scripts/install test installs it"));
    assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
}

pub(crate) fn noise(len: usize, seed: u32) -> Vec<u8> {
    (0..u32::try_from(len).unwrap()).map(|n| (n ^ seed).wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect()
}

/// Names of every length around the parts of a long name, and of every case of a short one.
fn tree(at: &Path) -> PathBuf {
    let root = at.join("put");
    let deep = (0..20).fold(root.join("deep"), |path, level| path.join(format!("level {level}")));
    std::fs::create_dir_all(&deep).unwrap();
    std::fs::create_dir(root.join("many")).unwrap();
    std::fs::write(deep.join("bottom"), "here").unwrap();
    std::fs::write(root.join("big"), noise(300_000, 1)).unwrap();
    std::fs::write(root.join("one.dat"), noise(2048, 2)).unwrap();
    std::fs::write(root.join("empty"), "").unwrap();
    for name in ["UPPER1.TXT", "lower2.txt", "UPPER3.txt", "lower4.TXT", "Mixed.Txt", "a.b.c", "Grüße.txt", "no dot"]
    {
        std::fs::write(root.join(name), name).unwrap();
    }
    for len in [12, 13, 14, 25, 26, 27, 255] {
        std::fs::write(root.join("n".repeat(len)), format!("{len}")).unwrap();
    }
    for number in 0..300 {
        std::fs::write(root.join("many").join(format!("a file with a long name {number}")), "").unwrap();
    }
    root
}

fn filled(temp: &Path, kind: &(&str, u64, &[&str])) -> (PathBuf, PathBuf) {
    let put = temp.join("put");
    let tree = if put.exists() { put } else { tree(temp) };
    let image = temp.join(format!("{}.img", kind.2.join("")));
    make(&image, kind.1, kind.2);
    let mut names: Vec<_> = std::fs::read_dir(&tree).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.sort();
    let args = ["-s", "-m", "-Q"].iter().map(OsStr::new).chain(names.iter().map(|path| path.as_os_str()));
    mtool("mcopy", &image, args.chain([OsStr::new("::/")]));
    (image, tree)
}

/// FAT keeps the day of an access and no time: that is what is told, and only formats that know nothing else say midnight.
#[test]
fn the_day_of_an_access_is_told_as_a_day() {
    let temp = folder();
    let (image, _) = filled(temp.path(), &KINDS[3]);
    let fs = open(&image);
    let entry = usize::try_from(find(fs.as_ref(), b"/one.dat").unwrap() * 32).unwrap();
    let mut raw = std::fs::read(&image).unwrap();
    let day = (2021_u16 - 1980) << 9 | 3 << 5 | 4;
    raw[entry + 18..entry + 20].copy_from_slice(&day.to_le_bytes());
    // The same moment for the last change: two events, because one of them is only about then.
    raw[entry + 22..entry + 24].fill(0);
    raw[entry + 24..entry + 26].copy_from_slice(&day.to_le_bytes());
    std::fs::write(&image, raw).unwrap();
    let ask = |args: &[&str]| {
        let all =
            ["--format", "jsonl", "disk"].into_iter().chain([image.to_str().unwrap()]).chain(args.iter().copied());
        let (text, code) = crate::kit::impound(all);
        assert_eq!(code, 0, "{text}");
        text
    };
    let rows = |text: &str| -> Vec<serde_json::Value> {
        let rows = text.lines().map(|line| serde_json::from_str(line).unwrap());
        rows.filter(|row: &serde_json::Value| row["path"] == "/one.dat" || row["file_path"] == "/one.dat").collect()
    };
    let listed = &rows(&ask(&["ls"]))[0];
    assert_eq!((&listed["accessed"], &listed["modified"]), (&"2021-03-04".into(), &"2021-03-04T00:00:00Z".into()));
    let events = rows(&ask(&["timeline"]));
    let at = |time: &str| events.iter().find(|row| row["time"] == time).map(|row| row["macb"].as_str().unwrap());
    assert_eq!((at("2021-03-04"), at("2021-03-04T00:00:00Z")), (Some(".a..."), Some("m....")), "{events:?}");
    let events = rows(&ask(&["timeline", "--timesketch"]));
    let day = events.iter().find(|row| row["timestamp_desc"].as_str().unwrap().starts_with("Last Access")).unwrap();
    assert_eq!(day["datetime"], "2021-03-04T00:00:00Z");
    assert!(day["timestamp_desc"].as_str().unwrap().contains("the day only"), "{day}");
    let body = ask(&["timeline", "--bodyfile"]);
    let line = body.lines().find(|line| line.contains("/one.dat|")).unwrap();
    assert!(line.contains("|2048|1614816000|1614816000|"), "{line}");
    assert!(ask(&["timeline", "--mactime"]).contains("ma.."), "one line of mactime, as fls would have it");
}

#[test]
fn every_file_is_what_was_put_in() {
    let temp = folder();
    for kind in KINDS {
        let (image, tree) = filled(temp.path(), kind);
        let fs = open(&image);
        assert_eq!((fs.odd(), fs.name(), fs.is_whole()), (Vec::new(), kind.0, true), "{kind:?}");
        let all = files(fs.as_ref());
        assert_eq!(all.len(), same(fs.as_ref(), &all, &tree, &tree, &[]), "{kind:?}");
        let node = fs.node(all[&b"/one.dat"[..]]).unwrap();
        let there = tree.join("one.dat").metadata().unwrap().modified().unwrap();
        let there = there.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        // Two seconds are one step of the clock.
        let told = node.times.modified.unwrap().as_second().unsigned_abs();
        assert!(told == there & !1 || told == (there + 1) & !1, "{told} {there}");
        let facts = fs.facts();
        let fact = |name: &str| facts.iter().find(|(one, _)| one == name).map(|(_, value)| value.as_str());
        assert_eq!(fact("label (root directory)"), Some("EVIDENCE"));
        assert_eq!((fact("cross-linked files"), fact("clusters in use without an owner")), (Some("0"), Some("0")));
    }
}

#[test]
fn the_sleuth_kit_lists_the_same() {
    let temp = folder();
    for kind in KINDS {
        // Sectors of 4096 bytes are beyond it.
        if kind.2.contains(&"4096") {
            continue;
        }
        let (image, _) = filled(temp.path(), kind);
        mtool("mdel", &image, ["::/Mixed.Txt", "::/big"]);
        let fs = open(&image);
        let ours: BTreeSet<_> = files(fs.as_ref()).into_keys().map(|path| String::from_utf8(path).unwrap()).collect();
        let output = tool("fls", ["-r".as_ref(), "-p".as_ref(), "-u".as_ref(), image.as_os_str()]);
        let text = String::from_utf8(output.stdout).unwrap();
        let theirs = text.lines().filter(|line| line.starts_with("r/r") || line.starts_with("d/d"));
        let theirs: BTreeSet<_> = theirs.map(|line| format!("/{}", line.split_once('\t').unwrap().1)).collect();
        let theirs = theirs.into_iter().filter(|path| !path.contains("Volume Label Entry"));
        // It cuts the longest name short.
        let theirs: BTreeSet<_> = theirs.map(|path| path.chars().take(200).collect::<String>()).collect();
        let ours: BTreeSet<_> = ours.into_iter().map(|path| path.chars().take(200).collect::<String>()).collect();
        assert!(ours == theirs, "{kind:?}: {:?}", ours.symmetric_difference(&theirs).collect::<Vec<_>>());
        assert!(ours.len() > 330 && !ours.contains("/big"));
    }
}

pub(crate) fn lost_at<'a>(lost: &'a [Lost], path: &str) -> &'a Lost {
    lost.iter().find(|lost| lost.path.as_deref() == Some(path.as_bytes())).unwrap_or_else(|| {
        panic!("{path} is not among {:?}", lost.iter().map(|l| (l.path.clone(), l.confidence)).collect::<Vec<_>>())
    })
}

fn content_of(lost: &Lost) -> Vec<u8> {
    read(lost.content.as_ref().unwrap().as_ref())
}

/// Puts content into the image under a name.
fn put(image: &Path, name: &str, content: &[u8]) {
    let from = image.with_extension("from");
    std::fs::write(&from, content).unwrap();
    mtool("mcopy", image, [OsStr::new("-Q"), OsStr::new("-o"), from.as_os_str(), OsStr::new(&format!("::{name}"))]);
}

#[test]
fn all_planted_deletions_come_back() {
    let temp = folder();
    for kind in KINDS {
        let (image, _) = filled(temp.path(), kind);
        let planted = ["/Long name of a report.docx", "/SHORT.BIN", "/gone dir/inner file.jpg", "/gone dir/more/X.PDF"];
        mtool("mmd", &image, ["::/gone dir"]);
        mtool("mmd", &image, ["::/gone dir/more"]);
        for (seed, name) in (10..).zip(planted) {
            put(&image, name, &noise(50_000, seed));
        }
        // Every second file goes, and what is written then lies in the holes.
        for number in 0..8 {
            put(&image, &format!("/h{number}"), &noise(4096, 1));
        }
        for number in (0..8).step_by(2) {
            mtool("mdel", &image, [format!("::/h{number}")]);
        }
        mtool("mdel", &image, ["::/Long name of a report.docx", "::/SHORT.BIN"]);
        mtool("mdeltree", &image, ["::/gone dir"]);
        let fs = open(&image);
        let lost = fs.lost().unwrap();
        let found = ["/Long name of a report.docx", "/_HORT.BIN", "/gone dir/inner file.jpg", "/gone dir/_ore/_.PDF"];
        for (seed, name) in (10..).zip(found) {
            let one = lost_at(&lost, name);
            assert_eq!(
                (one.state, one.confidence, one.reused),
                (State::Deleted, Confidence::Whole, 0),
                "{kind:?} {name}"
            );
            assert!(content_of(one) == noise(50_000, seed), "{kind:?} {name}");
            assert!(!fs.node(one.node.inode).unwrap().allocated, "{kind:?} {name}");
        }
        assert_eq!(lost.iter().filter(|lost| lost.confidence != Confidence::Whole).count(), 0, "{kind:?}");
    }
}

#[test]
fn a_file_in_pieces_comes_back_and_is_not_called_whole() {
    let temp = folder();
    let image = temp.path().join("disk.img");
    make(&image, 1 << 20, &["-F", "12", "-s", "1"]);
    for number in 0..6 {
        put(&image, &format!("/h{number}"), &noise(512, number));
    }
    // The rest of the volume is taken, so that the next file goes into the holes.
    let fs = open(&image);
    let left = (0..fs.blocks()).filter(|block| !fs.block_in_use(*block).unwrap()).count();
    put(&image, "/rest", &noise(left * 512, 8));
    for number in [1, 3, 5] {
        mtool("mdel", &image, [format!("::/h{number}")]);
    }
    put(&image, "/in pieces", &noise(1500, 77));
    let fs = open(&image);
    assert_eq!(fs.runs(find(fs.as_ref(), b"/in pieces").unwrap()).unwrap().len(), 3);
    mtool("mdel", &image, ["::/in pieces"]);
    let lost = open(&image).lost().unwrap();
    let one = lost_at(&lost, "/in pieces");
    assert_eq!(one.confidence, Confidence::Part);
    assert!(content_of(one) == noise(1500, 77));
    // And what was written over is said to be.
    put(&image, "/new", &noise(512, 3));
    let lost = open(&image).lost().unwrap();
    assert!(lost.iter().any(|lost| lost.reused > 0 && lost.confidence != Confidence::Whole));
    assert!(lost.iter().all(|lost| lost.node.size == 0 || lost.path.as_deref() != Some(b"/new")));
}

/// Where bytes stand in an image; they must stand there once.
pub(crate) fn place(raw: &[u8], what: &[u8]) -> usize {
    let places: Vec<_> = (0..raw.len() - what.len()).step_by(2).filter(|at| raw[*at..].starts_with(what)).collect();
    assert_eq!(places.len(), 1, "{}", what.escape_ascii());
    places[0]
}

#[test]
fn names_without_files_and_directories_without_names_are_found() {
    let temp = folder();
    let image = temp.path().join("disk.img");
    make(&image, 40 << 20, &["-F", "32", "-s", "1"]);
    // What comes behind has first clusters of more than 16 bits.
    put(&image, "/fill", &vec![7; 34 << 20]);
    mtool("mmd", &image, ["::/STRAY"]);
    mtool("mmd", &image, ["::/RAISED"]);
    put(&image, "/STRAY/CHILD", &noise(700, 1));
    put(&image, "/RAISED/CHILD", &noise(700, 2));
    put(&image, "/a name that stays behind", b"");
    mtool("mdeltree", &image, ["::/STRAY", "::/RAISED"]);
    mtool("mdel", &image, ["::/a name that stays behind"]);
    let mut raw = std::fs::read(&image).unwrap();
    let stray = place(&raw, b"\xe5TRAY      ");
    raw[stray + 1..stray + 32].fill(0xff);
    let raised = place(&raw, b"\xe5AISED     ");
    assert_eq!(raw[raised + 20], 1);
    raw[raised + 20] = 0;
    let remains = place(&raw, b"\xe5NAMET~1   ");
    raw[remains + 1..remains + 32].fill(0xff);
    std::fs::write(&image, raw).unwrap();
    let fs = open(&image);
    let lost = fs.lost().unwrap();
    assert!(content_of(lost_at(&lost, "/_AISED/_HILD")) == noise(700, 2));
    let one = lost.iter().find(|lost| lost.path.as_ref().is_some_and(|path| path.starts_with(b"/#"))).unwrap();
    let path = format!("{}/_HILD", String::from_utf8(one.path.clone().unwrap()).unwrap());
    assert!(content_of(lost_at(&lost, &path)) == noise(700, 1));
    let remains = lost_at(&lost, "/a name that stays behind");
    assert_eq!((remains.confidence, remains.source.as_str()), (Confidence::NoMap, "long name without its file"));
    let entries = fs.entries(fs.root(), true).unwrap().entries;
    assert!(entries.iter().any(|entry| entry.name == b"a name that stays behind" && entry.inode == 0));
}

/// First byte of the entry of a cluster in the table of 16 bits, and of a short name in an image.
fn link(cluster: u16) -> usize {
    // mkfs.fat reserves four sectors.
    4 * 512 + usize::from(cluster) * 2
}

#[test]
fn what_is_wrong_in_the_table_is_said() {
    let temp = folder();
    let image = temp.path().join("disk.img");
    make(&image, 40 << 20, &["-F", "16", "-s", "4"]);
    for (seed, name) in (0..).zip(["/ONE", "/TWO", "/THREE"]) {
        put(&image, name, &noise(9000, seed));
    }
    let good = std::fs::read(&image).unwrap();
    let first = |name: &[u8]| {
        let at = place(&good, name) + 26;
        u16::from_le_bytes([good[at], good[at + 1]])
    };
    let (one, two) = (first(b"ONE        "), first(b"TWO        "));
    let damaged = |at: usize, value: u16| {
        let mut raw = good.clone();
        raw[at..at + 2].copy_from_slice(&value.to_le_bytes());
        std::fs::write(&image, raw).unwrap();
        open(&image)
    };
    let says =
        |lines: Vec<String>, what: &str| assert!(lines.iter().any(|line| line.contains(what)), "{what}: {lines:?}");
    let node = |fs: &dyn Filesystem, name: &[u8]| fs.node(find(fs, name).unwrap()).unwrap().odd;
    let fs = damaged(link(one), one);
    says(node(fs.as_ref(), b"/ONE"), "comes back to cluster");
    says(fs.odd(), "copy 2 of the table differs in 1 bytes");
    let fs = damaged(link(one), two + 1);
    says(fs.odd(), "cross-linked");
    says(node(fs.as_ref(), b"/TWO"), "cross-linked");
    let fs = damaged(link(one), 0x7fff);
    says(fs.odd(), "behind the last cluster");
    let content = fs.content(find(fs.as_ref(), b"/ONE").unwrap()).unwrap();
    assert!(content.read_at(0, &mut [0; 2048]).is_ok() && content.read_at(0, &mut [0; 9000]).is_err());
    let fs = damaged(link(1), 0x7fff);
    says(fs.odd(), "it was not unmounted");
    // An entry that is gone while its chain is not: the chain is found by itself.
    let fs = damaged(place(&good, b"ONE        "), 0x4ee5);
    let lost = fs.lost().unwrap();
    let orphan = lost.iter().find(|lost| lost.state == State::Orphan).unwrap();
    assert!(content_of(orphan)[..9000] == noise(9000, 0));
    assert_eq!(lost_at(&lost, "/_NE").confidence, Confidence::Reused);
}

#[test]
fn a_volume_is_known_by_its_structure_and_by_the_backup_of_its_boot_sector() {
    let temp = folder();
    for (name, size, args) in KINDS {
        let image = temp.path().join("disk.img");
        make(&image, *size, args);
        let mut raw = std::fs::read(&image).unwrap();
        let text = if *name == "fat32" { 82 } else { 54 };
        raw[text..text + 8].fill(b' ');
        std::fs::write(&image, &raw).unwrap();
        assert_eq!(signature::of(bytes(&image).as_ref()), Some("fat"));
        assert_eq!(open(&image).name(), *name);
        // The first entry of the table is part of the structure.
        let reserved = usize::from(raw[14]) * (usize::from(raw[11]) | usize::from(raw[12]) << 8);
        raw[reserved] = 0;
        raw[6 * 512 + text] = 0;
        std::fs::write(&image, &raw).unwrap();
        assert_eq!(signature::of(bytes(&image).as_ref()), None);
    }
    let image = temp.path().join("disk.img");
    let mut raw = std::fs::read(&image).unwrap();
    raw[6 * 512 + 82] = b'F';
    raw[..512].fill(0);
    std::fs::write(&image, &raw).unwrap();
    let fs = open(&image);
    assert!(fs.name() == "fat32" && fs.odd().iter().any(|line| line.contains("backup of the boot sector was used")));
}
