//! Captures from real guests: what is taken is right, of one instant, and the VM is left as it was found.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::common::guest::{Disk, Guest, Source, Spec};
use crate::common::run::{Exhibit, Ran, holds, impound, run, sha256sum, verify_sh};

fn case(guest: &Guest, name: &str) -> PathBuf {
    guest.folder().join(name)
}

/// Runs acquire on a guest into a new case.
fn acquire(guest: &Guest, case: &Path, more: &[&str]) -> Result<Ran> {
    let (target, case) = (guest.target(), case.display().to_string());
    let mut arguments = vec!["acquire", target.as_str(), "--case", case.as_str()];
    arguments.extend_from_slice(more);
    run(&arguments)
}

fn verify(case: &Path) -> Result<Ran> {
    run(&["verify", &case.display().to_string()])
}

fn key(guest: &Guest) -> Result<PathBuf> {
    let key = guest.folder().join("key");
    let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key).status()?;
    ensure!(made.success(), "ssh-keygen made no key");
    Ok(key)
}

#[test]
fn a_running_guest_becomes_sealed_evidence_and_is_left_as_it_was() -> Result<()> {
    let guest = Guest::boot(&Spec::new("linux-small"))?;
    let before = guest.control().state()?;
    let (case, key) = (case(&guest, "case"), key(&guest)?);
    let ran = acquire(&guest, &case, &["--key", &key.display().to_string(), "--examiner", "E. Locard"])?.expect(0)?;
    assert_eq!(guest.control().state()?, before);
    let rows = ran.rows()?;
    assert_eq!(rows.len(), 4, "{rows:?}");
    assert!(rows.iter().all(|row| row["outcome"] == "complete"), "{rows:?}");

    verify(&case)?.expect(0)?.says("VERIFIED")?;
    for shell in [&["dash"][..], &["busybox", "sh"][..]] {
        verify_sh(shell, &case)?.expect(0)?;
    }
    let memory = Exhibit::find(&case, "memory")?;
    assert_eq!(sha256sum(&memory.image())?, memory.sha256());
    for planted in ["marker-tmpfs-6e41d8", "marker-arg-91c5e7", "marker-deleted-open-f0937c"] {
        assert!(holds(&memory.image(), planted.as_bytes())?, "{planted} is not in memory");
    }
    let disk = Exhibit::find(&case, "disk-vda")?;
    assert!(holds(&disk.image(), b"marker-vda-5d1c7f")? && holds(&disk.image(), b"marker-deleted-at-build-83be02")?);
    assert!(holds(&Exhibit::find(&case, "disk-vdb")?.image(), b"marker-vdb-a20f3b")?);
    the_disk_is_as_the_guest_saw_it(&disk)?;
    the_manifest_tells_all(&memory.record)?;
    the_plan_was_kept(&guest, &memory)
}

/// Taken while it was mounted: what the guest's kernel wrote last is still in the journal.
fn the_disk_is_as_the_guest_saw_it(disk: &Exhibit) -> Result<()> {
    let dir = disk.dir.display().to_string();
    let cat = |path: &str| Ok(run(&["disk", &format!("{dir}:p0:{path}"), "cat"])?.expect(0)?.stdout);
    for (path, text) in [
        ("/evidence/note.txt", "impound planted file: marker-vda-5d1c7f, present on vda\n"),
        ("/evidence/written-at-boot.txt", "impound planted file: marker-written-at-boot-17aa90\n"),
    ] {
        let found: Result<String> = cat(path);
        assert_eq!(found?, text);
    }
    let log: Result<String> = cat("/logs/access.log");
    assert_eq!(log?.lines().count(), 4000);
    Ok(())
}

