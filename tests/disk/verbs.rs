//! `blocks`, `journal`, `timeline`, `ls` and `hash` as they are typed, beside the tools that they replace.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;

use impound::disk::walk::find;
use serde_json::Value;

use crate::kit::{debugfs, folder, impound, make, open, tool, tree};

/// Rows of a verb, and the exit code.
fn rows(image: &Path, verb: &[&str]) -> (Vec<Value>, i32) {
    let (text, code) = impound([&["--format", "jsonl", "disk", &image.to_string_lossy()], verb].concat());
    (text.lines().map(|line| serde_json::from_str(line).unwrap()).collect(), code)
}

fn number(row: &Value, key: &str) -> u64 {
    row[key].as_u64().unwrap_or_else(|| panic!("{key} of {row}"))
}

/// What dumpe2fs tells of each group: `  Free blocks: 8195-16384, 20481`. The line of the superblock is not indented.
fn free(text: &str) -> BTreeSet<u64> {
    let lines = text.lines().filter_map(|line| line.strip_prefix("  Free blocks: "));
    let ranges = lines.flat_map(|line| line.split(", ")).filter(|range| !range.is_empty());
    let range = |range: &str| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        first.parse::<u64>().unwrap()..=last.parse().unwrap()
    };
    ranges.flat_map(range).collect()
}

#[test]
fn free_blocks_are_those_that_the_sleuth_kit_lists_and_their_bytes_the_same() {
    let temp = folder();
    let tree = tree(temp.path());
    for args in [
        &["-t", "ext2", "-b", "1024"][..],
        &["-t", "ext4", "-b", "4096"],
        &["-t", "ext4", "-b", "1024", "-O", "^resize_inode,meta_bg"],
        &["-t", "ext4", "-b", "1024", "-O", "bigalloc", "-C", "16384"],
    ] {
        let image = temp.path().join("image");
        make(&image, args, &tree, "48M");
        debugfs(&image, "rm /big");
        let (found, code) = rows(&image, &["blocks"]);
        assert_eq!(code, 0, "{args:?}");
        let ours: BTreeSet<u64> = found.iter().flat_map(|row| number(row, "first")..=number(row, "last")).collect();
        let fs = open(&image);
        let want: BTreeSet<u64> = (0..fs.blocks()).filter(|block| !fs.block_in_use(*block).unwrap()).collect();
        assert!(ours == want && !ours.is_empty(), "{args:?}: ranges and single blocks differ");
        let output = tool("dumpe2fs", [image.as_os_str()]);
        let theirs = free(&String::from_utf8_lossy(&output.stdout));
        // Of clusters, dumpe2fs names the first block of the last one.
        let cut = args.contains(&"bigalloc");
        assert!(ours == theirs || (cut && ours.is_superset(&theirs)), "{args:?}: dumpe2fs tells others");
        // The Sleuth Kit does not know clusters, and takes the copies of the superblock for free where no bitmap is written.
        if args.len() == 4 {
            let output = tool("blkls", ["-l".as_ref(), image.as_os_str()]);
            let text = String::from_utf8_lossy(&output.stdout);
            let lines = text.lines().filter_map(|line| line.split_once('|'));
            let theirs: BTreeSet<u64> = lines.filter_map(|(block, _)| block.parse().ok()).collect();
            assert!(ours == theirs, "{args:?}: {:?}", ours.symmetric_difference(&theirs).collect::<Vec<_>>());
            let out = temp.path().join("free");
            assert_eq!(rows(&image, &["blocks", "--output", &out.to_string_lossy()]).1, 0);
            assert!(std::fs::read(&out).unwrap() == tool("blkls", [image.as_os_str()]).stdout, "{args:?}");
            assert_eq!(rows(&image, &["blocks", "--output", &out.to_string_lossy()]).1, 1, "written over");
            std::fs::remove_file(out).unwrap();
        }
        let (all, _) = rows(&image, &["blocks", "--all"]);
        let sum: u64 = all.iter().map(|row| number(row, "blocks")).sum();
        assert_eq!(sum, fs.blocks(), "{args:?}");
        assert!(all.windows(2).all(|two| two[0]["state"] != two[1]["state"]), "neighbours are not joined");
        std::fs::remove_file(image).unwrap();
    }
}

