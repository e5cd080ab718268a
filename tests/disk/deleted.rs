//! Deleted files: from inodes whose map is still there, and from the journal where it is not.

use std::process::Command;

use impound::disk::fs::Confidence;

use crate::kit::{debugfs, folder, impound, make, mounted, open, read, tree};

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

#[test]
fn the_journal_gives_back_what_the_kernel_deleted() {
    let temp = folder();
    let (image, tree) = (temp.path().join("disk.img"), temp.path().join("tree"));
    std::fs::create_dir(&tree).unwrap();
    make(&image, &["-t", "ext4", "-b", "4096"], &tree, "128M");
    let content = |n: usize| format!("file {n} ").repeat(3000 + n * 100);
    let done = mounted(&image, "loop", &temp.path().join("mnt"), |root| {
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

#[test]
fn what_may_be_out_of_date_is_not_called_whole() {
    let temp = folder();
    let put = temp.path().join("tree");
    std::fs::create_dir(&put).unwrap();
    std::fs::write(put.join("secret.txt"), "gone\n").unwrap();
    let image = temp.path().join("image");
    make(&image, &["-t", "ext4"], &put, "16M");
    debugfs(&image, "rm secret.txt");
    let (sound, broken) = (temp.path().join("sound"), temp.path().join("broken"));
    let ask = |to: &std::path::Path| {
        let (image, to) = (image.as_os_str(), to.as_os_str());
        let ls = impound([std::ffi::OsStr::new("disk"), image, "ls".as_ref()]).1;
        let recover = [std::ffi::OsStr::new("disk"), image, "recover".as_ref(), "-o".as_ref(), to];
        (ls, impound(recover).1)
    };
    assert_eq!(ask(&sound), (0, 0));
    // Without its journal the file system is as of some time, and nobody can say of which.
    debugfs(&image, "clri <8>");
    assert_eq!(ask(&broken), (3, 3));
    for to in [sound, broken] {
        assert_eq!(std::fs::read(to.join("files/p0/secret.txt")).unwrap(), b"gone\n");
    }
}
