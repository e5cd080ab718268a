//! ESXi by its shell, against a double of the host (`common/esx`): what is taken, what is left behind, what was said, and what
//! happens when something breaks.

use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tempfile::TempDir;

use crate::common::esx::said;
use crate::common::esx::{DISK, Esx, MEMORY, NAME, STORE, content};
use crate::common::run::{Exhibit, Ran, impound, run, sha256sum};
use crate::common::vmsn::{cpu_tags, regions, vmsn};

/// A host and a case.
struct Bench {
    esx: Esx,
    folder: TempDir,
}

impl Bench {
    fn new(style: u32) -> Self {
        Self { esx: Esx::start(style), folder: TempDir::new().unwrap() }
    }

    fn case(&self) -> PathBuf {
        self.folder.path().join("case")
    }

    fn target(vm: &str) -> String {
        format!("esx+ssh://there?patience=20#{vm}")
    }

    /// `impound VERB TARGET …` with what the double needs.
    fn ask(&self, arguments: &[&str]) -> Result<Ran> {
        let config = self.esx.sshd.config();
        run(&[arguments, &["--ssh-config", config.to_str().unwrap()]].concat())
    }

    fn acquire(&self, arguments: &[&str]) -> Result<Ran> {
        let (case, target) = (self.case(), Self::target(NAME));
        self.ask(&[&["acquire", target.as_str(), "--case", case.to_str().unwrap()], arguments].concat())
    }

    /// The same, not started yet.
    fn acquiring(&self, arguments: &[&str]) -> Command {
        let mut command = impound();
        command.arg("acquire").arg(Self::target(NAME)).args(arguments);
        command.arg("--case").arg(self.case()).arg("--ssh-config").arg(self.esx.sshd.config());
        command
    }

    fn exhibit(&self, item: &str) -> Exhibit {
        Exhibit::find(&self.case(), item).unwrap()
    }

    fn recover(&self) -> Result<Ran> {
        self.ask(&["case", "recover", self.case().to_str().unwrap()])
    }

    fn verify(&self, code: i32) -> Result<()> {
        run(&["verify", self.case().to_str().unwrap()])?.expect(code).map(|_| ())
    }

