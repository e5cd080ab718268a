//! What ntfs-3g does not write by itself: a change journal, reparse points, a short valid length, odd names.

use std::os::unix::fs::FileExt;

use impound::disk::fs::FileKind;
use impound::disk::walk::find;
use impound::image::{Kind, ReadError};

use super::{changes, make, mounted, units};
use crate::kit::{folder, impound, open, read, tool};

/// A record of the change journal, version 2 or 3, as Microsoft's USN_RECORD pages have it.
fn usn(version: u16, usn: u64, file: u64, reason: u32, name: &str) -> Vec<u8> {
    let name = units(name);
    let id = |reference: u64| -> Vec<u8> {
        let bytes = reference.to_le_bytes();
        if version == 2 { bytes.to_vec() } else { [bytes, [0; 8]].concat() }
    };
    let fixed: u16 = if version == 2 { 60 } else { 76 };
    let len = (usize::from(fixed) + name.len()).next_multiple_of(8);
    let time = (1_700_000_000_u64 + 11_644_473_600) * 10_000_000 + 1_234_567;
    let mut bytes = [
        u32::try_from(len).unwrap().to_le_bytes().to_vec(),
        version.to_le_bytes().to_vec(),
        vec![0, 0],
        id(file | 3 << 48),
        id(5 | 5 << 48),
        usn.to_le_bytes().to_vec(),
        time.to_le_bytes().to_vec(),
        reason.to_le_bytes().to_vec(),
        vec![0; 8],
        0x20_u32.to_le_bytes().to_vec(),
        u16::try_from(name.len()).unwrap().to_le_bytes().to_vec(),
        fixed.to_le_bytes().to_vec(),
        name,
    ]
    .concat();
    bytes.resize(len, 0);
    bytes
}

#[test]
fn the_change_journal_is_told_and_its_empty_front_costs_nothing() {
    let temp = folder();
    let image = make(temp.path(), 16, &[]);
    let front = 40_u64 << 30;
    let Some(()) = mounted(&image, |root| {
        // ntfs-3g keeps no journal; one is written as an ordinary stream, and the name put to its place below.
        std::fs::write(root.join("$UsnJrnl"), "").unwrap();
        let file = std::fs::File::create(root.join("$UsnJrnl:$J")).unwrap();
        let mut page = [usn(2, front, 77, 0x100, "neu.txt"), usn(3, front + 80, 78, 0x8000_0200, "日本")].concat();
        page.resize(4096, 0);
        file.write_all_at(&page, front).unwrap();
        let next = [usn(2, front + 4096, 79, 0x1000, "old"), vec![0xee; 100]].concat();
        file.write_all_at(&next, front + 4096).unwrap();
        file.write_all_at(&usn(2, front + 8192, 80, 0x2000, "new"), front + 8192).unwrap();
    }) else {
        return;
    };
    assert!(matches!(changes(open(&image).as_ref()), Err(ReadError::Unsupported { .. })), "none is in $Extend yet");
    // The root names it; $Extend shall, too: both keep names in the same form, so the entry goes over as it is.
    let mut raw = std::fs::read(&image).unwrap();
    move_to_extend(&mut raw, "$UsnJrnl");
    std::fs::write(&image, raw).unwrap();
    let found = changes(open(&image).as_ref()).unwrap();
    let short: Vec<_> = found.iter().map(|c| (c.at - front, c.kind.as_str(), c.inode, c.name.as_deref())).collect();
    assert_eq!(
        short,
        [
            (0, "file-create", Some(77), Some(&b"neu.txt"[..])),
            (80, "file-delete close", Some(78), Some("日本".as_bytes())),
            (4096, "rename-old-name", Some(79), Some(b"old")),
            (4096 + 72, "damaged", None, None),
            (8192, "rename-new-name", Some(80), Some(b"new")),
        ]
    );
    assert_eq!(found[0].time.unwrap().to_string(), "2023-11-14T22:13:20.1234567Z");
    assert!(found[0].note.contains("record 77-3 parent 5-5"), "{}", found[0].note);
}

