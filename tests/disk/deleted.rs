//! Deleted files: from inodes whose map is still there, and from the journal where it is not.

use std::path::Path;
use std::process::Command;

use impound::disk::fs::Confidence;

use crate::kit::{debugfs, folder, make, open, read, tree};

#[test]
fn a_deleted_inode_with_its_map_comes_back_with_its_name() {
    let temp = folder();
    let tree = tree(temp.path());
    for kind in ["ext2", "ext3", "ext4"] {
        let image = temp.path().join(kind);
        make(&image, &["-t", kind, "-b", "1024"], &tree, "32M");
        debugfs(&image, "rm /big");
        let fs = open(&image);
        let lost = fs.lost().unwrap();
        let found = lost.iter().find(|lost| lost.path.as_deref() == Some(b"/big")).expect(kind);
        assert_eq!(found.confidence, Confidence::Whole, "{kind}");
        let content = read(found.content.as_ref().unwrap().as_ref());
        assert!(content == std::fs::read(tree.join("big")).unwrap(), "{kind}");
    }
}

/// Mounts, if this machine lets us.
fn mounted(image: &Path, at: &Path, work: impl FnOnce(&Path)) -> bool {
    std::fs::create_dir_all(at).unwrap();
    let mounted = Command::new("mount").args(["-o", "loop"]).arg(image).arg(at).output();
    if !mounted.is_ok_and(|output| output.status.success()) {
        return false;
    }
    work(at);
    assert!(Command::new("timeout").arg("60").arg("umount").arg(at).status().unwrap().success());
    true
}

#[test]
fn the_journal_gives_back_what_the_kernel_deleted() {
    let temp = folder();
    let (image, tree) = (temp.path().join("disk.img"), temp.path().join("tree"));
    std::fs::create_dir(&tree).unwrap();
    make(&image, &["-t", "ext4", "-b", "4096"], &tree, "128M");
    let content = |n: usize| format!("file {n} ").repeat(3000 + n * 100);
    let done = mounted(&image, &temp.path().join("mnt"), |root| {
        std::fs::create_dir(root.join("home")).unwrap();
        for n in 0..9 {
            std::fs::write(root.join(format!("home/file{n}")), content(n)).unwrap();
        }
        let sync = || assert!(Command::new("sync").arg("-f").arg(root).status().unwrap().success());
        sync();
        for n in 0..9 {
            std::fs::remove_file(root.join(format!("home/file{n}"))).unwrap();
        }
        sync();
    });
    if !done {
        println!("not run: this machine cannot mount a loop device");
        return;
    }
    let fs = open(&image);
    let lost = fs.lost().unwrap();
    let good = (0..9).filter(|n| {
        let path = format!("/home/file{n}");
        let found = lost.iter().find(|lost| lost.path.as_deref() == Some(path.as_bytes()));
        found
            .and_then(|lost| lost.content.as_ref())
            .is_some_and(|found| read(found.as_ref()) == content(*n).into_bytes())
    });
    assert_eq!(good.count(), 9, "{:?}", lost.iter().map(|l| (&l.path, &l.source, l.confidence)).collect::<Vec<_>>());
}
