//! The log of btrfs: what was synced before a crash is shown as the kernel shows it once it has replayed the log.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;

use impound::disk::fs as disk;

use crate::btrfs::{btrfs, make, noise, same, sync, text, truth};
use crate::kit::{bytes, folder, mounted, open, tool};

fn synced(path: &Path) {
    File::open(path).unwrap().sync_all().unwrap();
}

/// Makes a file or adds to it, and syncs that alone.
fn written(path: &Path, content: &[u8]) {
    File::options().create(true).append(true).open(path).unwrap().write_all(content).unwrap();
    synced(path);
}

fn patched(path: &Path, at: u64, content: &[u8]) {
    File::options().write(true).open(path).unwrap().write_all_at(content, at).unwrap();
    synced(path);
}

/// What only the log has when the machine goes down; each from a commit on.
const STEPS: &[fn(&Path)] = &[
    |root| written(&root.join("new"), b"short"),
    |root| written(&root.join("dir/new"), &noise(200_000, 9)),
    |root| written(&root.join("new"), &text(1000)),
    |root| {
        let grows = root.join("grows");
        rustix::fs::removexattr(&grows, "user.old").unwrap();
        rustix::fs::setxattr(&grows, "user.new", b"2", rustix::fs::XattrFlags::empty()).unwrap();
        written(&grows, &text(1000));
    },
    |root| {
        File::options().write(true).open(root.join("shrinks")).unwrap().set_len(10_000).unwrap();
        synced(&root.join("shrinks"));
    },
    |root| {
        patched(&root.join("patched"), 20_000, b"in the middle");
        patched(&root.join("patched"), 500_000, b"far behind");
    },
    |root| {
        fs::rename(root.join("renamed"), root.join("renamed since")).unwrap();
        synced(&root.join("renamed since"));
    },
    |root| {
        fs::hard_link(root.join("dir/moved"), root.join("dir/linked")).unwrap();
        synced(&root.join("dir/linked"));
    },
    |root| {
        fs::remove_file(root.join("dir/old")).unwrap();
        fs::write(root.join("dir/newer"), "x").unwrap();
        synced(&root.join("dir"));
    },
    |root| {
        fs::create_dir(root.join("dir/below")).unwrap();
        written(&root.join("dir/below/deep"), &noise(9000, 4));
    },
    |root| {
        let link = |n: u32| fs::hard_link(root.join("patched"), root.join(format!("dir/{n:0150}"))).unwrap();
        (0..200).for_each(link);
        synced(&root.join("patched"));
    },
    |root| written(&root.join("sub/inside"), &noise(9000, 1)),
];

#[test]
fn what_was_synced_before_a_crash_is_shown_as_the_kernel_replays_it() {
    let temp = folder();
    let (at, image) = (temp.path().join("mnt"), temp.path().join("image"));
    let copy = |kind: &str, step: usize| temp.path().join(format!("{kind} {step}"));
    for args in [&[][..], &["-O", "^no-holes", "-n", "4096"]] {
        make(&image, args, 256 << 20);
        let done = mounted(&image, "loop,noatime,nodiscard,commit=300", &at, |root| {
            fs::create_dir(root.join("dir")).unwrap();
            for name in ["grows", "shrinks", "patched", "renamed", "gone", "dir/old", "dir/moved"] {
                fs::write(root.join(name), noise(50_000, 3)).unwrap();
            }
            rustix::fs::setxattr(root.join("grows"), "user.old", b"1", rustix::fs::XattrFlags::empty()).unwrap();
            btrfs(&["subvolume", "create"], &[&root.join("sub")]);
            for (number, step) in STEPS.iter().enumerate() {
                sync(root);
                step(root);
                fs::write(root.join(format!("never synced {number}")), "x").unwrap();
                // Both are of the same moment.
                let (crashed, replayed) = (copy("crashed", number), copy("replayed", number));
                for (from, to) in [(&image, &crashed), (&crashed, &replayed)] {
                    tool("cp", ["--sparse=always".as_ref(), from.as_os_str(), to.as_os_str()]);
                }
            }
        });
        if !done {
            return;
        }
        let logged = (0..STEPS.len()).filter(|step| {
            let (crashed, mut want) = (copy("crashed", *step), Vec::new());
            mounted(&copy("replayed", *step), "loop,noatime,nodiscard", &at, |root| {
                want.extend([truth(root), truth(&root.join("sub"))]);
            });
            let fs = open(&crashed);
            assert_eq!((fs.odd(), fs.is_whole()), (Vec::new(), true), "{step}");
            println!("step {step}");
            same(fs.as_ref(), &want[0]);
            same(fs.subvolumes().unwrap()[0].fs.as_ref(), &want[1]);
            fs.facts().iter().any(|(name, fact)| name == "log" && fact.ends_with("inodes replayed in memory"))
        });
        // For some the kernel commits all instead.
        let logged = logged.collect::<Vec<_>>();
        assert!(logged.len() >= 9, "{logged:?}");

        let raw = disk::open(&bytes(&copy("crashed", 6)), disk::Options { no_journal: true }).unwrap().unwrap();
        let names: Vec<_> = raw.entries(raw.root(), false).unwrap().entries.into_iter().map(|one| one.name).collect();
        assert!(names.contains(&b"renamed".to_vec()), "{names:?}");
        let fs = open(&copy("crashed", 3));
        let inode = impound::disk::walk::find(fs.as_ref(), b"/grows").unwrap();
        let facts = fs.node(inode).unwrap().facts;
        let has = |name: &str| facts.iter().any(|(fact, _)| fact == name);
        assert!(has("xattr user.new") && !has("xattr user.old"), "{facts:?}");
    }
}
