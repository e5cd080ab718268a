//! XFS for the tests: images made by the kernel, and what the kernel says is in them.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use impound::disk::fs::{FileKind, Filesystem};
use jiff::Timestamp;

use crate::ext::files;
use crate::kit::{folder, mounted, read, tool};

/// Files longer than this are compared in parts.
const LARGE: u64 = 64 << 20;
/// Where the long sparse file has bytes.
pub(crate) const PLACES: [u64; 4] = [0, 1 << 33, (5 << 40) - 8192, (5 << 40) - 9];

/// An empty file system.
pub(crate) fn make(image: &Path, args: &[&str], size: u64) {
    File::create(image).unwrap().set_len(size).unwrap();
    let args = ["-q", "-f"].iter().chain(args).map(OsStr::new).chain([image.as_os_str()]);
    tool("mkfs.xfs", args);
}

/// An image in a folder of its own that the kernel filled; none if it cannot mount.
pub(crate) fn filled(args: &[&str], work: impl FnOnce(&Path)) -> Option<(tempfile::TempDir, PathBuf)> {
    let temp = folder();
    let image = temp.path().join("disk.img");
    make(&image, args, 320 << 20);
    mounted(&image, "loop,noatime", &temp.path().join("mnt"), work).then_some((temp, image))
}

/// What the kernel says of a file.
pub(crate) struct Truth {
    meta: fs::Metadata,
    content: Vec<u8>,
    link: Vec<u8>,
    attributes: BTreeMap<String, Vec<u8>>,
}

/// Everything below `root`.
pub(crate) fn truth(root: &Path) -> BTreeMap<Vec<u8>, Truth> {
    let mut all = BTreeMap::new();
    let mut waiting = vec![root.to_owned()];
    while let Some(directory) = waiting.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            let meta = path.symlink_metadata().unwrap();
            if meta.is_dir() {
                waiting.push(path.clone());
            }
            let content = if meta.is_file() && meta.len() <= LARGE { fs::read(&path).unwrap() } else { Vec::new() };
            let link = if meta.is_symlink() { fs::read_link(&path).unwrap().into_os_string() } else { OsString::new() };
            let name = [b"/", path.strip_prefix(root).unwrap().as_os_str().as_bytes()].concat();
            let attributes = attributes(&path);
            all.insert(name, Truth { meta, content, link: link.into_vec(), attributes });
        }
    }
    all
}

fn attributes(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut list = vec![0; 1 << 16];
    let len = rustix::fs::llistxattr(path, list.as_mut_slice()).unwrap();
    let names = list[..len].split(|byte| *byte == 0).filter(|name| !name.is_empty() && !name.starts_with(b"system."));
    names
        .map(|name| {
            let mut value = vec![0; 1 << 16];
            let len = rustix::fs::lgetxattr(path, name, value.as_mut_slice()).unwrap();
            value.truncate(len);
            (String::from_utf8(name.to_vec()).unwrap(), value)
        })
        .collect()
}

/// Every file is what the kernel said; gives how many there are.
pub(crate) fn same(fs: &dyn Filesystem, truth: &BTreeMap<Vec<u8>, Truth>) -> usize {
    let all = files(fs);
    let names = |all: &mut dyn Iterator<Item = &Vec<u8>>| all.cloned().collect::<Vec<_>>();
    assert!(names(&mut all.keys()) == names(&mut truth.keys()), "other names");
    for (path, want) in truth {
        one(fs, &String::from_utf8_lossy(path), all[path], want);
    }
    all.len()
}

fn one(fs: &dyn Filesystem, path: &str, inode: u64, want: &Truth) {
    let (node, meta) = (fs.node(inode).unwrap(), &want.meta);
    assert_eq!(node.inode, meta.ino(), "{path}");
    let mine = (node.mode, node.uid, node.gid, u64::from(node.links));
    assert_eq!(mine, (meta.mode(), meta.uid(), meta.gid(), meta.nlink()), "{path}");
    let time = |seconds, nanos: i64| Timestamp::new(seconds, i32::try_from(nanos).unwrap()).unwrap();
    assert_eq!(node.times.modified, Some(time(meta.mtime(), meta.mtime_nsec())), "{path}");
    assert_eq!(node.times.accessed, Some(time(meta.atime(), meta.atime_nsec())), "{path}");
    assert_eq!(node.times.changed, Some(time(meta.ctime(), meta.ctime_nsec())), "{path}");
    let born = meta.created().ok().map(|time| time.duration_since(UNIX_EPOCH).unwrap());
    let born = born.map(|born| time(i64::try_from(born.as_secs()).unwrap(), i64::from(born.subsec_nanos())));
    assert_eq!(node.times.born, born, "{path}");
    for (name, value) in &want.attributes {
        let text =
            std::str::from_utf8(value).map_or_else(|_| format!("0x{}", impound::image::hex(value)), ToOwned::to_owned);
        assert!(node.facts.contains(&(format!("xattr {name}"), text)), "{path}: {name}");
    }
    if node.kind == Some(FileKind::Link) {
        assert!(fs.target(inode).unwrap() == want.link, "{path}");
    } else if node.kind == Some(FileKind::File) {
        assert_eq!(node.size, meta.len(), "{path}");
        let content = fs.content(inode).unwrap();
        if node.size <= LARGE {
            assert!(read(content.as_ref()) == want.content, "{path} differs");
        } else {
            large(content.as_ref());
        }
    }
}

