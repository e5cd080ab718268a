//! `strace` as the killer: it kills the program at the Nth call of a kind, delays its writes, or fails them. So the program
//! under test holds no test code. `strace` counts for each thread and kind of call alone; a run sends its commands from its
//! main thread.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::control::State;
use super::guest::{Guest, wait_until};
use super::run::{Ran, impound, sha256sum};

/// Long enough for any run here on a slow machine; a run that takes longer hangs.
pub const ENDS_WITHIN: Duration = Duration::from_secs(300);

/// The program under strace, all its threads and children watched, with what strace is to do to it.
pub fn strace(what: &[&str], log: &Path) -> Command {
    program(&[&["-f"], what].concat(), log)
}

/// The same, with only the program's first thread watched, so that its calls are counted apart from all others.
pub fn strace_main_thread(what: &[&str], log: &Path) -> Command {
    program(what, log)
}

fn program(options: &[&str], log: &Path) -> Command {
    let (impound, mut command) = (impound(), Command::new("strace"));
    command.args(["-qq", "-s", "4096", "-o"]).arg(log).args(options);
    command.arg(impound.get_program()).args(["--format", "json"]).stdin(Stdio::null());
    for (name, value) in impound.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command
}

/// Runs acquire into a case by a command of [`strace`].
pub fn acquire(command: &mut Command, target: &str, case: &Path, more: &[&str]) -> Result<Ran> {
    let output = command.args(["acquire", target, "--case"]).arg(case).args(more).output();
    Ok(Ran::of(&output.context("run strace; scripts/install test installs it")?))
}

/// Was it killed, as it was to be? An error if it ended in any third way.
pub fn killed(ran: &Ran, what: &str) -> Result<bool> {
    // strace ends as the program did.
    let killed = matches!(ran.code, None | Some(137));
    ensure!(killed || ran.code == Some(0), "{what}: neither killed nor complete: {ran:?}");
    Ok(killed)
}

/// Nothing of impound's is left in QEMU.
pub fn nothing_is_left(guest: &Guest, before: &State, what: &str) -> Result<()> {
    let after = guest.control().state()?;
    ensure!(after == *before, "{what}: left {after:?}, found {before:?}");
    let objects = guest.control().execute("qom-list", &json!({ "path": "/objects" }))?.to_string();
    ensure!(!objects.contains("impound"), "{what}: the VM is still marked as taken");
    Ok(())
}

/// What an exhibit of the case calls complete is there, whole, by a tool that is not ours.
pub fn complete_is_complete(case: &Path, what: &str) -> Result<()> {
    for entry in fs::read_dir(case.join("exhibits"))? {
        let dir = entry?.path();
        if dir.extension().is_some_and(|ending| ending == "partial") {
            continue;
        }
        let record: Value = serde_json::from_slice(&fs::read(dir.join("exhibit.json"))?)?;
        if record["outcome"]["state"] != "complete" {
            continue;
        }
        for file in record["stored"].as_array().context("nothing stored")? {
            let path = dir.join(file["path"].as_str().context("no path")?);
            ensure!(Some(sha256sum(&path)?.as_str()) == file["sha256"].as_str(), "{what}: {} differs", path.display());
        }
    }
    Ok(())
}

/// A capture whose writes are so slow that it is under way whenever something is done to it.
#[derive(Debug)]
pub struct Slow {
    child: Child,
    pub case: PathBuf,
}

impl Slow {
    /// Starts it, each write of the images delayed by so many milliseconds.
    pub fn start(guest: &Guest, case: &str, millis: u32, more: &[&str]) -> Result<Self> {
        let inject = format!("inject=pwrite64:delay_enter={}", millis * 1000);
        let command = strace(&["-e", "trace=pwrite64", "-e", &inject], Path::new("/dev/null"));
        Self::spawn(command, guest, guest.folder().join(case), more)
    }

