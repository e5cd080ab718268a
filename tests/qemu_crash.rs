//! The worst ends of a capture, on real guests: killed at every command it sends, signalled, out of space, QEMU gone. The
//! guest is as it was found, what is left can be recovered, and nothing looks complete that is not.
//!
//! `strace` is the killer: it kills the program at the Nth message it sends to QEMU, delays its writes, or fails them. So
//! the program under test holds no test code. It counts for each thread alone; a run sends from its main thread.

#![allow(clippy::indexing_slicing, reason = "this is test code: what is not there should fail the test")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use common::guest::{Disk, Guest, Source, Spec, wait_until};
use common::run::{Exhibit, Ran, impound, run};
use serde_json::json;

/// Long enough for any run here on a slow machine; a run that takes longer hangs.
const ENDS_WITHIN: Duration = Duration::from_secs(300);

/// The program under strace, with what strace is to do to it.
fn strace(what: &[&str], output: &Path) -> Command {
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-s", "4096", "-o"]).arg(output).args(what);
    command.arg(impound().get_program()).args(["--format", "json"]).stdin(Stdio::null());
    command
}

fn acquire(command: &mut Command, guest: &Guest, case: &Path, more: &[&str]) -> Result<Ran> {
    let output = command.args(["acquire", &guest.target(), "--case"]).arg(case).args(more).output();
    Ok(Ran::of(&output.context("run strace; scripts/install test installs it")?))
}

/// Changes something in QEMU.
fn changes(command: &str) -> bool {
    !command.starts_with("query-") && !["human-monitor-command", "qom-get", "qmp_capabilities"].contains(&command)
}

