//! Large items in small memory, and whole ways from a backend to a stored image.

use std::collections::BTreeMap;
use std::process::Command;

use impound::case::ingest::{IngestOptions, Outcome};
use impound_backends::fake::content;
use impound_backends::{Access, Capture, Consistency, Forgetful, How, ItemKind, Target, Uri, Why};

use crate::kit::*;

const MIB: u64 = 1 << 20;

/// Runs a hidden test alone in a process, so that its memory is its own.
fn alone(test: &str) {
    let out = Command::new(std::env::current_exe().unwrap()).args(["--exact", test, "--ignored"]).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stdout));
}

#[test]
fn memory_stays_small_whatever_the_size() {
    alone("scale::child_ten_terabytes");
    alone("scale::child_random_order");
}

#[test]
#[ignore = "measures memory; run by memory_stays_small_whatever_the_size"]
fn child_ten_terabytes() {
    let folder = tempfile::tempdir().unwrap();
    let len = 10 << 40;
    // Far from the beginning, so that nothing has to be hashed: that alone would take hours.
    let pieces = (0..400_000_u64)
        .map(move |i| {
            let at = len / 2 + i * 8 * MIB;
            if i % 2 == 0 { gap(at, 4 * MIB, Why::Sparse) } else { zero(at, 8192) }
        })
        .take_while(move |piece| !matches!(piece, Ok(impound_backends::Piece::Gap { at, .. }) if at + 8 * MIB > len))
        .chain([broken()]);
    let options = IngestOptions { block: 16 << 20, keep_draft: true, ..options() };
    let report = run(capture(ItemKind::Disk, len, &[], Pieces::lazy(pieces)), folder.path(), &options);
    assert!(matches!(report.outcome, Outcome::Failed(_)));
    let peak = peak_memory();
    assert!(peak < 200 * MIB, "{peak}");
}

#[test]
#[ignore = "measures memory; run by memory_stays_small_whatever_the_size"]
fn child_random_order() {
    // In memory where that is possible: ext4 with `discard` takes a minute to remove a file of so many extents.
    let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let len = 1 << 30;
    let grains = len / 4096;
    let page = bytes(0, 4096);
    // 3 shares no factor with a power of two: each grain once, in strides that leave every cell open for long.
    let pieces = (0..grains).map(move |i| {
        let at = i * 87_383 % grains * 4096;
        if i % 8 == 0 { Ok(impound_backends::Piece::Data { at, bytes: page.clone().into() }) } else { zero(at, 4096) }
    });
    let report = run(capture(ItemKind::Memory, len, &[], Pieces::lazy(pieces)), folder.path(), &options());
    assert_eq!(report.outcome, Outcome::Complete);
    let path = folder.path().join(&report.stored[0].path);
    assert_eq!(tool("sha256sum", &path), report.stored[0].sha256);
    let peak = peak_memory();
    assert!(peak < 200 * MIB, "{peak}");
}

/// CPU time of this process and of the children it waited for, in seconds (`/proc/self/stat`, fields 14 to 17).
fn cpu_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields = text.rsplit(')').next().unwrap().split_whitespace().skip(11).take(4);
    fields.map(|ticks| ticks.parse::<f64>().unwrap()).sum::<f64>() / 100.0
}

/// Prints seconds for 2 GiB: `cargo test --release --test ingest -- --ignored --nocapture --exact scale::measure`.
#[test]
#[ignore = "measures time"]
fn measure() {
    let len = 2 << 30;
    let block: bytes::Bytes = bytes(0, 64 * MIB).into();
    let part = move |i: u64| {
        let at = usize::try_from(i % 64 * MIB).unwrap();
        Ok(impound_backends::Piece::Data { at: i * MIB, bytes: block.slice(at..at + (1 << 20)) })
    };
    let folder = tempfile::tempdir().unwrap();
    let time = |what: &str, work: &mut dyn FnMut()| {
        assert!(Command::new("sync").status().unwrap().success());
        let (begun, cpu) = (std::time::Instant::now(), cpu_seconds());
        work();
        println!("{what:28} {:6.2} s wall {:6.2} s CPU", begun.elapsed().as_secs_f64(), cpu_seconds() - cpu);
    };
    for (name, blocks) in [("in order", 1), ("in random order", 87_383)] {
        let draft = folder.path().join(name);
        std::fs::create_dir(&draft).unwrap();
        let part = part.clone();
        let pieces = (0..len / MIB).map(move |i| part(i * blocks % (len / MIB)));
        let mut source = Some(capture(ItemKind::Memory, len, &[], Pieces::lazy(pieces)));
        let options = IngestOptions { block: 16 << 20, ..options() };
        time(&format!("ingest, {name}"), &mut || {
            run(source.take().unwrap(), &draft, &options);
        });
    }
    let image = folder.path().join("in order/data/vda.raw");
    let shell = |script: &str| {
        let status = Command::new("sh").args(["-c", script, "sh"]).arg(&image).status().unwrap();
        assert!(status.success());
    };
    time("cp, then sync of the copy", &mut || shell("cp --sparse=never \"$1\" \"$1.copy\" && sync \"$1.copy\""));
    for _ in 0..3 {
        time("openssl dgst -sha256", &mut || shell("openssl dgst -sha256 \"$1\" >/dev/null"));
        time("blocks::check", &mut || {
            let map = folder.path().join("in order/blocks.jsonl");
            let check = impound::case::blocks::check(&image, &map, &impound::progress::Silent).unwrap();
            assert!(check.sha256.is_some());
        });
    }
    println!("peak memory {} MiB", peak_memory() / MIB);
}

