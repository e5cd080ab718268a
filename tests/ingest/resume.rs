//! Copies that were interrupted, in every way, and taken up again.

use std::collections::BTreeSet;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;

use impound::case::ingest::{Digest, IngestOptions, Outcome, ResumePoint, ingest};
use impound::progress::{Silent, Task};
use impound_backends::{ItemKind, Why};

use crate::kit::*;

const MIB: u64 = 1 << 20;
const LEN: u64 = 6 * MIB + 77_000;

fn keep() -> IngestOptions {
    IngestOptions { keep_draft: true, digests: BTreeSet::from([Digest::Md5]), ..options() }
}

/// A range that is not plain data, and how it is sent.
type Special = (u64, u64, fn(u64, u64) -> Sent);

/// A disk with a bad place, a hole and zeros, from `from` on.
fn disk(from: u64) -> Vec<Sent> {
    let special: [Special; 3] = [
        (MIB / 2, 8192, |at, len| gap(at, len, Why::Unreadable("bad".into()))),
        (2 * MIB, MIB + 4096, |at, len| gap(at, len, Why::Sparse)),
        (5 * MIB, 4096, zero),
    ];
    let (mut pieces, mut at) = (Vec::new(), from);
    while at < LEN {
        let inside = special.iter().find(|(start, len, _)| (*start..start + len).contains(&at));
        let next = special.iter().map(|(start, _, _)| *start).filter(|start| *start > at).min().unwrap_or(LEN);
        let end = inside.map_or(next.min(at + 65536), |(start, len, _)| start + len).min(LEN);
        pieces.push(inside.map_or_else(|| data(at, end - at), |(_, _, make)| make(at, end - at)));
        at = end;
    }
    pieces
}

fn at(piece: &Sent) -> u64 {
    match piece {
        Ok(
            impound_backends::Piece::Data { at, .. }
            | impound_backends::Piece::Zero { at, .. }
            | impound_backends::Piece::Gap { at, .. },
        ) => *at,
        other => panic!("{other:?}"),
    }
}

/// Takes the copy up and compares all with one that never stopped.
fn take_up(draft: &Path) -> u64 {
    let point = ResumePoint::find(draft).unwrap().unwrap();
    let from = point.at;
    let report =
        run(capture(ItemKind::Disk, LEN, &[], disk(from)), draft, &IngestOptions { resume: Some(point), ..keep() });
    let straight = tempfile::tempdir().unwrap();
    let whole = run(capture(ItemKind::Disk, LEN, &[], disk(0)), straight.path(), &keep());
    assert_eq!(report.outcome, Outcome::Partial);
    checked_image(draft, &report);
    assert_eq!((&report.stored, &report.gaps, report.gap_totals), (&whole.stored, &whole.gaps, whole.gap_totals));
    assert_eq!((report.bytes_data, report.bytes_zero), (whole.bytes_data, whole.bytes_zero));
    for file in ["blocks.jsonl", "allocation.jsonl"] {
        let read = |folder: &Path| std::fs::read_to_string(folder.join(file)).unwrap();
        assert_eq!(read(draft), read(straight.path()), "{file}");
    }
    assert!(report.notes[0].contains(&format!("resumed at byte {from}")));
    from
}

#[test]
fn a_copy_that_broke_anywhere_goes_on_at_the_last_whole_block() {
    for cut in (0..13).map(|half| half * MIB / 2).chain([MIB - 65536, MIB + 65536, LEN - 1]) {
        let folder = tempfile::tempdir().unwrap();
        let mut pieces: Vec<Sent> = disk(0).into_iter().take_while(|piece| at(piece) < cut).collect();
        pieces.push(broken());
        let report = run(capture(ItemKind::Disk, LEN, &[], pieces), folder.path(), &keep());
        assert!(matches!(report.outcome, Outcome::Failed(_)) && report.stored.is_empty());
        let from = take_up(folder.path());
        assert!(from.is_multiple_of(MIB) && from + MIB >= cut.min(LEN), "cut at {cut}, resumed at {from}");
    }
}

#[test]
fn a_copy_interrupted_again_and_again_gets_there() {
    let folder = tempfile::tempdir().unwrap();
    let mut options = keep();
    for _ in 0..5 {
        let from = options.resume.as_ref().map_or(0, |point| point.at);
        let mut pieces: Vec<Sent> =
            disk(from).into_iter().take_while(|piece| at(piece) < from + MIB + MIB / 3).collect();
        pieces.push(broken());
        run(capture(ItemKind::Disk, LEN, &[], pieces), folder.path(), &options);
        options.resume = ResumePoint::find(folder.path()).unwrap();
    }
    assert!(options.resume.unwrap().at >= 5 * MIB);
    take_up(folder.path());
}

