//! Extraction: nothing leaves the folder, nothing is followed, names are kept in the manifest.

use std::os::unix::fs::MetadataExt;

use crate::kit::{debugfs, folder, impound, make, tree};

#[test]
fn nothing_leaves_the_folder_and_every_name_is_in_the_manifest() {
    let temp = folder();
    let image = temp.path().join("disk.img");
    make(&image, &["-t", "ext4", "-b", "1024"], &tree(temp.path()), "32M");
    // Names that no kernel would make.
    let from = temp.path().join("from");
    std::fs::write(&from, "payload").unwrap();
    for name in ["evil1", "evil2"] {
        debugfs(&image, &format!("write {} {name}", from.display()));
    }
    debugfs(&image, "mknod tty c 5 0");
    debugfs(&image, "symlink out /etc");
    let mut raw = std::fs::read(&image).unwrap();
    for (old, new) in [(&b"evil1"[..], &b"../p1"[..]), (b"evil2", b"/etc2")] {
        let places: Vec<_> = (0..raw.len() - 5).filter(|at| &raw[*at..*at + 5] == old).collect();
        assert!(!places.is_empty());
        for at in places {
            raw[at..at + 5].copy_from_slice(new);
        }
    }
    std::fs::write(&image, raw).unwrap();
    let out = temp.path().join("out");
    let args = |out: &std::path::Path| {
        ["disk".to_owned(), image.display().to_string(), "extract".into(), "-o".into(), out.display().to_string()]
    };
    // The checksum of the directory does not fit any more, and that is told.
    assert_eq!(impound(args(&out)).1, 3);
    let manifest = std::fs::read_to_string(out.join("manifest.jsonl")).unwrap();
    let lines: Vec<serde_json::Value> = manifest.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let line = |path: &str| lines.iter().find(|line| line["path"] == path).unwrap_or_else(|| panic!("{path}"));
    assert_eq!(std::fs::read(out.join("files/..%2fp1")).unwrap(), b"payload");
    assert_eq!(std::fs::read(out.join("files/%2fetc2")).unwrap(), b"payload");
    assert!(!temp.path().join("p1").exists() && !out.join("p1").exists());
    assert_eq!(line("/out")["more"]["target"], "/etc");
    assert!(line("/out")["file"].is_null() && line("/tty")["file"].is_null());
    assert!(out.join("files/out").symlink_metadata().is_err());
    assert_eq!(line("/nl\nname")["file"], "files/nl%0aname");
    let sparse = out.join("files/sparse").metadata().unwrap();
    assert!(sparse.blocks() * 512 < sparse.len(), "holes stay holes");
    assert_eq!(std::fs::read(out.join("files/big")).unwrap(), std::fs::read(temp.path().join("tree/big")).unwrap());
    assert_eq!(impound(args(&out)).1, 1, "it is never written over");
}

/// What a hostile file system may hold, and what has to become of it.
#[test]
fn every_trick_ends_below_the_folder() {
    let temp = folder();
    let (image, put) = (temp.path().join("disk.img"), temp.path().join("tree"));
    std::fs::create_dir(&put).unwrap();
    for name in ["double1", "double2", "Clash", "clash", "CLASH", "suid", "huge", "dot", "nul", "esc"] {
        std::fs::write(put.join(name), backwards(name)).unwrap();
    }
    std::os::unix::fs::symlink("/", put.join("way-out")).unwrap();
    std::fs::hard_link(put.join("suid"), put.join("second")).unwrap();
    make(&image, &["-t", "ext4", "-b", "1024", "-O", "^metadata_csum"], &put, "16M");
    for request in [
        "mknod block b 8 0",
        "mknod pipe p",
        "sif /suid mode 0106777",
        "sif /huge size 1099511627776",
        "ln <2> loop",
        "mkdir via",
    ] {
        debugfs(&image, request);
    }
    // Two names that are one, a parent, a NUL and an escape; a link whose name is that of a directory with a file in it.
    debugfs(&image, "symlink vix /etc");
    let payload = temp.path().join("payload");
    std::fs::write(&payload, "payload").unwrap();
    debugfs(&image, &format!("write {} planted", payload.display()));
    debugfs(&image, "ln /planted /via/passwd");
    let mut raw = std::fs::read(&image).unwrap();
    for (old, new) in [
        (&b"double2"[..], &b"double1"[..]),
        (b"\x03\x01dot", b"\x02\x01.."),
        (b"\x03\x01nul", b"\x03\x01n\0l"),
        (b"\x03\x01esc", b"\x03\x01\x1bsc"),
        (b"\x03\x07vix", b"\x03\x07via"),
    ] {
        let places: Vec<_> = (0..raw.len() - old.len()).filter(|at| raw[*at..].starts_with(old)).collect();
        assert!(!places.is_empty(), "{old:?}");
        for at in places {
            raw[at..at + new.len()].copy_from_slice(new);
        }
    }
    std::fs::write(&image, raw).unwrap();
    let out = temp.path().join("out");
    let (_, code) = impound(["disk".as_ref(), image.as_os_str(), "extract".as_ref(), "-o".as_ref(), out.as_os_str()]);
    assert_eq!(code, 3, "a directory with two names and names that are none are said");
    let manifest = std::fs::read_to_string(out.join("manifest.jsonl")).unwrap();
    assert!(!manifest.contains('\u{1b}'), "the manifest steers no terminal");
    let lines: Vec<serde_json::Value> = manifest.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let files = |path: &str| {
        let of = lines.iter().filter(|line| line["path"] == path).filter_map(|line| line["file"].as_str());
        of.map(|file| std::fs::read(out.join(file)).unwrap()).collect::<Vec<_>>()
    };
    let mut twice = files("/double1");
    twice.sort();
    assert_eq!(twice, [b"1elbuod", b"2elbuod"], "two of one name are two files");
    for name in ["Clash", "clash", "CLASH"] {
        assert_eq!(files(&format!("/{name}")), [backwards(name).into_bytes()]);
    }
    let lower = |file: &str| file.to_lowercase();
    let names: Vec<_> = lines.iter().filter_map(|line| line["file"].as_str().map(lower)).collect();
    let apart: std::collections::HashSet<_> = names.iter().collect();
    assert_eq!(names.len(), apart.len(), "they are apart where case does not count");
    // Both names of a hard link are files of their own, and no program is more than it was.
    assert_eq!((files("/suid"), files("/second")), (vec![b"dius".to_vec()], vec![b"dius".to_vec()]));
    let suid = out.join("files/suid").metadata().unwrap();
    assert_eq!((suid.mode() & 0o7777, suid.nlink()), (0o600, 1));
    let huge = out.join("files/huge").metadata().unwrap();
    assert_eq!(huge.len(), 1 << 40);
    assert!(huge.blocks() < 4096, "a tebibyte of nothing takes {} sectors", huge.blocks());
    assert_eq!(files("/via/passwd"), [b"payload"]);
    let all = walk_all(&out.join("files"));
    assert!(all.iter().all(|(_, kind)| kind.is_file() || kind.is_dir()), "links and devices are not made: {all:?}");
    assert!(all.iter().any(|(name, _)| name == "%1bsc") && all.iter().any(|(name, _)| name == "n%00l"), "{all:?}");
    let manifest_only = ["/block", "/pipe", "/way-out"];
    assert!(manifest_only.iter().all(|path| lines.iter().any(|line| line["path"] == *path && line["file"].is_null())));
}