fn the_manifest_tells_all(record: &Value) -> Result<()> {
    assert_eq!(record["method"], "snapshot");
    assert_eq!(record["consistency"], "quasi-instantaneous");
    assert_eq!(record["pauses"].as_array().map(Vec::len), Some(1), "{}", record["pauses"]);
    assert!(record["pauses"][0]["resumed"].is_string());
    assert!(record["stall"]["worst_us"].is_u64(), "{}", record["stall"]);
    assert_eq!(record["case"]["examiner"], "E. Locard");
    let offset = record["clocks"]["offset_seconds"].as_i64().context("no clock")?;
    assert!(offset.abs() < 60, "guest and host share a clock, yet differ by {offset} s");
    let cpus = record["instant"]["registers"]["cpus"].as_array().context("no registers")?;
    assert_eq!(cpus.len(), 2);
    for cpu in cpus {
        let cr3 = cpu["cr3"].as_str().context("no CR3")?;
        assert_ne!(u64::from_str_radix(cr3.trim_start_matches("0x"), 16)?, 0, "a running Linux has page tables");
    }
    let names: Vec<_> =
        record["stored"].as_array().context("nothing stored")?.iter().map(|s| s["path"].as_str()).collect();
    assert_eq!(names, [Some("data/memory.raw"), Some("data/device-state.bin")]);
    let gaps = record["gaps"]["listed"].as_array().context("no gaps")?;
    assert!(gaps.iter().any(|gap| gap["at"] == 0xa0000 && gap["why"] == "not-ram"), "{gaps:?}");
    Ok(())
}

/// `--plan` names the commands that a run then sends.
fn the_plan_was_kept(guest: &Guest, memory: &Exhibit) -> Result<()> {
    let rows = run(&["acquire", &guest.target(), "--plan", "--case", "not-made"])?.expect(0)?.rows()?;
    assert!(!Path::new("not-made").exists());
    let commands = rows.iter().filter(|row| row["step"] == "command").filter_map(|row| row["what"].as_str());
    let planned: Vec<_> = commands.filter_map(|line| Some(line.split_once(':')?.0.to_owned())).collect();
    assert!(planned.len() > 20, "{planned:?}");
    let sent = memory.commands()?;
    assert_eq!(sent.get(..planned.len()), Some(planned.as_slice()), "{sent:?}");
    Ok(())
}

#[test]
fn every_method_reads_the_same_bytes_of_a_stopped_guest() -> Result<()> {
    let guest = Guest::boot(&Spec::new("linux-small"))?;
    methods_agree(&guest)?;
    // Forms of the same memory: what zstd unpacks is the raw image.
    let case = case(&guest, "forms");
    acquire(&guest, &case, &["--memory", "--memory-method", "paused"])?.expect(0)?;
    let raw = Exhibit::find(&case, "memory")?;
    acquire(&guest, &case, &["--memory", "--memory-method", "paused", "--compress", "zstd:1"])?.expect(0)?;
    let packed = Exhibit::find(&case, "memory")?;
    assert_eq!(packed.record["content"]["digests"]["sha256"].as_str(), Some(raw.sha256()));
    let unpacked = guest.folder().join("unpacked.raw");
    let zstd = Command::new("zstd").arg("-qd").arg(packed.image()).arg("-o").arg(&unpacked).status()?;
    assert!(zstd.success());
    assert_eq!(sha256sum(&unpacked)?, raw.sha256());
    verify(&case)?.expect(0)?;
    Ok(())
}

#[test]
fn every_method_reads_the_same_bytes_around_the_pci_hole_of_a_pc() -> Result<()> {
    around_the_hole("pc", 3 << 30)
}

#[test]
fn every_method_reads_the_same_bytes_around_the_pci_hole_of_a_q35() -> Result<()> {
    around_the_hole("q35", 2 << 30)
}

fn around_the_hole(machine: &'static str, hole: u64) -> Result<()> {
    let guest = Guest::boot(&Spec { machine, memory_mib: 3840, ..Spec::new("linux-small") })?;
    let exhibit = methods_agree(&guest)?;
    let gaps = exhibit.record["gaps"]["listed"].as_array().context("no gaps")?;
    assert!(gaps.iter().any(|gap| gap["at"] == hole && gap["why"] == "not-ram"), "{gaps:?}");
    let len = exhibit.record["content"]["len"].as_u64();
    assert_eq!(len, Some((4 << 30) + (3840 << 20) - hole));
    Ok(())
}

