//! QEMU on another machine, over SSH: a real guest behind a real OpenSSH server. What is taken is as good as what a local
//! run takes, nothing stays over there, and a link that breaks at any moment leaves a running guest.

use std::fs;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::common::agent::{Between, Does, channel, only_its_disk_stands_still, wait_for_state, writes};
use crate::common::counter::{Memory, Record};
use crate::common::guest::{Spec, wait_until};
use crate::common::killer::complete_is_complete;
use crate::common::run::{Exhibit, Ran, holds, run, sha256sum};
use crate::common::sshd::keygen;
use crate::common::there::There;

#[test]
fn a_guest_on_another_machine_becomes_evidence_and_nothing_stays_there() -> Result<()> {
    let there = There::boot(&Spec::new("linux-small"))?;
    let before = there.guest.control().state()?;
    let case = there.case("case");
    let ran = there.take(&case, &[])?.expect(0)?;
    there.is_as_found(&before, "a whole run")?;
    assert!(ran.rows()?.iter().all(|row| row["outcome"] == "complete"), "{ran:?}");
    let memory = Exhibit::find(&case, "memory")?;
    assert_eq!(memory.record["method"], "snapshot");
    assert_eq!(sha256sum(&memory.image())?, memory.sha256());
    for planted in ["marker-tmpfs-6e41d8", "marker-arg-91c5e7", "marker-deleted-open-f0937c"] {
        assert!(holds(&memory.image(), planted.as_bytes())?, "{planted} is not in memory");
    }
    assert!(holds(&Exhibit::find(&case, "disk-vda")?.image(), b"marker-vda-5d1c7f")?);
    assert!(holds(&Exhibit::find(&case, "disk-vdb")?.image(), b"marker-vdb-a20f3b")?);
    // What was written over there is told, and that it is gone.
    let left = memory.record["left"].to_string();
    assert!(left.contains(&there.scratch.display().to_string()) && left.contains("nothing any more"), "{left}");
    assert_eq!(memory.record["pauses"].as_array().map(Vec::len), Some(1), "{}", memory.record["pauses"]);
    // The files of disks are over there; a file here that has the same name is something else.
    let shown = there.run(&["show", &there.target()])?.expect(0)?;
    assert!(!shown.stdout.contains("container"), "{}", shown.stdout);
    the_plan_was_kept(&there, &memory)?;
    run(&["verify", &case.display().to_string()])?.expect(0)?;
    Ok(())
}

/// `--plan` names the commands that a run then sends.
fn the_plan_was_kept(there: &There, memory: &Exhibit) -> Result<()> {
    let rows = there.run(&["acquire", &there.target(), "--plan", "--case", "not-made"])?.expect(0)?.rows()?;
    let lines: Vec<_> =
        rows.iter().filter(|row| row["step"] == "command").filter_map(|row| row["what"].as_str()).collect();
    assert!(lines.iter().any(|line| line.starts_with("sh:") && line.contains("there")), "{lines:?}");
    let planned: Vec<_> = lines.iter().filter_map(|line| Some(line.split_once(':')?.0.to_owned())).collect();
    let planned: Vec<_> = planned.into_iter().filter(|command| command != "sh").collect();
    assert!(planned.len() > 20, "{planned:?}");
    let sent = memory.commands()?;
    assert_eq!(sent.get(..planned.len()), Some(planned.as_slice()), "{sent:?}");
    Ok(())
}

