//! Export: the same content in every format, read by ours and by outside tools; gaps stay gaps or are named; nothing that
//! does not read back gets a name.

use std::fs;
use std::path::{Path, PathBuf};

use impound::export::{self, ExportError};
use impound::image::{Kind, Options, map};
use impound::progress::Silent;

use crate::kit;

fn export(from: &Path, format: &str, to: &Path) -> Result<export::Report, ExportError> {
    let image = impound::image::open(from, &Options::default()).unwrap_or_else(|error| panic!("{error}"));
    export::export(&image, from, export::by_name(format).unwrap(), to, &Silent)
}

/// Runs the program; answers exit code and what it said.
fn impound(args: &[&str]) -> (i32, String) {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_impound")).args(args).output().unwrap();
    (output.status.code().unwrap(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// Captures a scripted VM; answers the folder of the exhibit of `item`.
fn exhibit(folder: &Path, script: &str, item: &str, code: i32) -> PathBuf {
    let case = folder.join("case");
    let (exit, said) = impound(&["acquire", &format!("fake:web01?{script}"), "--case", case.to_str().unwrap()]);
    assert_eq!(exit, code, "{said}");
    let mut exhibits = fs::read_dir(case.join("exhibits")).unwrap().map(|entry| entry.unwrap().path());
    exhibits.find(|path| path.file_name().unwrap().to_string_lossy().contains(item)).unwrap()
}

#[test]
fn every_format_of_a_disk_holds_the_same_and_outside_tools_agree() {
    let folder = tempfile::tempdir().unwrap();
    // An odd length: not a multiple of a chunk, a grain, a cluster or a block.
    let want = kit::content((7 << 20) + 3 * 512);
    let raw = folder.path().join("disk.raw");
    fs::write(&raw, &want).unwrap();
    for (format, qemu) in
        [("raw", Some("raw")), ("qcow2", Some("qcow2")), ("vmdk", Some("vmdk")), ("vhdx", Some("vhdx")), ("e01", None)]
    {
        let to = folder.path().join(format!("out.{}", if format == "e01" { "E01" } else { format }));
        let report = export(&raw, format, &to).unwrap_or_else(|error| panic!("{format}: {error}"));
        assert!(report.is_whole());
        kit::holds(&kit::open(&to), &want);
        if let Some(qemu) = qemu {
            let (a, b) = (to.to_str().unwrap(), raw.to_str().unwrap());
            kit::tool("qemu-img", ["compare", "-f", qemu, "-F", "raw", a, b]);
            if qemu != "raw" {
                kit::tool("qemu-img", ["check", "-f", qemu, a]);
            }
        } else {
            let said = kit::tool("ewfverify", [&to]);
            assert!(String::from_utf8_lossy(&said.stdout).contains("SUCCESS"));
        }
        let sum = kit::tool("sha256sum", [&to]);
        assert!(String::from_utf8_lossy(&sum.stdout).starts_with(report.sha256()), "{format}");
        let said: export::Report = serde_json::from_slice(&fs::read(export::report_of(&to)).unwrap()).unwrap();
        assert_eq!(said, report);
    }
}

#[test]
fn an_odd_length_is_filled_up_and_that_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let want = kit::content(100_001);
    let raw = folder.path().join("disk.raw");
    fs::write(&raw, &want).unwrap();
    for format in ["qcow2", "vmdk", "vhdx", "e01"] {
        let to = folder.path().join(format!("out.{format}"));
        assert_eq!(export(&raw, format, &to).unwrap().padding, 100_352 - 100_001, "{format}");
        let bytes = kit::read_all(kit::open(&to).bytes().as_ref()).unwrap();
        assert!(bytes[..want.len()] == want && bytes[want.len()..] == [0; 351], "{format}");
        if format == "e01" {
            kit::tool("ewfverify", [&to]);
        }
    }
    for len in [0, 1, 512] {
        fs::write(&raw, kit::content(len)).unwrap();
        let to = folder.path().join(format!("raw-{len}"));
        export(&raw, "raw", &to).unwrap();
        assert!(fs::read(&to).unwrap() == kit::content(len));
    }
}

#[test]
fn memory_keeps_its_holes_and_a_disk_cannot_have_them() {
    let folder = tempfile::tempdir().unwrap();
    let bag = exhibit(folder.path(), "memory=3M&hole=1M+64K", "memory", 0);
    let image = kit::open(&bag);
    assert_eq!(kit::wrappings(&image), ["exhibit"]);
    let extents = |path: &Path| -> Vec<_> {
        let image = kit::open(path);
        let all = map::walk(image.bytes().as_ref(), 0..u64::MAX).map(|extent| extent.unwrap());
        all.filter(|extent| matches!(extent.kind, Kind::Gap(_))).map(|extent| (extent.at, extent.len)).collect()
    };
    assert_eq!(extents(&bag), [(1 << 20, 64 << 10)]);
    for format in ["lime", "elf"] {
        let to = folder.path().join(format!("out.{format}"));
        let report = export(&bag, format, &to).unwrap();
        assert_eq!(extents(&to), [(1 << 20, 64 << 10)], "{format}");
        assert_eq!(report.gaps.len(), 1);
        let mut there = vec![0; 1 << 20];
        let mut same = vec![1; 1 << 20];
        image.bytes().read_at(2 << 20, &mut there).unwrap();
        kit::open(&to).bytes().read_at(2 << 20, &mut same).unwrap();
        assert!(there == same);
        // And back to raw: the digest is that of the exhibit's own file.
        let raw = folder.path().join(format!("{format}.raw"));
        export(&to, "raw", &raw).unwrap();
        assert_eq!(fs::read(&raw).unwrap(), fs::read(bag.join("data/memory.raw")).unwrap());
    }
    for format in ["qcow2", "vmdk", "vhdx", "e01"] {
        let refused = export(&bag, format, &folder.path().join("no")).unwrap_err();
        assert!(matches!(refused, ExportError::Refused(_)), "{format}: {refused}");
    }
}

#[test]
fn what_could_not_be_read_is_named_everywhere_and_is_exit_3() {
    let folder = tempfile::tempdir().unwrap();
    let bag = exhibit(folder.path(), "disk=2M&gap=vda:1M+8K", "vda", 3);
    let (text, to) = (bag.to_str().unwrap().to_owned(), folder.path().join("out.E01"));
    let (code, said) = impound(&["export", &text, "--to", "e01", "--output", to.to_str().unwrap()]);
    assert_eq!(code, 3, "{said}");
    assert!(said.contains("8 KiB of the source could not be read"), "{said}");
    let image = kit::open(&to);
    assert!(image.bytes().read_at((1 << 20) + 512, &mut [0; 512]).unwrap_err().is_gap());
    let gap = image.bytes().extent(1 << 20).unwrap();
    assert_eq!((gap.at, gap.len), (1 << 20, 8 << 10));
    let info = String::from_utf8_lossy(&kit::tool("ewfinfo", [&to]).stdout).into_owned();
    assert!(info.contains("Read errors during acquiry") && info.contains("2048"), "{info}");
    kit::tool("ewfverify", [&to]);
    assert_eq!(impound(&["image", "map", to.to_str().unwrap()]).0, 3);
    assert_eq!(impound(&["image", to.to_str().unwrap(), "--verify"]).0, 3);

    let case = folder.path().join("case");
    let log = fs::read_to_string(case.join("custody.jsonl")).unwrap();
    let event = log.lines().last().unwrap();
    assert!(event.contains("exported") && event.contains(bag.file_name().unwrap().to_str().unwrap()), "{event}");
    let sum = kit::tool("sha256sum", [&to]);
    assert!(event.contains(String::from_utf8_lossy(&sum.stdout).split(' ').next().unwrap()), "{event}");
    assert_eq!(impound(&["verify", case.to_str().unwrap()]).0, 3);
}

#[test]
fn nothing_is_overwritten_and_a_source_that_is_not_as_it_was_sealed_gives_no_copy() {
    let folder = tempfile::tempdir().unwrap();
    let bag = exhibit(folder.path(), "disk=1M", "vda", 0);
    let to = folder.path().join("out.qcow2");
    export(&bag, "qcow2", &to).unwrap();
    let before = fs::read(&to).unwrap();
    assert!(export(&bag, "qcow2", &to).unwrap_err().to_string().contains("nothing is ever overwritten"));
    assert!(fs::read(&to).unwrap() == before);

    let data = bag.join("data/vda.raw");
    let data =
        if data.exists() { data } else { fs::read_dir(bag.join("data")).unwrap().next().unwrap().unwrap().path() };
    let mut bytes = fs::read(&data).unwrap();
    bytes[4711] ^= 1;
    fs::set_permissions(&data, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    fs::write(&data, bytes).unwrap();
    let other = folder.path().join("other.raw");
    let error = export(&bag, "raw", &other).unwrap_err();
    assert!(matches!(error, ExportError::Differs { what: "the source", .. }), "{error}");
    let left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().contains("other")), "{left:?}");
}

#[test]
fn a_copy_that_another_run_writes_is_left_alone_and_a_leftover_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let raw = folder.path().join("disk.raw");
    fs::write(&raw, kit::content(1 << 20)).unwrap();
    let (to, temporary) = (folder.path().join("out.raw"), folder.path().join(".out.raw.tmp"));
    let held = fs::File::create(&temporary).unwrap();
    rustix::fs::flock(&held, rustix::fs::FlockOperation::NonBlockingLockExclusive).unwrap();
    let error = export(&raw, "raw", &to).unwrap_err().to_string();
    assert!(error.contains("another run is writing") && temporary.exists(), "{error}");
    drop(held);
    export(&raw, "raw", &to).unwrap();
    assert!(to.exists() && !temporary.exists());
}

#[test]
fn a_full_disk_ends_it_with_a_clear_word_and_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let raw = folder.path().join("disk.raw");
    fs::write(&raw, kit::content(4 << 20)).unwrap();
    // A limit on the length of files is as good as a full disk, and needs no mount.
    let (program, to) = (env!("CARGO_BIN_EXE_impound"), folder.path().join("out.raw"));
    let script = format!(
        "trap '' XFSZ; ulimit -f 1000; exec '{program}' export '{}' --to raw --output '{}'",
        raw.display(),
        to.display()
    );
    let output = std::process::Command::new("bash").args(["-c", &script]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("out.raw") && said.contains("File too large"), "{said}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "{said}");
}