/// Stops the guest and takes its memory by each method. It stays stopped.
fn methods_agree(guest: &Guest) -> Result<Exhibit> {
    guest.control().execute("stop", &json!({}))?;
    let before = guest.control().state()?;
    let version = guest.control().execute("query-version", &json!({}))?["qemu"]["major"].as_u64();
    let mut seen: Vec<(String, Exhibit)> = Vec::new();
    for method in ["paused", "pmemsave", "snapshot"] {
        let case = case(guest, method);
        let ran = acquire(guest, &case, &["--memory", "--memory-method", method])?;
        if method == "snapshot" && version < Some(9) {
            ran.expect(1)?.says("would start it")?;
            continue;
        }
        ran.expect(0)?;
        seen.push((method.to_owned(), Exhibit::find(&case, "memory")?));
        let mut after = guest.control().state()?;
        let left = &Exhibit::find(&case, "memory")?.record["left"];
        if version < Some(9) && method == "pmemsave" {
            // Such a QEMU closes a removed descriptor only once the guest runs, and that is said.
            assert!(left[0].as_str().is_some_and(|left| left.contains("once the guest runs")), "{left}");
            after.fd_sets.clone_from(&before.fd_sets);
        } else {
            assert_eq!(left, &json!([]), "after {method}");
        }
        assert_eq!(after, before, "after {method}");
    }
    let first = seen.first().context("no method worked")?.1.sha256().to_owned();
    for (method, exhibit) in &seen {
        assert_eq!(exhibit.sha256(), first, "{method} read other bytes");
        assert_eq!(exhibit.record["consistency"], "instantaneous");
        assert_eq!(exhibit.record["pauses"], json!([]));
    }
    Ok(seen.pop().context("no method worked")?.1)
}

#[test]
fn disks_of_odd_sizes_and_of_none_are_taken_whole() -> Result<()> {
    let mut spec = Spec::new("linux-small");
    let odd = tempfile::NamedTempFile::new()?;
    // 1 MiB and one sector, of bytes that are nowhere zero.
    let bytes: Vec<u8> = (0..(1u32 << 20) + 512).map(|n| u8::try_from(n % 251).unwrap_or(0) + 1).collect();
    fs::write(odd.path(), &bytes)?;
    spec.disks
        .push(Disk { node: "odd".to_owned(), source: Source::File { path: odd.path().to_owned(), format: "raw" } });
    spec.disks.push(Disk { node: "none".to_owned(), source: Source::Blank { bytes: 0 } });
    let guest = Guest::boot(&spec)?;
    let case = case(&guest, "case");
    acquire(&guest, &case, &["--disk", "all"])?.expect(0)?;
    let taken = Exhibit::find(&case, "disk-odd")?;
    assert_eq!(fs::read(taken.image())?, bytes);
    assert_eq!(fs::metadata(Exhibit::find(&case, "disk-none")?.image())?.len(), 0);
    acquire(&guest, &case, &["--disk", "disk-odd", "--container"])?.expect(0)?;
    assert_eq!(fs::read(Exhibit::find(&case, "disk-odd-container")?.image())?, bytes);
    // A file that is copied while the guest runs is of no single instant.
    acquire(&guest, &case, &["--disk", "disk-odd", "--container", "--require", "instant"])?
        .expect(1)?
        .says("is required")?;
    verify(&case)?.expect(0)?;
    Ok(())
}

#[test]
fn a_bad_sector_is_a_named_gap_and_the_exhibit_partial() -> Result<()> {
    let mut spec = Spec::new("linux-small");
    let file = tempfile::NamedTempFile::new()?;
    fs::write(file.path(), vec![0x5a; 1 << 20])?;
    let bad = format!(
        "driver=blkdebug,node-name=bad,image.driver=file,image.filename={},inject-error.0.event=read_aio,\
         inject-error.0.errno=5,inject-error.0.sector=1024,inject-error.0.once=off",
        file.path().display()
    );
    let front = "driver=raw,node-name=badraw,file=bad";
    let device = "virtio-blk-pci,drive=badraw,id=scratched";
    spec.extra.extend(["-blockdev", &bad, "-blockdev", front, "-device", device].map(ToOwned::to_owned));
    let guest = Guest::boot(&spec)?;
    let before = guest.control().state()?;
    let case = case(&guest, "case");
    let ran = acquire(&guest, &case, &["--disk", "scratched", "--memory"])?.expect(3)?;
    assert_eq!(guest.control().state()?, before);
    assert_eq!(ran.rows()?.iter().filter(|row| row["outcome"] == "complete").count(), 1, "memory is not harmed");
    let disk = Exhibit::find(&case, "scratched")?;
    assert_eq!(disk.outcome(), "partial");
    let gap = &disk.record["gaps"]["listed"][0];
    assert_eq!((gap["at"].as_u64(), gap["len"].as_u64()), (Some(1024 * 512), Some(4096)), "{gap}");
    assert!(gap["why"]["unreadable"].as_str().is_some_and(|why| why.contains("read error")), "{gap}");
    let bytes = fs::read(disk.image())?;
    assert!(bytes[..1024 * 512].iter().chain(&bytes[1024 * 512 + 4096..]).all(|byte| *byte == 0x5a));
    // Intact, and still never a success.
    verify(&case)?.expect(3)?;
    Ok(())
}

