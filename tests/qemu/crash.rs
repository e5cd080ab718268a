//! The worst end of a capture, on real guests: killed at every command it sends. The guest is as it was found, what is left
//! can be recovered, and nothing looks complete that is not.
//!
//! `strace` is the killer: it kills the program at the Nth message it sends to QEMU. So the program under test holds no test
//! code. It counts for each thread alone; a run sends from its main thread.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::common::guest::{Guest, Spec};
use crate::common::run::{Ran, changes, impound, run};

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
fn nothing_is_left(guest: &Guest, before: &crate::common::control::State, what: &str) -> Result<()> {
    let after = guest.control().state()?;
    ensure!(after == *before, "{what}: left {after:?}, found {before:?}");
    let objects = guest.control().execute("qom-list", &json!({ "path": "/objects" }))?.to_string();
    ensure!(!objects.contains("impound"), "{what}: the VM is still marked as taken");
    Ok(())
}

/// Kills a run at its Nth message and recovers. How often a run asks whether something has ended depends on the machine;
/// one that had less to say than N messages is complete, and the answer is false.
fn kill_and_recover(guest: &Guest, at: usize, what: &str, more: &[&str]) -> Result<bool> {
    let before = guest.control().state()?;
    let case = guest.folder().join(format!("killed-{at}"));
    let inject = format!("inject=sendmsg:signal=SIGKILL:when={at}");
    let mut killer = strace(&["-e", "trace=sendmsg", "-e", &inject], Path::new("/dev/null"));
    let ran = acquire(&mut killer, guest, &case, more)?;
    if ran.code == Some(0) {
        nothing_is_left(guest, &before, what)?;
        fs::remove_dir_all(&case)?;
        return Ok(false);
    }
    ensure!(ran.code.is_none() || ran.code == Some(137), "{what}: was not killed: {ran:?}");
    let case_text = case.display().to_string();
    run(&["case", "recover", &case_text])?.expect(0).with_context(|| what.to_owned())?;
    nothing_is_left(guest, &before, what)?;
    // Verify hashes what is called complete; what was cut is never called so.
    let verified = run(&["verify", &case_text])?;
    ensure!(matches!(verified.code, Some(0 | 3)), "{what}: verify: {verified:?}");
    fs::remove_dir_all(&case)?;
    Ok(true)
}

#[test]
fn a_run_killed_at_any_command_leaves_a_running_guest_and_a_case_that_recovers() -> Result<()> {
    let guest = Guest::boot(&Spec::new("linux-small"))?;
    let more = ["--memory", "--disk", "disk-vdb"];
    let case = guest.folder().join("complete");
    let sent = commands(&guest, &case, &more)?;
    let steps: Vec<_> = (1..=sent.len()).filter(|at| changes(&sent[at - 1])).collect();
    ensure!(steps.len() > 25, "too few commands change anything: {sent:?}");
    let mut killed = 0;
    for at in steps {
        killed += usize::from(kill_and_recover(&guest, at, &format!("killed at {} ({at})", sent[at - 1]), &more)?);
    }
    ensure!(killed > 20, "only {killed} runs were killed");
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
