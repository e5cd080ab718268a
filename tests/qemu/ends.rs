//! The other bad ends of a capture, on real guests: signalled, the monitor or QEMU gone, held too long, out of space. The
//! run ends in order, the guest is as it was found, and nothing looks complete that is not.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

use crate::common::guest::{Disk, Guest, Source, Spec, wait_until};
use crate::common::killer::{ENDS_WITHIN, Slow, acquire, complete_is_complete, nothing_is_left, strace};
use crate::common::run::{Exhibit, Ran, impound, run};

fn verify_says_incomplete(case: &Path) -> Result<()> {
    run(&["verify", &case.display().to_string()])?.expect(3)?;
    Ok(())
}

#[test]
fn a_signal_ends_a_capture_in_order() -> Result<()> {
    let guest = Guest::boot(&Spec::new("linux-small"))?;
    let before = guest.control().state()?;
    for name in ["INT", "TERM", "HUP"] {
        let slow = Slow::start(&guest, name, 100, &[])?;
        slow.wait_until_thawed()?;
        slow.signal(name)?;
        let (ran, case) = slow.end()?;
        ran.expect(130)?;
        nothing_is_left(&guest, &before, name)?;
        assert_eq!(Exhibit::find(&case, "memory")?.outcome(), "interrupted");
        verify_says_incomplete(&case)?;
    }
    for method in ["paused", "pmemsave"] {
        let slow = Slow::start(&guest, method, 1000, &["--memory", "--memory-method", method])?;
        slow.wait_until_held()?;
        slow.signal("INT")?;
        let (ran, case) = slow.end()?;
        ran.expect(130).context(method)?;
        nothing_is_left(&guest, &before, method)?;
        assert_eq!(Exhibit::find(&case, "memory")?.outcome(), "interrupted");
        verify_says_incomplete(&case)?;
    }
    Ok(())
}

#[test]
fn a_qemu_that_dies_leaves_what_was_captured_marked_as_failed() -> Result<()> {
    let guest = Guest::boot(&Spec::new("linux-small"))?;
    let slow = Slow::start(&guest, "case", 100, &[])?;
    slow.wait_until_thawed()?;
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

/// Breaks a run's connection to the monitor at both ends, as if the socket's peer were gone.
fn cut_monitor(guest: &Guest, pid: i32) -> Result<()> {
    let process = pidfd_open(Pid::from_raw(pid).context("no pid")?, PidfdFlags::empty())?;
    let monitor = guest.qmp().into_os_string().into_encoded_bytes();
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
        let number: i32 = entry?.file_name().to_string_lossy().parse()?;
        // It may be closed by now, or be no socket.
        let Ok(fd) = pidfd_getfd(&process, number, PidfdGetfdFlags::empty()) else { continue };
        let Ok(Some(peer)) = rustix::net::getpeername(&fd) else { continue };
        let Ok(peer) = rustix::net::SocketAddrUnix::try_from(peer) else { continue };
        if peer.path_bytes() == Some(&monitor[..]) {
            return Ok(rustix::net::shutdown(&fd, rustix::net::Shutdown::Both)?);
        }
    }
    Err(anyhow::anyhow!("process {pid} has no connection to {}", guest.qmp().display()))
}

#[test]
fn a_monitor_that_breaks_is_connected_again_and_all_is_put_back() -> Result<()> {
    let guest = Guest::boot(&Spec::new("linux-small"))?;
    let before = guest.control().state()?;
    for (method, held) in [("snapshot", false), ("paused", true)] {
        let slow = Slow::start(&guest, method, 100, &["--memory-method", method])?;
        if held {
            slow.wait_until_held()?;
        } else {
            slow.wait_until_thawed()?;
        }
        cut_monitor(&guest, slow.pid()?)?;
        let (ran, case) = slow.end()?;
        ensure!(matches!(ran.code, Some(1 | 3)), "{method}: {ran:?}");
        nothing_is_left(&guest, &before, method)?;
        // All of memory came, by a way of its own. Of the disks nobody could say that their instant was kept.
        assert_eq!(Exhibit::find(&case, "memory")?.outcome(), "complete", "{method}: {ran:?}");
        assert!(["complete", "failed"].contains(&Exhibit::find(&case, "disk-vdb")?.outcome()), "{method}: {ran:?}");
        complete_is_complete(&case, method)?;
        // Whether the disks were read to their end before the cut is for the machine to say.
        let verified = run(&["verify", &case.display().to_string()])?;
        ensure!(matches!(verified.code, Some(0 | 3)), "{method}: {verified:?}");
    }
    Ok(())
}

