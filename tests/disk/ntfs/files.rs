//! Files of every form that the driver writes, as it saw them and as The Sleuth Kit does.

use std::collections::BTreeMap;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use impound::disk::fs::{FileKind, Filesystem, State};
use impound::disk::walk::{How, find, walk};
use impound::image::{Kind, ReadError};

use super::{compressible, make, mounted, noise};
use crate::kit::{folder, impound, open, read, tool};

/// Files of every form that ntfs-3g writes.
fn fill(root: &Path) {
    let write = |name: &str, bytes: &[u8]| std::fs::write(root.join(name), bytes).unwrap();
    write("resident", b"small");
    write("empty", b"");
    write("big", &noise(900_001, 1));
    for name in ["Grüße.txt", "日本語", "a 😀 name", "x".repeat(255).as_str(), "a;b&c", "end.", "sp ace "] {
        write(name, name.as_bytes());
    }
    std::fs::create_dir_all(root.join("many/deep/er")).unwrap();
    for number in 0..2500 {
        write(&format!("many/a file with a long name {number}"), format!("{number}").as_bytes());
    }
    write("with streams", b"main");
    write("with streams:small", b"in the record");
    write("with streams:large", &noise(70_000, 3));
    std::fs::create_dir(root.join("dir")).unwrap();
    write("dir:on a directory", b"hidden");
    std::fs::hard_link(root.join("big"), root.join("dir/second name")).unwrap();
    std::os::unix::fs::symlink("../big", root.join("dir/link")).unwrap();
    let sparse = std::fs::File::create(root.join("sparse")).unwrap();
    for at in [0, 300_000, 3_000_000_000] {
        sparse.write_all_at(b"piece", at).unwrap();
    }
    std::fs::create_dir(root.join("packed")).unwrap();
    let flags = "0x00000800";
    tool("setfattr", ["-n", "system.ntfs_attrib_be", "-v", flags, root.join("packed").to_str().unwrap()]);
    write("packed/text", &compressible(700_123));
    write("packed/one unit", &compressible(65_536));
    write("packed/short", &compressible(5_000));
    // Two files grow by turns until the map of each needs records of its own.
    let [one, two] = ["fragments", "other"].map(|name| std::fs::File::create(root.join(name)).unwrap());
    for at in 0..3000_u64 {
        for file in [&one, &two] {
            file.write_all_at(&noise(4096, u32::try_from(at).unwrap()), at * 8192).unwrap();
        }
    }
}

/// What the driver says of a file.
#[derive(Debug, PartialEq, Eq)]
struct Truth {
    kind: FileKind,
    inode: u64,
    size: u64,
    links: u64,
    modified: (i64, i64),
    content: Vec<u8>,
}

fn truth(root: &Path) -> BTreeMap<Vec<u8>, Truth> {
    let (mut all, mut waiting) = (BTreeMap::new(), vec![root.to_owned()]);
    while let Some(here) = waiting.pop() {
        for entry in std::fs::read_dir(here).unwrap() {
            let path = entry.unwrap().path();
            let meta = path.symlink_metadata().unwrap();
            let kind = FileKind::of_mode(meta.mode()).unwrap();
            let content = match kind {
                FileKind::Directory => {
                    waiting.push(path.clone());
                    Vec::new()
                }
                FileKind::Link => std::fs::read_link(&path).unwrap().into_os_string().into_vec(),
                _ if meta.len() > 1 << 30 => {
                    let mut end = vec![0; 100_000];
                    std::fs::File::open(&path).unwrap().read_exact_at(&mut end, meta.len() - 100_000).unwrap();
                    end
                }
                _ => std::fs::read(&path).unwrap(),
            };
            let inside = [b"/", path.strip_prefix(root).unwrap().as_os_str().as_bytes()].concat();
            let links = if kind == FileKind::File { meta.nlink() } else { 1 };
            let modified = (meta.mtime(), meta.mtime_nsec());
            all.insert(inside, Truth { kind, inode: meta.ino(), size: meta.len(), links, modified, content });
        }
    }
    all
}