#[test]
fn a_block_leads_to_its_owner_of_today_and_to_the_one_before() {
    let temp = folder();
    let image = temp.path().join("image");
    make(&image, &["-t", "ext2", "-b", "1024"], &tree(temp.path()), "24M");
    let fs = open(&image);
    let inode = find(fs.as_ref(), b"/big").unwrap();
    let (first, map) = (fs.runs(inode).unwrap()[0], fs.own_blocks(inode).unwrap()[0]);
    let ask = |blocks: &str| {
        let (found, code) = rows(&image, &["blocks", "--owner", blocks]);
        assert_eq!(code, 0, "{blocks}");
        found
    };
    let found = ask(&format!("{},{map}", first.physical + 3));
    let told = |row: &Value| (row["path"].as_str().map(ToOwned::to_owned), row["owner"].as_str().unwrap().to_owned());
    assert!(
        found.iter().any(|row| told(row) == (Some("/big".into()), "content".into()) && number(row, "file_block") == 3)
    );
    assert!(found.iter().any(|row| told(row) == (Some("/big".into()), "map or attributes".into())), "{found:?}");
    // The superblock, the descriptors, and what is left of the group.
    let notes: Vec<_> = ask("1-400").iter().map(|row| row["note"].as_str().unwrap().to_owned()).collect();
    for part in [
        "superblock",
        "group descriptors",
        "block bitmap of group 0",
        "inode bitmap of group 0",
        "inode table of group 0",
    ] {
        assert!(notes.iter().any(|note| note.starts_with(part)), "{part}: {notes:?}");
    }
    // Others take the blocks of a deleted file.
    debugfs(&image, "rm /big");
    assert!(
        ask(&first.physical.to_string()).iter().any(|row| told(row) == (Some("/big".into()), "content once".into()))
    );
    let new = temp.path().join("new");
    std::fs::write(&new, vec![9; 600_000]).unwrap();
    debugfs(&image, "write /dev/null keeps-the-inode");
    debugfs(&image, &format!("write {} taker", new.display()));
    let fs = open(&image);
    let taken = fs.runs(find(fs.as_ref(), b"/taker").unwrap()).unwrap();
    let lost = fs.lost().unwrap();
    let run = lost.iter().flat_map(|lost| &lost.runs).next();
    if let Some(run) = run {
        let block = (run.physical..run.physical + run.len)
            .find(|block| taken.iter().any(|new| (new.physical..new.physical + new.len).contains(block)))
            .expect("mke2fs and debugfs take the first free blocks");
        let found: Vec<_> = ask(&block.to_string()).iter().map(told).collect();
        assert!(found.contains(&(Some("/taker".into()), "content".into())), "{found:?}");
    }
}

#[test]
fn recover_names_who_has_the_blocks_now() {
    // Some of the blocks that the inode itself names; and all that can be found, the block with the rest of the map among them.
    let line = taken(10_000, |line, bytes| {
        let number = |value: &Value| usize::try_from(value.as_u64().unwrap()).unwrap();
        let foreign = line["foreign"].as_array().unwrap().iter();
        let foreign: Vec<_> =
            foreign.map(|range| number(&range["at"])..number(&range["at"]) + number(&range["len"])).collect();
        assert!(!foreign.is_empty() && foreign.iter().all(|range| range.end <= bytes.len()), "{line}");
        // What is its own, and what is not, to the byte: both files are of one byte over and over.
        let is_foreign = |at: usize| foreign.iter().any(|range| range.contains(&at));
        assert!(bytes.iter().enumerate().all(|(at, byte)| is_foreign(at) || *byte == 1), "{line}");
        assert_eq!(foreign.iter().cloned().flatten().filter(|at| bytes[*at] == 9).count(), 10_000, "{line}");
    });
    assert_eq!((&line["outcome"], &line["more"]["confidence"]), (&"partial".into(), &"part".into()), "{line}");
    assert!(line["file"].as_str().unwrap().ends_with(".partial"), "{line}");
    let line = taken(150_000, |line, _| panic!("nothing of it is its own: {line}"));
    assert_eq!((&line["outcome"], &line["more"]["confidence"]), (&"not written".into(), &"reused".into()), "{line}");
    assert!(line["file"].is_null(), "{line}");
}

