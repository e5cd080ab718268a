//! QEMU behind a real libvirtd, here and over SSH: captures are of one instant, and libvirt finds the domain as it knew it.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::common::counter::{Memory, Record};
use crate::common::guest::wait_until;
use crate::common::libvirtd::{Libvirtd, helper};
use crate::common::run::{Exhibit, Ran, impound};
use crate::common::sshd::Sshd;

struct There {
    libvirtd: Libvirtd,
    sshd: Sshd,
    helper: std::path::PathBuf,
}

impl There {
    fn start() -> Result<Self> {
        Ok(Self { helper: helper()?, libvirtd: Libvirtd::start()?, sshd: Sshd::start("") })
    }

    fn far(&self) -> String {
        format!("libvirt+qemu+ssh://there/system?socket={}", self.libvirtd.socket().display())
    }

    fn impound(&self, words: &[&str]) -> Command {
        let mut command = impound();
        command.env("IMPOUND_LIBVIRT", &self.helper).env("IMPOUND_SSH_CONFIG", self.sshd.config());
        command.args(["--format", "json"]).args(words);
        command
    }

    fn run(&self, words: &[&str]) -> Result<Ran> {
        Ok(Ran::of(&self.impound(words).output()?))
    }

    /// What a capture may not leave changed in the domain's QEMU.
    fn qemu(&self, name: &str) -> Result<Vec<Value>> {
        let ask = |question| self.libvirtd.ask(name, question);
        let nodes = ask("query-named-block-nodes")?;
        let nodes = nodes.as_array().into_iter().flatten().map(|node| node["node-name"].clone()).collect();
        let (jobs, exports, sets) = (ask("query-jobs")?, ask("query-block-exports")?, ask("query-fdsets")?);
        Ok(vec![nodes, jobs, exports, sets, ask("query-migrate-capabilities")?, ask("query-migrate-parameters")?])
    }
}

fn is_coherent(case: &Path) -> Result<()> {
    let memory = Memory::read(&Exhibit::find(case, "memory")?.image())?;
    memory.one_instant()?;
    let disk = |item| Record::read(&Exhibit::find(case, item)?.image());
    memory.coherent(&disk("virtio-disk0")?, &disk("virtio-disk1")?)
}

#[test]
fn a_domain_is_taken_at_one_instant_and_libvirt_finds_it_as_it_was() -> Result<()> {
    let there = There::start()?;
    there.libvirtd.boot("web01", "counter")?;
    let scratch = there.libvirtd.folder().join("scratch");
    fs::create_dir(&scratch)?;
    let scratch = scratch.display().to_string();
    let (before, qemu) = (there.libvirtd.seen("web01")?, there.qemu("web01")?);
    let uris = [there.libvirtd.uri(), there.far()];
    for (uri, method) in uris.iter().flat_map(|uri| [(uri, "snapshot"), (uri, "paused")]) {
        let rows = there.run(&["targets", uri])?.expect(0)?.rows()?;
        assert_eq!((rows.len(), &rows[0]["name"], &rows[0]["state"]), (1, &json!("web01"), &json!("running")));
        let case = there.libvirtd.folder().join("case");
        let (target, case_text) = (format!("{uri}#web01"), case.display().to_string());
        let words = ["acquire", &target, "--case", &case_text, "--scratch", &scratch, "--memory-method", method];
        there.run(&words)?.expect(0).with_context(|| uri.clone())?;
        is_coherent(&case).with_context(|| uri.clone())?;
        assert_eq!(there.libvirtd.seen("web01")?, before, "{uri}");
        assert_eq!(there.qemu("web01")?, qemu, "{uri}");
        assert_eq!(fs::read_dir(&scratch)?.count(), 0, "{uri}");
        let record = Exhibit::find(&case, "memory")?.record;
        assert_eq!(record["pauses"].as_array().map(Vec::len), Some(1), "{}", record["pauses"]);
        // The domain's XML is part of the evidence.
        let config: Value = serde_json::from_slice(&fs::read(Exhibit::find(&case, "config")?.image())?)?;
        let xml = config["libvirt-domain-xml"].as_str().context("no XML")?;
        assert!(xml.contains("<name>web01</name>") && xml.contains("vda.qcow2"), "{xml}");
        fs::remove_dir_all(&case)?;
    }
    Ok(())
}