#[test]
fn what_cannot_be_done_is_refused_with_the_reason_and_nothing_is_touched() -> Result<()> {
    let guest = Guest::boot(&Spec::new("linux-small"))?;
    let before = guest.control().state()?;
    let case = case(&guest, "case");
    let refused = |more: &[&str], code, words: &str| -> Result<()> {
        acquire(&guest, &case, more)?.expect(code)?.says(words)?;
        assert_eq!(guest.control().state()?, before, "{more:?}");
        Ok(())
    };
    refused(&["--memory", "--memory-method", "paused", "--max-pause", "1ms"], 1, "1 ms are allowed")?;
    refused(&["--memory", "--memory-method", "live", "--require", "instant"], 1, "is required")?;
    refused(&["--memory", "--memory-method", "telepathy"], 1, "choose one of snapshot")?;
    refused(&["--disk", "nosuch"], 1, "it has: disk-vda, disk-vdb")?;
    run(&["acquire", "nonsense", "--case", "x"])?.expect(2)?;
    run(&["show", "qmp:/nowhere/at.all"])?.expect(1)?.says("start QEMU with -qmp")?;

    // Held by somebody else, whatever machine they are on.
    let holder = json!({ "qom-type": "authz-simple", "id": "impound-claim", "identity": "impound by alice on kvm7" });
    guest.control().execute("object-add", &holder)?;
    acquire(&guest, &case, &["--memory"])?.expect(1)?.says("held by impound by alice on kvm7")?;
    guest.control().execute("object-del", &json!({ "id": "impound-claim" }))?;

    // The monitor itself is held.
    let held = UnixStream::connect(guest.qmp())?;
    acquire(&guest, &case, &["--memory"])?.expect(1)?.says("another program holds this monitor")?;
    drop(held);
    assert_eq!(guest.control().state()?, before);
    // Refused runs leave evidence of the attempt and nothing unfinished.
    verify(&case)?.expect(0)?;
    Ok(())
}

#[test]
fn somebody_elses_nbd_server_and_its_exports_are_respected() -> Result<()> {
    let guest = Guest::boot(&Spec::new("linux-small"))?;
    let socket = guest.folder().join("backup.sock").display().to_string();
    guest.control().execute("nbd-server-start", &json!({ "addr": { "type": "unix", "data": { "path": socket } } }))?;
    let case = case(&guest, "case");
    // A server without exports is seen only when ours is to be started.
    let ran = acquire(&guest, &case, &["--disk", "all"])?.expect(1)?;
    ran.says("somebody else's NBD server")?;
    let export = json!({ "type": "nbd", "id": "backup", "node-name": "vdb", "name": "backup" });
    guest.control().execute("block-export-add", &export)?;
    let before = guest.control().state()?;
    acquire(&guest, &case, &["--disk", "all"])?.expect(1)?.says("backup")?;
    acquire(&guest, &case, &["--memory"])?.expect(0)?;
    assert_eq!(guest.control().state()?, before);
    Ok(())
}

#[test]
fn a_user_without_the_right_is_told_what_to_do() -> Result<()> {
    let guest = Guest::boot(&Spec::new("linux-small"))?;
    let mode = Permissions::from_mode(0o700);
    fs::set_permissions(guest.folder(), mode)?;
    let nobody = tempfile::tempdir()?;
    let program = nobody.path().join("impound");
    fs::copy(impound().get_program(), &program)?;
    for path in [nobody.path(), program.as_path()] {
        fs::set_permissions(path, Permissions::from_mode(0o755))?;
    }
    let output = Command::new("setpriv")
        .args(["--reuid", "65534", "--regid", "65534", "--clear-groups"])
        .arg(&program)
        .args(["show", &guest.target()])
        .output()
        .context("run setpriv; this test needs root")?;
    Ran::of(&output).expect(1)?.says("ermission denied")?.says("run as root or as the user that runs QEMU")?;
    Ok(())
}
