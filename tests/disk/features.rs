//! What ext can have and few file systems do: copies of damaged structures, features, journals of every kind.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use impound::disk::fs::{self, Filesystem, Options, State};
use impound::disk::walk::{How, find, walk};
use impound::image::ReadError;
use tempfile::TempDir;

use crate::kit::{bytes, debugfs, folder, make, open, read, tool};

/// A small tree, so that an image is soon made.
fn small(args: &[&str], size: &str) -> (TempDir, PathBuf) {
    let temp = folder();
    let tree = temp.path().join("tree");
    std::fs::create_dir_all(tree.join("many")).unwrap();
    std::fs::write(tree.join("small"), "hello\n").unwrap();
    std::fs::write(tree.join("big"), vec![7; 300_000]).unwrap();
    for number in 0..400 {
        std::fs::write(tree.join(format!("many/a file with a long name {number}")), "").unwrap();
    }
    let image = temp.path().join("disk.img");
    make(&image, args, &tree, size);
    (temp, image)
}

fn change(image: &Path, work: impl FnOnce(&mut Vec<u8>)) {
    let mut raw = std::fs::read(image).unwrap();
    work(&mut raw);
    std::fs::write(image, raw).unwrap();
}

fn content(fs: &dyn Filesystem, path: &str) -> Vec<u8> {
    read(fs.content(find(fs, path.as_bytes()).unwrap()).unwrap().as_ref())
}

fn names(fs: &dyn Filesystem) -> Vec<Vec<u8>> {
    let (mut all, how) = (Vec::new(), How { recursive: true, deleted: false });
    let mut odd = |line: String| panic!("{line}");
    walk::<ReadError>(fs, (fs.root(), b"/"), how, &mut odd, &mut |found| {
        assert!(found.node?.allocated && found.readable);
        all.push(found.path);
        Ok(())
    })
    .unwrap();
    all
}

#[test]
fn the_copies_of_superblock_and_descriptors_are_used_and_said() {
    for args in [
        &["-t", "ext2", "-b", "1024"][..],
        &["-t", "ext4", "-b", "1024"],
        &["-t", "ext4", "-b", "2048"],
        &["-t", "ext4", "-b", "1024", "-O", "^metadata_csum,uninit_bg"],
        &["-t", "ext4", "-b", "1024", "-O", "^resize_inode,meta_bg"],
    ] {
        let (_temp, image) = small(args, "48M");
        let good = std::fs::read(&image).unwrap();
        let sound = open(&image);
        assert_eq!(sound.odd(), Vec::<String>::new(), "{args:?}");
        let want = names(sound.as_ref());
        let size = usize::try_from(sound.block_size()).unwrap();
        let descriptors = if size == 1024 { 2048 } else { size };
        let said = |what: &str| {
            let fs = open(&image);
            assert!(fs.odd().iter().any(|line| line.contains(what)), "{args:?}: {:?}", fs.odd());
            assert!(names(fs.as_ref()) == want, "{args:?}");
            assert_eq!(content(fs.as_ref(), "/big"), vec![7; 300_000], "{args:?}");
        };
        // The magic, a size that makes no sense, all of it.
        for damage in [1080..1082, 1024 + 24..1024 + 28, 1024..2048] {
            change(&image, |raw| raw[damage].fill(0xee));
            said("the copy in group 1 is used");
            std::fs::write(&image, &good).unwrap();
        }
        // Where the bitmaps and tables of the first groups are.
        change(&image, |raw| raw[descriptors..descriptors + 12].fill(0xff));
        said("for 1 of them a copy is used");
        change(&image, |raw| raw[descriptors..descriptors + 256].fill(0));
        said("group descriptors are damaged, the first is 0");
    }
}

#[test]
fn a_checksum_of_a_descriptor_is_checked_in_both_forms() {
    for feature in ["metadata_csum", "^metadata_csum,uninit_bg"] {
        let (_temp, image) = small(&["-t", "ext4", "-b", "1024", "-O", feature], "24M");
        assert_eq!(open(&image).odd(), Vec::<String>::new(), "{feature}");
        // The number of free blocks of the second group: nothing else would notice.
        let at = if feature.starts_with('^') { 2048 + 32 + 12 } else { 2048 + 64 + 12 };
        change(&image, |raw| raw[at] ^= 1);
        let odd = open(&image).odd();
        assert!(odd.iter().any(|line| line.contains("1 group descriptors are damaged")), "{feature}: {odd:?}");
    }
}

