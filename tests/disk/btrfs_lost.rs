//! Deleted files and subvolumes of btrfs, from leaves that no tree leads to any more.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use impound::disk::fs::{Confidence, Lost, State};
use impound::disk::walk::{How, walk};
use impound::image::ReadError;

use crate::btrfs::{btrfs, make, noise, sync, text};
use crate::kit::{folder, mounted, open, read, tool};

const SIZE: u64 = 256 << 20;
/// Discarding would take the content away, and what is left is to be tested.
const OPTIONS: &str = "loop,noatime,nodiscard";

fn content(n: u32) -> Vec<u8> {
    match n % 4 {
        0 => format!("short {n}\n").into_bytes(),
        1 => noise(40_000 + n, n),
        2 => text(2000 + n as usize),
        _ => noise(300_000 + n, n),
    }
}

/// Twelve files in a folder, which is then deleted, with what a user does in between.
fn plant(root: &Path, folder: &str) {
    let home = root.join(folder);
    fs::create_dir(&home).unwrap();
    for n in 0..12 {
        fs::write(home.join(format!("file{n}")), content(n)).unwrap();
    }
    sync(root);
    fs::write(root.join(format!("{folder} other")), "x").unwrap();
    sync(root);
}

fn told(lost: &[Lost]) -> Vec<(String, Confidence, &str)> {
    let path = |lost: &Lost| String::from_utf8_lossy(lost.path.as_deref().unwrap_or(b"?")).into_owned();
    lost.iter().map(|lost| (path(lost), lost.confidence, &lost.source[..])).collect()
}

/// How many of the planted files come back whole.
fn back(lost: &[Lost], folder: &str) -> usize {
    let good = |n: &u32| {
        let path = format!("{folder}/file{n}");
        lost.iter().any(|lost| {
            let whole = lost.path.as_deref() == Some(path.as_bytes()) && lost.confidence == Confidence::Whole;
            whole && lost.content.as_ref().is_some_and(|found| read(found.as_ref()) == content(*n))
        })
    };
    (0..12).filter(good).count()
}

#[test]
fn deleted_files_come_back_with_path_times_and_content() {
    let temp = folder();
    let image = temp.path().join("disk.img");
    make(&image, &[], SIZE);
    let mut modified = 0;
    let done = mounted(&image, OPTIONS, &temp.path().join("mnt"), |root| {
        fs::write(root.join("stays"), noise(100_000, 5)).unwrap();
        plant(root, "home");
        modified = fs::metadata(root.join("home/file3")).unwrap().mtime();
        fs::remove_dir_all(root.join("home")).unwrap();
        sync(root);
    });
    if !done {
        return;
    }
    let fs = open(&image);
    let lost = fs.lost().unwrap();
    assert_eq!(back(&lost, "/home"), 12, "{:?}", told(&lost));
    assert!(lost.iter().all(|lost| lost.state == State::Deleted && !lost.node.allocated));
    let third = lost.iter().find(|lost| lost.path.as_deref() == Some(b"/home/file3")).unwrap();
    assert_eq!(third.node.times.modified.unwrap().as_second(), modified);
    assert!(third.source.contains("74 of 74 blocks checked fit"), "{}", third.source);
    assert!(!told(&lost).iter().any(|(path, ..)| path == "/stays" || path.ends_with("other")), "{:?}", told(&lost));
    // Asked for by its name, and by its number.
    let mut names = Vec::new();
    let how = How { recursive: true, deleted: true };
    walk::<ReadError>(fs.as_ref(), (fs.root(), b"/"), how, &mut |line| panic!("{line}"), &mut |found| {
        names.push((found.path, found.entry.state));
        Ok(())
    })
    .unwrap();
    assert!(names.contains(&(b"/home".to_vec(), State::Deleted)), "{names:?}");
    assert!(read(fs.content(third.node.inode).unwrap().as_ref()) == content(3));
    assert!(!fs.node(third.node.inode).unwrap().allocated);
}

