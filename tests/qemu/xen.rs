//! Xen for real: a dom0 under QEMU, guests in it, and everything that can go wrong between us and them.
//!
//! One boot serves all steps, since it takes a minute or more; so they are one test, and what fails names its step.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use impound::image;
use serde_json::{Value, json};

use crate::common::guest::{wait_for, wait_until};
use crate::common::memory::{Memory, has};
use crate::common::run::{Exhibit, run, sha256sum};
use crate::common::xen::{WITHIN, XenHost, skip};

type Step = fn(&XenHost) -> Result<()>;

/// How long it may take to set off the last step. What a slower machine leaves out is told as skipped.
const BUDGET: Duration = Duration::from_secs(600);

const STEPS: &[(&str, Step)] = &[
    ("what it runs is listed, shown and checked", it_is_told),
    ("a domain that is not there is refused", no_such_domain),
    ("without room for a snapshot nothing begins", no_room),
    ("a domain that somebody has taken is refused", taken),
    ("a whole capture, with dom0's disk full, is of one instant", whole),
    ("a killed client leaves a running guest", killed_client),
    ("a killed xl is a failure that is named", killed_xl),
    ("a guest that xl cannot dump, with names full of shell", odd_names),
    ("a snapshot holds what the volume held", the_snapshot_is_of_its_instant),
    ("a running guest is dumped live, and that is said", live),
    ("a paused guest is dumped as xl itself dumps it", twice_alike),
];

#[test]
fn a_real_xen_host_is_captured_and_left_as_it_was_found() -> Result<()> {
    let begun = Instant::now();
    let Some(host) = XenHost::boot()? else { return Ok(()) };
    for (done, (what, step)) in STEPS.iter().enumerate() {
        let took = begun.elapsed();
        eprintln!("xen: {} s: {what}", took.as_secs());
        if took > BUDGET && std::env::var_os("IMPOUND_XEN_HOST").is_none() {
            let left: Vec<_> = STEPS[done..].iter().map(|(what, _)| *what).collect();
            return skip(&format!("not within {} s on this machine: {}", BUDGET.as_secs(), left.join("; ")));
        }
        step(&host).context(*what)?;
    }
    Ok(())
}

#[test]
#[ignore = "it takes many minutes to bring the program of a test to a dom0 that is emulated twice over, and to run it there"]
fn the_program_on_dom0_dumps_a_paused_guest_as_xl_does() -> Result<()> {
    let Some(host) = XenHost::boot()? else { return Ok(()) };
    on_dom0_itself(&host)
}

fn it_is_told(host: &XenHost) -> Result<()> {
    let rows = host.run(&["targets", "xen+ssh://dom0"])?.expect(0)?.rows()?;
    assert_eq!(rows.len(), 1, "{rows:?}");
    ensure!(has(&rows, &[("name", json!("web01")), ("state", json!("running"))]), "{rows:?}");
    let shown = host.run(&["show", &XenHost::target("web01")])?.expect(0)?.stdout;
    for fact in ["web01", "4.17", "xvda", "xvdb", "/dev/vg0/web01-root", "lvm-snapshot", "\"pv\"", "paused", "live"] {
        ensure!(shown.contains(fact) || fact == "4.17" && shown.contains("Xen"), "no {fact} in {shown}");
    }
    // The machine that runs the test may lack something of its own, so only what is said of dom0 counts.
    let doctor = host.run(&["doctor", "xen+ssh://dom0"])?.rows()?;
    let of_dom0: Vec<_> = doctor.iter().filter(|row| row["what"].to_string().contains("dom0")).collect();
    ensure!(of_dom0.len() >= 5 && of_dom0.iter().all(|row| row["good"] == true), "{doctor:?}");
    ensure!(has(&doctor, &[("what", json!("Xen's toolstack")), ("good", json!(true))]), "{doctor:?}");
    Ok(())
}

fn no_such_domain(host: &XenHost) -> Result<()> {
    let (ran, _) = host.acquire("nope", "none", &[])?;
    ran.expect(1)?.says("no domain is called `nope`")?.says("`web01`")?;
    host.is_as_it_was(false, "after a wrong name")
}

