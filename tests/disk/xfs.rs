//! XFS: every file equals what the kernel's own mount says, in every form that structures have.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use impound::disk::fs::{Confidence, FileKind, Filesystem, Run, State};
use impound::disk::walk::find;

use crate::ext::files;
use crate::kit::{folder, impound, mounted, open, read, tool};
use crate::xfs_kit::{attributed, dirty, fill, filled, make, noise, pieces, same, truth};

#[test]
fn every_file_is_what_the_kernel_says() {
    let mut want = None;
    let Some((_temp, image)) = filled(&["-m", "reflink=1,rmapbt=1", "-i", "nrext64=1"], |root| {
        fill(root, 5000);
        let at = |name: &str| root.join(name).into_os_string();
        tool("cp", ["--reflink=always".into(), at("big"), at("copy")]);
        let copy = fs::OpenOptions::new().write(true).open(root.join("copy")).unwrap();
        copy.write_all_at(b"changed", 1_000_000).unwrap();
        tool("touch", ["-d".into(), "2262-01-01 01:02:03.000000007Z".into(), at("copy")]);
        tool("xfs_io", ["-c".into(), "chproj 70000".into(), at("small")]);
        want = Some(truth(root));
    }) else {
        return;
    };
    let fs = open(&image);
    assert_eq!(fs.odd(), Vec::<String>::new());
    assert!(fs.is_whole());
    assert!(same(fs.as_ref(), &want.unwrap()) > 5340);
    let number = |path: &[u8]| find(fs.as_ref(), path).unwrap();
    let has = |path: &[u8], name: &str, value: &str| {
        let facts = fs.node(number(path)).unwrap().facts;
        assert!(facts.iter().any(|(fact, text)| fact == name && text.contains(value)), "{facts:?}");
    };
    has(b"/small", "project", "70000");
    has(b"/device", "device", "259:70000");
    has(b"/copy", "flags", "reflink bigtime nrext64");
    // Blocks of one file are shared by another, and in use.
    let (big, copy) = (fs.runs(number(b"/big")).unwrap(), fs.runs(number(b"/copy")).unwrap());
    assert!(big[0].physical == copy[0].physical && copy.len() > big.len(), "{copy:?}");
    let written = |run: &&Run| !run.unwritten;
    assert!(fs.runs(number(b"/pieces")).unwrap().iter().filter(written).count() >= 700);
    assert!(fs.runs(number(b"/unwritten")).unwrap().iter().any(|run| run.unwritten));
    assert!(fs.block_in_use(big[0].physical).unwrap());
    assert!(fs.block_in_use(fs.blocks()).is_err());
    assert!(fs.slack(number(b"/big")).unwrap().len() > 2000);
}

#[test]
fn blocks_sectors_and_features_of_other_sizes_are_read() {
    for args in [
        &["-m", "bigtime=0,reflink=0", "-b", "size=1024"][..],
        &["-m", "finobt=0", "-s", "size=4096", "-i", "size=2048,sparse=0"],
        &["-b", "size=1024", "-n", "size=4096", "-d", "agcount=3"],
        &["-b", "size=16384", "-n", "size=65536", "-i", "size=1024"],
        &["-b", "size=65536", "-l", "size=64m"],
    ] {
        let mut want = None;
        let Some((_temp, image)) = filled(args, |root| {
            fill(root, 1200);
            want = Some(truth(root));
        }) else {
            continue;
        };
        let fs = open(&image);
        assert_eq!(fs.odd(), Vec::<String>::new(), "{args:?}");
        assert!(same(fs.as_ref(), &want.unwrap()) > 1500, "{args:?}");
    }
}

