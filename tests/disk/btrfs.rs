//! btrfs: every file of every subvolume is what the kernel showed while it was mounted.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::Path;

use impound::disk::fs::{FileKind, Filesystem};
use impound::disk::walk::{How, walk};
use impound::image::ReadError;

use crate::kit::{folder, mounted, open, read, tool};

/// What the kernel says of a file.
#[derive(Debug, PartialEq)]
pub(crate) struct Truth {
    pub(crate) inode: u64,
    kind: FileKind,
    mode: u32,
    owner: (u32, u32),
    size: u64,
    links: u64,
    /// Modified, accessed, changed, born; in nanoseconds.
    times: [i128; 4],
    content: Vec<u8>,
}

pub(crate) type Files = BTreeMap<Vec<u8>, Truth>;

pub(crate) fn make(image: &Path, args: &[&str], size: u64) {
    File::create(image).unwrap().set_len(size).unwrap();
    tool("mkfs.btrfs", ["-q", "-f"].iter().chain(args).map(OsStr::new).chain([image.as_os_str()]));
}

pub(crate) fn sync(root: &Path) {
    tool("btrfs", [OsStr::new("filesystem"), OsStr::new("sync"), root.as_os_str()]);
}

pub(crate) fn btrfs(args: &[&str], paths: &[&Path]) {
    tool("btrfs", args.iter().map(OsStr::new).chain(paths.iter().map(|path| path.as_os_str())));
}

pub(crate) fn noise(len: u32, seed: u32) -> Vec<u8> {
    (0..len).map(|n| (n ^ seed).wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect()
}

pub(crate) fn text(lines: usize) -> Vec<u8> {
    (0..lines).flat_map(|n| format!("line {n} of a text that is easily compressed\n").into_bytes()).collect()
}

fn kind(meta: &fs::Metadata) -> FileKind {
    let kind = meta.file_type();
    match () {
        () if kind.is_dir() => FileKind::Directory,
        () if kind.is_symlink() => FileKind::Link,
        () if kind.is_fifo() => FileKind::Fifo,
        () if kind.is_char_device() => FileKind::CharDevice,
        () if kind.is_socket() => FileKind::Socket,
        () => FileKind::File,
    }
}

/// All files below `root` that are in the same subvolume, as the kernel shows them.
pub(crate) fn truth(root: &Path) -> Files {
    let device = root.metadata().unwrap().dev();
    let mut all = Files::new();
    let mut waiting = vec![root.to_owned()];
    while let Some(folder) = waiting.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let meta = path.symlink_metadata().unwrap();
            let kind = kind(&meta);
            let content = match kind {
                FileKind::File => fs::read(&path).unwrap(),
                FileKind::Link => fs::read_link(&path).unwrap().as_os_str().as_bytes().to_vec(),
                _ => Vec::new(),
            };
            // A subvolume is another device. What is left of one in a snapshot is made up by the kernel, with number 2.
            let other = meta.dev() != device || meta.ino() == 2;
            if kind == FileKind::Directory && !other {
                waiting.push(path.clone());
            }
            let nanos = |seconds: i64, nanos: i64| i128::from(seconds) * 1_000_000_000 + i128::from(nanos);
            // What the kernel makes up has none.
            let born = meta.created().map_or(0, |time| time.duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos());
            let truth = Truth {
                inode: if other { 0 } else { meta.ino() },
                kind,
                mode: meta.mode(),
                owner: (meta.uid(), meta.gid()),
                size: meta.size(),
                links: meta.nlink(),
                times: [
                    nanos(meta.mtime(), meta.mtime_nsec()),
                    nanos(meta.atime(), meta.atime_nsec()),
                    nanos(meta.ctime(), meta.ctime_nsec()),
                    i128::try_from(born).unwrap(),
                ],
                content,
            };
            all.insert([b"/", path.strip_prefix(root).unwrap().as_os_str().as_bytes()].concat(), truth);
        }
    }
    all
}