    /// Starts what is to run slowly by itself.
    pub fn spawn(mut command: Command, guest: &Guest, case: PathBuf, more: &[&str]) -> Result<Self> {
        command.args(["acquire", &guest.target(), "--case"]).arg(&case).args(more);
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        Ok(Self { child: child.context("run strace; scripts/install test installs it")?, case })
    }

    /// Waits until the guest was let go and the images are being written.
    pub fn wait_until_thawed(&self) -> Result<()> {
        let runs = || self.wire().is_some_and(|log| log.contains(r#"\"execute\":\"cont\""#)) && self.wrote();
        wait_until(runs, ENDS_WITHIN, "the guest to be let go")
    }

    /// Waits until memory is being written while the guest stands still.
    pub fn wait_until_held(&self) -> Result<()> {
        let held = || self.journal().is_some_and(|log| log.contains("stop the guest")) && self.wrote();
        wait_until(held, ENDS_WITHIN, "memory to come")?;
        ensure!(self.wire().is_some_and(|log| !log.contains(r#"\"execute\":\"cont\""#)), "it was too fast");
        Ok(())
    }

    /// Has any image got bytes?
    fn wrote(&self) -> bool {
        use std::os::unix::fs::MetadataExt;
        let Ok(drafts) = fs::read_dir(self.case.join("exhibits")) else { return false };
        let data = drafts.flatten().filter_map(|draft| fs::read_dir(draft.path().join("data")).ok());
        data.flatten().flatten().any(|file| file.metadata().is_ok_and(|meta| meta.blocks() > 0))
    }

    fn journal(&self) -> Option<String> {
        self.log(|name| name.ends_with(".jsonl") && !name.ends_with(".wire.jsonl"))
    }

    fn wire(&self) -> Option<String> {
        self.log(|name| name.ends_with(".wire.jsonl"))
    }

    fn log(&self, is: impl Fn(&str) -> bool) -> Option<String> {
        let files = fs::read_dir(self.case.join("journal")).ok()?;
        let mut paths = files.filter_map(|entry| Some(entry.ok()?.path()));
        fs::read_to_string(paths.find(|path| path.file_name().is_some_and(|name| is(&name.to_string_lossy())))?).ok()
    }

    /// The program itself, not strace.
    pub fn pid(&self) -> Result<i32> {
        let journal = self.journal().context("no journal")?;
        let header: Value = serde_json::from_str(journal.lines().next().context("an empty journal")?)?;
        Ok(i32::try_from(header["pid"].as_i64().context("no pid in the journal")?)?)
    }

    pub fn signal(&self, name: &str) -> Result<()> {
        let sent = Command::new("kill").args(["-s", name, &self.pid()?.to_string()]).status()?;
        ensure!(sent.success(), "kill {name}");
        Ok(())
    }

    /// Waits for the end, which with strace is the end of all that the run started too. A run that does not end is a
    /// failure of its own.
    pub fn end(mut self) -> Result<(Ran, PathBuf)> {
        let mut ended = false;
        let mut look = || {
            ended = matches!(self.child.try_wait(), Ok(Some(_)));
            ended
        };
        let waited = wait_until(&mut look, ENDS_WITHIN, "the run to end");
        if waited.is_err() {
            self.child.kill()?;
        }
        waited?;
        let output = self.child.wait_with_output()?;
        Ok((Ran::of(&output), self.case))
    }
}

/// The program and the guardian it has started, killed at once.
pub fn kill_with_guardian(child: &mut Child) -> Result<()> {
    let mut guardians = String::new();
    for thread in fs::read_dir(format!("/proc/{}/task", child.id()))? {
        guardians += &fs::read_to_string(thread?.path().join("children"))?;
    }
    ensure!(!guardians.trim().is_empty(), "nobody stands guard");
    for guardian in guardians.split_whitespace() {
        let killed = Command::new("kill").args(["-9", guardian]).status();
        ensure!(killed.context("kill")?.success(), "kill the guardian");
    }
    child.kill()?;
    child.wait()?;
    Ok(())
}