fn no_room(host: &XenHost) -> Result<()> {
    host.dom0("lvcreate -q -y -Wn -l 100%FREE -n filler vg0")?;
    let (ran, _) = host.acquire("web01", "full", &[])?;
    let refused = ran.expect(1)?.says("the volume group vg0 has 0 bytes free")?;
    host.dom0("lvremove -q -f vg0/filler")?;
    ensure!(!refused.stderr.contains("stood still for"), "{}", refused.stderr);
    host.is_as_it_was(false, "after a full volume group")
}

fn taken(host: &XenHost) -> Result<()> {
    host.dom0("ln -s 'Bob, since noon' /run/impound-$(xenstore-read /local/domain/1/vm | sed 's,/vm/,,')")?;
    let (ran, _) = host.acquire("web01", "taken", &["--config"])?;
    ran.expect(1)?.says("it is held by Bob, since noon")?;
    ensure!(host.dom0("ls /run")?.contains("impound-"), "somebody else's mark was taken away");
    host.dom0("rm /run/impound-*")?;
    host.is_as_it_was(false, "after a mark of somebody else's")
}

/// Memory, both disks and the configuration, of one instant, while dom0 has no room for anything.
fn whole(host: &XenHost) -> Result<()> {
    host.dom0("fallocate -l $(($(df --output=avail -B1 / | tail -n 1) - 4096)) /fill; dd if=/dev/zero of=/fill2 bs=4096 2>/dev/null; true")?;
    let (ran, case) = host.acquire("web01", "whole", &[])?;
    host.dom0("rm /fill /fill2")?;
    ran.expect(0)?;
    host.is_as_it_was(false, "after a whole capture")?;
    run(&["verify", &case.display().to_string()])?.expect(0)?;
    let memory = Exhibit::find(&case, "memory")?;
    assert_eq!(memory.record["consistency"], "instantaneous");
    assert_eq!(memory.record["content"]["format"], "xen-core");
    assert_eq!(memory.record["pauses"].as_array().map(Vec::len), Some(1));
    ensure!(memory.record["pauses"][0]["resumed"].is_string(), "{}", memory.record["pauses"]);
    for name in ["xvda", "xvdb"] {
        let disk = Exhibit::find(&case, name)?;
        assert_eq!((disk.outcome(), disk.record["method"].as_str()), ("complete", Some("lvm-snapshot")));
        assert_eq!(disk.record["consistency"], "quasi-instantaneous");
    }
    let config: Value = serde_json::from_slice(&std::fs::read(Exhibit::find(&case, "config")?.image())?)?;
    assert_eq!(config["config"]["c_info"]["name"], "web01");
    linux_is_read(&memory)?;
    every_page_is_in_its_place(&memory)?;
    memory_and_disk_agree(&memory, &Exhibit::find(&case, "xvdb")?)?;
    let disk = Exhibit::find(&case, "xvda")?.dir.display().to_string();
    for (path, marker) in
        [("/note.txt", "marker-on-xen-volume-c03d77"), ("/written-in-guest.txt", "marker-written-in-xen-5b8e20")]
    {
        let cat = crate::common::run::impound().args(["disk", &format!("{disk}:{path}"), "cat"]).output()?;
        ensure!(String::from_utf8_lossy(&cat.stdout).contains(marker), "{path}: {cat:?}");
    }
    Ok(())
}

/// What the guest planted is found through its own page tables, which hold machine frames.
fn linux_is_read(memory: &Exhibit) -> Result<()> {
    let memory = Memory(&memory.dir);
    let processes = memory.rows("linux.pslist")?;
    for comm in ["init", "planted-shell", "bash", "nc", "sleep"] {
        if !has(&processes, &[("comm", json!(comm))]) {
            // Whoever has ended may stand there.
            let kmsg = memory.ask(&["linux.kmsg"])?.stdout;
            let last = kmsg.char_indices().rev().nth(6000).map_or(0, |(at, _)| at);
            bail!("no {comm}: {processes:?}\n{}", &kmsg[last..]);
        }
    }
    let modules = memory.rows("linux.lsmod")?;
    ensure!(has(&modules, &[("name", json!("xen_blkfront"))]), "{modules:?}");
    let arguments = memory.ask(&["linux.psaux"])?.expect(0)?.stdout;
    ensure!(arguments.contains("marker-arg-91c5e7"), "{arguments}");
    Ok(())
}