/// The sparse file: its pieces, and nothing between them.
fn large(content: &dyn impound::image::ReadAt) {
    for at in PLACES {
        let mut piece = [0; 9];
        content.read_at(at, &mut piece).unwrap();
        assert_eq!(&piece, b"far apart", "{at}");
    }
    let data: u64 = impound::image::map::Totals::of(content).unwrap().data;
    assert!(data < 1 << 20, "{data}");
    let mut hole = [1; 4096];
    content.read_at(1 << 40, &mut hole).unwrap();
    assert_eq!(hole, [0; 4096]);
}

/// Bytes that no compressor or accident would make.
pub(crate) fn noise(len: usize, seed: u32) -> Vec<u8> {
    let from = seed.wrapping_mul(0x9e37_79b9);
    (0..u32::try_from(len).unwrap())
        .map(|n| n.wrapping_add(from).wrapping_mul(2_654_435_761).to_le_bytes()[3])
        .collect()
}

/// Pieces of a block each with holes between: an extent for each.
pub(crate) fn pieces(path: &Path, count: u64) {
    let file = File::create(path).unwrap();
    for n in 0..count {
        file.write_all_at(format!("piece {n}").as_bytes(), n * 3 * 4096).unwrap();
        // Written in between, the extents do not follow each other either.
        if n % 64 == 0 {
            file.sync_data().unwrap();
        }
    }
}

pub(crate) fn sparse(path: &Path) {
    let file = File::create(path).unwrap();
    for at in PLACES {
        file.write_all_at(b"far apart", at).unwrap();
    }
}

fn set(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::lsetxattr(path, name, value, rustix::fs::XattrFlags::empty()).unwrap();
}

/// One of everything; `many` names in the largest directory.
pub(crate) fn fill(root: &Path, many: usize) {
    for (name, count) in [("short", 3), ("block", 20), ("leaf", 300), ("many", many)] {
        let directory = root.join(name);
        fs::create_dir(&directory).unwrap();
        for n in 0..count {
            fs::write(directory.join(format!("a file with a long name {n}")), "").unwrap();
        }
    }
    fs::write(root.join("small"), "hello\n").unwrap();
    fs::write(root.join("big"), noise(3_000_000, 1)).unwrap();
    for name in [&b"nl\nname"[..], b"\xff\x1b[31m|pipe", "Grüße".as_bytes(), &[b'n'; 255]] {
        fs::write(root.join(OsStr::from_bytes(name)), name).unwrap();
    }
    pieces(&root.join("pieces"), 700);
    sparse(&root.join("sparse"));
    special(root);
    attributed(root);
}

fn special(root: &Path) {
    symlink("small", root.join("link")).unwrap();
    symlink("x/".repeat(500), root.join("long link")).unwrap();
    fs::hard_link(root.join("small"), root.join("second name")).unwrap();
    let at = |name: &str| root.join(name).into_os_string();
    tool("mknod", [at("device"), "b".into(), "259".into(), "70000".into()]);
    tool("mkfifo", [at("fifo")]);
    // Space with old bytes under it, set aside and not written.
    fs::write(root.join("old"), vec![0x55; 1 << 20]).unwrap();
    File::open(root.join("old")).unwrap().sync_all().unwrap();
    fs::remove_file(root.join("old")).unwrap();
    tool("fallocate", [OsString::from("-l"), "12M".into(), at("unwritten")]);
    File::options().write(true).open(root.join("unwritten")).unwrap().write_all_at(b"only this", 1 << 20).unwrap();
    tool("touch", ["-d".into(), "1955-11-05 01:21:00.123456789Z".into(), at("small")]);
    fs::create_dir_all(root.join("deep/er/and/deeper")).unwrap();
    fs::write(root.join("deep/er/and/deeper/bottom"), "here").unwrap();
}

pub(crate) fn attributed(root: &Path) {
    let few = root.join("few attributes");
    fs::write(&few, "").unwrap();
    set(&few, "user.note", b"some text");
    set(&few, "trusted.raw", b"\xff\0\xfe");
    set(&few, "security.thing", b"");
    let many = root.join("many attributes");
    fs::write(&many, "").unwrap();
    for n in 0..300 {
        set(&many, &format!("user.number {n}"), &noise(200, n));
    }
    for (n, len) in [(0, 3000), (1, 20_000), (2, 65_000)] {
        set(&many, &format!("user.long {n}"), &noise(len, 7));
    }
}

/// A small file system that the kernel filled and had to leave in the middle, and what the kernel's own replay makes of it.
/// The file that `work` gives stays open to the end.
pub(crate) fn dirty(
    args: &[&str],
    work: impl FnOnce(&Path) -> Option<File>,
) -> Option<(tempfile::TempDir, PathBuf, BTreeMap<Vec<u8>, Truth>)> {
    let temp = folder();
    let (image, copy, at) = (temp.path().join("disk.img"), temp.path().join("copy.img"), temp.path().join("mnt"));
    make(&image, &[&["--unsupported"], args].concat(), 64 << 20);
    let left = mounted(&image, "loop,noatime", &at, |root| {
        let _open = work(root);
        tool("xfs_io", [OsStr::new("-x"), OsStr::new("-c"), OsStr::new("shutdown -f"), root.as_os_str()]);
    });
    if !left {
        return None;
    }
    fs::copy(&image, &copy).unwrap();
    let mut want = None;
    mounted(&copy, "loop,noatime", &at, |root| want = Some(truth(root)));
    Some((temp, image, want.expect("it was mounted before")))
}