    /// The VM is as it was: no snapshot of ours, no file of one, and it runs.
    fn as_found(&self, snapshots: &[(u64, String)]) {
        assert_eq!(self.esx.snapshots(), snapshots);
        assert_eq!(self.esx.state()["vms"][0]["power"], "poweredOn");
        // The owner's snapshots are 13 and 14.
        let owners = |name: &String| name.contains("13") || name.contains("14");
        let made = |name: &String| name.contains("Snapshot") || name.contains("-0000") || name.contains("vmss");
        let left: Vec<_> = self.esx.files().into_iter().filter(|name| made(name) && !owners(name)).collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

impl Drop for Bench {
    /// Nothing was ever said to the host that `docs/esx.md` does not list.
    fn drop(&mut self) {
        if !std::thread::panicking() {
            said::only_what_is_listed(&self.esx.journal());
        }
    }
}

/// Everything, from each release whose texts we know: complete, equal to what lay there, opened as a whole, and nothing left.
#[test]
fn everything_is_taken_under_a_snapshot_that_is_gone_afterwards() -> Result<()> {
    for style in [5, 6, 7, 8] {
        let bench = Bench::new(style);
        let before = bench.esx.files();
        let ran = bench.acquire(&[])?.expect(0)?;
        let outcomes: Vec<_> = ran
            .rows()?
            .iter()
            .map(|row| format!("{} {}", row["item"].as_str().unwrap(), row["outcome"].as_str().unwrap()))
            .collect();
        let wanted = ["memory", "memory.vmem", "disk0", "disk0.1", "config", "config.1", "config.2"]
            .map(|item| format!("{item} complete"));
        assert_eq!(outcomes, wanted, "{style}");
        bench.as_found(&[]);
        assert_eq!(bench.esx.files(), before, "{style}");
        bench.verify(0)?;
        // The disk as it was at the instant: the double writes into the base once its snapshot is gone.
        let flat = bench.exhibit("disk0.1");
        assert_eq!(fs::read(flat.image())?, content(DISK, 1));
        let now = fs::read(bench.esx.vm_folder().join(format!("{NAME}-flat.vmdk")))?;
        assert!(now.ends_with(b"written later on"));
        let memory = bench.exhibit("memory.vmem");
        assert_eq!(fs::read(memory.image())?, content(MEMORY, 7));
        // The host's own digest stands beside ours.
        for exhibit in [&flat, &memory] {
            assert_eq!(exhibit.record["witnesses"][0]["sha256"], exhibit.sha256());
            assert_eq!(sha256sum(&exhibit.image())?, exhibit.sha256());
        }
        // What it cost: the files that the snapshot made, the space, the stun by the host's log and not by the guest's words.
        let created = memory.record["instant"]["created"].as_array().context("no files")?;
        assert!(
            created.iter().any(|file| file["path"].as_str().is_some_and(|path| path.ends_with("Snapshot15.vmem"))
                && file["len"] == MEMORY),
            "{created:?}"
        );
        assert!(memory.record["instant"]["free_after"].as_u64() < memory.record["instant"]["free_before"].as_u64());
        let pauses = memory.record["pauses"].as_array().context("no pauses")?;
        assert_eq!(pauses.len(), 2, "{pauses:?}");
        opens_as_a_whole(&bench, &content(DISK, 1))?;
    }
    Ok(())
}

/// Disk and memory open by their first exhibit.
fn opens_as_a_whole(bench: &Bench, disk: &[u8]) -> Result<()> {
    let (head, memory) = (bench.exhibit("disk0"), bench.exhibit("memory"));
    let cat = impound().args(["image", "cat"]).arg(&head.dir).output()?;
    ensure!(cat.status.success() && cat.stdout == disk, "{}", String::from_utf8_lossy(&cat.stderr));
    let cat = impound().args(["image", "cat"]).arg(&memory.dir).output()?;
    ensure!(cat.stdout == content(MEMORY, 7), "{}", String::from_utf8_lossy(&cat.stderr));
    let layers = run(&["image", head.dir.to_str().unwrap()])?.expect(0)?.stdout;
    ensure!(layers.contains("vmdk") && layers.contains("exhibit"), "{layers}");
    Ok(())
}

/// A chain of an owner's snapshots, COWD and seSparse, comes out as one disk; the owner's snapshots stay.
#[test]
fn a_chain_opens_as_one_disk_and_the_owners_snapshots_stay() -> Result<()> {
    for style in [5, 8] {
        let bench = Bench::new(style);
        let disk = bench.esx.owners_snapshots();
        let (snapshots, files) = (bench.esx.snapshots(), bench.esx.files());
        assert_eq!(snapshots.len(), 2);
        let rows = bench.acquire(&["--memory", "--disk", "disk0"])?.expect(0)?.rows()?;
        let parts: Vec<_> =
            rows.iter().filter_map(|row| row["item"].as_str()).filter(|item| item.starts_with("disk0")).collect();
        assert_eq!(parts, ["disk0", "disk0.1", "disk0.2", "disk0.3", "disk0.4", "disk0.5"]);
        bench.as_found(&snapshots);
        assert_eq!(bench.esx.files(), files);
        opens_as_a_whole(&bench, &disk)?;
        // Without one of its files the disk does not open, and says which.
        let base = bench.exhibit("disk0.5").dir;
        fs::rename(&base, bench.folder.path().join("elsewhere"))?;
        let head = bench.exhibit("disk0").dir;
        let refused = run(&["image", head.to_str().unwrap()])?.expect(1)?;
        ensure!(
            refused.stderr.contains("-flat.vmdk") && refused.stderr.contains("keep them in one folder"),
            "{}",
            refused.stderr
        );
    }
    Ok(())
}

/// What is not covered is named, fails by itself, and the rest comes.
#[test]
fn disks_that_no_snapshot_covers_are_named() -> Result<()> {
    let bench = Bench::new(8);
    bench.esx.add_disk(2001, "independent_persistent", &content(1 << 20, 2));
    bench.esx.change(|state| {
        let disks = state["vms"][0]["disks"].as_array_mut().unwrap();
        let disk = |key: u64, backing: &str, file: &str| {
            json!({ "key": key, "label": "x", "backing": backing, "file": file, "mode": "persistent",
            "capacity": 1 << 20, "extents": [], "bases": {}, "vsan": true })
        };
        disks.push(disk(2002, "raw", &format!("[{STORE}] {NAME}/rdm.vmdk")));
        disks.push(disk(2003, "flat", "[vsanDatastore] x/x.vmdk"));
    });
    let vmx = bench.esx.vm_folder().join(format!("{NAME}.vmx"));
    fs::write(vmx, "displayName = \"x\"\nencryption.keySafe = \"vmware:key\"\nvtpm.present = \"TRUE\"\n")?;
    let shown = bench.ask(&["show", &Bench::target("12")])?.expect(0)?.stdout;
    for words in [
        "no snapshot covers it",
        "raw device (physicalMode",
        "vsanDatastore (vsan)",
        "ciphertext",
        "virtual TPM",
        "MiB free",
        "number",
    ] {
        ensure!(shown.contains(words), "{words} is not in {shown}");
    }
    let rows = bench.acquire(&[])?.expect(3)?.rows()?;
    let outcome = |item: &str| rows.iter().find(|row| row["item"] == item).map(|row| row["outcome"].clone());
    for (item, wanted) in [
        ("disk0.1", "complete"),
        ("disk1", "failed"),
        ("disk2", "failed"),
        ("disk3", "failed"),
        ("memory.vmem", "complete"),
    ] {
        assert_eq!(outcome(item), Some(json!(wanted)), "{item}");
    }
    bench.acquire(&["--disk", "disk2"])?.expect(1)?.says("raw device")?;
    bench.as_found(&[]);
    Ok(())
}

/// A VM that does not run is read as it lies there; one that is suspended has its memory there already.
#[test]
fn a_vm_that_does_not_run_is_only_read() -> Result<()> {
    let bench = Bench::new(7);
    bench.esx.change(|state| state["vms"][0]["power"] = json!("poweredOff"));
    bench.acquire(&["--memory"])?.expect(1)?.says("no memory")?;
    let rows = bench.acquire(&[])?.expect(0)?.rows()?;
    assert!(rows.iter().all(|row| row["method"] == "read" && row["item"] != "memory"), "{rows:?}");
    assert!(bench.exhibit("disk0").record["findings"].to_string().contains("powered off"));
    let changes = |said: &&String| said.contains("create") || said.contains("power.") && !said.contains("getstate");
    assert_eq!(bench.esx.journal().iter().find(changes), None);

    bench.esx.change(|state| state["vms"][0]["power"] = json!("suspended"));
    let stem = bench.esx.vm_folder().join(format!("{NAME}-1a2b"));
    fs::copy(bench.esx.home().join("memory.vmsn"), stem.with_extension("vmss"))?;
    fs::copy(bench.esx.home().join("memory.vmem"), stem.with_extension("vmem"))?;
    bench.acquire(&["--memory"])?.expect(0)?;
    assert_eq!(bench.exhibit("memory").record["consistency"], "instantaneous");
    opens_as_a_whole(&bench, &content(DISK, 1))?;
    assert_eq!(bench.esx.state()["vms"][0]["power"], "suspended");
    Ok(())
}

/// Memory may be inside the state file, the host may not say which files are whose, and its log may tell no stun.
#[test]
fn memory_inside_the_state_file_is_found_by_the_folder_alone() -> Result<()> {
    let bench = Bench::new(8);
    bench.esx.control(&json!({ "no_layout": true, "silent_log": true }));
    let memory = content(MEMORY, 7);
    let inside = vmsn(0xbed2_bed2, &cpu_tags(), &regions(&[(0, memory.clone())]), Some((&memory, 63)));
    fs::write(bench.esx.home().join("memory.vmsn"), inside)?;
    fs::remove_file(bench.esx.home().join("memory.vmem"))?;
    bench.acquire(&["--memory"])?.expect(0)?.says("for how long the guest stood still is not known")?;
    let cat = impound().args(["image", "cat"]).arg(bench.exhibit("memory").dir).output()?;
    ensure!(cat.stdout == memory, "{}", String::from_utf8_lossy(&cat.stderr));
    assert_eq!(bench.exhibit("memory.vmem").record["instant"]["absent"], "memory is inside the .vmsn");
    bench.as_found(&[]);
    Ok(())
}

/// Suspending is done only if it is asked for, and taken back.
#[test]
fn a_vm_is_suspended_on_demand_and_goes_on() -> Result<()> {
    let bench = Bench::new(7);
    bench.acquire(&["--method", "suspend", "--max-pause", "1s"])?.expect(1)?.says("stands still")?;
    let ran = bench.acquire(&["--method", "suspend", "--memory", "--disk", "disk0"])?.expect(0)?;
    ensure!(ran.stderr.contains("stood still for") && ran.stderr.contains("Powered on"), "{}", ran.stderr);
    bench.as_found(&[]);
    assert_eq!(bench.exhibit("disk0.1").record["consistency"], "instantaneous");
    opens_as_a_whole(&bench, &content(DISK, 1))?;
    bench.esx.control(&json!({ "on": "error" }));
    without_its_guardian(&bench, &["--method", "suspend", "--memory"])?.expect(4)?.says("case recover")?;
    assert_eq!(bench.esx.state()["vms"][0]["power"], "suspended");
    bench.esx.control(&json!({}));
    bench.recover()?.expect(0)?.says("let the suspended VM go on")?;
    bench.as_found(&[]);
    Ok(())
}

/// Whatever the snapshot does, nothing of it stays, and nothing is called complete.
#[test]
fn a_snapshot_that_fails_leaves_nothing() -> Result<()> {
    for (control, words) in [
        (json!({ "create": "error" }), "An error occurred while saving the snapshot"),
        (json!({ "create": "full" }), "not enough space"),
        (json!({ "create": "refuse" }), "Snapshot creation failed"),
        (json!({ "off_first": true }), "powered off"),
    ] {
        let bench = Bench::new(8);
        bench.esx.control(&control);
        bench.acquire(&["--memory"])?.expect(1)?.says(words)?;
        assert_eq!(bench.esx.snapshots(), [], "{control}");
        assert!(!bench.esx.files().iter().any(|name| name.contains("Snapshot")), "{control}");
        assert!(fs::read_dir(bench.case().join("exhibits"))?.next().is_none(), "{control}");
        bench.recover()?.expect(0)?;
    }
    let bench = Bench::new(8);
    bench.esx.change(|state| state["volumes"][0]["free"] = json!(1 << 20));
    bench.acquire(&["--memory"])?.expect(1)?.says("MiB are free")?;
    assert!(!bench.esx.journal().iter().any(|said| said.contains("snapshot.create")));
    Ok(())
}

/// One that comes after we have given up is waited for at the end of the run, or by `recover`.
#[test]
fn a_snapshot_that_comes_late_is_removed_all_the_same() -> Result<()> {
    let bench = Bench::new(8);
    let case = bench.case();
    bench.esx.control(&json!({ "hold": true }));
    let target = format!("esx+ssh://there?patience=5#{NAME}");
    let late = bench.ask(&["acquire", &target, "--memory", "--case", case.to_str().unwrap()])?.expect(1)?;
    ensure!(late.stderr.contains("not there after 5 s") && late.stderr.contains("case recover"), "{}", late.stderr);
    assert_eq!(bench.esx.snapshots(), []);
    bench.esx.control(&json!({}));
    bench.recover()?.expect(0)?.says("remove the snapshot impound-")?;
    bench.as_found(&[]);
    // With more patience the same is no trouble.
    bench.acquire(&["--memory"])?.expect(0)?;
    bench.as_found(&[]);
    Ok(())
}

/// A removal that fails is said, with the way out, and is done later.
#[test]
fn a_snapshot_that_cannot_be_removed_is_said_and_removed_later() -> Result<()> {
    let bench = Bench::new(8);
    bench.esx.control(&json!({ "remove": "error" }));
    bench.acquire(&["--disk", "disk0"])?.expect(1)?.says("locked")?.says("case recover")?;
    assert_eq!(bench.esx.snapshots().len(), 1);
    bench.acquire(&["--disk", "disk0"])?.expect(1)?.says("it has the snapshot impound-")?;
    bench.esx.control(&json!({}));
    bench.recover()?.expect(0)?;
    bench.as_found(&[]);
    // Kept on purpose: said, and not removed by anybody.
    let kept = bench.acquire(&["--disk", "disk0", "--keep-snapshot"])?.expect(0)?;
    ensure!(kept.stderr.contains("left on the hypervisor: snapshot impound-"), "{}", kept.stderr);
    bench.recover()?.expect(0)?;
    assert_eq!(bench.esx.snapshots().len(), 1);
    Ok(())
}

/// A connection that is cut at many bytes: what comes is what lay there, and the snapshot goes.
#[test]
fn a_cut_connection_is_taken_up_again() -> Result<()> {
    let bench = Bench::new(8);
    let lives = [900_000, 1_100_001, 40_000, 2_345_678, 500, 1_048_576, 1_300_000, 3_000_017];
    bench.esx.sshd.cut_each(lives);
    bench.acquire(&["--memory", "--disk", "disk0"])?.expect(0)?;
    assert!(bench.esx.sshd.to_cut() < lives.len() - 3, "{} are left", bench.esx.sshd.to_cut());
    assert_eq!(fs::read(bench.exhibit("memory.vmem").image())?, content(MEMORY, 7));
    assert_eq!(fs::read(bench.exhibit("disk0.1").image())?, content(DISK, 1));
    assert!(bench.esx.journal().iter().any(|said| said.starts_with("dd ") && !said.contains("skip=0")));
    bench.as_found(&[]);
    bench.verify(0)
}

/// A block that the host cannot read is a gap with the host's words.
#[test]
fn a_block_that_cannot_be_read_is_a_gap() -> Result<()> {
    let bench = Bench::new(8);
    bench.esx.control(&json!({ "bad_block": ["-flat.vmdk", 1] }));
    bench.acquire(&["--disk", "disk0"])?.expect(3)?;
    let flat = bench.exhibit("disk0.1");
    assert_eq!((flat.outcome(), &flat.record["gaps"]["unreadable"]), ("partial", &json!(1 << 20)));
    ensure!(flat.record["gaps"]["listed"].to_string().contains("Input/output error"), "{}", flat.record["gaps"]);
    // Through the whole disk too: what could not be read is missing there, and no zeros.
    let map = run(&["image", "map", bench.exhibit("disk0").dir.to_str().unwrap()])?.stdout;
    ensure!(map.contains("Input/output error"), "{map}");
    bench.as_found(&[]);
    Ok(())
}

/// Without `sha256sum` nobody else bears witness, which is said; a host that gives other bytes than its own digest is caught.
#[test]
fn the_hosts_own_digest_counts() -> Result<()> {
    let bench = Bench::new(6);
    bench.esx.without("sha256sum");
    bench.acquire(&["--disk", "disk0"])?.expect(0)?;
    let flat = bench.exhibit("disk0.1");
    ensure!(
        flat.record["findings"].to_string().contains("no sha256sum") && flat.record.get("witnesses").is_none(),
        "{}",
        flat.record
    );
    bench.ask(&["doctor", "esx+ssh://there"])?.expect(0)?;
    let liar = bench.esx.home().join("bin/sha256sum");
    fs::write(&liar, format!("#!/bin/sh\necho \"{}  x\"\n", "ab".repeat(32)))?;
    fs::set_permissions(&liar, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let rows = bench.acquire(&["--disk", "disk0"])?.expect(3)?.rows()?;
    ensure!(rows.iter().any(|row| row["why"].as_str().is_some_and(|why| why.contains("abab"))), "{rows:?}");
    Ok(())
}

/// A killed run is undone by `recover`: the snapshot goes, and what was captured is kept as interrupted.
#[test]
fn a_killed_run_is_put_in_order() -> Result<()> {
    let bench = Bench::new(8);
    bench.esx.owners_snapshots();
    let snapshots = bench.esx.snapshots();
    for when in ["snapshot.create", "memory.vmem"] {
        bench.esx.control(&json!({ "create_seconds": 1.0 }));
        let mut running = start(&bench)?;
        until(|| match when {
            "snapshot.create" => bench.esx.journal().iter().any(|said| said.contains(when)),
            _ => bench.esx.journal().iter().any(|said| said.starts_with("dd ") && said.contains(".vmem")),
        })?;
        running.kill()?;
        running.wait()?;
        bench.recover()?.expect(0)?;
        bench.as_found(&snapshots);
        fs::write(bench.esx.home().join("journal"), "")?;
    }
    bench.verify(3)
}

/// The VM's name and notes, and the names of datastores, are chosen by whoever: nothing of them runs, nothing of them is a VM.
#[test]
fn names_and_notes_of_others_stay_names_and_notes() -> Result<()> {
    let bench = Bench::new(8);
    let rows = bench.ask(&["targets", "esx+ssh://there"])?.expect(0)?.rows()?;
    assert_eq!(rows.len(), 1, "{rows:?}");
    assert_eq!(rows[0]["name"], NAME);
    bench.ask(&["show", &Bench::target("fake")])?.expect(1)?.says("has no VM")?;
    bench.ask(&["show", &Bench::target("564D36CF-6988-C91D-0F5F-A62628D46553")])?.expect(0)?;
    let forged = "x\", \n   }, \n   config = (vim.vm.Summary.ConfigSummary) {\n      name = \"bank\", \n      uuid = \"1\", \n   }, \n   g = (G) {\n      n = \"";
    bench.esx.change(|state| state["vms"][0]["host_name"] = json!(forged));
    let rows = bench.ask(&["targets", "esx+ssh://there"])?.expect(0)?.rows()?;
    ensure!(
        rows[0]["name"] == "12" && rows[0]["state"].as_str().is_some_and(|state| state.contains("pretend")),
        "{rows:?}"
    );
    bench.ask(&["show", &Bench::target(NAME)])?.expect(1)?.says("pretend")?;
    bench.esx.change(|state| {
        let vm = &mut state["vms"][0];
        vm["host_name"] = json!("$(touch /tmp/x)");
        let mut other = vm.clone();
        // It does not run: else it would hold the files of the first.
        (other["id"], other["uuid"], other["power"]) = (json!(7), json!("b"), json!("poweredOff"));
        state["vms"].as_array_mut().unwrap().push(other);
    });
    bench.ask(&["show", &Bench::target(NAME)])?.expect(1)?.says("2 VMs could be meant")?.says("number 12")?;
    bench
        .ask(&[
            "acquire",
            &Bench::target("12"),
            "--disk",
            "disk0",
            "--case",
            bench.case().to_str().unwrap(),
            "--examiner",
            "'; reboot; '$(id)",
        ])?
        .expect(0)?;
    assert!(
        bench.esx.journal().iter().any(|said| said.contains("; reboot; ")),
        "the holder is said to the host, as text"
    );
    bench.as_found(&[]);
    Ok(())
}

fn start(bench: &Bench) -> Result<Child> {
    let mut command = bench.acquiring(&["--memory", "--disk", "disk0", "--rate", "1M"]);
    Ok(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?)
}

/// A run whose guardian ends with it. A guardian goes on trying for minutes, and holds stderr so long to say what came of it.
fn without_its_guardian(bench: &Bench, arguments: &[&str]) -> Result<Ran> {
    let (out, err) = (bench.folder.path().join("out"), bench.folder.path().join("err"));
    let mut command = bench.acquiring(arguments);
    let code = command.stdout(File::create(&out)?).stderr(File::create(&err)?).status()?.code();
    let case = bench.case();
    for process in fs::read_dir("/proc")?.filter_map(|entry| entry.ok()?.file_name().into_string().ok()) {
        // A process may end while it is looked at.
        let words = fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
        let words: Vec<_> = words.split(|byte| *byte == 0).collect();
        if words.get(1) == Some(&b"guardian".as_slice()) && words.get(2) == Some(&case.as_os_str().as_bytes()) {
            ensure!(Command::new("kill").args(["-9", &process]).status()?.success(), "kill the guardian");
        }
    }
    Ok(Ran { code, stdout: fs::read_to_string(out)?, stderr: fs::read_to_string(err)? })
}

fn until(mut happened: impl FnMut() -> bool) -> Result<()> {
    let begun = Instant::now();
    while !happened() {
        ensure!(begun.elapsed() < Duration::from_secs(120), "it did not happen");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

#[test]
fn the_list_of_commands_is_read_as_it_is_meant() {
    assert!(said::fits("vim-cmd vmsvc/snapshot.remove VMID ID", "vim-cmd vmsvc/snapshot.remove 12 15"));
    for other in [
        "vim-cmd vmsvc/snapshot.removeall 12",
        "vim-cmd vmsvc/snapshot.remove 12 15 1",
        "vim-cmd vmsvc/snapshot.remove 12 '1; x'",
    ] {
        assert!(!said::fits("vim-cmd vmsvc/snapshot.remove VMID ID", other), "{other}");
    }
    assert!(said::fits("stat -c '%s %b' PATH", "stat -c '%s %b' '/a/it'\\''s'"));
    assert!(!said::fits("stat -c '%s %b' PATH", "stat -c '%s %b' '/a' '; x'"));
}