#[test]
fn a_domain_that_is_paused_or_off_or_not_there_is_told_apart() -> Result<()> {
    let there = There::start()?;
    there.libvirtd.boot("web01", "linux-small")?;
    there.libvirtd.virsh(&["suspend", "web01"])?;
    let (before, qemu) = (there.libvirtd.seen("web01")?, there.qemu("web01")?);
    let case = there.libvirtd.folder().join("case").display().to_string();
    let scratch = there.libvirtd.folder().display().to_string();
    let target = format!("{}#web01", there.libvirtd.uri());
    there.run(&["acquire", &target, "--case", &case, "--memory", "--scratch", &scratch])?.expect(0)?;
    assert_eq!(there.libvirtd.seen("web01")?, before);
    assert_eq!(there.qemu("web01")?, qemu);
    let record = Exhibit::find(Path::new(&case), "memory")?.record;
    assert_eq!((&record["consistency"], &record["pauses"]), (&json!("instantaneous"), &json!([])));
    there.run(&["show", &format!("{}#web02", there.libvirtd.uri())])?.expect(1)?.says("web02")?;
    there.libvirtd.virsh(&["destroy", "web01"])?;
    there.run(&["show", &target])?.expect(1)?.says("shutoff")?;
    // libvirt's own test driver needs no daemon; its domain is no QEMU.
    let rows = there.run(&["targets", "libvirt+test:///default"])?.expect(0)?.rows()?;
    assert_eq!((&rows[0]["name"], &rows[0]["state"]), (&json!("test"), &json!("running")));
    there.run(&["show", "libvirt+test:///default#test"])?.expect(1)?.says("TEST driver")?;
    // Without the helper it is said what is missing.
    let mut without = there.impound(&["targets", "libvirt+test:///default"]);
    Ran::of(&without.env("IMPOUND_LIBVIRT", "/nowhere/at.all").output()?).expect(1)?.says("impound-libvirt")?;
    Ok(())
}

/// libvirt's daemon is killed while QEMU dumps the memory of a guest that stands still, and comes back.
#[test]
fn a_daemon_that_is_killed_leaves_no_guest_standing_still() -> Result<()> {
    let there = There::start()?;
    there.libvirtd.boot("web01", "counter")?;
    let scratch = there.libvirtd.folder().join("scratch");
    fs::create_dir(&scratch)?;
    let (before, qemu) = (there.libvirtd.seen("web01")?, there.qemu("web01")?);
    let dumped = || {
        let folders = fs::read_dir(&scratch).ok()?.flatten();
        folders.filter_map(|folder| fs::metadata(folder.path().join("memory.elf")).ok()).map(|meta| meta.len()).max()
    };
    for round in 0..20 {
        let case = there.libvirtd.folder().join(format!("case-{round}")).display().to_string();
        let target = format!("{}#web01", if round % 2 == 0 { there.libvirtd.uri() } else { there.far() });
        let words = ["acquire", &target, "--memory", "--memory-method", "paused", "--case", &case, "--scratch"];
        let mut command = there.impound(&words);
        let mut child = command.arg(&scratch).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let under_way = || dumped().is_some_and(|len| len > 0) || !matches!(child.try_wait(), Ok(None));
        wait_until(under_way, Duration::from_secs(180), "the dump to begin")?;
        let caught = dumped().is_some_and(|len| len < 200 << 20);
        there.libvirtd.kill_daemon()?;
        let ran = Ran::of(&child.wait_with_output()?);
        let runs = || there.libvirtd.virsh(&["domstate", "web01"]).is_ok_and(|state| state.trim() == "running");
        wait_until(runs, Duration::from_secs(300), "the guest to run on")?;
        there.run(&["case", "recover", &case])?.expect(0)?;
        assert_eq!(there.libvirtd.seen("web01")?, before, "{ran:?}");
        assert_eq!(there.qemu("web01")?, qemu, "{ran:?}");
        assert_eq!(fs::read_dir(&scratch)?.count(), 0, "{ran:?}");
        let whole = Exhibit::find(Path::new(&case), "memory").is_ok_and(|memory| memory.outcome() == "complete");
        assert_eq!(whole, ran.code == Some(0), "{ran:?}");
        // A dump may be over before the daemon is dead.
        if caught && ran.code != Some(0) {
            return Ok(());
        }
    }
    anyhow::bail!("the daemon was never killed in the middle of a dump")
}