/// Kernels of today do not mount version 4; mkfs can still put files into one.
#[test]
fn version_4_is_read() {
    let temp = folder();
    let (big, proto) = (temp.path().join("big"), temp.path().join("proto"));
    fs::write(&big, noise(3_000_000, 3)).unwrap();
    let mut lines =
        vec!["/none".to_owned(), "0 0".into(), "d--755 0 0".into(), format!("big ---640 7 8 {}", big.display())];
    lines.extend(["link l--777 0 0 big", "node b--600 0 0 8 1", "pipe p--600 0 0"].map(ToOwned::to_owned));
    for (directory, count) in [("short", 3), ("block", 30), ("leaf", 400), ("many", 3000)] {
        lines.push(format!("{directory} d--755 0 0"));
        lines.extend((0..count).map(|n| format!("a-file-with-a-long-name-{n} ---644 0 0 /dev/null")));
        lines.push("$".to_owned());
    }
    fs::write(&proto, lines.join("\n") + "\n$\n").unwrap();
    for args in
        [&["-m", "crc=0"][..], &["-m", "crc=0", "-n", "ftype=0", "-b", "size=1024", "-i", "attr=1,projid32bit=0"]]
    {
        let image = temp.path().join("v4.img");
        make(&image, &[args, &["-p", &proto.to_string_lossy()]].concat(), 320 << 20);
        let fs = open(&image);
        assert!(fs.odd().is_empty() && fs.is_whole(), "{args:?}: {:?}", fs.odd());
        let all = files(fs.as_ref());
        assert_eq!(all.len(), 3433 + 8, "{args:?}");
        let inode = find(fs.as_ref(), b"/big").unwrap();
        let node = fs.node(inode).unwrap();
        assert_eq!((node.mode & 0o7777, node.uid, node.gid, node.times.born), (0o640, 7, 8, None));
        assert!(read(fs.content(inode).unwrap().as_ref()) == fs::read(&big).unwrap(), "{args:?}");
        assert_eq!(fs.target(find(fs.as_ref(), b"/link").unwrap()).unwrap(), b"big");
        let pipe = fs.node(find(fs.as_ref(), b"/pipe").unwrap()).unwrap();
        assert_eq!(pipe.kind, Some(FileKind::Fifo));
        let request = OsString::from(format!("inode {inode}"));
        let said =
            tool("xfs_db", ["-r".into(), "-c".into(), request, "-c".into(), "print".into(), image.into_os_string()]);
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        assert!(said.contains(&format!("core.size = {}", node.size)), "{said}");
    }
}

/// Changes of every kind, a part of them already at its place. The file that is open has no name any more.
fn busy(root: &Path) -> File {
    let sync = || assert!(Command::new("sync").arg("-f").arg(root).status().unwrap().success());
    fs::create_dir(root.join("one")).unwrap();
    for n in 0..400 {
        fs::write(root.join(format!("one/first {n}")), noise(n * 10, 1)).unwrap();
    }
    pieces(&root.join("pieces"), 300);
    sync();
    for n in (0..400).step_by(3) {
        fs::remove_file(root.join(format!("one/first {n}"))).unwrap();
    }
    for n in (1..400).step_by(3) {
        fs::rename(root.join(format!("one/first {n}")), root.join(format!("second {n}"))).unwrap();
    }
    fs::create_dir(root.join("two")).unwrap();
    attributed(root);
    for n in 0..700 {
        fs::write(root.join(format!("two/third {n}")), "new").unwrap();
    }
    fs::remove_file(root.join("pieces")).unwrap();
    pieces(&root.join("more pieces"), 500);
    std::os::unix::fs::symlink("x/".repeat(300), root.join("link")).unwrap();
    tool("mknod", [root.join("device").into_os_string(), "c".into(), "5".into(), "1".into()]);
    let open = File::create_new(root.join("open")).unwrap();
    open.write_all_at(&noise(10_000, 9), 0).unwrap();
    fs::remove_file(root.join("open")).unwrap();
    sync();
    fs::write(root.join("last"), "word").unwrap();
    open
}

#[test]
fn a_dirty_log_is_replayed_as_the_kernel_does_and_only_in_memory() {
    for args in [&[][..], &["-b", "size=1024", "-m", "bigtime=0"], &["-m", "rmapbt=1", "-i", "nrext64=1"]] {
        let Some((_temp, image, want)) = dirty(args, |root| Some(busy(root))) else { return };
        let before = fs::read(&image).unwrap();
        let fs = open(&image);
        assert!(fs.is_whole(), "{args:?}: {:?}", fs.odd());
        assert!(same(fs.as_ref(), &want) > 900, "{args:?}");
        let lost = fs.lost().unwrap();
        let orphans: Vec<_> = lost.iter().filter(|lost| lost.state == State::Orphan).collect();
        let [orphan] = orphans[..] else { panic!("{} orphans", orphans.len()) };
        assert!(read(orphan.content.as_ref().unwrap().as_ref()) == noise(10_000, 9) && orphan.node.links == 0);
        let name = image.display().to_string();
        let (raw, _) = impound(["disk", "--no-journal", &name, "fs"]);
        assert!(raw.contains("not replayed, as asked"), "{raw}");
        assert!(before == fs::read(&image).unwrap(), "the image was written to");
    }
}