async fn target(address: &str) -> Box<dyn Target> {
    let uri: Uri = address.parse().unwrap();
    let backend = impound_backends::for_uri(&uri).unwrap();
    backend.connect(&uri, &Access::default()).await.unwrap().open(None).await.unwrap()
}

/// Begins with everything there is.
async fn begin(target: &mut dyn Target) -> Vec<Capture> {
    let (items, mut journal) = (target.items().await.unwrap(), Forgetful::default());
    target.prepare(&items, &how(), &mut journal).await.unwrap();
    target.begin(&mut journal).await.unwrap()
}

fn how() -> How {
    How {
        memory_method: None,
        require: Consistency::Live,
        max_pause: None,
        scratch: std::env::temp_dir(),
        holder: "a test".into(),
        run: "t".into(),
        start_at: BTreeMap::new(),
        scratch_there: None,
        begun_by: BTreeMap::new(),
        options: BTreeMap::new(),
        since: BTreeMap::new(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fake_vm_in_random_order_is_stored_as_its_content_says() {
    let mut target = target("fake:stored?memory=6M&hole=2M+1M&disk=5000001&order=random&piece=36K&gap=vda:1M+8K").await;
    let captures = begin(&mut *target).await;
    for capture in captures {
        let folder = tempfile::tempdir().unwrap();
        let (name, len, regions) = (capture.item.name.clone(), capture.len, capture.regions.clone());
        let options = IngestOptions { stem: name.clone(), ..options() };
        let draft = folder.path().to_owned();
        let report = tokio::task::spawn_blocking(move || run(capture, &draft, &options)).await.unwrap();
        let mut expected = content::bytes(&name, 0, usize::try_from(len).unwrap());
        if name == "memory" {
            assert_eq!(report.outcome, Outcome::Complete);
            let low = usize::try_from(regions[0].len).unwrap();
            expected[low..low + (1 << 20)].fill(0);
        } else {
            assert_eq!((report.outcome.clone(), report.gap_totals.unreadable), (Outcome::Partial, 8192));
            expected[1 << 20..(1 << 20) + 8192].fill(0);
        }
        assert!(checked_image(folder.path(), &report).1 == expected, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_imaged_as_dcfldd_does() {
    use std::io::{Seek, SeekFrom, Write};
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("disk.img");
    let mut file = std::fs::File::create(&source).unwrap();
    file.write_all(&bytes(0, 3 * MIB)).unwrap();
    file.seek(SeekFrom::Start(40 * MIB + 5)).unwrap();
    file.write_all(&bytes(0, 5 * MIB)).unwrap();
    let mut target = target(&format!("file:{}", source.display())).await;
    let capture = begin(&mut *target).await.pop().unwrap();
    let draft = folder.path().join("draft");
    let report = tokio::task::spawn_blocking(move || {
        std::fs::create_dir(&draft).unwrap();
        let report = run(capture, &draft, &options());
        checked_image(&draft, &report);
        report
    });
    let report = report.await.unwrap();
    assert_eq!(report.outcome, Outcome::Complete);
    assert_eq!(report.stored[0].sha256, tool("sha256sum", &source));
    assert!(report.gap_totals.sparse >= 36 * MIB);
    assert!(target.finish(&mut Forgetful::default()).await.unwrap().problems.is_empty());
}
