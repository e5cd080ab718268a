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