/// The same while QEMU still holds its end, which serves one connection at a time.
#[test]
fn a_command_that_cannot_be_sent_leaves_nothing_behind() -> Result<()> {
    let guest = Guest::boot(&Spec::new("linux-small"))?;
    let before = guest.control().state()?;
    let more = ["--memory", "--disk", "disk-vdb"];
    let (log, case) = (guest.folder().join("sent"), guest.folder().join("case"));
    acquire(&mut strace(&["-e", "trace=sendmsg"], &log), &guest.target(), &case, &more)?.expect(0)?;
    let text = fs::read_to_string(&log)?;
    let sent: Vec<_> = text.lines().filter(|line| line.contains(r#"\"execute\""#)).collect();
    for step in ["blockdev-create", "transaction", "migrate", "cont", "block-export-del"] {
        let at = sent.iter().position(|line| line.contains(&format!(r#"\"execute\":\"{step}\""#)));
        let at = at.with_context(|| format!("no {step} was sent"))? + 1;
        let inject = format!("inject=sendmsg:error=EPIPE:when={at}");
        let mut breaker = strace(&["-e", "trace=sendmsg", "-e", &inject], Path::new("/dev/null"));
        let ran = acquire(&mut breaker, &guest.target(), &case, &more)?;
        // What is taken back is tried twice, and then all may be well.
        ensure!(matches!(ran.code, Some(0 | 1 | 3)), "{step}: {ran:?}");
        nothing_is_left(&guest, &before, step).with_context(|| ran.stderr.clone())?;
        complete_is_complete(&case, step)?;
    }
    Ok(())
}

#[test]
fn a_guest_held_for_longer_than_allowed_is_let_go() -> Result<()> {
    let guest = Guest::boot(&Spec::new("counter"))?;
    let before = guest.control().state()?;
    for method in ["paused", "pmemsave"] {
        // Expected to take less; each write to the case takes half of it.
        let more = ["--memory", "--memory-method", method, "--max-pause", "1s"];
        let (ran, case) = Slow::start(&guest, method, 500, &more)?.end()?;
        let ran = ran.expect(3)?;
        nothing_is_left(&guest, &before, method)?;
        let memory = Exhibit::find(&case, "memory")?;
        assert_eq!(memory.outcome(), "failed");
        let why = memory.record["outcome"]["why"].as_str().unwrap_or_default();
        assert!(why.contains("--max-pause"), "{method}: {why}\n{}", ran.stderr);
        verify_says_incomplete(&case)?;
    }
    Ok(())
}

#[test]
fn a_full_disk_fails_the_capture_and_not_the_guest() -> Result<()> {
    let guest = Guest::boot(&Spec::new("linux-small"))?;
    let before = guest.control().state()?;
    let case = guest.folder().join("case");
    let full = ["-e", "trace=pwrite64", "-e", "inject=pwrite64:error=ENOSPC:when=20+"];
    let ran = acquire(&mut strace(&full, Path::new("/dev/null")), &guest.target(), &case, &["--memory"])?;
    ensure!(matches!(ran.code, Some(1 | 3)), "{ran:?}");
    nothing_is_left(&guest, &before, "no space")?;
    let row = ran.rows()?.pop().context("no row")?;
    assert_eq!(row["outcome"], "failed");
    assert!(row["why"].as_str().is_some_and(|why| why.contains("space")), "{row}");
    verify_says_incomplete(&case)?;

    // Known beforehand: refused before the VM is touched.
    let small = guest.folder().join("small");
    let output = on_tmpfs(&small, "32m", &[])?
        .arg(impound().get_program())
        .args(["acquire", &guest.target(), "--memory", "--case"])
        .arg(small.join("case"))
        .output()?;
    Ran::of(&output).expect(1)?.says("are free and at least")?;
    nothing_is_left(&guest, &before, "too little space")
}

/// A program with a small file system of its own at `folder`, which nobody else sees.
fn on_tmpfs(folder: &PathBuf, size: &str, first: &[&str]) -> Result<Command> {
    fs::create_dir(folder)?;
    let mut command = Command::new("unshare");
    let script = r#"mount -t tmpfs -o size="$1" small "$2" && shift 2 && exec "$@""#;
    command.args(["--mount", "sh", "-c", script, "sh", size]).arg(folder).args(first).stdin(Stdio::null());
    Ok(command)
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
    let scratch = guest.folder().join("scratch");
    // 96 MiB, of which 64 are kept as reserve: 32 MiB for what the guest overwrites, which will be 128.
    let slowly = ["-f", "-qq", "-o", "/dev/null", "-e", "trace=pwrite64", "-e", "inject=pwrite64:delay_enter=300000"];
    let mut command = on_tmpfs(&scratch, "96m", &[&["strace"], &slowly[..]].concat())?;
    command.arg(impound().get_program()).args(["--format", "json"]);
    let scratch = scratch.display().to_string();
    let slow =
        Slow::spawn(command, &guest, guest.folder().join("case"), &["--disk", "disk-big", "--scratch", &scratch])?;
    slow.wait_until_thawed()?;
    guest.type_in(b"dd if=/dev/zero of=/dev/vdc bs=1M count=128 conv=fsync && echo written-$((20+1))-whole\n")?;
    let (ran, case) = slow.end()?;
    ran.expect(3)?;
    let disk = Exhibit::find(&case, "disk-big")?;
    assert_eq!(disk.outcome(), "failed");
    let why = disk.record["outcome"]["why"].as_str().unwrap_or_default();
    assert!(why.contains("break the guest's writes"), "{why}");
    wait_until(|| guest.serial().contains("written-21-whole"), ENDS_WITHIN, "the guest's own writes to succeed")?;
    nothing_is_left(&guest, &before, "full scratch folder")
}