#[test]
fn what_was_written_over_or_discarded_is_not_called_whole() {
    let temp = folder();
    let image = temp.path().join("disk.img");
    make(&image, &[], SIZE);
    let mut blocks = Vec::new();
    let done = mounted(&image, OPTIONS, &temp.path().join("mnt"), |root| {
        plant(root, "home");
    });
    if !done {
        return;
    }
    let fs = open(&image);
    let home = impound::disk::walk::find(fs.as_ref(), b"/home/file1").unwrap();
    blocks.extend(fs.runs(home).unwrap());
    let used: Vec<_> = (blocks[0].physical..).take(2).map(|block| fs.block_in_use(block).unwrap()).collect();
    assert_eq!(used, [true, true]);
    drop(fs);
    mounted(&image, OPTIONS, &temp.path().join("mnt"), |root| {
        fs::remove_dir_all(root.join("home")).unwrap();
        sync(root);
    });
    let mut bytes = fs::read(&image).unwrap();
    let at = usize::try_from(blocks[0].physical * 4096).unwrap();
    bytes[at + 8192..at + 12288].fill(0);
    fs::write(&image, bytes).unwrap();
    let fs = open(&image);
    assert!(!fs.block_in_use(blocks[0].physical).unwrap());
    let lost = fs.lost().unwrap();
    let first = lost.iter().find(|lost| lost.path.as_deref() == Some(b"/home/file1")).unwrap();
    assert_eq!((first.confidence, first.blocks, first.reused), (Confidence::Part, 10, 1), "{}", first.source);
    assert_eq!(back(&lost, "/home"), 11, "{:?}", told(&lost));
}

#[test]
fn subvolumes_that_were_deleted_come_back_below_their_path() {
    let temp = folder();
    let image = temp.path().join("disk.img");
    make(&image, &[], SIZE);
    let done = mounted(&image, OPTIONS, &temp.path().join("mnt"), |root| {
        fs::create_dir(root.join("vms")).unwrap();
        for name in ["vms/one", "vms/two"] {
            btrfs(&["subvolume", "create"], &[&root.join(name)]);
            plant(&root.join(name), "data");
        }
        btrfs(&["subvolume", "snapshot"], &[&root.join("vms/two"), &root.join("copy")]);
        fs::remove_dir_all(root.join("vms/two/data")).unwrap();
        sync(root);
        btrfs(&["subvolume", "delete", "-c"], &[&root.join("vms/one")]);
        btrfs(&["subvolume", "sync"], &[root]);
        sync(root);
    });
    if !done {
        return;
    }
    let fs = open(&image);
    let lost = fs.lost().unwrap();
    assert_eq!(back(&lost, "/vms/one/data"), 12, "{:?}", told(&lost));
    let root = lost.iter().find(|lost| lost.path.as_deref() == Some(b"/vms/one")).expect("the subvolume itself");
    assert!(root.node.facts.contains(&("deleted subvolume".to_owned(), "256".to_owned())), "{:?}", root.node.facts);
    // What a snapshot still holds is not used by others.
    let subvolumes = fs.subvolumes().unwrap();
    let two = subvolumes.iter().find(|one| one.name == b"vms/two").unwrap();
    let lost = two.fs.lost().unwrap();
    assert_eq!(back(&lost, "/data"), 12, "{:?}", told(&lost));
    let copy = subvolumes.iter().find(|one| one.name == b"copy").unwrap();
    assert_eq!(told(&copy.fs.lost().unwrap()), []);
}

#[test]
fn a_file_that_was_open_without_a_name_is_an_orphan() {
    let temp = folder();
    let (image, copy) = (temp.path().join("disk.img"), temp.path().join("copy.img"));
    make(&image, &[], SIZE);
    let done = mounted(&image, OPTIONS, &temp.path().join("mnt"), |root| {
        fs::write(root.join("secret"), content(3)).unwrap();
        sync(root);
        let open = fs::File::open(root.join("secret")).unwrap();
        fs::remove_file(root.join("secret")).unwrap();
        sync(root);
        tool("cp", ["--sparse=always".as_ref(), image.as_os_str(), copy.as_os_str()]);
        drop(open);
    });
    if !done {
        return;
    }
    let lost = open(&copy).lost().unwrap();
    let orphan = lost.iter().find(|lost| lost.state == State::Orphan).unwrap_or_else(|| panic!("{:?}", told(&lost)));
    assert!(read(orphan.content.as_ref().unwrap().as_ref()) == content(3));
    assert_eq!(orphan.confidence, Confidence::Whole);
    // Once it is gone, it is as it was while it had a name.
    let lost = open(&image).lost().unwrap();
    let gone = lost.iter().find(|lost| lost.path.as_deref() == Some(b"/secret"));
    let gone = gone.unwrap_or_else(|| panic!("{:?}", told(&lost)));
    assert_eq!((gone.state, gone.node.links, gone.confidence), (State::Deleted, 1, Confidence::Whole));
}
