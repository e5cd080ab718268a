//! ext2, ext3, ext4: every file equals what was put in, and The Sleuth Kit lists the same.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use impound::disk::fs::{FileKind, Filesystem, State};
use impound::disk::walk::{How, find, walk};
use impound::image::ReadError;

use crate::kit::{debugfs, folder, impound, make, open, read, tool, tree};

pub(crate) fn files(fs: &dyn Filesystem) -> BTreeMap<Vec<u8>, u64> {
    let mut all = BTreeMap::new();
    let how = How { recursive: true, deleted: false };
    let mut odd = |line: String| panic!("{line}");
    walk::<ReadError>(fs, (fs.root(), b"/"), how, &mut odd, &mut |found| {
        assert_eq!(found.entry.state, State::Allocated);
        let node = found.node?;
        assert!(node.odd.is_empty() && node.allocated, "{}: {:?}", node.inode, node.odd);
        assert!(node.kind == found.entry.kind || found.entry.kind.is_none());
        all.insert(found.path, node.inode);
        Ok(())
    })
    .unwrap();
    all
}

/// Compares with the tree on this machine; gives the number of files.
pub(crate) fn same(
    fs: &dyn Filesystem,
    all: &BTreeMap<Vec<u8>, u64>,
    root: &Path,
    here: &Path,
    apart: &[&str],
) -> usize {
    let mut count = 0;
    for entry in std::fs::read_dir(here).unwrap() {
        let path = entry.unwrap().path();
        let inside = [b"/", path.strip_prefix(root).unwrap().as_os_str().as_bytes()].concat();
        let inode = *all.get(&inside).unwrap_or_else(|| panic!("{} is missing", path.display()));
        let (node, meta) = (fs.node(inode).unwrap(), path.symlink_metadata().unwrap());
        count += 1;
        if meta.is_symlink() {
            assert_eq!(node.kind, Some(FileKind::Link));
            assert_eq!(fs.target(inode).unwrap(), std::fs::read_link(&path).unwrap().as_os_str().as_bytes());
        } else if meta.is_dir() {
            count += same(fs, all, root, &path, apart);
        } else if !apart.iter().any(|name| path.ends_with(name)) {
            assert!(read(fs.content(inode).unwrap().as_ref()) == std::fs::read(&path).unwrap(), "{}", path.display());
        }
    }
    count
}

#[test]
fn every_file_is_what_was_put_in() {
    let temp = folder();
    let tree = tree(temp.path());
    for (number, args) in [
        &["-t", "ext2", "-b", "1024"][..],
        &["-t", "ext2", "-b", "4096", "-O", "^filetype"],
        &["-t", "ext3", "-b", "1024"],
        &["-t", "ext3", "-b", "2048"],
        &["-t", "ext4", "-b", "1024", "-O", "64bit,metadata_csum"],
        &["-t", "ext4", "-b", "2048", "-O", "^flex_bg,meta_bg,^resize_inode"],
        &["-t", "ext4", "-b", "4096", "-I", "128"],
        &["-t", "ext4", "-b", "4096", "-O", "bigalloc", "-C", "16384"],
        &["-t", "ext4", "-b", "1024", "-O", "bigalloc", "-C", "16384"],
        &["-t", "ext4", "-b", "4096", "-O", "inline_data,metadata_csum,metadata_csum_seed"],
    ]
    .iter()
    .enumerate()
    {
        let image = temp.path().join(format!("{number}.img"));
        make(&image, args, &tree, "48M");
        let fs = open(&image);
        assert_eq!(fs.odd(), Vec::<String>::new(), "{args:?}");
        assert_eq!(fs.name(), args[1], "{args:?}");
        let all = files(fs.as_ref());
        // mke2fs itself cuts a file that ends in a hole short when it may be inline.
        let apart: &[&str] = if number == 9 { &["sparse"] } else { &[] };
        let count = same(fs.as_ref(), &all, &tree, &tree, apart);
        // lost+found is the only one that nobody put there.
        assert_eq!(all.len(), count + 1, "{args:?}");
    }
}