/// Puts the entry of a name in the root's index into the one of $Extend, which is small enough to be in its record.
fn move_to_extend(raw: &mut [u8], name: &str) {
    let boot = u64::from_le_bytes(raw[48..56].try_into().unwrap());
    let cluster = usize::from(raw[13]) * 512;
    let mft = usize::try_from(boot).unwrap() * cluster;
    let record = mft + 11 * 1024;
    let name = units(name);
    let key = raw.windows(name.len()).enumerate().filter(|(_, window)| *window == name).map(|(at, _)| at - 66);
    // Of its places, the one in an index has a length of the key in front.
    let len = 66 + name.len();
    let entry =
        key.filter(|at| raw[at - 6..at - 4] == u16::try_from(len).unwrap().to_le_bytes()).map(|at| at - 16).next();
    let entry = entry.expect("the root names it");
    let mut bytes = raw[entry..entry + 16 + len.next_multiple_of(8)].to_vec();
    bytes[16..24].copy_from_slice(&[11, 0, 0, 0, 0, 0, 11, 0]);
    let len = u16::try_from(bytes.len()).unwrap();
    bytes[8..10].copy_from_slice(&len.to_le_bytes());
    let record = &mut raw[record..record + 1024];
    // The ends of both sectors are in the update sequence; they are put back for the change and taken out again.
    let sequence = usize::from(record[4]);
    let swap = |record: &mut [u8], out: bool| {
        for sector in 0..2 {
            let (end, saved) = (sector * 512 + 510, sequence + 2 + sector * 2);
            if out {
                record.copy_within(end..end + 2, saved);
                record.copy_within(sequence..sequence + 2, end);
            } else {
                record.copy_within(saved..saved + 2, end);
            }
        }
    };
    swap(record, false);
    insert(record, &bytes);
    swap(record, true);
}

/// Puts an entry in front of the others of $INDEX_ROOT.
fn insert(record: &mut [u8], entry: &[u8]) {
    let long =
        |raw: &[u8], at: usize| usize::try_from(u32::from_le_bytes(raw[at..at + 4].try_into().unwrap())).unwrap();
    let mut at = usize::from(record[20]);
    while long(record, at) != 0x90 {
        at += long(record, at + 4);
    }
    let value = at + usize::from(record[at + 20]);
    let first = value + 16 + long(record, value + 16);
    let end = long(record, 24);
    let grown = entry.len();
    assert!(end + grown <= record.len());
    record.copy_within(first..end, first + grown);
    record[first..first + grown].copy_from_slice(entry);
    for field in [at + 4, at + 16, value + 20, value + 24, 24] {
        let new = u32::try_from(long(record, field) + grown).unwrap();
        record[field..field + 4].copy_from_slice(&new.to_le_bytes());
    }
}

#[test]
fn reparse_points_lead_where_windows_would_go_and_foreign_content_is_refused() {
    let temp = folder();
    let image = make(temp.path(), 16, &[]);
    let point = |tag: u32, body: &[u8]| {
        let all = [&tag.to_le_bytes()[..], &u16::try_from(body.len()).unwrap().to_le_bytes(), &[0, 0], body].concat();
        format!("0x{}", impound::image::hex(&all))
    };
    // MS-FSCC 2.1.2.4 and 2.1.2.5: places and lengths of both names, flags for a symbolic link, the names.
    let names = |flags: &[u8]| {
        let (followed, shown) = (units("\\??\\C:\\Users"), units("C:\\Users"));
        let len = |bytes: &[u8]| u16::try_from(bytes.len()).unwrap().to_le_bytes();
        [&[0, 0][..], &len(&followed), &len(&followed), &len(&shown), flags, &followed, &shown].concat()
    };
    let Some(()) = mounted(&image, |root| {
        let set = |name: &str, value: &str| {
            tool("setfattr", ["-n", "system.ntfs_reparse_data", "-v", value, root.join(name).to_str().unwrap()]);
        };
        for name in ["symlink", "wsl", "overlay"] {
            std::fs::write(root.join(name), "").unwrap();
        }
        std::fs::create_dir(root.join("junction")).unwrap();
        set("symlink", &point(0xa000_000c, &names(&[0; 4])));
        set("junction", &point(0xa000_0003, &names(&[])));
        set("wsl", &point(0xa000_001d, b"\x02\0\0\0../file"));
        set("overlay", &point(0x8000_0017, &[1, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]));
    }) else {
        return;
    };
    let fs = open(&image);
    let inode = |path: &[u8]| find(fs.as_ref(), path).unwrap();
    for (path, target) in
        [(&b"/symlink"[..], &b"\\??\\C:\\Users"[..]), (b"/junction", b"\\??\\C:\\Users"), (b"/wsl", b"../file")]
    {
        let node = fs.node(inode(path)).unwrap();
        assert_eq!((node.kind, fs.target(node.inode).unwrap()), (Some(FileKind::Link), target.to_vec()));
        let listed = fs.entries(fs.root(), false).unwrap().entries;
        let entry = listed.iter().find(|entry| entry.inode == node.inode).unwrap();
        assert!(entry.kind.is_none_or(|kind| kind == FileKind::Link), "{:?}", entry.kind);
    }
    let facts = fs.node(inode(b"/symlink")).unwrap().facts;
    assert!(facts.contains(&("shown target".into(), "C:\\Users".into())), "{facts:?}");
    let error = fs.content(inode(b"/overlay")).err().expect("it is not what the file holds");
    assert!(error.to_string().contains("Overlay Filter"), "{error}");
    assert_eq!(impound(["disk", &format!("{}:/overlay", image.display()), "cat"]).1, 1);
}