/// The file system has these files and no others, and each is the same; gives their number.
pub(crate) fn same(fs: &dyn Filesystem, truth: &Files) -> usize {
    let how = How { recursive: true, deleted: false };
    let mut seen = 0;
    walk::<ReadError>(fs, (fs.root(), b"/"), how, &mut |line| panic!("{line}"), &mut |found| {
        let name = String::from_utf8_lossy(&found.path).into_owned();
        let want = truth.get(&found.path).unwrap_or_else(|| panic!("{name} is too many"));
        seen += 1;
        let node = found.node?;
        assert_eq!(node.odd, Vec::<String>::new(), "{name}");
        assert_eq!((node.kind, found.entry.kind), (Some(want.kind), Some(want.kind)), "{name}");
        if want.inode == 0 {
            assert!(node.inode > 1 << 62 && fs.entries(node.inode, true)?.entries.is_empty(), "{name}");
            return Ok(());
        }
        let nanos = [node.times.modified, node.times.accessed, node.times.changed, node.times.born];
        assert_eq!(nanos.map(|time| time.unwrap().as_nanosecond()), want.times, "{name}");
        assert_eq!((node.inode, node.mode, (node.uid, node.gid)), (want.inode, want.mode, want.owner), "{name}");
        assert_eq!((node.size, u64::from(node.links)), (want.size, want.links), "{name}");
        let content = match want.kind {
            FileKind::File => read(fs.content(node.inode)?.as_ref()),
            FileKind::Link => fs.target(node.inode)?,
            _ => return Ok(()),
        };
        assert!(content == want.content, "{name} has other content");
        Ok(())
    })
    .unwrap();
    assert_eq!(seen, truth.len());
    seen
}

/// Files of every kind, stored in every way.
fn fill(root: &Path) {
    let at = |name: &str| root.join(name);
    let mut deep = at("deep");
    (0..40).for_each(|level| deep = deep.join(level.to_string()));
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("bottom"), "here").unwrap();
    fs::create_dir(at("many")).unwrap();
    for number in 0..900 {
        fs::write(root.join(format!("many/a file with a long name {number}")), "").unwrap();
    }
    for name in [&b"nl\nname"[..], b"\xff\x1b[31m|pipe", "Grüße".as_bytes(), &[b'x'; 255]] {
        fs::write(root.join(OsStr::from_bytes(name)), name).unwrap();
    }
    fs::write(at("small"), "hello\n").unwrap();
    fs::write(at("empty"), "").unwrap();
    fs::write(at("noise"), noise(700_001, 0)).unwrap();
    fs::write(at("text"), text(20_000)).unwrap();
    let sparse = File::create(at("sparse")).unwrap();
    (0..3_000_000_u64).step_by(300_000).for_each(|at| sparse.write_all_at(b"piece", at).unwrap());
    sparse.set_len(1 << 40).unwrap();
    sparse.set_len(4_000_000).unwrap();
    tool("fallocate", [OsStr::new("-l"), OsStr::new("300000"), at("prealloc").as_os_str()]);
    File::options().write(true).open(at("prealloc")).unwrap().write_all_at(b"written", 100_000).unwrap();
    fs::create_dir(at("links")).unwrap();
    for number in 0..300 {
        fs::hard_link(at("small"), at("links").join(format!("{number:0100}"))).unwrap();
    }
    std::os::unix::fs::symlink("small", at("short link")).unwrap();
    std::os::unix::fs::symlink("x/".repeat(1000), at("long link")).unwrap();
    tool("mkfifo", [at("fifo")]);
    tool("mknod", [at("device").as_os_str(), OsStr::new("c"), OsStr::new("259"), OsStr::new("70000")]);
    // Where checksums are switched off, nothing is compressed either.
    fs::write(at("nocow"), "").unwrap();
    tool("chattr", [OsStr::new("+C"), at("nocow").as_os_str()]);
    fs::write(at("nocow"), text(3000)).unwrap();
    for how in ["zstd", "zlib", "lzo"] {
        fs::write(at(how), "").unwrap();
        btrfs(&["property", "set"], &[&at(how), Path::new("compression"), Path::new(how)]);
        fs::write(at(how), text(9000)).unwrap();
        fs::write(at(&format!("{how} small")), text(30)).unwrap();
    }
    sync(root);
    for name in ["zstd", "noise"] {
        tool("cp", [OsStr::new("--reflink=always"), at(name).as_os_str(), at(&format!("{name} copy")).as_os_str()]);
        // Parts of extents are shown, and parts of compressed ones.
        let file = File::options().write(true).open(at(name)).unwrap();
        file.write_all_at(b"in the middle", 150_000).unwrap();
        file.write_all_at(&noise(9000, 7), 60_001).unwrap();
        sync(root);
    }
    let attribute = |name: &str, value: &[u8]| {
        rustix::fs::setxattr(at("small"), name, value, rustix::fs::XattrFlags::empty()).unwrap();
    };
    attribute("user.note", b"some text");
    attribute("user.raw", &[0xff; 3]);
    attribute("trusted.long", &[b'l'; 3000]);
    File::options().write(true).open(at("small")).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
}