/// The same as it is read here.
fn ours(fs: &dyn Filesystem) -> BTreeMap<Vec<u8>, Truth> {
    let mut all = BTreeMap::new();
    let mut odd = |line: String| panic!("{line}");
    walk::<ReadError>(fs, (fs.root(), b"/"), How { recursive: true, deleted: false }, &mut odd, &mut |found| {
        assert_eq!(found.entry.state, State::Allocated);
        if found.path.starts_with(b"/$") {
            return Ok(());
        }
        let node = found.node?;
        assert!(node.odd.is_empty(), "{:?}", node.odd);
        let (kind, inode) = (node.kind.unwrap(), node.inode);
        assert!(found.entry.kind.is_none() || found.entry.kind == node.kind);
        let content = match kind {
            FileKind::Directory => Vec::new(),
            FileKind::Link => fs.target(inode)?,
            _ if node.size > 1 << 30 => {
                let mut end = vec![0; 100_000];
                fs.content(inode)?.read_at(node.size - 100_000, &mut end)?;
                end
            }
            _ => read(fs.content(inode)?.as_ref()),
        };
        let modified = node.times.modified.unwrap();
        let modified = (modified.as_second(), i64::from(modified.subsec_nanosecond()));
        let links = if kind == FileKind::File { u64::from(node.links) } else { 1 };
        all.insert(found.path, Truth { kind, inode, size: node.size, links, modified, content });
        Ok(())
    })
    .unwrap();
    all
}

fn stream(fs: &dyn Filesystem, path: &str, name: &str) -> Vec<u8> {
    let streams = fs.streams(find(fs, path.as_bytes()).unwrap()).unwrap();
    let found = streams.iter().find(|stream| stream.name == name.as_bytes());
    read(found.unwrap_or_else(|| panic!("{path}:{name}")).content.as_ref())
}

#[test]
fn every_file_is_what_the_driver_saw_and_the_sleuth_kit_reads_the_same() {
    let temp = folder();
    for args in [&["-c", "4096"][..], &["-c", "1024"], &["-c", "65536"]] {
        let image = make(temp.path(), 96, args);
        let compressed = args[1] != "65536";
        let Some(want) = mounted(&image, |root| {
            fill(root);
            truth(root)
        }) else {
            return;
        };
        let fs = open(&image);
        assert_eq!((fs.odd(), fs.is_whole()), (Vec::new(), true), "{args:?}");
        assert!(fs.facts().contains(&("label".into(), "Grüße".into())), "{:?}", fs.facts());
        let found = ours(fs.as_ref());
        assert_eq!(found.len(), want.len(), "{args:?}");
        for (path, want) in &want {
            let name = String::from_utf8_lossy(path);
            let found = found.get(path).unwrap_or_else(|| panic!("{name} is missing"));
            let ours = (found.kind, found.inode, found.links, found.modified);
            assert_eq!(ours, (want.kind, want.inode, want.links, want.modified), "{name}");
            // The driver gives directories and its own links another length.
            assert!(want.kind != FileKind::File || found.size == want.size, "{name}");
            assert!(found.content == want.content, "{args:?}: {name} differs");
        }
        assert_eq!(stream(fs.as_ref(), "/with streams", "small"), b"in the record");
        assert!(stream(fs.as_ref(), "/with streams", "large") == noise(70_000, 3));
        assert_eq!(stream(fs.as_ref(), "/dir", "on a directory"), b"hidden");
        kit_agrees(
            &image,
            fs.as_ref(),
            &["/big", "/resident", "/many/a file with a long name 77", "/fragments", "/packed/text"],
        );
        let facts = |path: &str| format!("{:?}", fs.node(find(fs.as_ref(), path.as_bytes()).unwrap()).unwrap().facts);
        assert_eq!(facts("/packed/text").contains("compressed by"), compressed, "{}", facts("/packed/text"));
        assert!(facts("/sparse").contains("not stored"), "{}", facts("/sparse"));
        let sparse = fs.content(find(fs.as_ref(), b"/sparse").unwrap()).unwrap();
        assert_eq!(sparse.extent(1 << 30).unwrap().kind, Kind::Zero, "a hole costs nothing");
        let runs = fs.runs(find(fs.as_ref(), b"/fragments").unwrap()).unwrap();
        assert!(runs.len() >= 700 || args[1] == "65536", "{} runs do not need more than a record", runs.len());
    }
}