#[test]
fn a_run_that_is_killed_is_recovered_by_libvirt_too() -> Result<()> {
    let there = There::start()?;
    there.libvirtd.boot("web01", "linux-small")?;
    let scratch = there.libvirtd.folder().join("scratch");
    fs::create_dir(&scratch)?;
    let (before, qemu) = (there.libvirtd.seen("web01")?, there.qemu("web01")?);
    let case = there.libvirtd.folder().join("case");
    let target = format!("{}#web01", there.far());
    let mut child = there
        .impound(&["acquire", &target, "--rate", "2M", "--scratch", &scratch.display().to_string(), "--case"])
        .arg(&case)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let said = |words: &str| {
        let files = fs::read_dir(case.join("journal")).ok()?.flatten();
        let wire = files.map(|entry| entry.path()).find(|path| path.to_string_lossy().ends_with(".wire.jsonl"))?;
        Some(fs::read_to_string(wire).ok()?.contains(words))
    };
    let thawed = || said(r#"\"execute\":\"cont\""#) == Some(true);
    wait_until(thawed, Duration::from_secs(180), "the guest to be let go")?;
    child.kill()?;
    child.wait()?;
    there.run(&["case", "recover", &case.display().to_string()])?.expect(0)?;
    assert_eq!(there.libvirtd.seen("web01")?, before);
    assert_eq!(there.qemu("web01")?, qemu);
    assert_eq!(fs::read_dir(&scratch)?.count(), 0);
    Ok(())
}

#[test]
fn libvirt_carries_the_words_to_the_guests_agent() -> Result<()> {
    let there = There::start()?;
    there.libvirtd.boot("web01", "linux-agent")?;
    let state = || there.libvirtd.virsh(&["qemu-agent-command", "web01", r#"{"execute":"guest-fsfreeze-status"}"#]);
    let thawed = || state().is_ok_and(|answer| answer.contains("thawed"));
    wait_until(thawed, Duration::from_secs(60), "libvirt to find the agent")?;
    let scratch = there.libvirtd.folder().join("scratch");
    fs::create_dir(&scratch)?;
    let scratch = scratch.display().to_string();
    let (before, qemu) = (there.libvirtd.seen("web01")?, there.qemu("web01")?);
    for (round, uri) in [there.libvirtd.uri(), there.far()].iter().enumerate() {
        let case = there.libvirtd.folder().join(format!("case-{round}"));
        let (target, case_text) = (format!("{uri}#web01"), case.display().to_string());
        let words = ["acquire", &target, "--quiesce", "--case", &case_text, "--scratch", &scratch];
        there.run(&[&words[..], &["--memory", "--disk", "all"]].concat())?.expect(0).with_context(|| uri.clone())?;
        let record = Exhibit::find(&case, "virtio-disk0")?.record;
        assert_eq!(record["quiesced"]["file_systems"], 2, "{uri}: {}", record["quiesced"]);
        assert!(thawed(), "{uri}");
        assert_eq!(there.libvirtd.seen("web01")?, before, "{uri}");
        assert_eq!(there.qemu("web01")?, qemu, "{uri}");
    }
    // A domain that has no agent is refused in libvirt's words.
    there.libvirtd.boot("web02", "linux-small")?;
    let case = there.libvirtd.folder().join("refused").display().to_string();
    let target = format!("{}#web02", there.libvirtd.uri());
    let ran = there.run(&["acquire", &target, "--quiesce", "--case", &case, "--disk", "all", "--scratch", &scratch])?;
    ran.expect(1)?.says("agent is not configured")?;
    Ok(())
}