#[test]
fn memory_and_disks_are_of_one_instant_over_a_network_too() -> Result<()> {
    let there = There::boot(&Spec::new("counter"))?;
    let before = there.guest.control().state()?;
    for (round, method) in ["snapshot", "snapshot", "snapshot", "paused"].into_iter().enumerate() {
        let case = there.case(&format!("{round}"));
        there.take(&case, &["--memory", "--disk", "all", "--memory-method", method])?.expect(0)?;
        there.is_as_found(&before, method)?;
        let exhibit = Exhibit::find(&case, "memory")?;
        let memory = Memory::read(&exhibit.image())?;
        memory.one_instant().with_context(|| format!("round {round}, by {method}"))?;
        let disk = |item| Record::read(&Exhibit::find(&case, item)?.image());
        memory.coherent(&disk("disk-vda")?, &disk("disk-vdb")?)?;
        if method == "paused" {
            let left = exhibit.record["left"].to_string();
            assert!(left.contains("the dump of memory"), "{left}");
        }
        fs::remove_dir_all(&case)?;
    }
    Ok(())
}

#[test]
fn a_stopped_guest_gives_the_same_bytes_by_every_way() -> Result<()> {
    let there = There::boot(&Spec::new("linux-small"))?;
    there.guest.control().execute("stop", &json!({}))?;
    let before = there.guest.control().state()?;
    let here = there.case("here");
    let target = there.guest.target();
    run(&["acquire", &target, "--case", &here.display().to_string(), "--memory", "--memory-method", "paused"])?
        .expect(0)?;
    let wanted = Exhibit::find(&here, "memory")?.sha256().to_owned();
    for method in ["snapshot", "paused"] {
        let case = there.case(method);
        let ran = there.take(&case, &["--memory", "--memory-method", method])?;
        if method == "snapshot" && before.status == "paused" && ran.stderr.contains("would start it") {
            continue;
        }
        ran.expect(0)?;
        assert_eq!(Exhibit::find(&case, "memory")?.sha256(), wanted, "{method}");
        there.is_as_found(&before, method)?;
    }
    for method in ["pmemsave", "live"] {
        there.take(&there.case("refused"), &["--memory", "--memory-method", method])?.expect(1)?.says("descriptor")?;
        there.is_as_found(&before, method)?;
    }
    Ok(())
}

#[test]
fn whom_not_to_trust_is_refused_before_anything_is_said_to_qemu() -> Result<()> {
    let there = There::boot(&Spec::new("linux-small"))?;
    let before = there.guest.control().state()?;
    let (folder, known) = (there.sshd.folder().to_owned(), there.sshd.folder().join("known_hosts"));
    let line = fs::read_to_string(&known)?;
    let refused = |words: &str| -> Result<()> {
        there.take(&there.case("case"), &["--memory"])?.expect(1)?.says(words)?;
        there.is_as_found(&before, words)
    };
    // Never met.
    fs::write(&known, "")?;
    refused("--accept-new")?;
    // Another key than the one that is known.
    keygen(&folder.join("impostor"), "");
    let other = fs::read_to_string(folder.join("impostor.pub"))?;
    fs::write(&known, format!("{} {other}", line.split(' ').next().unwrap_or_default()))?;
    refused("changed")?;
    let accept = there.take(&there.case("case"), &["--memory", "--accept-new"])?.expect(1)?;
    accept.says("changed")?;
    // A user that it does not let in.
    fs::write(&known, &line)?;
    fs::write(folder.join("authorized"), "")?;
    refused("there")?;
    fs::copy(folder.join("id.pub"), folder.join("authorized"))?;
    // First met, and accepted on purpose.
    fs::write(&known, "")?;
    there.take(&there.case("case"), &["--memory", "--accept-new"])?.expect(0)?;
    assert!(fs::read_to_string(&known)?.contains("127.0.0.1"));
    Ok(())
}

#[test]
fn what_a_server_forbids_is_named_and_nothing_is_left() -> Result<()> {
    let there = There::boot(&Spec::new("linux-small"))?.behind("AllowTcpForwarding local");
    let before = there.guest.control().state()?;
    let ran = there.take(&there.case("case"), &["--memory"])?.expect(1)?;
    ran.says("AllowTcpForwarding")?;
    there.is_as_found(&before, "no forwarding of ports")?;
    // Disks need no port, and are as good.
    there.take(&there.case("case"), &["--disk", "disk-vdb"])?.expect(0)?;
    there.is_as_found(&before, "disks alone")?;
    let there = there.behind("AllowStreamLocalForwarding no");
    there.take(&there.case("case"), &["--memory"])?.expect(1)?.says("AllowStreamLocalForwarding")?;
    there.is_as_found(&before, "no forwarding of sockets")
}