/// The end of the disk is gone: what lies there is named, and what does not is written.
#[test]
fn a_file_that_is_there_in_part_is_written_in_part_and_marked() {
    let temp = folder();
    let (image, put) = (temp.path().join("disk.img"), temp.path().join("tree"));
    std::fs::create_dir_all(put.join("folder")).unwrap();
    for name in ["first", "folder/second", "folder/second.partial", "last"] {
        std::fs::write(put.join(name), vec![7; 1_000_000]).unwrap();
    }
    make(&image, &["-t", "ext4", "-b", "1024", "-O", "^has_journal"], &put, "16M");
    let fs = crate::kit::open(&image);
    let runs = |path: &str| fs.runs(impound::disk::walk::find(fs.as_ref(), path.as_bytes()).unwrap()).unwrap();
    let all = ["/first", "/folder/second", "/folder/second.partial", "/last"];
    let highest = all.into_iter().max_by_key(|path| runs(path).iter().map(|run| run.physical + run.len).max()).unwrap();
    let run = *runs(highest).iter().max_by_key(|run| run.physical).unwrap();
    let cut = run.physical + run.len / 2;
    std::fs::OpenOptions::new().write(true).open(&image).unwrap().set_len(cut * 1024).unwrap();
    let out = temp.path().join("out");
    let args = ["disk".as_ref(), image.as_os_str(), "extract".as_ref(), "-o".as_ref(), out.as_os_str()];
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_impound")).args(args).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(
        said.contains("files: 3 complete, 1 partial (named .partial)") && said.contains("manifest.jsonl"),
        "{said}"
    );
    let manifest = std::fs::read_to_string(out.join("manifest.jsonl")).unwrap();
    let lines: Vec<serde_json::Value> = manifest.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for path in all {
        let line = lines.iter().find(|line| line["path"] == path).unwrap();
        let bytes = std::fs::read(out.join(line["file"].as_str().unwrap())).unwrap();
        assert_eq!(bytes.len(), 1_000_000, "{line}");
        if path != highest {
            assert!(line["outcome"] == "complete" && line["missing"].is_null(), "{line}");
            assert!(bytes.iter().all(|byte| *byte == 7), "{line}");
            continue;
        }
        let at = usize::try_from((run.logical + run.len / 2) * 1024).unwrap();
        assert_eq!((&line["outcome"], &line["missing"][0]["at"]), (&"partial".into(), &at.into()), "{line}");
        assert_eq!(line["missing"][0]["len"], 1_000_000 - at, "{line}");
        assert!(line["missing"][0]["why"].as_str().unwrap().contains("behind the end"), "{line}");
        assert!(line["file"].as_str().unwrap().contains(".partial"), "{line}");
        assert!(bytes[..at].iter().all(|byte| *byte == 7) && bytes[at..].iter().all(|byte| *byte == 0), "{line}");
        assert!(!out.join(format!("files{path}")).exists() || path.ends_with(".partial"), "only under its marked name");
    }
}

/// Content that no search for a name finds.
fn backwards(name: &str) -> String {
    name.chars().rev().collect()
}

fn walk_all(folder: &std::path::Path) -> Vec<(String, std::fs::FileType)> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let kind = entry.file_type().unwrap();
        all.push((entry.file_name().into_string().unwrap(), kind));
        if kind.is_dir() {
            all.extend(walk_all(&entry.path()));
        }
    }
    all
}