#[test]
fn the_sleuth_kit_lists_the_same() {
    let temp = folder();
    let image = temp.path().join("disk.img");
    make(&image, &["-t", "ext4", "-b", "1024"], &tree(temp.path()), "32M");
    let output = tool("fls", ["-r".as_ref(), "-p".as_ref(), "-F".as_ref(), "-u".as_ref(), image.as_os_str()]);
    let theirs = String::from_utf8_lossy(&output.stdout).lines().count();
    let fs = open(&image);
    let ours = files(fs.as_ref());
    let plain = ours.values().filter(|inode| fs.node(**inode).unwrap().kind != Some(FileKind::Directory)).count();
    assert_eq!(ours.len(), 2000 + 60 + 14, "{ours:?}");
    // fls also shows the directory of orphans that it makes up.
    assert!((plain..=plain + 1).contains(&theirs), "{plain} and {theirs}");
    let inode = find(fs.as_ref(), b"/big").unwrap();
    let output = tool("icat", [image.as_os_str(), inode.to_string().as_ref()]);
    assert!(output.stdout == read(fs.content(inode).unwrap().as_ref()));
}

#[test]
fn unwritten_extents_are_zeros_and_attributes_are_read() {
    let temp = folder();
    let image = temp.path().join("disk.img");
    make(&image, &["-t", "ext4", "-b", "1024"], &tree(temp.path()), "32M");
    debugfs(&image, "fallocate /empty 0 9");
    debugfs(&image, "set_inode_field /empty size 10240");
    debugfs(&image, "ea_set /small user.note some-text");
    let fs = open(&image);
    let inode = find(fs.as_ref(), b"/empty").unwrap();
    assert!(fs.runs(inode).unwrap().iter().all(|run| run.unwritten), "{:?}", fs.runs(inode));
    assert_eq!(read(fs.content(inode).unwrap().as_ref()), vec![0; 10240]);
    let node = fs.node(find(fs.as_ref(), b"/small").unwrap()).unwrap();
    assert!(node.facts.contains(&("xattr user.note".into(), "some-text".into())), "{:?}", node.facts);
}

#[test]
fn a_dirty_journal_is_replayed_in_memory_and_only_there() {
    let temp = folder();
    let image = temp.path().join("disk.img");
    make(&image, &["-t", "ext4", "-b", "1024"], &tree(temp.path()), "32M");
    let fs = open(&image);
    let block = fs.runs(find(fs.as_ref(), b"/small").unwrap()).unwrap()[0].physical;
    let new = temp.path().join("new");
    std::fs::write(&new, [b"HELLO\n".to_vec(), vec![0; 1018]].concat()).unwrap();
    let script = temp.path().join("script");
    std::fs::write(&script, format!("jo\njw -b {block} {}\njc\n", new.display())).unwrap();
    tool("debugfs", ["-w".as_ref(), "-f".as_ref(), script.as_os_str(), image.as_os_str()]);
    let before = std::fs::read(&image).unwrap();
    let name = format!("{}:/small", image.display());
    assert_eq!(impound(["disk", &name, "cat"]), ("HELLO\n".to_owned(), 0));
    assert_eq!(impound(["disk", "--no-journal", &name, "cat"]), ("hello\n".to_owned(), 0));
    assert!(before == std::fs::read(&image).unwrap(), "the image was written to");
}

#[test]
fn hash_and_timeline_cover_every_file() {
    let temp = folder();
    let image = temp.path().join("disk.img");
    make(&image, &["-t", "ext4", "-b", "1024"], &tree(temp.path()), "32M");
    let name = image.to_string_lossy();
    let (text, code) = impound(["--format", "jsonl", "disk", &name, "hash"]);
    assert_eq!((text.lines().count(), code), (2000 + 9, 0));
    assert!(text.contains("5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03"), "the hash of hello");
    assert!(text.contains(r#"{"hex":"ff1b5b33316d7c70697065","text":"#) || text.contains("2fff1b5b33316d7c70697065"));
    let (text, code) = impound(["disk", &name, "timeline", "--bodyfile"]);
    assert_eq!((text.lines().count(), code), (2000 + 60 + 14, 0));
    assert!(text.lines().all(|line| line.split('|').count() == 11), "a name ended a field");
    let (text, _) = impound(["--format", "jsonl", "disk", &name, "timeline"]);
    let time = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["time"].as_str().map(str::parse);
    let times: Vec<jiff::Timestamp> = text.lines().map(|line| time(line).unwrap().unwrap()).collect();
    assert!(times.is_sorted() && times.len() >= 2000);
}
