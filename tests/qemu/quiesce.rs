//! `--quiesce`: a real guest whose file systems Debian's own agent freezes around the instant. They are thawed whatever happens, and an
//! agent that cannot do it is known before anything begins.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tempfile::TempDir;

use crate::common::agent::{Between, Does, ask, channel, only_its_disk_stands_still, wait_for_state, writes};
use crate::common::guest::{Guest, Spec, wait_until};
use crate::common::killer::{kill_with_guardian, nothing_is_left};
use crate::common::run::{Exhibit, Ran, impound, run};

/// A guest with an agent. The socket's folder goes after the guest.
struct Quiet {
    guest: Guest,
    folder: TempDir,
}

impl Quiet {
    fn boot() -> Result<Self> {
        let folder = TempDir::new()?;
        let mut spec = Spec::new("linux-agent");
        spec.extra = channel(&folder.path().join("agent.sock"));
        Ok(Self { guest: Guest::boot(&spec)?, folder })
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("agent.sock")
    }

    fn case(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn acquire(&self, case: &Path, more: &[&str]) -> Command {
        let mut command = impound();
        command.args(["--format", "json", "acquire", &self.guest.target(), "--quiesce", "--case"]).arg(case).args(more);
        command
    }

    fn take(&self, case: &str, more: &[&str]) -> Result<Ran> {
        Ok(Ran::of(&self.acquire(&self.case(case), more).output()?))
    }

    fn start(&self, case: &Path) -> Result<Child> {
        let mut command = self.acquire(case, &["--disk", "disk-vda"]);
        Ok(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?)
    }

    /// `doctor` and `show` say beforehand whether there is an agent.
    fn is_told(&self, there: bool) -> Result<()> {
        let words = if there { "an agent listens in the guest" } else { "no agent runs in the guest" };
        let doctor = run(&["doctor", &self.guest.target()])?.rows()?;
        let monitor = doctor.iter().find(|row| row["what"].to_string().contains("QMP at"));
        ensure!(monitor.is_some_and(|row| row["found"].to_string().contains(words)), "{doctor:?}");
        let shown = run(&["show", &self.guest.target()])?.expect(0)?.rows()?;
        let agent = shown.iter().find(|row| row["name"] == "guest_agent");
        ensure!(agent.is_some_and(|row| row["value"].to_string().contains(words)), "{shown:?}");
        Ok(())
    }

    /// Types a command for the guest's shell, and waits until it is done.
    fn type_in(&self, line: &str) -> Result<()> {
        let done = format!("did-{}", self.guest.serial().len());
        // In two parts, so that the echo of the line is not taken for the answer.
        let (first, rest) = done.split_at(4);
        self.guest.type_in(format!("{line}; echo '{first}''{rest}'\n").as_bytes())?;
        wait_until(|| self.guest.serial().contains(&done), Duration::from_secs(60), line)
    }
}

/// What the tools of ext4 say of an image: does its journal have to be replayed?
fn needs_replay(image: &Path) -> Result<bool> {
    let path = format!("{}:/sbin:/usr/sbin", std::env::var("PATH").unwrap_or_default());
    let output = Command::new("dumpe2fs").env("PATH", path).arg("-h").arg(image).output().context("run dumpe2fs")?;
    ensure!(output.status.success(), "dumpe2fs: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let features = text.lines().find(|line| line.starts_with("Filesystem features:")).context("no features")?;
    Ok(features.contains("needs_recovery"))
}

#[test]
fn a_disk_that_was_quiet_needs_no_replay_and_the_guest_writes_on() -> Result<()> {
    let quiet = Quiet::boot()?;
    let before = quiet.guest.control().state()?;
    quiet.is_told(true)?;
    let plain = quiet.case("plain").display().to_string();
    run(&["acquire", &quiet.guest.target(), "--case", &plain, "--disk", "all"])?.expect(0)?;
    assert!(needs_replay(&Exhibit::find(Path::new(&plain), "disk-vda")?.image())?, "the guest did not write");
    for method in ["snapshot", "paused"] {
        let ran = quiet.take(method, &["--memory", "--disk", "all", "--memory-method", method])?.expect(0)?;
        assert!(ran.stderr.contains("its agent held 2 file systems frozen for"), "{}", ran.stderr);
        nothing_is_left(&quiet.guest, &before, method)?;
        assert_eq!(ask(&quiet.socket(), "guest-fsfreeze-status")?["return"], "thawed");
        writes(&quiet.guest)?;
        for disk in ["disk-vda", "disk-vdb"] {
            let exhibit = Exhibit::find(&quiet.case(method), disk)?;
            assert!(!needs_replay(&exhibit.image())?, "{disk}, {method}");
            let (told, pause) = (&exhibit.record["quiesced"], &exhibit.record["pauses"][0]);
            assert_eq!(told["file_systems"], json!(2));
            assert!(told["agent"].as_str().is_some_and(|version| version.contains('.')), "{told}");
            let order = [&told["begun"], &told["frozen"], &pause["stopped"], &pause["resumed"], &told["thawed"]];
            let order: Vec<jiff::Timestamp> =
                order.iter().map(|at| Ok(at.as_str().context("no time")?.parse()?)).collect::<Result<_>>()?;
            assert!(order.is_sorted(), "{order:?}");
        }
        let sent = Exhibit::find(&quiet.case(method), "memory")?.commands()?;
        let at = |name: &str| sent.iter().position(|sent| sent == name).with_context(|| format!("no {name}: {sent:?}"));
        assert!(at("guest-fsfreeze-freeze")? < at("stop")? && at("cont")? < at("guest-fsfreeze-thaw")?, "{sent:?}");
    }
    run(&["verify", &quiet.case("snapshot").display().to_string()])?.expect(0)?;
    let plan = run(&["acquire", &quiet.guest.target(), "--plan", "--quiesce", "--case", "not-made"])?.expect(0)?;
    assert!(plan.stdout.contains("guest-fsfreeze-freeze") && plan.stdout.contains("guest-fsfreeze-thaw"));
    Ok(())
}

#[test]
fn an_agent_that_cannot_is_an_error_before_anything_begins() -> Result<()> {
    let quiet = Quiet::boot()?;
    let before = quiet.guest.control().state()?;
    let refused = |name: &str, words: &str| -> Result<()> {
        quiet.take(name, &["--disk", "disk-vda"])?.expect(1)?.says(words).with_context(|| name.to_owned())?;
        nothing_is_left(&quiet.guest, &before, name)?;
        for wire in fs::read_dir(quiet.case(name).join("journal"))? {
            let said = fs::read_to_string(wire?.path())?;
            ensure!(!said.contains("object-add") && !said.contains("fsfreeze-freeze"), "{name}: {said}");
        }
        Ok(())
    };
    quiet.type_in("kill -STOP $(cat /tmp/agent.pid)")?;
    refused("hangs", "no answer came within 10 s")?;
    quiet.type_in("kill -CONT $(cat /tmp/agent.pid)")?;
    wait_for_state(&quiet.socket(), "thawed")?;
    {
        let _silent = Between::step(&quiet.socket(), Does::Silence)?;
        refused("silent", "no answer came within 10 s")?;
    }
    // Frozen by somebody else, and so it stays.
    ask(&quiet.socket(), "guest-fsfreeze-freeze")?;
    refused("frozen", "frozen already")?;
    wait_for_state(&quiet.socket(), "frozen")?;
    ask(&quiet.socket(), "guest-fsfreeze-thaw")?;
    let other = std::os::unix::net::UnixStream::connect(quiet.socket())?;
    wait_until(|| refused("taken", "somebody else speaks to the agent").is_ok(), Duration::from_secs(60), "a refusal")?;
    drop(other);
    quiet.take("live", &["--memory", "--live"])?.expect(1)?.says("nothing of one instant")?;
    quiet.take("config", &["--config"])?.expect(1)?.says("nothing of one instant")?;
    quiet.type_in("kill -9 $(cat /tmp/agent.pid)")?;
    refused("dead", "no agent runs in the guest")?;
    quiet.is_told(false)?;
    quiet.guest.control().execute("stop", &json!({}))?;
    quiet.take("paused", &["--disk", "all"])?.expect(1)?.says("its agent cannot answer")?;
    quiet.guest.control().execute("cont", &json!({}))?;
    writes(&quiet.guest)
}

#[test]
fn a_guest_without_a_channel_is_refused_and_so_are_hypervisors_that_know_no_agent() -> Result<()> {
    let guest = Guest::boot(&Spec::new("linux-small"))?;
    let before = guest.control().state()?;
    let case = guest.folder().join("case").display().to_string();
    let ran = run(&["acquire", &guest.target(), "--quiesce", "--case", &case, "--disk", "all"])?.expect(1)?;
    ran.says("no port named org.qemu.guest_agent.0")?.says("leave --quiesce out")?;
    nothing_is_left(&guest, &before, "no channel")?;
    run(&["acquire", "fake:web01", "--quiesce", "--case", &case])?.expect(1)?.says("knows no --quiesce")?;
    Ok(())
}

#[test]
fn a_freeze_that_fails_or_hangs_is_thawed_and_told() -> Result<()> {
    let quiet = Quiet::boot()?;
    let before = quiet.guest.control().state()?;
    for (does, words) in [(Does::Fails, r"it says: no\u{1b}[2J way"), (Does::Holds, "no answer came within 30 s")] {
        let name = format!("{does:?}");
        let between = Between::step(&quiet.socket(), does)?;
        let case = quiet.case(&name);
        let mut child = quiet.start(&case)?;
        between.wait_until_frozen(|| matches!(child.try_wait(), Ok(Some(_))))?;
        between.now(Does::Nothing);
        let ran = Ran::of(&child.wait_with_output()?).expect(1)?;
        ran.says(words)?;
        wait_for_state(between.real(), "thawed")?;
        writes(&quiet.guest)?;
        nothing_is_left(&quiet.guest, &before, &name)?;
        // Nothing is left to be recovered.
        run(&["case", "recover", &case.display().to_string()])?.expect(0)?;
    }
    Ok(())
}

#[test]
fn file_systems_that_a_killed_run_left_frozen_are_thawed() -> Result<()> {
    let quiet = Quiet::boot()?;
    let before = quiet.guest.control().state()?;
    for guarded in [true, false] {
        let name = format!("guarded-{guarded}");
        let case = quiet.case(&name);
        let between = Between::step(&quiet.socket(), Does::Holds)?;
        let mut child = quiet.start(&case)?;
        between.wait_until_frozen(|| matches!(child.try_wait(), Ok(Some(_))))?;
        between.now(Does::Nothing);
        only_its_disk_stands_still(&quiet.guest)?;
        if guarded {
            child.kill()?;
            child.wait()?;
            writes(&quiet.guest).context("the guardian let nothing go")?;
        } else {
            kill_with_guardian(&mut child)?;
            only_its_disk_stands_still(&quiet.guest)?;
        }
        run(&["case", "recover", &case.display().to_string()])?.expect(0)?;
        wait_for_state(between.real(), "thawed")?;
        writes(&quiet.guest)?;
        nothing_is_left(&quiet.guest, &before, &name)?;
    }
    Ok(())
}