/// A second reading of the core, in the plainest way: entry i of `.xen_p2m` is where page i of `.xen_pages` belongs.
fn every_page_is_in_its_place(memory: &Exhibit) -> Result<()> {
    let core = std::fs::read(memory.image())?;
    let number = |at: usize, len: usize| core[at..at + len].iter().rev().fold(0_usize, |n, b| n << 8 | usize::from(*b));
    let (headers, count, names) = (number(40, 8), number(60, 2), number(62, 2));
    let field = |section: usize, at: usize| number(headers + section * 64 + at, 8);
    let names = field(names, 24);
    let section = |name: &[u8]| {
        (0..count)
            .find(|section| core[names + number(headers + section * 64, 4)..].starts_with(name))
            .context("no section")
    };
    let (pages, table) = (section(b".xen_pages\0")?, section(b".xen_p2m\0")?);
    let (pages, entries, table) = (field(pages, 24), field(table, 32) / 16, field(table, 24));
    let image = image::open(&memory.dir, &image::Options::default())?;
    let (mut marker, mut page) = (0, vec![0; 4096]);
    for entry in 0..entries {
        let wanted = &core[pages + entry * 4096..][..4096];
        image.bytes().read_at(number(table + entry * 16, 8) as u64 * 4096, &mut page)?;
        ensure!(page == wanted, "page {entry} is not where the table says");
        marker += usize::from(page.windows(24).any(|part| part == b"marker-tmpfs-6e41d8\n\0\0\0\0"));
    }
    ensure!(entries == 28672 && marker >= 1, "{entries} pages, the marker on {marker} of them");
    Ok(())
}

/// The guest counts in memory first and on its disk then.
fn memory_and_disk_agree(memory: &Exhibit, disk: &Exhibit) -> Result<()> {
    let highest = |file: &Path, len: usize| -> Result<u64> {
        let bytes = std::fs::read(file)?;
        let word = b"impound-sequence-";
        let starts = bytes[..len.min(bytes.len())].windows(word.len() + 7).filter(|part| part.starts_with(word));
        let numbers = starts.filter_map(|part| std::str::from_utf8(&part[word.len()..]).ok()?.parse().ok());
        numbers.max().context("no number")
    };
    let (in_memory, on_disk) = (highest(&memory.image(), usize::MAX)?, highest(&disk.image(), 4096)?);
    ensure!(in_memory == on_disk || in_memory == on_disk + 1, "memory has {in_memory}, the disk {on_disk}");
    Ok(())
}

/// The volume is changed behind the guest's back as soon as the snapshot stands, far ahead of what has been read.
fn the_snapshot_is_of_its_instant(host: &XenHost) -> Result<()> {
    let write = |letter: char| {
        host.dom0(&format!(
            "head -c 1048576 /dev/zero | tr '\\0' {letter} | dd of=/dev/vg0/web01-data bs=1M seek=7 oflag=direct iflag=fullblock 2>/dev/null"
        ))
    };
    write('A')?;
    // So slow that the last MiB is not read before it is overwritten.
    let under_way = host.begin("old", &["--disk", "xvdb", "--rate", "200K"])?;
    let there = || Ok(host.dom0("lvs --noheadings -o lv_name vg0")?.contains("impound-").then_some(()));
    wait_for(WITHIN, "a snapshot", there)?;
    wait_for(WITHIN, "the guest to run on", || Ok((!host.paused("web01")?).then_some(())))?;
    write('B')?;
    let (ran, case) = under_way.end()?;
    ran.expect(0)?;
    let held = std::fs::read(Exhibit::find(&case, "xvdb")?.image())?;
    ensure!(held[7 << 20..].iter().all(|byte| *byte == b'A'), "the snapshot has what was written after it");
    let now = host.dom0("tail -c 16 /dev/vg0/web01-data")?;
    assert_eq!(now, "B".repeat(16), "the volume was not changed");
    host.is_as_it_was(false, "after a snapshot")
}

