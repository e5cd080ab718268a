//! A running guest, read in place: what it answers, and that it does not notice.

use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::guest::{Guest, wait_until};
use super::memory::{Memory, has, pid_of, texts};
use super::run::{Ran, impound, run};

/// Pages of the guest's memory that QEMU has, and that it has not: the kernel's own account of its largest mapping.
fn pages(guest: &Guest) -> Result<(usize, usize)> {
    let maps = fs::read_to_string(format!("/proc/{}/maps", guest.pid()))?;
    let ends = maps.lines().filter_map(|line| {
        let (begin, end) = line.split_ascii_whitespace().next()?.split_once('-')?;
        Some((u64::from_str_radix(begin, 16).ok()?, u64::from_str_radix(end, 16).ok()?))
    });
    let (begin, end) = ends.max_by_key(|(begin, end)| end - begin).context("no mappings")?;
    let mut entries = vec![0; usize::try_from((end - begin) / 4096 * 8)?];
    fs::File::open(format!("/proc/{}/pagemap", guest.pid()))?.read_exact_at(&mut entries, begin / 4096 * 8)?;
    // Present or swapped: bits 63 and 62, of the last byte.
    let there = entries.chunks_exact(8).filter(|entry| entry.last().is_some_and(|byte| byte & 0xc0 != 0)).count();
    Ok((there, entries.len() / 8 - there))
}

/// Asks a running guest, and looks at it before and after.
pub fn a_running_guest_answers_and_does_not_notice(guest: &Guest) -> Result<()> {
    let target = guest.target();
    let live = Memory(Path::new(&target));
    let (before, (had, had_not)) = (guest.control().state()?, pages(guest)?);
    ensure!(before.status == "running" && had_not > 5000, "{before:?}, {had} pages and {had_not} not");

    let list = live.rows("linux.pslist")?;
    for comm in ["init", "planted-shell", "bash", "nc", "kthreadd"] {
        ensure!(texts(&list, "comm").contains(&comm), "{comm} is not listed: {list:?}");
    }
    let shell = pid_of(&list, "planted-shell")?;
    let environment = [("pid", shell.into()), ("value", "marker-env-2b8d64".into()), ("consistency", "live".into())];
    ensure!(has(&live.rows("linux.envars")?, &environment), "the environment is not read");
    // Looks through all of memory.
    let scanned = live.rows("linux.psscan")?;
    ensure!(texts(&scanned, "comm").contains(&"planted-shell"), "{scanned:?}");
    ensure!(live.rows("linux.findings")?.is_empty(), "findings in an innocent guest");
    let info = live.rows("info")?;
    ensure!(
        has(&info, &[("property", "hostname".into()), ("value", "web01".into()), ("consistency", "live".into())]),
        "{info:?}"
    );
    every_row_is_labelled(&target)?;

    let (after, (has_now, _)) = (guest.control().state()?, pages(guest)?);
    ensure!(before == after, "before {before:?}, after {after:?}");
    let events: Vec<Value> = guest.control().events.iter().filter(|event| event["event"] == "STOP").cloned().collect();
    ensure!(events.is_empty(), "it was stopped: {events:?}");
    // The guest itself goes on and touches some; reading all of memory would have touched the rest.
    ensure!(has_now < had + had_not / 4, "QEMU had {had} pages, has {has_now}, and had not {had_not}");
    guest.type_in(b"echo alive-$((40+2))\n")?;
    wait_until(|| guest.serial().contains("alive-42"), Duration::from_secs(60), "the guest to answer on its console")
}

fn every_row_is_labelled(target: &str) -> Result<()> {
    for format in ["text", "csv", "json", "jsonl"] {
        let ran =
            Ran::of(&impound().args(["--format", format, "memory", target, "linux.lsmod"]).output()?).expect(0)?;
        ensure!(ran.stderr.contains("is not stopped"), "{}", ran.stderr);
        let lines: Vec<&str> = ran.stdout.lines().filter(|line| line.contains("virtio")).collect();
        ensure!(lines.len() > 3, "{format}: {}", ran.stdout);
        for line in lines {
            let end = line.trim_end().trim_end_matches(',').trim_end_matches(['}', '"']);
            ensure!(end.ends_with("live"), "{format}: {line}");
        }
    }
    let all = run(&["memory", target, "all"])?;
    // Something may be torn for good; then that is told, and the rest is there.
    ensure!(matches!(all.code, Some(0 | 3)), "{:?}: {}", all.code, all.stderr);
    let rows = all.rows()?;
    let named: std::collections::BTreeSet<_> = texts(&rows, "analyzer").into_iter().collect();
    ensure!(named.len() > 25, "{named:?}");
    ensure!(rows.iter().all(|row| row["consistency"] == "live"), "not every row is labelled");
    Ok(())
}

/// Somebody listens and passes everything on to QEMU: its process is not the one whose memory is the guest's.
pub fn a_process_in_between_is_refused(guest: &Guest) -> Result<()> {
    let socket = guest.folder().join("between.sock");
    let (listener, real) = (UnixListener::bind(&socket)?, guest.qmp());
    let between = thread::spawn(move || -> io::Result<()> {
        let (client, qemu) = (listener.accept()?.0, UnixStream::connect(real)?);
        let (mut from, mut to) = (client.try_clone()?, qemu.try_clone()?);
        let there = thread::spawn(move || {
            let _ends_with_the_client = io::copy(&mut from, &mut to);
            let _as_well = to.shutdown(std::net::Shutdown::Both);
        });
        let _ends_with_qemu = io::copy(&mut &qemu, &mut &client);
        let _ended = client.shutdown(std::net::Shutdown::Both);
        there.join().map_err(|_| io::Error::other("the copy panicked"))
    });
    let target = format!("qmp:{}", socket.display());
    let ran = run(&["memory", &target, "linux.pslist"])?.expect(1)?;
    ran.says("is not the one that runs the guest")?.says("name a socket that this very QEMU listens on")?;
    between.join().map_err(|_| anyhow::anyhow!("the process in between panicked"))??;
    run(&["memory", "fake:web01?memory=16M", "linux.pslist"])?.expect(1)?.says("read in place only of a QEMU")?;
    Ok(())
}
