//! Sources that break or lie, and disks that fill up: what came is kept, hashed and marked.

use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use impound::case::ingest::{Format, IngestOptions, Outcome, Verdict, Zstd, ingest};
use impound::progress::Silent;
use impound_backends::{ItemKind, Piece, Why};

use crate::kit::*;

const MIB: u64 = 1 << 20;

fn failed(outcome: &Outcome) -> &str {
    match outcome {
        Outcome::Failed(why) => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_source_that_breaks_or_ends_early_keeps_what_came_and_names_the_rest() {
    for (end, word) in [(Some(broken()), "cable pulled"), (None, "ended before")] {
        let folder = tempfile::tempdir().unwrap();
        let mut pieces = sequence(0, 2 * MIB, 4096);
        pieces.push(data(3 * MIB, 8192));
        pieces.extend(end);
        let report = run(capture(ItemKind::Disk, 10 * MIB, &[], pieces), folder.path(), &options());
        assert!(failed(&report.outcome).contains(word), "{:?}", report.outcome);
        let (_, image) = checked_image(folder.path(), &report);
        assert_eq!(image.len() as u64, 3 * MIB + 8192, "what never came is not written as zeros");
        assert!(image[..2 << 20] == bytes(0, 2 * MIB) && image[3 << 20..] == bytes(3 * MIB, 8192));
        let never = Why::Unreadable("the source ended before it came".into());
        let gaps: Vec<_> = report.gaps.iter().map(|gap| (gap.at, gap.len, &gap.why)).collect();
        assert_eq!(gaps, [(2 * MIB, MIB, &never), (3 * MIB + 8192, 7 * MIB - 8192, &never)]);
    }
}

#[test]
fn an_error_in_the_stream_does_not_cost_what_is_still_under_way() {
    let folder = tempfile::tempdir().unwrap();
    let mut pieces = sequence(0, MIB, 4096);
    pieces.insert(3, broken());
    let report = run(capture(ItemKind::Disk, MIB, &[], pieces), folder.path(), &options());
    assert!(failed(&report.outcome).contains("cable pulled"));
    assert!(report.gaps.is_empty() && checked_image(folder.path(), &report).1 == bytes(0, MIB));
}

#[test]
fn lime_and_elf_of_a_source_that_broke_stay_well_formed() {
    for format in [Format::Lime, Format::Elf] {
        let folder = tempfile::tempdir().unwrap();
        let options = IngestOptions { format, ..options() };
        let pieces = vec![data(0, MIB), broken()];
        let report =
            run(capture(ItemKind::Memory, 4 * MIB, &[(0, 2 * MIB), (3 * MIB, MIB)], pieces), folder.path(), &options);
        failed(&report.outcome);
        let (_, image) = checked_image(folder.path(), &report);
        let headers = if format == Format::Lime { 64 } else { 4096 };
        assert_eq!(image.len() as u64, headers + 3 * MIB);
        assert_eq!((report.gap_totals.unreadable, report.gap_totals.not_ram), (2 * MIB, MIB));
    }
}

#[test]
fn pieces_against_the_contract_are_refused_and_what_came_before_is_kept() {
    let cases: Vec<(Sent, &str)> = vec![
        (data(4096, 4096), "address 4096 came twice"),
        (zero(0, MIB), "address 0 came twice"),
        (gap(MIB - 4096, 8192, Why::Sparse), "came twice"),
        (data(MIB + 1, 4096), "multiple of 4096"),
        (data(MIB, 100), "multiple of 4096"),
        (data(4 * MIB - 4096, 8192), "do not lie inside"),
        (zero(u64::MAX - 4095, 4096), "do not lie inside"),
        (zero(MIB, u64::MAX), "do not lie inside"),
        (data(MIB, 0), "empty piece"),
        (data(2 * MIB, 4096), "nothing is"),
        (data(2 * MIB - 4096, 8192), "nothing is"),
        (Ok(Piece::Aside { name: "../x", bytes: "x".into() }), "no name"),
    ];
    for (bad, word) in cases {
        let folder = tempfile::tempdir().unwrap();
        let mut pieces = sequence(0, MIB, 4096);
        pieces.push(bad);
        pieces.push(data(MIB, 4096));
        let memory = capture(ItemKind::Memory, 4 * MIB, &[(0, 2 * MIB), (3 * MIB, MIB)], pieces);
        let report = run(memory, folder.path(), &options());
        assert!(failed(&report.outcome).contains(word), "{word}: {:?}", report.outcome);
        assert!(checked_image(folder.path(), &report).1[..1 << 20] == bytes(0, MIB));
    }
}

#[test]
fn a_stop_is_noticed_although_nothing_comes() {
    let folder = tempfile::tempdir().unwrap();
    let stop = AtomicBool::new(false);
    let source = capture(ItemKind::Disk, 4 * MIB, &[], Pieces::from(sequence(0, MIB, 4096)).stuck());
    let report = std::thread::scope(|scope| {
        let ingest = scope.spawn(|| ingest(source, folder.path(), &options(), &Silent, &stop).unwrap());
        std::thread::sleep(Duration::from_millis(300));
        stop.store(true, Ordering::Relaxed);
        let asked = Instant::now();
        let report = ingest.join().unwrap();
        assert!(asked.elapsed() < Duration::from_secs(2));
        report
    });
    assert_eq!(report.outcome, Outcome::Interrupted);
    assert!(checked_image(folder.path(), &report).1 == bytes(0, MIB));
}

#[test]
fn nothing_is_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let go = || {
        let source = capture(ItemKind::Disk, MIB, &[], sequence(0, MIB, 4096));
        ingest(source, folder.path(), &options(), &Silent, &AtomicBool::new(false))
    };
    let first = go().unwrap();
    let again = go().unwrap_err();
    assert!(again.to_string().contains("exists"), "{again}");
    assert_eq!(tool("sha256sum", &folder.path().join("data/vda.raw")), first.stored[0].sha256);
}

#[test]
fn free_space_is_watched_from_the_first_piece() {
    let folder = tempfile::tempdir().unwrap();
    let options = IngestOptions { min_free: u64::MAX, ..options() };
    let report = run(capture(ItemKind::Disk, MIB, &[], sequence(0, MIB, 4096)), folder.path(), &options);
    assert!(failed(&report.outcome).contains("shall stay free"), "{:?}", report.outcome);
}

#[test]
fn memory_that_is_none_is_told() {
    let verdict = |pieces: Vec<Sent>| {
        let folder = tempfile::tempdir().unwrap();
        let report = run(capture(ItemKind::Memory, 32 * MIB, &[], pieces), folder.path(), &options());
        report.sample.unwrap().verdict()
    };
    assert_eq!(verdict(vec![zero(0, 32 * MIB)]), Verdict::AllZero);
    assert_eq!(verdict(sequence(0, 32 * MIB, 64 << 10)), Verdict::Plausible);
    let mut noise = vec![0; 1 << 20];
    blake3::Hasher::new().finalize_xof().fill(&mut noise);
    let ciphertext = (0..32).map(|i| Ok(Piece::Data { at: i * MIB, bytes: noise.clone().into() }));
    assert_eq!(verdict(ciphertext.collect()), Verdict::LooksEncrypted);
    let text = b"all work and no play ".repeat(50_000);
    let plain = (0..32).map(|i| Ok(Piece::Data { at: i * MIB, bytes: text[..1 << 20].to_vec().into() }));
    assert_eq!(verdict(plain.collect()), Verdict::Plausible);
}

/// Runs a hidden test of this program on a file system of 24 MiB of its own.
fn on_a_small_disk(name: &str) {
    let folder = tempfile::tempdir().unwrap();
    let script = r#"mount -t tmpfs -o size=24m none "$1" && exec "$2" --exact "$3" --ignored --nocapture"#;
    let out = Command::new("unshare")
        .args(["--mount", "--map-root-user", "sh", "-c", script, "sh"])
        .args([folder.path().as_os_str(), std::env::current_exe().unwrap().as_os_str(), name.as_ref()])
        .env("IMPOUND_TEST_SMALL_DISK", folder.path())
        .output();
    let Ok(out) = out else { return println!("skipped: no `unshare` here") };
    let text = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    if !text.contains("running 1 test") {
        return println!("skipped: no mount namespace here: {text}");
    }
    assert!(out.status.success(), "{text}");
}

#[test]
fn a_full_disk_is_named_and_what_was_written_is_kept() {
    on_a_small_disk("breaks::child_raw_on_a_full_disk");
    on_a_small_disk("breaks::child_zstd_on_a_full_disk");
}

#[test]
#[ignore = "runs on a file system of its own, by a_full_disk_is_named_and_what_was_written_is_kept"]
fn child_raw_on_a_full_disk() {
    let draft = std::path::PathBuf::from(std::env::var_os("IMPOUND_TEST_SMALL_DISK").unwrap());
    let report =
        run(capture(ItemKind::Disk, 64 * MIB, &[], mixed(sequence(0, 64 * MIB, 64 << 10))), &draft, &options());
    let why = failed(&report.outcome);
    assert!(why.contains("No space left") && why.contains("vda.raw.part"), "{why}");
    let (_, image) = checked_image(&draft, &report);
    assert!(report.bytes_data > 12 * MIB, "{}", report.bytes_data);
    let mut held = vec![true; image.len() / 4096];
    for gap in &report.gaps {
        let (from, to) = (gap.at / 4096, (gap.at + gap.len) / 4096);
        held.iter_mut()
            .take(usize::try_from(to).unwrap())
            .skip(usize::try_from(from).unwrap())
            .for_each(|h| *h = false);
    }
    let whole = bytes(0, image.len() as u64);
    for (index, held) in held.iter().enumerate() {
        let page = index * 4096..(index + 1) * 4096;
        let right = if *held { image[page.clone()] == whole[page] } else { image[page].iter().all(|byte| *byte == 0) };
        assert!(right, "page {index}, held: {held}");
    }
    std::fs::write(draft.join("exhibit.json"), vec![0; 1 << 20]).expect("the ballast left space for the manifest");
}

#[test]
#[ignore = "runs on a file system of its own, by a_full_disk_is_named_and_what_was_written_is_kept"]
fn child_zstd_on_a_full_disk() {
    let draft = std::path::PathBuf::from(std::env::var_os("IMPOUND_TEST_SMALL_DISK").unwrap());
    let options = IngestOptions { compress: Some(Zstd { level: 1 }), ..options() };
    let report = run(capture(ItemKind::Disk, 64 * MIB, &[], sequence(0, 64 * MIB, 64 << 10)), &draft, &options);
    let why = failed(&report.outcome);
    assert!(why.contains("No space left"), "{why}");
    let (path, _) = checked_image(&draft, &report);
    let out = Command::new("zstd").arg("-dqc").arg(&path).output().unwrap();
    assert!(out.status.success());
    assert_eq!((out.stdout.len() as u64, Some(sha256(&out.stdout))), (report.content_len, report.content_sha256));
    assert!(out.stdout == bytes(0, report.content_len));
    let end = report.gaps.last().unwrap();
    assert_eq!(end.at + end.len, 64 * MIB);
    assert!(report.gaps.iter().any(|gap| gap.at <= report.content_len));
}
