//! A source that sends what a test says, and tools that look at what became of it.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::AtomicBool;

use bytes::Bytes;
use impound::case::ingest::{IngestOptions, Ingested, ingest};
use impound::progress::{Silent, Task};
use impound_backends::{BackendError, Capture, Consistency, Item, ItemKind, Piece, Region, Why, fake::content};
use tokio::sync::mpsc;

pub(crate) type Sent = Result<Piece, BackendError>;

/// The name that the content follows from.
pub(crate) const ITEM: &str = "vda";

/// The bytes that belong at `at`.
pub(crate) fn bytes(at: u64, len: u64) -> Vec<u8> {
    content::bytes(ITEM, at, usize::try_from(len).unwrap())
}

pub(crate) fn data(at: u64, len: u64) -> Sent {
    Ok(Piece::Data { at, bytes: Bytes::from(bytes(at, len)) })
}

pub(crate) fn zero(at: u64, len: u64) -> Sent {
    Ok(Piece::Zero { at, len })
}

pub(crate) fn gap(at: u64, len: u64, why: Why) -> Sent {
    Ok(Piece::Gap { at, len, why })
}

pub(crate) fn broken() -> Sent {
    Err(BackendError::io("read on", "the source", &std::io::Error::other("cable pulled")))
}

/// The whole of `from..len` in pieces of `step`.
pub(crate) fn sequence(from: u64, len: u64, step: u64) -> Vec<Sent> {
    (from..len).step_by(usize::try_from(step).unwrap()).map(|at| data(at, step.min(len - at))).collect()
}

/// The same in a mixed order.
pub(crate) fn mixed(mut pieces: Vec<Sent>) -> Vec<Sent> {
    let mut x = 7_u64;
    for i in (1..pieces.len()).rev() {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        pieces.swap(i, usize::try_from(x >> 33).unwrap() % (i + 1));
    }
    pieces
}

/// A capture of `len` bytes that sends `pieces` and ends; with `stuck` it does not end.
pub(crate) fn capture(kind: ItemKind, len: u64, regions: &[(u64, u64)], pieces: impl Into<Pieces>) -> Capture {
    let Pieces { list, stuck } = pieces.into();
    let (send, receive) = mpsc::channel(16);
    std::thread::spawn(move || {
        for piece in list {
            if send.blocking_send(piece).is_err() {
                return;
            }
        }
        while stuck && !send.is_closed() {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    });
    let item = Item {
        kind,
        name: ITEM.into(),
        len: Some(len),
        source: "/dev/test".into(),
        resumable: kind == ItemKind::Disk,
        methods: Vec::new(),
        file: None,
    };
    Capture {
        item,
        method: "test",
        len,
        regions: regions.iter().map(|(at, len)| Region { at: *at, len: *len, name: "ram".into() }).collect(),
        consistency: Consistency::Live,
        holds_guest: false,
        facts: serde_json::Value::Null,
        pieces: receive,
    }
}

pub(crate) struct Pieces {
    list: Box<dyn Iterator<Item = Sent> + Send>,
    stuck: bool,
}

impl From<Vec<Sent>> for Pieces {
    fn from(list: Vec<Sent>) -> Self {
        Self { list: Box::new(list.into_iter()), stuck: false }
    }
}

impl Pieces {
    pub(crate) fn lazy(list: impl Iterator<Item = Sent> + Send + 'static) -> Self {
        Self { list: Box::new(list), stuck: false }
    }
    pub(crate) fn stuck(self) -> Self {
        Self { stuck: true, ..self }
    }
}

/// Options with blocks of 1 MiB and no space to be kept free.
pub(crate) fn options() -> IngestOptions {
    IngestOptions { stem: ITEM.into(), block: 1 << 20, min_free: 0, ..IngestOptions::default() }
}

pub(crate) fn run(capture: Capture, draft: &Path, options: &IngestOptions) -> Ingested {
    run_with(capture, draft, options, &Silent)
}

pub(crate) fn run_with(capture: Capture, draft: &Path, options: &IngestOptions, task: &dyn Task) -> Ingested {
    ingest(capture, draft, options, task, &AtomicBool::new(false)).unwrap()
}

/// The first word a tool prints of a file: its digest.
pub(crate) fn tool(program: &str, file: &Path) -> String {
    let out = Command::new(program).arg(file).output().unwrap();
    assert!(out.status.success(), "{program}: {out:?}");
    String::from_utf8(out.stdout).unwrap().split_whitespace().next().unwrap().to_owned()
}

/// What `sha256sum` says of bytes in memory.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest;
    format!("{:x}", Bytes::copy_from_slice(&sha2::Sha256::digest(bytes)))
}

/// The stored image, and that everything agrees about it: the report, `sha256sum`, the map of blocks, `dd`, no leftovers.
pub(crate) fn checked_image(draft: &Path, report: &Ingested) -> (PathBuf, Vec<u8>) {
    let stored = &report.stored[0];
    let path = draft.join(&stored.path);
    let bytes = std::fs::read(&path).unwrap();
    assert_eq!((stored.len, &stored.sha256), (bytes.len() as u64, &tool("sha256sum", &path)));
    let check = impound::case::blocks::check(&path, &draft.join("blocks.jsonl"), &Silent).unwrap();
    assert_eq!(check.sha256.as_ref(), Some(&stored.sha256));
    assert!(check.changed.is_empty());
    for block in blocks(draft) {
        let range = usize::try_from(block.at).unwrap()..usize::try_from(block.at + block.len).unwrap();
        assert_eq!(block.sha256, sha256(&bytes[range]), "block at {}", block.at);
    }
    let left: Vec<_> = walk(draft).into_iter().filter(|name| is_left(name)).collect();
    assert!(left.is_empty(), "{left:?}");
    (path, bytes)
}

fn is_left(name: &str) -> bool {
    [".part", ".spool", ".new", "resume.json"].iter().any(|end| name.ends_with(end))
}

pub(crate) fn blocks(draft: &Path) -> Vec<impound::case::blocks::Block> {
    let text = std::fs::read_to_string(draft.join("blocks.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Every file below a folder, relative to it.
pub(crate) fn walk(folder: &Path) -> Vec<String> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if entry.file_type().unwrap().is_dir() {
            names.extend(walk(&entry.path()).into_iter().map(|below| format!("{name}/{below}")));
        } else {
            names.push(name);
        }
    }
    names.sort();
    names
}

/// The most memory this process ever held, in bytes (`VmHWM` of `/proc/self/status`).
pub(crate) fn peak_memory() -> u64 {
    let mut text = String::new();
    std::fs::File::open("/proc/self/status").unwrap().read_to_string(&mut text).unwrap();
    let line = text.lines().find(|line| line.starts_with("VmHWM")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}
