//! Trees to put into file systems, outside tools, and the program itself.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use impound::disk::fs::{self, Filesystem};
use impound::image::{self, ReadAt};
use tempfile::TempDir;

pub(crate) fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// Runs an outside tool; it must succeed.
pub(crate) fn tool<I: AsRef<OsStr>>(name: &str, args: impl IntoIterator<Item = I>) -> Output {
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let output = Command::new(name).args(args).env("PATH", path).output();
    let output = output.unwrap_or_else(|error| panic!("{name}: {error}; scripts/install test installs it"));
    assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

/// The program; its output and exit code.
pub(crate) fn impound<I: AsRef<OsStr>>(args: impl IntoIterator<Item = I>) -> (String, i32) {
    let output = Command::new(env!("CARGO_BIN_EXE_impound")).args(args).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let code = output.status.code().expect("it was killed");
    assert_ne!(code, 101, "it panicked: {}", String::from_utf8_lossy(&output.stderr));
    (text, code)
}

/// Files of every kind that a directory can hold.
pub(crate) fn tree(at: &Path) -> PathBuf {
    let root = at.join("tree");
    let mut deep = root.join("deep");
    std::fs::create_dir_all(root.join("many")).unwrap();
    for level in 0..60 {
        deep = deep.join(format!("{level}"));
    }
    std::fs::create_dir_all(&deep).unwrap();
    std::fs::write(deep.join("bottom"), "here").unwrap();
    let noise: Vec<u8> = (0..700_000_u32).map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect();
    std::fs::write(root.join("big"), &noise).unwrap();
    std::fs::write(root.join("small"), "hello\n").unwrap();
    std::fs::write(root.join("empty"), "").unwrap();
    for name in [&b"nl\nname"[..], b"\xff\x1b[31m|pipe", b"a|b", "Grüße".as_bytes()] {
        std::fs::write(root.join(OsString::from_vec(name.to_vec())), name).unwrap();
    }
    std::os::unix::fs::symlink("small", root.join("fast")).unwrap();
    std::os::unix::fs::symlink("x/".repeat(100), root.join("slow")).unwrap();
    for number in 0..2000 {
        std::fs::write(root.join("many").join(format!("a file with a long name {number}")), "").unwrap();
    }
    // Many extents or indirect blocks, with holes between them.
    let sparse = std::fs::File::create(root.join("sparse")).unwrap();
    for at in (0..3_000_000_u64).step_by(30_000) {
        std::os::unix::fs::FileExt::write_all_at(&sparse, b"piece", at).unwrap();
    }
    root
}

/// A file system with the tree in it.
pub(crate) fn make(image: &Path, args: &[&str], tree: &Path, size: &str) {
    let mut all: Vec<&OsStr> = ["-q", "-F"].iter().chain(args).map(OsStr::new).collect();
    all.extend([OsStr::new("-d"), tree.as_os_str(), image.as_os_str(), OsStr::new(size)]);
    tool("mke2fs", all);
}

pub(crate) fn bytes(path: &Path) -> Arc<dyn ReadAt> {
    Arc::clone(image::open(path, &image::Options::default()).unwrap().bytes())
}

pub(crate) fn open(path: &Path) -> Arc<dyn Filesystem> {
    fs::open(&bytes(path), fs::Options::default()).unwrap().unwrap()
}

pub(crate) fn read(content: &dyn ReadAt) -> Vec<u8> {
    let mut all = vec![0; usize::try_from(content.len()).unwrap()];
    content.read_at(0, &mut all).unwrap();
    all
}

pub(crate) fn debugfs(image: &Path, request: &str) -> String {
    let output = tool("debugfs", [OsStr::new("-w"), OsStr::new("-R"), OsStr::new(request), image.as_os_str()]);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Mounts, if this machine lets us; with these options.
pub(crate) fn mounted(image: &Path, options: &str, at: &Path, work: impl FnOnce(&Path)) -> bool {
    mounted_as("auto", image, options, at, work)
}

/// The same by the driver of this name.
pub(crate) fn mounted_as(kind: &str, image: &Path, options: &str, at: &Path, work: impl FnOnce(&Path)) -> bool {
    std::fs::create_dir_all(at).unwrap();
    let mounted = Command::new("mount").args(["-t", kind, "-o", options]).arg(image).arg(at).output();
    if !mounted.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: this machine cannot mount a loop device with the file system of {}", image.display());
        return false;
    }
    // Whatever fails inside, no mount stays behind.
    let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(at)));
    // A program that another test is about to start still holds our open files until it runs: then the mount is busy.
    let until = std::time::Instant::now() + std::time::Duration::from_secs(60);
    let umount = || Command::new("timeout").arg("60").arg("umount").arg(at).output().unwrap();
    while let failed = umount()
        && !failed.status.success()
    {
        let why = String::from_utf8_lossy(&failed.stderr).into_owned();
        assert!(why.contains("busy") && std::time::Instant::now() < until, "umount {}: {why}", at.display());
    }
    done.unwrap_or_else(|failed| std::panic::resume_unwind(failed));
    true
}
