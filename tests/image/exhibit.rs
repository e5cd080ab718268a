//! Exhibits and files in parts.

use std::fs;

use impound::image::{Options, open};

use crate::kit;

#[test]
fn a_file_in_parts_is_one_and_a_part_that_is_missing_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let want = kit::content(3_000_001);
    let raw = folder.path().join("disk.raw");
    fs::write(&raw, &want).unwrap();
    let split = |more: &[&str], stem: &str| {
        let stem = folder.path().join(stem);
        let mut args = vec!["-b", "1000000", raw.to_str().unwrap(), stem.to_str().unwrap()];
        args.extend_from_slice(more);
        kit::tool("split", args);
    };
    split(&["--numeric-suffixes=1", "-a", "3"], "disk.");
    split(&[], "letters.");
    for first in ["disk.001", "letters.aa"] {
        let image = kit::open(&folder.path().join(first));
        assert_eq!(kit::wrappings(&image), ["split", "raw"], "{first}");
        kit::holds(&image, &want);
        assert_eq!(image.layers()[0].files.len(), 3);
    }
    fs::remove_file(folder.path().join("disk.003")).unwrap();
    let error = open(&folder.path().join("disk.001"), &Options::default()).err().unwrap().to_string();
    assert!(error.contains("expected part disk.003, found disk.004 without it"), "{error}");
}

#[test]
fn an_image_in_parts_or_compressed_is_opened_to_the_disk_in_it() {
    let folder = tempfile::tempdir().unwrap();
    let want = kit::content(2 << 20);
    let raw = folder.path().join("disk.raw");
    fs::write(&raw, &want).unwrap();
    let (from, vhdx) = (raw.to_str().unwrap(), folder.path().join("disk.vhdx"));
    kit::tool("qemu-img", ["convert", "-O", "vhdx", from, vhdx.to_str().unwrap()]);
    let stem = folder.path().join("disk.vhdx.");
    kit::tool("split", ["-b", "1M", "-d", "-a", "3", vhdx.to_str().unwrap(), stem.to_str().unwrap()]);
    let image = kit::open(&folder.path().join("disk.vhdx.000"));
    assert_eq!(kit::wrappings(&image), ["split", "vhdx"]);
    kit::holds(&image, &want);
    kit::tool("zstd", ["-q", vhdx.to_str().unwrap()]);
    let image = kit::open(&folder.path().join("disk.vhdx.zst"));
    assert_eq!(kit::wrappings(&image), ["zstd", "vhdx"]);
    kit::holds(&image, &want);
}

#[test]
fn what_a_guest_wrote_into_its_disk_is_not_taken_for_a_format() {
    let folder = tempfile::tempdir().unwrap();
    // A raw disk whose first sector says that it is a VHDX, inside a container that says what it is.
    let mut disk = kit::content(1 << 20);
    disk[..8].copy_from_slice(b"vhdxfile");
    let raw = folder.path().join("disk.raw");
    fs::write(&raw, &disk).unwrap();
    assert!(open(&raw, &Options::default()).is_err(), "as a file of its own it looks like one");
    let forced = Options { wrapping: Some("raw".to_owned()), ..Options::default() };
    kit::holds(&open(&raw, &forced).unwrap(), &disk);
    let (from, vhdx) = (raw.to_str().unwrap(), folder.path().join("disk.vhdx"));
    kit::tool("qemu-img", ["convert", "-f", "raw", "-O", "vhdx", from, vhdx.to_str().unwrap()]);
    let image = kit::open(&vhdx);
    assert_eq!(kit::wrappings(&image), ["vhdx"]);
    kit::holds(&image, &disk);

    let case = folder.path().join("case");
    let target = format!("file:{}", raw.display());
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_impound"))
        .args(["acquire", &target, "--case", case.to_str().unwrap(), "--compress", "zstd"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let bag = fs::read_dir(case.join("exhibits")).unwrap().map(|entry| entry.unwrap().path());
    let bag = bag.into_iter().find(|path| path.join("data").is_dir()).unwrap();
    let image = kit::open(&bag);
    assert_eq!(kit::wrappings(&image), ["exhibit", "zstd"]);
    kit::holds(&image, &disk);
    let file = fs::read_dir(bag.join("data")).unwrap().next().unwrap().unwrap().path();
    kit::holds(&kit::open(&file), &disk);
}