/// Deletes a file, gives its blocks to another of `len` bytes, and recovers it: its line of the manifest, which `look` sees with
/// what was written.
fn taken(len: usize, look: impl FnOnce(&Value, Vec<u8>)) -> Value {
    let temp = folder();
    let put = temp.path().join("tree");
    std::fs::create_dir(&put).unwrap();
    for name in ["first", "second"] {
        std::fs::write(put.join(name), vec![1; 200_000]).unwrap();
    }
    let image = temp.path().join("image");
    make(&image, &["-t", "ext2", "-b", "1024"], &put, "16M");
    debugfs(&image, "rm /second");
    // Its inode counts as used meanwhile, so that nobody is given it again.
    let new = temp.path().join("new");
    std::fs::write(&new, vec![9; len]).unwrap();
    let fs = open(&image);
    let gone = fs.lost().unwrap().into_iter().find(|lost| lost.path.as_deref() == Some(b"/second")).unwrap();
    debugfs(&image, &format!("seti <{}>", gone.node.inode));
    debugfs(&image, &format!("write {} taker", new.display()));
    debugfs(&image, &format!("freei <{}>", gone.node.inode));
    let out = temp.path().join("out");
    let (_, code) = impound(["disk".as_ref(), image.as_os_str(), "recover".as_ref(), "-o".as_ref(), out.as_os_str()]);
    assert_eq!(code, 3, "it is there in part only");
    let manifest = std::fs::read_to_string(out.join("manifest.jsonl")).unwrap();
    let lines: Vec<Value> = manifest.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let line = lines.iter().find(|line| line["inode"] == gone.node.inode).unwrap_or_else(|| panic!("{manifest}"));
    let more = &line["more"];
    assert_ne!(more["confidence"], "whole", "{more}");
    let taken = more["taken_by"].as_array().unwrap();
    assert_eq!(taken.len(), 1, "{more}");
    assert_eq!((&taken[0]["path"], &taken[0]["blocks"]), (&"/taker".into(), &more["reused"]), "{more}");
    if let Some(file) = line["file"].as_str() {
        look(line, std::fs::read(out.join(file)).unwrap());
    }
    line.clone()
}