/// icat gives the same bytes, fls the same names and streams.
fn kit_agrees(image: &Path, fs: &dyn Filesystem, paths: &[&str]) {
    for path in paths {
        let inode = find(fs, path.as_bytes()).unwrap();
        let theirs = tool("icat", [image.as_os_str(), inode.to_string().as_ref()]).stdout;
        assert!(theirs == read(fs.content(inode).unwrap().as_ref()), "{path}");
    }
    let output = tool("fls", ["-r".as_ref(), "-p".as_ref(), "-u".as_ref(), image.as_os_str()]);
    let text = String::from_utf8(output.stdout).unwrap();
    let names = text.lines().filter_map(|line| line.split_once('\t')).map(|(_, name)| format!("/{name}"));
    // It also lists indexes that are no directories, and the directory of orphans that it makes up.
    let apart = |name: &String| {
        ["$O", ":$Q", ":$R", ":$SDH", ":$SII", ":$Bad"].iter().any(|end| name.ends_with(end))
            || name.starts_with("/$Orphan")
            // A stream of a directory it lists twice.
            || name.contains("/.:")
    };
    let mut theirs: Vec<_> = names.filter(|name| !apart(name)).collect();
    let mut ours = Vec::new();
    walk::<ReadError>(fs, (fs.root(), b"/"), How { recursive: true, deleted: false }, &mut |_| {}, &mut |found| {
        let path = String::from_utf8(found.path).unwrap();
        let streams = fs.streams(found.entry.inode)?;
        let content = fs.node(found.entry.inode)?.kind != Some(FileKind::Directory);
        ours.extend(streams.iter().map(|stream| format!("{path}:{}", String::from_utf8_lossy(&stream.name))));
        // $Secure and the like have streams and indexes only; those are left out above.
        ours.extend((content || !path.starts_with("/$Extend/")).then_some(path));
        Ok(())
    })
    .unwrap();
    ours.retain(|name| {
        !["/$Secure", "/$Extend/$ObjId", "/$Extend/$Quota", "/$Extend/$Reparse"].contains(&name.as_str())
    });
    theirs.sort_unstable();
    ours.sort_unstable();
    assert_eq!(ours, theirs);
}

#[test]
fn names_are_found_whatever_their_case_and_streams_are_rows() {
    let temp = folder();
    let image = make(temp.path(), 16, &[]);
    let Some(()) = mounted(&image, |root| {
        std::fs::create_dir(root.join("Ordner Ä")).unwrap();
        std::fs::write(root.join("Ordner Ä/File.TXT"), "content").unwrap();
        std::fs::write(root.join("Ordner Ä/File.TXT:Zone.Identifier"), "[ZoneTransfer]").unwrap();
    }) else {
        return;
    };
    let name = |path: &str| format!("{}:{path}", image.display());
    let file = name("/ordner ä/file.txt");
    assert_eq!(impound(["disk", &file, "cat"]), ("content".to_owned(), 0));
    assert_eq!(impound(["disk", &file, "cat", "--stream", "zone.identifier"]), ("[ZoneTransfer]".to_owned(), 0));
    assert_eq!(impound(["disk", &file, "cat", "--stream", "none"]).1, 1);
    let (text, code) = impound(["--format", "jsonl", "disk", &name("/Ordner Ä"), "ls"]);
    assert_eq!((text.lines().count(), code), (2, 0), "{text}");
    assert!(
        text.lines().any(|line| line.contains("/Ordner Ä/File.TXT:Zone.Identifier") && line.contains("\"size\":14")),
        "{text}"
    );
    let (text, code) = impound(["--format", "jsonl", "disk", &name("/Ordner Ä"), "hash"]);
    assert_eq!((text.lines().count(), code), (2, 0), "{text}");
    // What sha256sum says of both.
    for hash in [
        "ed7002b439e9ac845f22357d822bac1444730fbdb6016d3ec9432297b9ec9f73",
        "1f8fca7207abbbc37a4aae5ed88c4c644d4badd29e5e0ebd777cb263197e448e",
    ] {
        assert!(text.contains(hash), "{text}");
    }
    let (text, code) = impound(["disk", &file, "stat"]);
    assert_eq!(code, 0);
    assert!(text.contains("Zone.Identifier") && text.contains("$FN born"), "{text}");
}