#[test]
fn deleted_files_come_back_with_names_and_content() {
    let (mut want, mut kept) = (Vec::new(), Vec::new());
    let Some((temp, image)) = filled(&[], |root| {
        for (directory, count) in [("few", 4), ("some", 40), ("many", 600)] {
            fs::create_dir(root.join(directory)).unwrap();
            for n in 0..count {
                let path = format!("{directory}/file {n}");
                fs::write(root.join(&path), noise(5000 + n * 37, u32::try_from(n).unwrap())).unwrap();
            }
            want.extend((1..count).step_by(7).map(|n| format!("{directory}/file {n}")));
        }
        fs::write(root.join("large"), noise(9_000_000, 5)).unwrap();
        want.push("large".to_owned());
    }) else {
        return;
    };
    // Mounted anew: the inodes were at their place before they were emptied.
    let again = mounted(&image, "loop,noatime", &temp.path().join("mnt"), |root| {
        kept.extend(want.iter().map(|path| (path.clone(), fs::read(root.join(path)).unwrap())));
        for path in &want {
            fs::remove_file(root.join(path)).unwrap();
        }
    });
    assert!(again);
    let count = |image: &Path, good: &dyn Fn(&[u8], &[u8]) -> bool| {
        let lost = open(image).lost().unwrap();
        let back = kept.iter().filter(|(path, content)| {
            let found = lost.iter().find(|lost| lost.path.as_deref() == Some(format!("/{path}").as_bytes()));
            let found = found.filter(|found| found.confidence == Confidence::Whole);
            found.and_then(|found| found.content.as_ref()).is_some_and(|found| good(&read(found.as_ref()), content))
        });
        (back.count(), lost.len())
    };
    assert_eq!(kept.len(), 94);
    assert_eq!(count(&image, &|found, content| found == content), (94, 94), "with the log");
    let names = open(&image).entries(find(open(&image).as_ref(), b"/many").unwrap(), true).unwrap().entries;
    assert!(names.iter().any(|entry| entry.name == b"file 1" && entry.state == State::Deleted));
    let mut changes = 0;
    let counted = open(&image).changes(&mut |change| {
        changes += usize::from(change.kind == "inode" && change.time.is_some());
        Ok(())
    });
    assert!(counted.is_ok() && changes > 600, "{changes}");
    // Without the log nobody knows the sizes: the extents end with a block.
    let (at, len) = log_of(&image);
    fs::OpenOptions::new().write(true).open(&image).unwrap().write_all_at(&vec![0; len], at).unwrap();
    let good = |found: &[u8], content: &[u8]| found.starts_with(content) && found.len() - content.len() < 4096;
    let (back, all) = count(&image, &good);
    assert!(back >= 90 && all <= 96, "{back} of 94 without the log, {all} in all");
}

/// A damaged directory leaves a file behind that is in use, counts one name, and has none: `xfs_db` gives its name to another.
#[test]
fn a_file_whose_name_is_gone_is_an_orphan_although_it_counts_one() {
    let temp = folder();
    let (image, proto) = (temp.path().join("disk.img"), temp.path().join("proto"));
    let content = noise(5000, 3);
    fs::write(temp.path().join("one"), "one").unwrap();
    fs::write(temp.path().join("two"), &content).unwrap();
    let file = |name: &str| format!("{name} ---644 0 0 {}\n", temp.path().join(name).display());
    fs::write(&proto, format!("boot\n0 0\nd--755 0 0\n{}{}$\n", file("one"), file("two"))).unwrap();
    make(&image, &["-p", &proto.to_string_lossy()], 320 << 20);
    let fs = open(&image);
    assert!(fs.lost().unwrap().is_empty(), "nothing is lost as long as it has its name");
    let number = |fs: &dyn Filesystem, path: &[u8]| find(fs, path).unwrap();
    let (root, one, two) = (fs.root(), number(fs.as_ref(), b"/one"), number(fs.as_ref(), b"/two"));
    let write = format!("write -d u3.sfdir3.list[1].inumber.i4 {one}");
    tool("xfs_db", ["-x", "-c", &format!("inode {root}"), "-c", &write, &image.to_string_lossy()]);
    let fs = open(&image);
    assert_eq!(number(fs.as_ref(), b"/two"), one);
    let lost = fs.lost().unwrap();
    let [orphan] = &lost[..] else { panic!("{} are lost", lost.len()) };
    assert_eq!((orphan.node.inode, orphan.state, orphan.node.links, &orphan.path), (two, State::Orphan, 1, &None));
    assert_eq!(orphan.confidence, Confidence::Whole);
    assert!(read(orphan.content.as_ref().unwrap().as_ref()) == content);
}

/// Place and length of the log in bytes, as xfs_db says.
fn log_of(image: &Path) -> (u64, usize) {
    let ask = |request: &str| {
        let commands = ["-r", "-c", "sb 0", "-c", request].map(OsStr::new);
        let args = commands.into_iter().chain([image.as_os_str()]);
        let said = String::from_utf8(tool("xfs_db", args).stdout).unwrap();
        said.split([' ', '(', ')', '\n']).rev().find_map(|word| word.parse::<u64>().ok()).expect(&said)
    };
    let at = ask(&format!("convert fsblock {} byte", ask("print logstart")));
    (at, usize::try_from(ask("print logblocks") * 4096).unwrap())
}
