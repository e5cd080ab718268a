//! The log of btrfs: what was synced before a crash is shown as the kernel shows it once it has replayed the log.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;

use impound::disk::fs as disk;

use crate::btrfs::{btrfs, make, noise, same, sync, text, truth};
use crate::kit::{bytes, folder, mounted, open, tool};

/// Makes a file or adds to it, and syncs that alone.
fn synced(path: &Path, content: &[u8]) {
    let mut file = File::options().create(true).append(true).open(path).unwrap();
    file.write_all(content).unwrap();
    file.sync_all().unwrap();
}

/// What is committed, and then what only the log has.
fn work(root: &Path) {
    let at = |name: &str| root.join(name);
    fs::create_dir(at("dir")).unwrap();
    for name in ["grows", "shrinks", "patched", "renamed", "gone", "dir/old", "dir/moved"] {
        fs::write(at(name), noise(50_000, 3)).unwrap();
    }
    rustix::fs::setxattr(at("grows"), "user.old", b"1", rustix::fs::XattrFlags::empty()).unwrap();
    btrfs(&["subvolume", "create"], &[&at("sub")]);
    sync(root);
    synced(&at("new"), b"short");
    synced(&at("dir/new"), &noise(200_000, 9));
    rustix::fs::removexattr(at("grows"), "user.old").unwrap();
    rustix::fs::setxattr(at("grows"), "user.new", b"2", rustix::fs::XattrFlags::empty()).unwrap();
    synced(&at("grows"), &text(1000));
    let shrinks = File::options().write(true).open(at("shrinks")).unwrap();
    shrinks.set_len(10_000).unwrap();
    shrinks.sync_all().unwrap();
    let patched = File::options().write(true).open(at("patched")).unwrap();
    patched.write_all_at(b"in the middle", 20_000).unwrap();
    patched.write_all_at(b"far behind", 500_000).unwrap();
    patched.sync_all().unwrap();
    fs::rename(at("renamed"), at("renamed since")).unwrap();
    File::open(at("renamed since")).unwrap().sync_all().unwrap();
    fs::hard_link(at("dir/moved"), at("dir/linked")).unwrap();
    File::open(at("dir/linked")).unwrap().sync_all().unwrap();
    fs::remove_file(at("dir/old")).unwrap();
    File::open(at("dir")).unwrap().sync_all().unwrap();
    synced(&at("sub/inside"), &noise(9000, 1));
    fs::write(at("never synced"), "x").unwrap();
}

#[test]
fn what_was_synced_before_a_crash_is_shown_as_the_kernel_replays_it() {
    let temp = folder();
    let at = temp.path().join("mnt");
    for (number, args) in [&[][..], &["-O", "^no-holes", "-n", "4096"]].iter().enumerate() {
        let image = temp.path().join(format!("{number}.img"));
        let (crashed, replayed) = (temp.path().join("crashed"), temp.path().join("replayed"));
        make(&image, args, 256 << 20);
        let done = mounted(&image, "loop,noatime,nodiscard,commit=300", &at, |root| {
            work(root);
            for copy in [&crashed, &replayed] {
                tool("cp", ["--sparse=always".as_ref(), image.as_os_str(), copy.as_os_str()]);
            }
        });
        if !done {
            return;
        }
        let mut want = Vec::new();
        mounted(&replayed, "loop,noatime,nodiscard", &at, |root| want.extend([truth(root), truth(&root.join("sub"))]));
        let fs = open(&crashed);
        assert_eq!((fs.odd(), fs.is_whole()), (Vec::new(), true));
        let log = fs.facts().into_iter().find(|(name, _)| name == "log").unwrap();
        assert!(log.1.ends_with("inodes replayed in memory") && !log.1.starts_with('0'), "{log:?}");
        same(fs.as_ref(), &want[0]);
        same(fs.subvolumes().unwrap()[0].fs.as_ref(), &want[1]);
        let grows = fs.node(want[0][&b"/grows"[..]].inode).unwrap();
        let has = |name: &str| grows.facts.iter().any(|(fact, _)| fact == name);
        assert!(has("xattr user.new") && !has("xattr user.old"), "{:?}", grows.facts);

        let raw = disk::open(&bytes(&crashed), disk::Options { no_journal: true }).unwrap().unwrap();
        let names: Vec<_> = raw.entries(raw.root(), false).unwrap().entries.into_iter().map(|one| one.name).collect();
        assert!(names.contains(&b"renamed".to_vec()) && !names.contains(&b"new".to_vec()), "{names:?}");
    }
}