/// Fills a new file system and its subvolumes. The truth of each, or nothing where this machine cannot mount.
fn filled(image: &Path, at: &Path, options: &str) -> Option<BTreeMap<String, Files>> {
    let mut all = BTreeMap::new();
    let done = mounted(image, &format!("loop,noatime,nodiscard{options}"), at, |root| {
        fill(root);
        fs::create_dir(root.join("vms")).unwrap();
        for name in ["home", "home/inner", "vms/gone", "vms/one"] {
            btrfs(&["subvolume", "create"], &[&root.join(name)]);
            fs::write(root.join(name).join("own"), name.repeat(3000)).unwrap();
        }
        let snapshots = [("home", "before", true), ("home", "vms/after", false), (".", "all", true)];
        for (of, name, read_only) in snapshots {
            let args = ["subvolume", "snapshot", "-r"];
            btrfs(if read_only { &args } else { &args[..2] }, &[&root.join(of), &root.join(name)]);
        }
        fs::write(root.join("vms/after/own"), "changed").unwrap();
        fs::remove_file(root.join("home/own")).unwrap();
        btrfs(&["subvolume", "delete", "-c"], &[&root.join("vms/gone")]);
        btrfs(&["subvolume", "sync"], &[root]);
        btrfs(&["subvolume", "set-default"], &[&root.join("home")]);
        sync(root);
        for name in ["", "home", "home/inner", "vms/one", "before", "vms/after", "all"] {
            all.insert(name.to_owned(), truth(&root.join(name)));
        }
    });
    done.then_some(all)
}

#[test]
fn every_file_of_every_subvolume_is_what_the_kernel_showed() {
    let temp = folder();
    for (number, (args, options)) in [
        (&["-d", "dup"][..], ""),
        (&["-M", "-n", "4096"], ",compress-force=zstd"),
        (&["--csum", "xxhash", "-n", "4096"], ",compress-force=lzo"),
        (&["--csum", "sha256", "-n", "65536"], ",compress-force=zlib"),
        (&["--csum", "blake2", "-O", "^no-holes", "-m", "single"], ",compress=zstd"),
    ]
    .iter()
    .enumerate()
    {
        let image = temp.path().join(format!("{number}.img"));
        make(&image, args, 256 << 20);
        let Some(truth) = filled(&image, &temp.path().join("mnt"), options) else { return };
        let top = open(&image);
        assert_eq!((top.odd(), top.is_whole()), (Vec::new(), true), "{args:?}");
        let mut files = same(top.as_ref(), &truth[""]);
        let subvolumes = top.subvolumes().unwrap();
        assert_eq!(subvolumes.len() + 1, truth.len(), "{args:?}");
        for one in &subvolumes {
            let name = String::from_utf8_lossy(&one.name).into_owned();
            files += same(one.fs.as_ref(), truth.get(&name).unwrap_or_else(|| panic!("{name} is no subvolume")));
        }
        assert!(files > 2500, "{args:?}: {files}");
        let node = top.node(truth[""][&b"/small"[..]].inode).unwrap();
        for (name, value) in [("user.note", "some text"), ("user.raw", "0xffffff"), ("trusted.long", &"l".repeat(3000))]
        {
            assert!(node.facts.contains(&(format!("xattr {name}"), value.to_owned())), "{:?}", node.facts);
        }
        let device = top.node(truth[""][&b"/device"[..]].inode).unwrap();
        assert!(device.facts.contains(&("device".to_owned(), "259:70000".to_owned())), "{:?}", device.facts);
        // What is compressed has no end of a block to itself.
        let slack = top.slack(truth[""][&b"/noise"[..]].inode).unwrap();
        assert!(slack.len() == 415 || options.contains("force"), "{args:?}: {}", slack.len());
        assert!(slack.iter().all(|byte| *byte == 0));
        assert!(top.slack(truth[""][&b"/zstd"[..]].inode).unwrap().is_empty(), "{args:?}");
        let default = top.facts().into_iter().find(|(name, _)| name == "default subvolume").unwrap();
        assert_eq!(default.1, "256 /home");
        let facts = |name: &str| &subvolumes.iter().find(|one| one.name == name.as_bytes()).unwrap().facts;
        let has = |name: &str, fact: &str, value: &str| facts(name).contains(&(fact.to_owned(), value.to_owned()));
        assert!(
            has("before", "snapshot of", "subvolume 256 home") && has("before", "read-only", "yes"),
            "{:?}",
            facts("before")
        );
        assert!(
            has("home/inner", "in subvolume", "256") && has("vms/one", "read-only", "no"),
            "{:?}",
            facts("home/inner")
        );
        fs::remove_file(image).unwrap();
    }
}