#[test]
fn what_was_never_written_reads_as_zeros_and_slack_is_what_stands_behind() {
    let temp = folder();
    let image = make(temp.path(), 16, &["-c", "4096"]);
    let Some(()) = mounted(&image, |root| {
        std::fs::write(root.join("file"), vec![b'A'; 4096 + 4000]).unwrap();
        std::fs::write(root.join("tiny"), "resident").unwrap();
    }) else {
        return;
    };
    let fs = open(&image);
    let (inode, tiny) = (find(fs.as_ref(), b"/file").unwrap(), find(fs.as_ref(), b"/tiny").unwrap());
    let mut raw = std::fs::read(&image).unwrap();
    let block = usize::try_from(fs.runs(inode).unwrap()[0].physical * 4096).unwrap();
    raw[block + 4096..block + 8192].fill(b'B');
    let mft = usize::try_from(fs.runs(0).unwrap()[0].physical * 4096 + inode * 1024).unwrap();
    // Of its size, its allocated and its valid length, the last one is set to 5000.
    let size = 8096_u64.to_le_bytes();
    let at = mft + (0..1000).find(|at| raw[mft + at..][..8] == size && raw[mft + at + 8..][..8] == size).unwrap();
    raw[at + 8..at + 16].copy_from_slice(&5000_u64.to_le_bytes());
    std::fs::write(&image, raw).unwrap();
    let fs = open(&image);
    let content = fs.content(inode).unwrap();
    let want = [vec![b'A'; 4096], vec![b'B'; 904], vec![0; 3096]].concat();
    assert!(read(content.as_ref()) == want);
    assert_eq!(content.extent(5000).unwrap().kind, Kind::Zero);
    assert_eq!(fs.slack(inode).unwrap(), vec![b'B'; 96]);
    assert!(fs.slack(tiny).unwrap().len() > 500, "what is left of its record");
    let facts = format!("{:?}", fs.node(inode).unwrap().facts);
    assert!(facts.contains("written up to 5000"), "{facts}");
}

#[test]
fn a_name_that_is_no_text_is_kept() {
    let temp = folder();
    let image = make(temp.path(), 16, &[]);
    let Some(()) = mounted(&image, |root| std::fs::write(root.join("half"), "x").unwrap()) else { return };
    let mut raw = std::fs::read(&image).unwrap();
    // In the index of the root and in the record: the first unit of the name becomes half of a pair.
    let old = units("half");
    let places: Vec<_> = (0..raw.len() - old.len()).filter(|at| raw[*at..*at + old.len()] == old).collect();
    for at in places {
        raw[at..at + 2].copy_from_slice(&0xd83d_u16.to_le_bytes());
    }
    std::fs::write(&image, raw).unwrap();
    let fs = open(&image);
    let path = b"/\xed\xa0\xbdalf";
    assert_eq!(read(fs.content(find(fs.as_ref(), path).unwrap()).unwrap().as_ref()), b"x");
}