#[test]
fn a_journal_elsewhere_is_named_and_a_device_that_is_one_is_refused_by_name() {
    let (temp, image) = small(&["-t", "ext4", "-b", "1024"], "24M");
    debugfs(&image, "ssv journal_inum 0");
    debugfs(&image, "ssv journal_uuid 12345678-1234-1234-1234-123456789abc");
    let fs = open(&image);
    let fact = fs.facts().into_iter().find(|(name, _)| name == "journal").unwrap().1;
    assert!(fact.contains("12345678-1234-1234-1234-123456789abc"), "{fact}");
    assert!(fs.is_whole(), "it was unmounted");
    debugfs(&image, "feature needs_recovery");
    let fs = open(&image);
    assert!(!fs.is_whole() && fs.odd().iter().any(|line| line.contains("on another device")), "{:?}", fs.odd());
    let device = temp.path().join("journal");
    tool(
        "mke2fs",
        ["-q".as_ref(), "-F".as_ref(), "-O".as_ref(), "journal_dev".as_ref(), device.as_os_str(), OsStr::new("8M")],
    );
    let refused = fs::open(&bytes(&device), Options::default()).err().unwrap().to_string();
    assert!(refused.contains("journal") && refused.contains("of another file system"), "{refused}");
}

/// Writes into the journal as `debugfs` does.
fn journal(image: &Path, open: &str, requests: &[String]) {
    let script = image.with_extension("script");
    std::fs::write(&script, format!("{open}\n{}\njc\n", requests.join("\n"))).unwrap();
    tool("debugfs", ["-w".as_ref(), "-f".as_ref(), script.as_os_str(), image.as_os_str()]);
}

#[test]
fn replay_heeds_revoke_records_and_the_checksums_of_every_version() {
    for version in ["", " -c -v 2", " -c -v 3"] {
        let (temp, image) = small(&["-t", "ext4", "-b", "1024"], "24M");
        let good = std::fs::read(&image).unwrap();
        let fs = open(&image);
        let block = fs.runs(find(fs.as_ref(), b"/small").unwrap()).unwrap()[0].physical;
        let new = temp.path().join("new");
        std::fs::write(&new, [b"HELLO\n".to_vec(), vec![0; 1018]].concat()).unwrap();
        let put = format!("jw -b {block} {}", new.display());
        let replayed = |requests: &[String]| {
            std::fs::write(&image, &good).unwrap();
            journal(&image, &format!("jo{version}"), requests);
            content(open(&image).as_ref(), "/small")
        };
        assert_eq!(replayed(std::slice::from_ref(&put)), b"HELLO\n", "{version}");
        let places: Vec<_> = {
            let raw = std::fs::read(&image).unwrap();
            (0..raw.len() - 6).step_by(1024).filter(|at| raw[*at..*at + 6] == *b"HELLO\n").collect()
        };
        assert_eq!(places.len(), 1, "one copy, in the journal");
        change(&image, |raw| raw[places[0] + 500] ^= 1);
        let fs = open(&image);
        if version.is_empty() {
            assert_eq!(content(fs.as_ref(), "/small"), b"HELLO\n", "nothing tells that it is damaged");
        } else {
            assert_eq!(content(fs.as_ref(), "/small"), b"hello\n", "{version}");
            assert!(fs.odd().iter().any(|line| line.contains("damaged and was left out")), "{:?}", fs.odd());
        }
        assert_eq!(replayed(&[put.clone(), format!("jw -r {block}")]), b"hello\n", "revoked, {version}");
        assert_eq!(replayed(&[format!("jw -r {block}"), put.clone()]), b"HELLO\n", "written again, {version}");
    }
}

#[test]
fn fast_commits_that_wait_make_the_answer_partial() {
    let (temp, image) = small(&["-t", "ext4", "-b", "1024", "-O", "fast_commit"], "48M");
    let fs = open(&image);
    let block = fs.runs(find(fs.as_ref(), b"/small").unwrap()).unwrap()[0].physical;
    let log = fs.runs(8).unwrap();
    let place = |at: u64| {
        let run = log.iter().find(|run| (run.logical..run.logical + run.len).contains(&at)).unwrap();
        usize::try_from((run.physical + at - run.logical) * 1024).unwrap()
    };
    let new = temp.path().join("new");
    std::fs::write(&new, [b"HELLO\n".to_vec(), vec![0; 1018]].concat()).unwrap();
    journal(&image, "jo", &[format!("jw -b {block} {}", new.display())]);
    assert!(open(&image).is_whole());
    let big = |raw: &[u8], at: usize| u32::from_be_bytes(raw[at..at + 4].try_into().unwrap());
    let raw = std::fs::read(&image).unwrap();
    let (head, blocks) = (place(0), fs.node(8).unwrap().size / 1024);
    // The kernel sets the feature in the journal's own superblock; the length of that part stands there already, or is 256.
    change(&image, |raw| raw[head + 0x2b] |= 0x20);
    let fast = match big(&raw, head + 0x54) {
        0 => 256,
        blocks => u64::from(blocks),
    };
    let mut tag = vec![9, 0, 8, 0, 0, 0, 0, 0];
    tag.extend((big(&raw, head + 0x18) + 1).to_le_bytes());
    let at = place(blocks - fast);
    change(&image, |raw| raw[at..at + 12].copy_from_slice(&tag));
    let fs = open(&image);
    assert!(!fs.is_whole() && fs.odd().iter().any(|line| line.contains("fast commits")), "{:?}", fs.odd());
    assert_eq!(content(fs.as_ref(), "/small"), b"HELLO\n", "what was committed in full is shown");
    // One of an older transaction is left over and tells nothing.
    change(&image, |raw| raw[at + 8] ^= 1);
    assert!(open(&image).is_whole());
}

