//! ISO 9660: trees as genisoimage and xorriso write them, sessions, boot catalogs, and damage.

use std::collections::BTreeSet;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use impound::disk::fs::{Confidence, Filesystem, State};
use impound::disk::walk::find;

use crate::ext::{files, same};
use crate::fat::{lost_at, noise, place};
use crate::kit::{folder, open, read, tool};

/// Long names, links, a directory so deep that Rock Ridge moves it, and one of more than a sector.
fn tree(at: &Path) -> PathBuf {
    let root = at.join("put");
    let deep = (0..14).fold(root.join("deep"), |path, level| path.join(format!("level {level}")));
    std::fs::create_dir_all(&deep).unwrap();
    std::fs::create_dir(root.join("many")).unwrap();
    std::fs::write(deep.join("bottom"), "here").unwrap();
    std::fs::write(root.join("big"), noise(300_000, 1)).unwrap();
    std::fs::write(root.join("empty"), "").unwrap();
    std::fs::write(root.join("A name with spaces, Grüße.txt"), "text").unwrap();
    std::fs::write(root.join("n".repeat(240)), "long").unwrap();
    std::os::unix::fs::symlink("../big", root.join("deep/link")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", root.join("absolute")).unwrap();
    std::os::unix::fs::symlink(format!("{}end", "a-long-component/".repeat(12)), root.join("long link")).unwrap();
    for number in 0..200 {
        std::fs::write(root.join(format!("many/file {number}")), format!("{number}")).unwrap();
    }
    std::fs::write(root.join("boot.img"), [1; 2048]).unwrap();
    std::fs::set_permissions(root.join("big"), std::fs::Permissions::from_mode(0o640)).unwrap();
    root
}

/// Runs `genisoimage` or `xorriso -as mkisofs`.
fn make(image: &Path, program: &str, args: &[&str], tree: &Path) {
    let mut all = if program == "xorriso" { vec!["-as", "mkisofs"] } else { Vec::new() };
    all.extend(["-quiet", "-V", "EVIDENCE"].iter().chain(args));
    let (image, tree) = (image.to_string_lossy(), tree.to_string_lossy());
    all.extend(["-o", &image, &tree]);
    tool(program, all);
}

#[test]
fn rock_ridge_tells_all_of_every_file() {
    let temp = folder();
    let tree = tree(temp.path());
    let image = temp.path().join("disk.iso");
    for (program, args) in [
        ("genisoimage", &["-R", "-b", "boot.img", "-no-emul-boot", "-c", "boot.cat"][..]),
        ("genisoimage", &["-R", "-J"]),
        ("xorriso", &["-R", "-J", "-joliet-long"]),
    ] {
        make(&image, program, args, &tree);
        let fs = open(&image);
        assert_eq!((fs.odd(), fs.name()), (Vec::new(), "iso9660"), "{program} {args:?}");
        let all = files(fs.as_ref());
        let count = same(fs.as_ref(), &all, &tree, &tree, &[]);
        // genisoimage keeps the folder of moved directories, and the catalog becomes a file.
        let more: BTreeSet<_> =
            all.keys().filter(|path| [&b"/rr_moved"[..], b"/boot.cat"].contains(&&path[..])).collect();
        assert_eq!(all.len(), count + more.len(), "{program} {args:?}");
        let big = tree.join("big").metadata().unwrap();
        let node = fs.node(all[&b"/big"[..]]).unwrap();
        assert_eq!((node.mode & 0o7777, u64::from(node.links)), (if args.contains(&"-R") { 0o640 } else { 0 }, 1));
        assert_eq!((node.uid, node.gid), (big.uid(), big.gid()));
        assert_eq!(node.times.modified.unwrap().as_second(), big.mtime(), "{program}");
        let booted =
            fs.facts().iter().any(|(name, value)| name == "boot entry 1" && value.contains("x86, boots, no emul"));
        assert_eq!(booted, args.contains(&"-b"), "{:?}", fs.facts());
    }
}

#[test]
fn isoinfo_lists_the_same() {
    let temp = folder();
    let tree = tree(temp.path());
    let image = temp.path().join("disk.iso");
    make(&image, "genisoimage", &["-J"], &tree);
    let fs = open(&image);
    assert!(fs.facts().contains(&("tree that is shown".into(), "Joliet".into())));
    let ours: BTreeSet<_> = files(fs.as_ref()).into_keys().map(|path| String::from_utf8(path).unwrap()).collect();
    let output = tool("isoinfo", ["-J".as_ref(), "-f".as_ref(), "-i".as_ref(), image.as_os_str()]);
    // It prints Latin 1.
    let text: String = output.stdout.into_iter().map(char::from).collect();
    let theirs: BTreeSet<_> = text.lines().map(str::to_owned).collect();
    assert!(ours == theirs, "{:?}", ours.symmetric_difference(&theirs).collect::<Vec<_>>());
    make(&image, "genisoimage", &["-iso-level", "1", "-D"], &tree);
    let fs = open(&image);
    let ours: BTreeSet<_> = files(fs.as_ref()).into_keys().map(|path| String::from_utf8(path).unwrap()).collect();
    let output = tool("isoinfo", ["-f".as_ref(), "-i".as_ref(), image.as_os_str()]);
    let plain = |line: &str| line.trim_end_matches(";1").trim_end_matches('.').to_owned();
    let theirs: BTreeSet<_> = String::from_utf8(output.stdout).unwrap().lines().map(plain).collect();
    assert!(ours == theirs, "{:?}", ours.symmetric_difference(&theirs).collect::<Vec<_>>());
    assert!(read(fs.content(find(fs.as_ref(), b"/BIG").unwrap()).unwrap().as_ref()) == noise(300_000, 1));
}

#[test]
fn what_a_later_session_took_out_is_still_there() {
    let temp = folder();
    let (image, first) = (temp.path().join("disk.iso"), temp.path().join("first"));
    std::fs::create_dir(&first).unwrap();
    std::fs::write(first.join("evil.bin"), noise(50_000, 3)).unwrap();
    std::fs::write(first.join("kept"), "kept").unwrap();
    std::fs::write(first.join("changed"), "before").unwrap();
    let device = format!("stdio:{}", image.display());
    let first_path = first.to_string_lossy().into_owned();
    tool("xorriso", ["-outdev", &device, "-map", &first_path, "/", "-commit"]);
    let newer = temp.path().join("newer");
    std::fs::write(&newer, "after, and longer").unwrap();
    let newer = newer.to_string_lossy().into_owned();
    tool("xorriso", ["-dev", &device, "-rm", "/evil.bin", "--", "-update", &newer, "/changed", "-commit"]);
    let fs = open(&image);
    let all = files(fs.as_ref());
    assert_eq!(all.keys().collect::<Vec<_>>(), [&b"/changed"[..], b"/kept"]);
    let lost = fs.lost().unwrap();
    assert_eq!(lost.len(), 2, "{:?}", lost.iter().map(|lost| &lost.path).collect::<Vec<_>>());
    let evil = lost_at(&lost, "/evil.bin");
    assert_eq!((evil.state, evil.confidence), (State::Deleted, Confidence::Whole));
    assert!(read(evil.content.as_ref().unwrap().as_ref()) == noise(50_000, 3));
    assert_eq!(read(lost_at(&lost, "/changed").content.as_ref().unwrap().as_ref()), b"before");
    assert_eq!(read(fs.content(all[&b"/changed"[..]]).unwrap().as_ref()), b"after, and longer");
}

/// A plain image with two files of one sector and a directory, as bytes.
fn plain(temp: &Path) -> (PathBuf, Vec<u8>) {
    let (image, root) = (temp.join("disk.iso"), temp.join("small"));
    std::fs::create_dir_all(root.join("DIR")).unwrap();
    std::fs::write(root.join("AA"), [1; 2048]).unwrap();
    std::fs::write(root.join("AB"), [2; 1000]).unwrap();
    std::fs::write(root.join("DIR/IN"), "in").unwrap();
    make(&image, "genisoimage", &["-iso-level", "1"], &root);
    let raw = std::fs::read(&image).unwrap();
    (image, raw)
}

#[test]
fn sections_become_one_file() {
    let temp = folder();
    let (image, mut raw) = plain(temp.path());
    let (first, second) = (place(&raw, b"\x05AA.;1") - 32, place(&raw, b"\x05AB.;1") - 32);
    raw[first + 25] |= 0x80;
    raw[second + 34] = b'A';
    std::fs::write(&image, &raw).unwrap();
    let fs = open(&image);
    let inode = find(fs.as_ref(), b"/AA").unwrap();
    assert_eq!((inode, fs.node(inode).unwrap().odd), (first as u64, Vec::new()));
    assert!(read(fs.content(inode).unwrap().as_ref()) == [[1; 2048].to_vec(), vec![2; 1000]].concat());
    assert_eq!(fs.entries(fs.root(), false).unwrap().entries.len(), 2);
    assert_eq!(fs.slack(inode).unwrap().len(), 2048 - 1000);
    let runs = fs.runs(inode).unwrap();
    assert!(
        runs.iter().all(|run| fs.block_in_use(run.physical).unwrap())
            && !fs.block_in_use(runs[1].physical + 200).unwrap()
    );
}

#[test]
fn what_is_wrong_is_said_and_a_loop_ends() {
    let temp = folder();
    let (image, raw) = plain(temp.path());
    let with = |at: usize, bytes: &[u8]| {
        let mut raw = raw.clone();
        raw[at..at + bytes.len()].copy_from_slice(bytes);
        std::fs::write(&image, raw).unwrap();
        open(&image)
    };
    let says =
        |lines: Vec<String>, what: &str| assert!(lines.iter().any(|line| line.contains(what)), "{what}: {lines:?}");
    let node = |fs: &dyn Filesystem, path: &[u8]| fs.node(find(fs, path).unwrap()).unwrap().odd;
    let file = place(&raw, b"\x05AA.;1") - 32;
    says(node(with(file + 9, &[raw[file + 9] ^ 1]).as_ref(), b"/AA"), "in one byte order and");
    says(with(16 * 2048 + 87, &[raw[16 * 2048 + 87] ^ 1]).odd(), "the number of blocks is");
    says(node(with(file + 2, &[0xff, 0xff, 0, 0, 0, 0, 0xff, 0xff]).as_ref(), b"/AA"), "behind the end of the volume");
    let fs = with(file, &[33]);
    says(fs.entries(fs.root(), false).unwrap().odd, "does not fit");
    // The directory is the root itself.
    let directory = place(&raw, b"\x03DIR") - 32;
    let root = raw[16 * 2048 + 156 + 2..][..16].to_vec();
    let fs = with(directory + 2, &root);
    let inode = find(fs.as_ref(), b"/DIR").unwrap();
    let listing = fs.entries(inode, false).unwrap();
    says(listing.odd, "and is listed there");
    assert!(listing.entries.is_empty() && fs.lost().unwrap().is_empty());
    assert!(fs.node(17 * 2048 + 2000).is_err());
}