/// The digest of what xl itself dumps of a guest that stands still; nothing of ours has a part in it.
const DUMPED: &str =
    "mkfifo /run/dump && { sha256sum /run/dump & xl dump-core web01 /run/dump >/dev/null; wait; }; rm /run/dump";

/// What xl says that it is, of a guest that is paused, in hexadecimal digits.
fn dumped_by_xl(host: &XenHost) -> Result<String> {
    let sum = host.dom0(DUMPED)?;
    sum.split_whitespace().next().map(ToOwned::to_owned).context("no digest")
}

/// What `take` makes of a guest that stands still is what xl dumps of it. What dom0 had begun to read or write for the guest when it was
/// paused still changes its memory, and so does dom0's clock, which Xen writes into a page of each guest every eleven minutes: if they
/// differ and xl's next dump does, too, it is asked again.
fn as_xl_dumps_it(host: &XenHost, mut take: impl FnMut(u32) -> Result<String>) -> Result<()> {
    host.dom0("xl pause web01")?;
    let mut theirs = dumped_by_xl(host)?;
    for time in 0..3 {
        let ours = take(time)?;
        if ours == theirs {
            return host.dom0("xl unpause web01").map(drop);
        }
        let next = dumped_by_xl(host)?;
        ensure!(next != theirs, "of a guest at rest xl dumps {theirs}, and we {ours}");
        theirs = next;
    }
    bail!("the memory of a paused guest does not come to rest")
}

fn twice_alike(host: &XenHost) -> Result<()> {
    as_xl_dumps_it(host, |time| {
        let (ran, case) = host.acquire("web01", &format!("from-here-{time}"), &["--memory"])?;
        ran.expect(0)?;
        let memory = Exhibit::find(&case, "memory")?;
        assert_eq!(memory.sha256(), sha256sum(&memory.image())?);
        assert_eq!(memory.record["pauses"], json!([]), "it stood still already");
        host.is_as_it_was(true, "after a dump of a paused guest")?;
        Ok(memory.sha256().to_owned())
    })
}

fn on_dom0_itself(host: &XenHost) -> Result<()> {
    const RUN: &str = "LD_LIBRARY_PATH=/root/here /root/here/impound --format json";
    host.bring_the_program("/root/here")?;
    let rows: Value = serde_json::from_str(&host.dom0(&format!("{RUN} targets xen:///"))?)?;
    ensure!(rows.to_string().contains("web01"), "{rows}");
    as_xl_dumps_it(host, |_| {
        let case = "rm -rf /root/here/case;";
        let acquire = "acquire 'xen:///#web01' --memory --disk xvdb --case /root/here/case";
        let sealed: Value = serde_json::from_str(&host.dom0(&format!("{case} {RUN} {acquire}"))?)?;
        host.is_as_it_was(true, "after a dump by the program on dom0")?;
        assert_eq!((&sealed[0]["item"], &sealed[1]["outcome"]), (&json!("memory"), &json!("complete")), "{sealed}");
        let disk = host.dom0("dd if=/dev/vg0/web01-data bs=1M iflag=direct 2>/dev/null | sha256sum")?;
        assert_eq!(sealed[1]["sha256"].as_str(), disk.split_whitespace().next());
        sealed[0]["sha256"].as_str().map(ToOwned::to_owned).context("no digest")
    })?;
    host.dom0("rm -r /root/here").map(drop)
}