#[test]
fn too_little_room_over_there_is_known_before_the_guest_is_touched() -> Result<()> {
    let there = There::boot(&Spec::new("linux-small"))?;
    let before = there.guest.control().state()?;
    // A file system without a free byte.
    for more in [&["--disk", "all"][..], &["--memory", "--memory-method", "paused"]] {
        let mut command = there.impound(&["acquire", &there.target(), "--scratch", "/proc"]);
        let ran = Ran::of(&command.arg("--case").arg(there.case("case")).args(more).output()?);
        ran.expect(1)?.says("--scratch")?;
        there.is_as_found(&before, "no room")?;
    }
    Ok(())
}

/// Runs a capture whose link is cut once so many bytes have come, and for good or only once.
fn cut(there: &There, name: &str, bytes: i64, heals: bool) -> Result<Ran> {
    let case = there.case(name);
    there.sshd.cut_after(bytes);
    let mut child = there
        .acquire(&case, &["--memory", "--disk", "disk-vdb"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    if heals {
        let spent = || there.sshd.is_cut() || matches!(child.try_wait(), Ok(Some(_)));
        wait_until(spent, Duration::from_secs(120), "the link to break")?;
        there.sshd.mend();
    }
    Ok(Ran::of(&child.wait_with_output()?))
}

#[test]
fn a_link_that_breaks_anywhere_leaves_a_running_guest_and_nothing_that_looks_whole() -> Result<()> {
    let there = There::boot(&Spec::new("linux-small"))?;
    let before = there.guest.control().state()?;
    // How much a whole run takes, so that cuts fall everywhere.
    let whole = {
        there.sshd.cut_after(i64::MAX);
        there.take(&there.case("whole"), &["--memory", "--disk", "disk-vdb"])?.expect(0)?;
        i64::MAX - there.sshd.left()
    };
    ensure!(whole > 1 << 20, "only {whole} bytes came");
    let boots = there.boots();
    let mut broke = 0;
    // Most of the talking is in the first 200 KB; after that come the bytes.
    let talk = (1..=14).map(|n| n * 14_000);
    let data = (1..=6).map(|n| whole / 7 * n);
    for (number, at) in talk.chain(data).enumerate() {
        let name = format!("cut-{number}");
        let ran = cut(&there, &name, at, true)?;
        there.sshd.mend();
        let case = there.case(&name);
        let what = format!("cut after {at} of {whole} bytes: {ran:?}");
        ensure!(matches!(ran.code, Some(0 | 1 | 3 | 4)), "{what}");
        broke += usize::from(ran.code != Some(0));
        there.runs_again(&before).with_context(|| what.clone())?;
        if case.join("exhibits").is_dir() {
            complete_is_complete(&case, &what)?;
            there.run(&["case", "recover", &case.display().to_string()])?.expect(0).with_context(|| what.clone())?;
            fs::remove_dir_all(&case)?;
        }
        there.is_as_found(&before, &what)?;
    }
    ensure!(broke >= 15, "only {broke} of 20 cuts broke anything");
    ensure!(boots == there.boots(), "the guest booted anew");
    // The VM can be taken as if nothing had happened.
    there.take(&there.case("after"), &["--memory", "--disk", "disk-vdb"])?.expect(0)?;
    Ok(())
}

/// The link goes silent while the guest stands still, and stays so: nobody here can reach it.
#[test]
fn a_guest_that_stands_still_behind_a_dead_link_is_let_go_from_over_there() -> Result<()> {
    let there = There::boot(&Spec::new("linux-small"))?;
    let before = there.guest.control().state()?;
    let case = there.case("case");
    let mut child = there
        .acquire(&case, &["--memory", "--memory-method", "paused"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let stopped = || there.guest.control().status().is_ok_and(|now| now != before.status);
    wait_until(stopped, Duration::from_secs(60), "the guest to stand still")?;
    there.sshd.hold(true);
    // The run lives and can say nothing.
    there.runs_again(&before)?;
    ensure!(matches!(child.try_wait(), Ok(None)), "the run ended, so the link was not silent");
    there.sshd.hold(false);
    let ran = Ran::of(&child.wait_with_output()?);
    ensure!(matches!(ran.code, Some(1 | 3 | 4)), "{ran:?}");
    there.run(&["case", "recover", &case.display().to_string()])?.expect(0)?;
    there.is_as_found(&before, "a dead link")
}

#[test]
fn a_run_that_is_killed_is_recovered_over_ssh() -> Result<()> {
    let there = There::boot(&Spec::new("linux-small"))?;
    let before = there.guest.control().state()?;
    let case = there.case("case");
    // So slow that it is under way when it is killed.
    let mut child = there.acquire(&case, &["--rate", "2M"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let journal = || fs::read_dir(case.join("journal")).ok()?.flatten().map(|entry| entry.path()).next();
    let wire = || {
        let name = journal()?.file_name()?.to_string_lossy().split('.').next()?.to_owned();
        fs::read_to_string(case.join("journal").join(format!("{name}.wire.jsonl"))).ok()
    };
    let thawed = || wire().is_some_and(|log| log.contains(r#"\"execute\":\"cont\""#));
    wait_until(thawed, Duration::from_secs(120), "the guest to be let go")?;
    child.kill()?;
    child.wait()?;
    there.run(&["case", "recover", &case.display().to_string()])?.expect(0)?;
    there.is_as_found(&before, "killed")?;
    for item in ["memory", "disk-vda"] {
        let state = Exhibit::find(&case, item)?.record["outcome"]["state"].clone();
        assert_eq!(state, Value::from("interrupted"), "{item}");
    }
    Ok(())
}

/// The guest's file systems are frozen behind a link that goes silent: whoever watches over there thaws them.
#[test]
fn file_systems_frozen_behind_a_dead_link_are_thawed_from_over_there() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let socket = folder.path().join("agent.sock");
    let mut spec = Spec::new("linux-agent");
    spec.extra = channel(&socket);
    let there = There::boot(&spec)?;
    let before = there.guest.control().state()?;
    let whole = there.case("whole");
    there.take(&whole, &["--quiesce", "--memory", "--disk", "disk-vda"])?.expect(0)?;
    there.is_as_found(&before, "quiet, over SSH")?;
    assert_eq!(Exhibit::find(&whole, "disk-vda")?.record["quiesced"]["file_systems"], 2);
    wait_for_state(&socket, "thawed")?;

    let between = Between::step(&socket, Does::Holds)?;
    let case = there.case("case");
    let mut command = there.acquire(&case, &["--quiesce", "--disk", "disk-vda"]);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    between.wait_until_frozen(|| matches!(child.try_wait(), Ok(Some(_))))?;
    between.now(Does::Nothing);
    there.sshd.hold(true);
    only_its_disk_stands_still(&there.guest)?;
    // The run lives and can say nothing.
    writes(&there.guest)?;
    ensure!(matches!(child.try_wait(), Ok(None)), "the run ended, so the link was not silent");
    there.sshd.hold(false);
    let ran = Ran::of(&child.wait_with_output()?);
    ensure!(matches!(ran.code, Some(1 | 3 | 4)), "{ran:?}");
    there.run(&["case", "recover", &case.display().to_string()])?.expect(0)?;
    there.is_as_found(&before, "a dead link")?;
    wait_for_state(between.real(), "thawed")
}