#[test]
fn a_file_system_that_may_be_mounted_elsewhere_is_read() {
    let (_temp, image) = small(&["-t", "ext4", "-b", "1024", "-O", "mmp"], "24M");
    let fs = open(&image);
    assert!(fs.odd().is_empty(), "{:?}", fs.odd());
    assert_eq!(names(fs.as_ref()).len(), 400 + 4);
    assert!(fs.facts().iter().any(|(name, value)| name == "incompatible" && value.contains("mmp")));
}

#[test]
fn names_taken_from_an_indexed_directory_stand_in_its_slack() {
    let (_temp, image) = small(&["-t", "ext4", "-b", "1024"], "24M");
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let check = std::process::Command::new("e2fsck").args(["-fyD"]).arg(&image).env("PATH", path).output().unwrap();
    assert!(check.status.code().is_some_and(|code| code <= 1), "{}", String::from_utf8_lossy(&check.stdout));
    let fs = open(&image);
    let many = find(fs.as_ref(), b"/many").unwrap();
    let flags = fs.node(many).unwrap().facts.into_iter().find(|(name, _)| name == "flags").unwrap().1;
    assert!(flags.contains("indexed"), "{flags}");
    let gone = [17, 99, 256].map(|number| format!("a file with a long name {number}"));
    for name in &gone {
        debugfs(&image, &format!("rm \"/many/{name}\""));
    }
    let fs = open(&image);
    let listing = fs.entries(many, true).unwrap();
    assert!(listing.odd.is_empty(), "{:?}", listing.odd);
    let live = listing.entries.iter().filter(|entry| entry.state == State::Allocated).count();
    assert_eq!(live, 397);
    let deleted: Vec<_> = listing.entries.iter().filter(|entry| entry.state == State::Deleted).collect();
    for name in &gone {
        assert!(deleted.iter().any(|entry| entry.name == name.as_bytes()), "{name}");
    }
    // The index itself and the tails with checksums look like nothing.
    assert!(deleted.iter().all(|entry| entry.name.starts_with(b"a file with a long name ")), "{deleted:?}");
}

#[test]
fn long_attributes_have_an_inode_and_flags_are_named() {
    let (temp, image) = small(&["-t", "ext4", "-b", "1024", "-O", "ea_inode,casefold,encrypt,verity"], "24M");
    let value = temp.path().join("value");
    // As much as debugfs takes from a file: more than fits a block with its header.
    let text = "long ".repeat(205)[..1024].to_owned();
    std::fs::write(&value, &text).unwrap();
    debugfs(&image, &format!("ea_set -f {} /small user.long", value.display()));
    for (path, flags) in [("/many", "0x40081000"), ("/big", "0x180800")] {
        debugfs(&image, &format!("sif {path} flags {flags}"));
    }
    let fs = open(&image);
    assert!(fs.odd().is_empty(), "{:?}", fs.odd());
    let node = |path: &str| fs.node(find(fs.as_ref(), path.as_bytes()).unwrap()).unwrap();
    let small = node("/small");
    assert!(small.odd.is_empty(), "{:?}", small.odd);
    assert!(small.facts.contains(&("xattr user.long".into(), text)), "{:?}", small.facts);
    let flags = |path: &str| node(path).facts.into_iter().find(|(name, _)| name == "flags").unwrap().1;
    assert!(flags("/many").contains("casefold"), "{}", flags("/many"));
    assert!(flags("/big").contains("encrypted") && flags("/big").contains("verity"), "{}", flags("/big"));
    assert_eq!(content(fs.as_ref(), "/big"), vec![7; 300_000], "as it stands on the disk");
}