#[test]
fn the_journal_is_told_as_jls_does_with_what_its_blocks_are() {
    let temp = folder();
    let image = temp.path().join("image");
    make(&image, &["-t", "ext4", "-b", "1024"], &tree(temp.path()), "32M");
    let fs = open(&image);
    let (inode, data) = (find(fs.as_ref(), b"/small").unwrap(), temp.path().join("data"));
    let directory = fs.runs(find(fs.as_ref(), b"/many").unwrap()).unwrap()[0].physical;
    // The block of the inode table that has the inode, with another size in it.
    let table = (0..fs.blocks()).find(|block| {
        let purpose = fs.purpose(*block).unwrap_or_default();
        let numbers = purpose.split(", inodes ").nth(1).and_then(|text| text.split_once(" to "));
        numbers.is_some_and(|(first, last)| (first.parse().unwrap()..=last.parse().unwrap()).contains(&inode))
    });
    let table = table.unwrap();
    let raw = std::fs::read(&image).unwrap();
    let at = usize::try_from(table * 1024).unwrap();
    let mut block = raw[at..at + 1024].to_vec();
    std::fs::write(&data, &block).unwrap();
    let slot = usize::try_from((inode - 1) % 4).unwrap() * 256;
    block[slot + 4] ^= 1;
    let changed = temp.path().join("changed");
    std::fs::write(&changed, &block).unwrap();
    let script = temp.path().join("script");
    let (one, two) = (data.display(), changed.display());
    let requests = format!("jo\njw -b {table} {one}\njw -b {directory} {one}\njw -b {table} {two}\njw -r 999\njc\n");
    std::fs::write(&script, requests).unwrap();
    tool("debugfs", ["-w".as_ref(), "-f".as_ref(), script.as_os_str(), image.as_os_str()]);
    let (found, code) = rows(&image, &["--no-journal", "journal"]);
    assert_eq!(code, 0);
    let of = |kind: &str| found.iter().filter(|row| row["kind"] == kind).collect::<Vec<_>>();
    let copies = of("data");
    let blocks: Vec<_> = copies.iter().map(|row| number(row, "block")).collect();
    assert_eq!(blocks, [table, directory, table]);
    let note = |row: &Value| row["note"].as_str().unwrap().to_owned();
    assert!(note(copies[1]).starts_with("directory "), "{}", note(copies[1]));
    assert!(note(copies[2]).contains(&format!("changed: {inode};")), "{}", note(copies[2]));
    assert_eq!(number(copies[2], "inode"), inode);
    assert_eq!(of("revoke").iter().map(|row| number(row, "block")).collect::<Vec<_>>(), [999]);
    assert!(found.iter().all(|row| note(row).contains("not yet in its place")), "{found:?}");
    // The Sleuth Kit counts blocks of the journal where we count bytes.
    let output = tool("jls", [image.as_os_str()]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    for row in found.iter().filter(|row| row["kind"] != "revoke") {
        let at = u64::from_str_radix(row["at"].as_str().unwrap().trim_start_matches("0x"), 16).unwrap() / 1024;
        let line =
            text.lines().find(|line| line.starts_with(&format!("{at}:"))).unwrap_or_else(|| panic!("{at}: {text}"));
        let want = match row["kind"].as_str().unwrap() {
            "descriptor" => "Descriptor Block".to_owned(),
            "commit" => "Commit Block".to_owned(),
            _ => format!("FS Block {}", row["block"]),
        };
        assert!(line.contains(&want), "{line}: {row}");
    }
    assert_eq!(rows(&image, &["journal", "--until", "1970-01-02"]).0.len(), 0);
    assert_eq!(rows(&image, &["journal", "--since", "tomorrow"]).1, 2);
}

#[test]
fn a_timeline_is_what_mactime_makes_of_the_bodyfile() {
    let temp = folder();
    let image = temp.path().join("image");
    make(&image, &["-t", "ext4", "-b", "1024"], &tree(temp.path()), "32M");
    debugfs(&image, "sif /small mtime 20011224101500");
    debugfs(&image, "sif /big atime 20380119031408");
    let name = image.to_string_lossy();
    let body = temp.path().join("body");
    std::fs::write(&body, impound(["disk", &name, "timeline", "--bodyfile"]).0).unwrap();
    let mut mactime = Command::new("mactime");
    let output = mactime.arg("-b").arg(&body).env("TZ", "UTC").output().expect("scripts/install test installs it");
    // Both write a time once for all lines that have it.
    let filled = |text: &str| {
        let mut last = String::new();
        let mut lines: Vec<_> = text
            .lines()
            .filter(|line| line.len() > 24)
            .map(|line| {
                let (time, rest) = line.split_at(24);
                if !time.trim().is_empty() {
                    last = time.to_owned();
                }
                format!("{last}{rest}")
            })
            .collect();
        lines.sort();
        lines
    };
    let theirs = filled(&String::from_utf8_lossy(&output.stdout));
    let ours = filled(&impound(["disk", &name, "timeline", "--mactime"]).0);
    let differ: Vec<_> = ours.iter().filter(|line| !theirs.contains(line)).take(3).collect();
    assert!(theirs.len() > 2000 && ours == theirs, "{} and {}: {differ:?}", ours.len(), theirs.len());
}

#[test]
fn a_timeline_for_timesketch_has_its_columns_and_one_line_an_event() {
    let temp = folder();
    let image = temp.path().join("image");
    make(&image, &["-t", "ext4", "-b", "1024"], &tree(temp.path()), "32M");
    let name = image.to_string_lossy();
    let plain = impound(["--format", "jsonl", "disk", &name, "timeline"]).0.lines().count();
    let (csv, code) = impound(["disk", &name, "timeline", "--timesketch"]);
    assert_eq!(code, 0);
    assert!(csv.starts_with("message,datetime,timestamp_desc,timestamp,"), "{csv:.200}");
    assert_eq!(csv.lines().count(), plain + 1, "a name ended a line");
    assert!(csv.contains("nl\\x0aname") && csv.contains("a\\x7cb"));
    let (events, _) = rows(&image, &["timeline", "--timesketch"]);
    assert_eq!(events.len(), plain);
    let known = ["Content Modification Time", "Last Access Time", "Metadata Modification Time", "Creation Time"];
    for event in &events {
        let names: Vec<_> = event["timestamp_desc"].as_str().unwrap().split("; ").collect();
        assert!(!names.is_empty() && names.iter().all(|name| known.contains(name)), "{event}");
        let at: jiff::Timestamp = event["datetime"].as_str().unwrap().parse().unwrap();
        assert_eq!(event["timestamp"], at.as_microsecond());
    }
    assert!(events.is_sorted_by_key(|event| event["datetime"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap()));
}

#[test]
fn deleted_files_of_a_subfolder_are_those_below_it() {
    let temp = folder();
    let put = temp.path().join("tree");
    for folder in ["one/below", "one-more"] {
        std::fs::create_dir_all(put.join(folder)).unwrap();
        std::fs::write(put.join(folder).join("gone"), vec![1; 5000]).unwrap();
    }
    std::fs::write(put.join("one/near"), vec![1; 5000]).unwrap();
    let image = temp.path().join("image");
    make(&image, &["-t", "ext2"], &put, "16M");
    for path in ["/one/below/gone", "/one-more/gone", "/one/near"] {
        debugfs(&image, &format!("rm {path}"));
    }
    let fs = open(&image);
    let one = find(fs.as_ref(), b"/one").unwrap();
    let lost = |address: &str, verb: &[&str]| {
        let (text, _) = impound([&["--format", "jsonl", "disk", address], verb].concat());
        let rows = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let rows = rows.filter(|row| row["source"] == "inode table" && row["state"] == "deleted");
        rows.filter_map(|row| row["path"].as_str().map(ToOwned::to_owned)).collect::<BTreeSet<_>>()
    };
    let name = image.to_string_lossy();
    let set = |paths: &[&str]| paths.iter().map(|path| (*path).to_owned()).collect::<BTreeSet<_>>();
    let deep = ["ls", "--deleted", "-r"];
    assert_eq!(lost(&name, &deep), set(&["/one/below/gone", "/one-more/gone", "/one/near"]));
    for address in [format!("{name}:/one"), format!("{name}:#{one}"), format!("{name}:/one/")] {
        assert_eq!(lost(&address, &deep), set(&["/one/below/gone", "/one/near"]), "{address}");
        assert_eq!(lost(&address, &["ls", "--deleted"]), set(&["/one/near"]), "{address}");
        // The name is still in the directory: a row for that would tell the same again, and less.
        let (text, _) = impound(["--format", "jsonl", "disk", &address, "ls", "--deleted"]);
        assert_eq!(text.lines().filter(|line| line.contains("near")).count(), 1, "{address}: {text}");
    }
    let names = fs.entries(one, true).unwrap().entries;
    assert!(
        names.iter().any(|entry| entry.name == b"near"),
        "the name is still there, so that there is something to show"
    );
}

#[test]
fn what_is_longer_than_asked_for_is_not_hashed_and_that_is_said() {
    let temp = folder();
    let image = temp.path().join("image");
    make(&image, &["-t", "ext4", "-b", "1024"], &tree(temp.path()), "32M");
    let (found, code) = rows(&image, &["hash", "--max-size", "1K", "--digest", "sha256", "--digest", "md5"]);
    assert_eq!((found.len(), code), (2 * (2000 + 9), 0));
    let of = |path: &str| found.iter().filter(|row| row["path"] == path).map(|row| &row["hex"]).collect::<Vec<_>>();
    assert_eq!(of("/big"), [&serde_json::json!({ "absent": "not-applicable" }); 2]);
    assert_eq!(of("/small")[1], "b1946ac92492d2347c6235b4d2611184");
    let paths: Vec<_> = found.iter().map(|row| row["path"].to_string()).collect();
    for _ in 0..3 {
        let (again, _) = rows(&image, &["hash", "--max-size", "1K", "--digest", "sha256", "--digest", "md5"]);
        assert!(again.iter().map(|row| row["path"].to_string()).eq(paths.iter().cloned()), "the order changes");
    }
    let list = |threads: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_impound"));
        command.args([OsStr::new("disk"), image.as_os_str(), OsStr::new("ls"), OsStr::new("-r")]);
        command.env("RAYON_NUM_THREADS", threads).output().unwrap().stdout
    };
    assert!(list("1") == list("4"), "the order depends on the number of threads");
}