#[test]
fn after_another_boot_every_block_is_checked() {
    let folder = tempfile::tempdir().unwrap();
    let mut pieces: Vec<Sent> = disk(0).into_iter().take_while(|piece| at(piece) < 5 * MIB).collect();
    pieces.push(broken());
    run(capture(ItemKind::Disk, LEN, &[], pieces), folder.path(), &keep());
    let head = folder.path().join("resume.json");
    let text = std::fs::read_to_string(&head).unwrap();
    let mut value: serde_json::Value = serde_json::from_str(&text).unwrap();
    value["boot"] = "another".into();
    std::fs::write(&head, value.to_string()).unwrap();
    assert!(ResumePoint::find(folder.path()).unwrap().unwrap().at >= 4 * MIB);
    // The disk lost a write in the middle, as a crash does.
    let image = std::fs::OpenOptions::new().write(true).open(folder.path().join("data/vda.raw.part")).unwrap();
    image.write_all_at(&[0; 4096], MIB + 65536).unwrap();
    assert_eq!(ResumePoint::find(folder.path()).unwrap().unwrap().at, MIB);
    assert_eq!(take_up(folder.path()), MIB);
}

#[test]
fn a_torn_line_and_a_changed_last_block_cost_one_block() {
    let folder = tempfile::tempdir().unwrap();
    let mut pieces: Vec<Sent> = disk(0).into_iter().take_while(|piece| at(piece) < 5 * MIB).collect();
    pieces.push(broken());
    run(capture(ItemKind::Disk, LEN, &[], pieces), folder.path(), &keep());
    let map = folder.path().join("blocks.jsonl.part");
    let text = std::fs::read_to_string(&map).unwrap();
    std::fs::write(&map, &text[..text.len() - 20]).unwrap();
    take_up(folder.path());
}

#[test]
fn another_source_or_another_length_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut pieces: Vec<Sent> = disk(0).into_iter().take_while(|piece| at(piece) < 2 * MIB).collect();
    pieces.push(broken());
    run(capture(ItemKind::Disk, LEN, &[], pieces), folder.path(), &keep());
    let options = IngestOptions { resume: ResumePoint::find(folder.path()).unwrap(), ..keep() };
    let mut other = capture(ItemKind::Disk, LEN, &[], disk(2 * MIB));
    other.item.source = "/dev/other".into();
    let longer = capture(ItemKind::Disk, LEN + 4096, &[], vec![]);
    for wrong in [other, longer] {
        let error = ingest(wrong, folder.path(), &options, &Silent, &false.into()).unwrap_err();
        assert!(error.to_string().contains("another copy"), "{error}");
    }
    take_up(folder.path());
    assert_eq!(ResumePoint::find(folder.path()).unwrap(), None);
}

#[test]
fn what_stands_in_a_draft_is_read_as_hostile() {
    let folder = tempfile::tempdir().unwrap();
    for text in ["", "{}", "[1]", &"x".repeat(1 << 20)] {
        std::fs::write(folder.path().join("resume.json"), text).unwrap();
        assert!(ResumePoint::find(folder.path()).is_err());
    }
    let head = |image: &str, block: u64| {
        serde_json::json!({"version": 1, "item": "vda", "source": "s", "method": "m", "len": 5, "block": block,
            "image": image, "boot": ""})
    };
    for head in [head("../../etc/passwd", MIB), head("x", 0), head("x", 3), head("", MIB)] {
        std::fs::write(folder.path().join("resume.json"), head.to_string()).unwrap();
        assert!(ResumePoint::find(folder.path()).is_err(), "{head}");
    }
}

/// Tells the parent how much came, by a file that a kill cannot tear.
struct Told(std::fs::File, Mutex<u64>);

impl Task for Told {
    fn add(&self, bytes: u64) {
        let mut sum = self.1.lock().unwrap();
        *sum += bytes;
        self.0.write_all_at(&sum.to_le_bytes(), 0).unwrap();
    }
    fn phase(&self, _name: &str) {}
}

#[test]
fn a_killed_copy_reads_at_most_one_block_again() {
    for millis in [5, 40, 90, 150, 230] {
        let folder = tempfile::tempdir().unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "resume::child_that_is_killed", "--ignored"])
            .env("IMPOUND_TEST_DRAFT", folder.path())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let told = folder.path().with_extension("told");
        while std::fs::metadata(&told).map_or(0, |meta| meta.len()) < 8 {
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_millis(millis));
        child.kill().unwrap();
        child.wait().unwrap();
        let came = u64::from_le_bytes(std::fs::read(&told).unwrap()[..8].try_into().unwrap());
        std::fs::remove_file(&told).unwrap();
        let from = take_up(folder.path());
        assert!(from + MIB + 65536 >= came, "{came} bytes had come, resumed at {from}");
        assert!(from <= came, "{came} bytes had come, resumed at {from}");
    }
}

#[test]
#[ignore = "is killed by a_killed_copy_reads_at_most_one_block_again"]
fn child_that_is_killed() {
    let draft = std::path::PathBuf::from(std::env::var_os("IMPOUND_TEST_DRAFT").unwrap());
    let told = Told(std::fs::File::create(draft.with_extension("told")).unwrap(), Mutex::new(0));
    let slow = disk(0).into_iter().inspect(|_| std::thread::sleep(Duration::from_millis(2)));
    run_with(capture(ItemKind::Disk, LEN, &[], Pieces::lazy(slow).stuck()), &draft, &keep(), &told);
}