/// Taken while the guest runs on: not of one instant, and called so.
fn live(host: &XenHost) -> Result<()> {
    let (ran, case) = host.acquire("web01", "live", &["--memory", "--memory-method", "live"])?;
    ran.expect(0)?;
    let memory = Exhibit::find(&case, "memory")?;
    assert_eq!((memory.record["method"].as_str(), memory.record["consistency"].as_str()), (Some("live"), Some("live")));
    assert_eq!(memory.record["pauses"], json!([]));
    assert_eq!(memory.sha256(), sha256sum(&memory.image())?);
    let processes = Memory(&memory.dir).rows("linux.pslist")?;
    ensure!(has(&processes, &[("comm", json!("planted-shell"))]), "{processes:?}");
    host.is_as_it_was(false, "after a live dump")
}

/// Neither the program nor its guardian is left, as if our whole machine were gone.
fn killed_client(host: &XenHost) -> Result<()> {
    let mut under_way = host.begin("killed", &[])?;
    under_way.wait_until_held()?;
    ensure!(host.paused("web01")?, "memory comes and the guest runs");
    let case = under_way.kill()?;
    wait_for(WITHIN, "the guest to run on", || Ok((!host.paused("web01")?).then_some(())))?;
    let gone =
        || Ok((!host.dom0("lvs --noheadings -o lv_name vg0; ps axww -o args")?.contains("impound-")).then_some(()));
    wait_for(WITHIN, "the watchdog to take the snapshots away", gone)?;
    ensure!(host.dom0("ls /run")?.contains("impound-"), "the mark should be there until it is recovered");
    let place = case.display().to_string();
    host.run(&["case", "recover", &place])?.expect(0)?;
    host.is_as_it_was(false, "after recovery")?;
    run(&["verify", &place])?.expect(3)?;
    Ok(())
}

fn killed_xl(host: &XenHost) -> Result<()> {
    let mut under_way = host.begin("no-xl", &["--memory", "--config"])?;
    under_way.wait_until_held()?;
    host.dom0("kill -9 $(pgrep -f '^[^ ]*xl dump-core')")?;
    let (ran, case) = under_way.end()?;
    ran.expect(3)?;
    let memory = Exhibit::find(&case, "memory")?;
    assert_eq!(memory.outcome(), "failed");
    let why = memory.record["outcome"]["why"].to_string();
    ensure!(why.contains("it ended after") && why.contains("bytes"), "{why}");
    host.is_as_it_was(false, "after a killed xl")
}

/// PV-GRUB: xl leaves an empty file and a status. Its disk is a file, read while it stands still.
fn odd_names(host: &XenHost) -> Result<()> {
    const NAME: &str = "odd 'name' $(touch injected); `touch injected` & x";
    host.dom0(r#"place="/guests/odd 'place'; \$(touch injected)" && mkdir "$place" && head -c 1048576 /guests/kernel >"$place/disk \`touch injected\`.img" && xl create /guests/odd.cfg"#)?;
    let (ran, case) = host.acquire(NAME, "odd", &[])?;
    ran.expect(3)?;
    let (disk, memory) = (Exhibit::find(&case, "xvda")?, Exhibit::find(&case, "memory")?);
    let why = memory.record["outcome"]["why"].to_string();
    ensure!(["it wrote nothing", "p2m_size", "PV-GRUB"].iter().all(|words| why.contains(words)), "{why}");
    assert_eq!(memory.outcome(), "failed");
    let wanted = host.dom0("sha256sum <\"/guests/odd 'place'; \\$(touch injected)/disk \\`touch injected\\`.img\"")?;
    assert_eq!(disk.sha256(), wanted.split_whitespace().next().unwrap_or_default());
    assert_eq!(disk.record["method"], "paused");
    assert_eq!(disk.record["target"]["facts"]["name"], NAME);
    wait_until(|| host.dom0("xl list | tail -n 1").is_ok_and(|line| !line.contains("--p")), WITHIN, "it to run")?;
    let found = host.dom0("find / -xdev -name 'injected' 2>/dev/null; true")?;
    let here = std::process::Command::new("find").arg(host.path("")).args(["-name", "injected"]).output()?;
    if !(found.is_empty() && here.stdout.is_empty()) {
        bail!("a name became a command: {found} {here:?}");
    }
    host.is_as_it_was(false, "after odd names")
}