/// The commands that a complete run sends, in order.
fn commands(guest: &Guest, case: &Path, more: &[&str]) -> Result<Vec<String>> {
    let log = guest.folder().join("sent");
    acquire(&mut strace(&["-e", "trace=sendmsg"], &log), guest, case, more)?.expect(0)?;
    let text = fs::read_to_string(&log)?;
    let main = text.split_whitespace().next().context("nothing was sent")?;
    let name = |line: &str| Some(line.split_once(r#"\"execute\":\""#)?.1.split('\\').next()?.to_owned());
    Ok(text.lines().filter(|line| line.starts_with(main)).filter_map(name).collect())
}

/// Nothing of impound's is left in QEMU.
fn nothing_is_left(guest: &Guest, before: &common::control::State, what: &str) -> Result<()> {
    let after = guest.control().state()?;
    ensure!(after == *before, "{what}: left {after:?}, found {before:?}");
    let objects = guest.control().execute("qom-list", &json!({ "path": "/objects" }))?.to_string();
    ensure!(!objects.contains("impound"), "{what}: the VM is still marked as taken");
    Ok(())
}

/// Kills a run at its Nth message and recovers.
fn kill_and_recover(guest: &Guest, at: usize, what: &str, more: &[&str]) -> Result<()> {
    let before = guest.control().state()?;
    let case = guest.folder().join(format!("killed-{at}"));
    let inject = format!("inject=sendmsg:signal=SIGKILL:when={at}");
    let mut killer = strace(&["-e", "trace=sendmsg", "-e", &inject], Path::new("/dev/null"));
    let ran = acquire(&mut killer, guest, &case, more)?;
    ensure!(ran.code.is_none() || ran.code == Some(137), "{what}: was not killed: {ran:?}");
    let case_text = case.display().to_string();
    run(&["case", "recover", &case_text])?.expect(0).with_context(|| what.to_owned())?;
    nothing_is_left(guest, &before, what)?;
    // Verify hashes what is called complete; what was cut is never called so.
    let verified = run(&["verify", &case_text])?;
    ensure!(matches!(verified.code, Some(0 | 3)), "{what}: verify: {verified:?}");
    fs::remove_dir_all(&case)?;
    Ok(())
}

#[test]
fn a_run_killed_at_any_command_leaves_a_running_guest_and_a_case_that_recovers() -> Result<()> {
    let guest = Guest::boot(&Spec::new("linux-small"))?;
    let more = ["--memory", "--disk", "disk-vdb"];
    let case = guest.folder().join("complete");
    let sent = commands(&guest, &case, &more)?;
    let steps: Vec<_> = (1..=sent.len()).filter(|at| changes(&sent[at - 1])).collect();
    ensure!(steps.len() > 25, "too few commands change anything: {sent:?}");
    for at in steps {
        kill_and_recover(&guest, at, &format!("killed at {} ({at})", sent[at - 1]), &more)?;
    }
    // The VM can be taken as if nothing had happened.
    acquire(&mut strace(&["-e", "trace=none"], Path::new("/dev/null")), &guest, &case, &more)?.expect(0)?;
    Ok(())
}

#[test]
fn a_guest_found_stopped_stays_so_wherever_the_run_is_killed() -> Result<()> {
    let guest = Guest::boot(&Spec::new("linux-small"))?;
    guest.control().execute("stop", &json!({}))?;
    let more = ["--memory", "--memory-method", "paused", "--disk", "disk-vdb"];
    let sent = commands(&guest, &guest.folder().join("complete"), &more)?;
    assert!(!sent.iter().any(|command| command == "cont"), "{sent:?}");
    for step in ["getfd", "transaction", "dump-guest-memory", "block-export-del"] {
        let at = sent.iter().position(|command| command == step).with_context(|| format!("no {step} in {sent:?}"))?;
        kill_and_recover(&guest, at + 1, &format!("killed at {step}"), &more)?;
        assert_eq!(guest.control().status()?, "paused");
    }
    Ok(())
}

/// A capture whose writes are slow enough that it is under way whenever something is done to it.
struct Slow {
    child: Child,
    case: PathBuf,
}

impl Slow {
    /// Starts it and waits until the guest runs again and pieces come.
    fn start(guest: &Guest, name: &str, more: &[&str]) -> Result<Self> {
        let case = guest.folder().join(name);
        let delay = ["-e", "trace=pwrite64", "-e", "inject=pwrite64:delay_enter=100000"];
        let child = strace(&delay, Path::new("/dev/null"))
            .args(["acquire", &guest.target(), "--case"])
            .arg(&case)
            .args(more)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let slow = Self { child, case };
        let runs = || slow.journal(".wire.jsonl").is_some_and(|log| log.contains(r#"\"execute\":\"cont\""#));
        wait_until(runs, ENDS_WITHIN, "the guest to be let go")?;
        Ok(slow)
    }

    fn journal(&self, ending: &str) -> Option<String> {
        let files = fs::read_dir(self.case.join("journal")).ok()?;
        let mut paths = files.filter_map(|entry| Some(entry.ok()?.path()));
        let is = |path: &PathBuf| {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            name.ends_with(ending) && (ending != ".jsonl" || !name.ends_with(".wire.jsonl"))
        };
        fs::read_to_string(paths.find(is)?).ok()
    }

    /// Sends a signal to the program itself, not to strace.
    fn signal(&self, name: &str) -> Result<()> {
        let journal = self.journal(".jsonl").context("no journal")?;
        let header: serde_json::Value = serde_json::from_str(journal.lines().next().context("an empty journal")?)?;
        let sent = Command::new("kill").args(["-s", name, &header["pid"].to_string()]).status()?;
        ensure!(sent.success(), "kill {name}");
        Ok(())
    }

    /// Waits for the end; a run that does not end is a failure of its own.
    fn end(mut self) -> Result<(Ran, PathBuf)> {
        let mut ended = false;
        let waited = wait_until(
            || {
                ended = matches!(self.child.try_wait(), Ok(Some(_)));
                ended
            },
            ENDS_WITHIN,
            "the run to end",
        );
        if waited.is_err() {
            self.child.kill()?;
        }
        waited?;
        let output = self.child.wait_with_output()?;
        Ok((Ran::of(&output), self.case))
    }
}

fn verify_says_incomplete(case: &Path) -> Result<()> {
    run(&["verify", &case.display().to_string()])?.expect(3)?;
    Ok(())
}

#[test]
fn a_signal_ends_a_capture_in_order() -> Result<()> {
    let guest = Guest::boot(&Spec::new("linux-small"))?;
    let before = guest.control().state()?;
    for name in ["INT", "TERM", "HUP"] {
        let slow = Slow::start(&guest, name, &[])?;
        slow.signal(name)?;
        let (ran, case) = slow.end()?;
        ran.expect(130)?;
        nothing_is_left(&guest, &before, name)?;
        assert_eq!(Exhibit::find(&case, "memory")?.outcome(), "interrupted");
        verify_says_incomplete(&case)?;
    }
    Ok(())
}

#[test]
fn a_qemu_that_dies_leaves_what_was_captured_marked_as_failed() -> Result<()> {
    let guest = Guest::boot(&Spec::new("linux-small"))?;
    let slow = Slow::start(&guest, "case", &[])?;
    guest.kill()?;
    let (ran, case) = slow.end()?;
    ensure!(matches!(ran.code, Some(1 | 3 | 4)), "{ran:?}");
    let memory = Exhibit::find(&case, "memory")?;
    assert_eq!(memory.outcome(), "failed");
    assert!(memory.record["gaps"]["unreadable"].as_u64().is_some_and(|bytes| bytes > 0), "{}", memory.record["gaps"]);
    verify_says_incomplete(&case)?;
    if ran.code == Some(4) {
        // The run cannot know that the VM is gone for good; the responder can.
        run(&["case", "recover", "--hypervisor-is-gone", &case.display().to_string()])?.expect(0)?;
    }
    Ok(())
}

#[test]
fn a_full_disk_fails_the_capture_and_not_the_guest() -> Result<()> {
    let guest = Guest::boot(&Spec::new("linux-small"))?;
    let before = guest.control().state()?;
    let case = guest.folder().join("case");
    let full = ["-e", "trace=pwrite64", "-e", "inject=pwrite64:error=ENOSPC:when=20+"];
    let ran = acquire(&mut strace(&full, Path::new("/dev/null")), &guest, &case, &["--memory"])?;
    ensure!(matches!(ran.code, Some(1 | 3)), "{ran:?}");
    nothing_is_left(&guest, &before, "no space")?;
    let row = ran.rows()?.pop().context("no row")?;
    assert_eq!(row["outcome"], "failed");
    assert!(row["why"].as_str().is_some_and(|why| why.contains("space")), "{row}");
    verify_says_incomplete(&case)?;

    // Known beforehand: refused before the VM is touched.
    let small = guest.folder().join("small");
    fs::create_dir(&small)?;
    let script = r#"mount -t tmpfs -o size=32m small "$1" && shift && exec "$@""#;
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c", script, "sh"])
        .arg(&small)
        .arg(impound().get_program())
        .args(["acquire", &guest.target(), "--memory", "--case"])
        .arg(small.join("case"))
        .output()?;
    Ran::of(&output).expect(1)?.says("are free and at least")?;
    nothing_is_left(&guest, &before, "too little space")
}

#[test]
fn a_full_scratch_folder_ends_the_capture_of_disks_before_the_guest_suffers() -> Result<()> {
    let mut spec = Spec::new("linux-small");
    let file = tempfile::NamedTempFile::new()?;
    fs::write(file.path(), vec![0x5a; 128 << 20])?;
    spec.disks
        .push(Disk { node: "big".to_owned(), source: Source::File { path: file.path().to_owned(), format: "raw" } });
    let guest = Guest::boot(&spec)?;
    let before = guest.control().state()?;
    let (case, scratch) = (guest.folder().join("case"), guest.folder().join("scratch"));
    fs::create_dir(&scratch)?;
    // 96 MiB, of which 64 are kept as reserve: 32 MiB for what the guest overwrites, which will be 128.
    let script = r#"mount -t tmpfs -o size=96m scratch "$1" && shift && exec "$@""#;
    let child = Command::new("unshare")
        .args(["--mount", "sh", "-c", script, "sh"])
        .arg(&scratch)
        .args(["strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=pwrite64"])
        .args(["-e", "inject=pwrite64:delay_enter=300000"])
        .arg(impound().get_program())
        .args(["--format", "json", "acquire", &guest.target(), "--disk", "disk-big", "--scratch"])
        .arg(&scratch)
        .arg("--case")
        .arg(&case)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let slow = Slow { child, case };
    let runs = || slow.journal(".wire.jsonl").is_some_and(|log| log.contains(r#"\"execute\":\"cont\""#));
    wait_until(runs, ENDS_WITHIN, "the guest to be let go")?;
    guest.type_in(b"dd if=/dev/zero of=/dev/vdc bs=1M count=128 conv=fsync && echo written-$((20+1))-whole\n")?;
    let (ran, case) = slow.end()?;
    ran.expect(3)?;
    let disk = Exhibit::find(&case, "disk-big")?;
    assert_eq!(disk.outcome(), "failed");
    assert!(
        disk.record["outcome"]["why"].as_str().is_some_and(|why| why.contains("break the guest's writes")),
        "{}",
        disk.record["outcome"]
    );
    wait_until(|| guest.serial().contains("written-21-whole"), ENDS_WITHIN, "the guest's own writes to succeed")?;
    nothing_is_left(&guest, &before, "full scratch folder")
}
