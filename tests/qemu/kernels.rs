//! Kernels of many years and of two architectures, each booted once: what a guest said of itself is what its memory tells, also
//! where nothing tells where to look.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, ensure};
use impound::analyzer;
use impound::image::{self, Extent, Frames, Machine, ReadAt, ReadError};
use impound::memory::Physical;
use impound::memory::linux::Kernel;
use impound::memory::symbols::isf::Isf;
use serde_json::Value;

use crate::common::guest::{Guest, Spec, absent};
use crate::common::memory::{Changed, Memory, answers, find, has, texts};
use crate::common::pages;
use crate::common::run::{Exhibit, run};

/// A kernel to boot, and what is known of it beforehand.
struct Sort {
    fixture: &'static str,
    machine: &'static str,
    cpu: &'static str,
    release: &'static str,
    levels: i64,
    symbols_from: &'static str,
}

impl Sort {
    const X86: Self =
        Self { fixture: "", machine: "pc", cpu: "qemu64", release: "", levels: 4, symbols_from: "page tables" };
}

#[test]
fn linux_5_10_is_analysed() -> Result<()> {
    whole(&Sort { fixture: "linux-5.10", release: "5.10.", ..Sort::X86 })
}

#[test]
fn linux_6_12_is_analysed_with_five_levels_of_page_tables() -> Result<()> {
    whole(&Sort { fixture: "linux-6.12", cpu: "max", release: "6.12.", levels: 5, ..Sort::X86 })
}

#[test]
fn the_newest_linux_is_analysed() -> Result<()> {
    whole(&Sort { fixture: "linux-newest", release: "", ..Sort::X86 })
}

/// The same kernel twice: a processor with addresses of 48 bits, and one with 52.
#[test]
fn linux_on_arm64_is_analysed() -> Result<()> {
    let (fixture, machine, symbols_from) = ("linux-arm64", "virt", "VMCOREINFO");
    let arm = Sort { fixture, machine, cpu: "cortex-a72", release: "6.12.", symbols_from, ..Sort::X86 };
    whole(&arm)?;
    whole(&Sort { cpu: "max,pauth-impdef=on", levels: 5, ..arm })
}

fn whole(sort: &Sort) -> Result<()> {
    if let Some(why) = absent(sort.fixture) {
        eprintln!("skipped: {}: {why}", sort.fixture);
        return Ok(());
    }
    let spec = Spec { machine: sort.machine, cpu: sort.cpu, disks: Vec::new(), ..Spec::new(sort.fixture) };
    let guest = Guest::boot(&spec)?;
    let image = captured(&guest)?;
    let memory = Memory(&image);
    it_is_the_kernel_that_ran(&guest, &memory, sort)?;
    processes_are_those_of_proc(&guest, &memory)?;
    ranges_are_those_of_proc(&guest, &memory)?;
    modules_symbols_and_mounts_are_those_of_proc(&guest, &memory)?;
    sockets_are_those_of_proc(&guest, &memory)?;
    what_was_planted_is_found(&memory)?;
    pages::all_is_found_and_written(&memory, guest.folder())?;
    where_nothing_leads_to_the_kernel_it_is_found_all_the_same(&image)?;
    if sort.fixture == "linux-5.10" {
        a_symbol_file_stands_in(&memory, guest.folder())?;
        frames_of_the_machine_are_translated(&image)?;
    }
    Ok(())
}

fn captured(guest: &Guest) -> Result<PathBuf> {
    let case = guest.folder().join("case");
    let (target, case_text) = (guest.target(), case.display().to_string());
    let method = ["--memory", "--memory-method", "paused"];
    run(&[&["acquire", target.as_str(), "--case", case_text.as_str()], &method[..]].concat())?.expect(0)?;
    guest.kill()?;
    Ok(Exhibit::find(&case, "memory")?.dir)
}

fn it_is_the_kernel_that_ran(guest: &Guest, memory: &Memory<'_>, sort: &Sort) -> Result<()> {
    let rows = memory.rows("info")?;
    let value = |name: &str| rows.iter().find(|row| row["property"] == name).map(|row| row["value"].clone());
    let value = |name: &str| value(name).with_context(|| format!("info tells no {name}"));
    let banner = value("banner")?;
    assert_eq!(Some(banner.as_str().context("no banner")?), guest.truth("kernel")?.first().map(String::as_str));
    assert!(banner.as_str().is_some_and(|banner| banner.starts_with(&format!("Linux version {}", sort.release))));
    let architecture = if sort.machine == "virt" { "aarch64" } else { "x86_64" };
    assert_eq!(value("architecture")?, architecture);
    assert_eq!((value("page_table_levels")?, value("cpus")?), (sort.levels.into(), 2.into()));
    let from = value("symbols_from")?;
    assert!(from.as_str().is_some_and(|from| from.contains(sort.symbols_from)), "{from}");
    let boot: jiff::Timestamp = value("boot_time")?.as_str().context("no boot time")?.parse()?;
    let since = jiff::Timestamp::now().duration_since(boot).as_secs();
    ensure!((0..900).contains(&since), "booted {since} s ago");
    Ok(())
}

/// Number, name and parent, from `/proc/PID/stat`.
fn process(line: &str) -> Result<(i64, String, i64)> {
    let (pid, rest) = line.split_once(" (").context("no name")?;
    let (comm, rest) = rest.rsplit_once(") ").context("no end of the name")?;
    let parent = rest.split(' ').nth(1).context("no parent")?;
    Ok((pid.parse()?, short(comm), parent.parse()?))
}

/// `/proc` shows longer names of the kernel's threads than their tasks hold, and of workers what they work on.
fn short(comm: &str) -> String {
    if comm.starts_with("kworker/") { "kworker".to_owned() } else { comm.chars().take(15).collect() }
}

fn processes_are_those_of_proc(guest: &Guest, memory: &Memory<'_>) -> Result<()> {
    let told: BTreeSet<_> = guest.truth("processes")?.iter().map(|line| process(line)).collect::<Result<_>>()?;
    ensure!(told.len() > 30, "{told:?}");
    for name in ["linux.pslist", "linux.pidhashtable", "linux.pstree"] {
        let rows = memory.rows(name)?;
        let found: Option<BTreeSet<_>> = rows
            .iter()
            .map(|row| Some((row["pid"].as_i64()?, short(row["comm"].as_str()?), row["ppid"].as_i64()?)))
            .collect();
        let found = found.with_context(|| format!("{name} has cells that did not read"))?;
        // Workers come and go between the guest's word and the capture, and then init starts the console's shell, which for a moment
        // has the name that busybox runs itself by.
        let passing = |comm: &str| ["kworker", "sh", "setsid", "cttyhack", "exe"].contains(&comm);
        let differ: Vec<_> = told.symmetric_difference(&found).filter(|(_, comm, _)| !passing(comm)).collect();
        ensure!(differ.is_empty(), "{name} and /proc tell different things: {differ:?}");
    }
    Ok(())
}

fn ranges_are_those_of_proc(guest: &Guest, memory: &Memory<'_>) -> Result<()> {
    let rows = memory.rows("linux.proc.maps")?;
    let hex =
        |value: &Value| value.as_str().and_then(|text| u64::from_str_radix(text.trim_start_matches("0x"), 16).ok());
    let mut compared = 0;
    for line in guest.truth("processes")? {
        let (pid, _, _) = process(&line)?;
        let Ok(told) = guest.truth(&format!("/proc/{pid}/maps")) else { continue };
        let told: Vec<_> = told
            .iter()
            // The page of system calls belongs to no process.
            .filter(|line| !line.contains("[vsyscall]"))
            .map(|line| {
                let words: Vec<&str> = line.split_whitespace().collect();
                let (from, to) = words[0].split_once('-').context("no range")?;
                Ok((u64::from_str_radix(from, 16)?, u64::from_str_radix(to, 16)?, words[1].to_owned()))
            })
            .collect::<Result<_>>()?;
        let found: Vec<_> = rows
            .iter()
            .filter(|row| row["pid"] == pid)
            .filter_map(|row| Some((hex(&row["start"])?, hex(&row["end"])?, row["flags"].as_str()?.to_owned())))
            .collect();
        // Of the process that says all this, the heap may have grown since.
        if pid != 1 {
            ensure!(told == found, "ranges of {pid}: told {told:x?}, found {found:x?}");
            compared += 1;
        }
    }
    ensure!(compared >= 5, "{compared} processes compared");
    Ok(())
}

fn modules_symbols_and_mounts_are_those_of_proc(guest: &Guest, memory: &Memory<'_>) -> Result<()> {
    let modules = memory.rows("linux.lsmod")?;
    let told: Vec<(String, i64)> = guest
        .truth("modules")?
        .iter()
        .map(|line| {
            let mut words = line.split(' ');
            let name = words.next().context("no name")?.to_owned();
            Ok((name, words.next().context("no size")?.parse()?))
        })
        .collect::<Result<_>>()?;
    let found: Vec<_> =
        modules.iter().filter_map(|row| Some((row["name"].as_str()?.to_owned(), row["size"].as_i64()?))).collect();
    ensure!(!told.is_empty() && told == found, "modules: told {told:?}, found {found:?}");

    let symbols = memory.rows("linux.kallsyms")?;
    let found: BTreeSet<_> = symbols
        .iter()
        .filter_map(|row| Some((row["symbol_name"].as_str()?, row["address"].as_str()?, row["module"].as_str())))
        .collect();
    let told = guest.truth("symbols")?;
    ensure!(told.len() > 50, "{told:?}");
    for line in &told {
        let words: Vec<&str> = line.split_whitespace().collect();
        let module = words.get(3).map(|module| module.trim_matches(['[', ']']));
        let address = format!("0x{}", words[0]);
        ensure!(found.contains(&(words[2], address.as_str(), module)), "no symbol {line}");
    }

    let mounts = memory.rows("linux.mountinfo")?;
    for line in guest.truth("mounts")? {
        let words: Vec<&str> = line.split(' ').collect();
        let end = words.iter().position(|word| *word == "-").context("no separator")?;
        let mount = [
            ("mount_id", words[0].parse::<i64>()?.into()),
            ("parent_id", words[1].parse::<i64>()?.into()),
            ("major_minor", words[2].into()),
            ("root", words[3].into()),
            ("mount_point", words[4].into()),
            ("fstype", words[end + 1].into()),
            ("mount_source", words[end + 2].into()),
        ];
        ensure!(has(&mounts, &mount), "no mount {line}: {mounts:?}");
    }
    Ok(())
}

fn sockets_are_those_of_proc(guest: &Guest, memory: &Memory<'_>) -> Result<()> {
    let rows = memory.rows("linux.sockstat")?;
    let mut told = BTreeSet::new();
    for line in [guest.truth("tcp")?, guest.truth("tcp6")?].concat() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let port = |text: &str| text.rsplit_once(':').and_then(|(_, port)| i64::from_str_radix(port, 16).ok());
        let (Some(here), Some(there)) = (port(words[1]), port(words[2])) else { continue };
        let state = match words[3] {
            "01" => "ESTABLISHED",
            "0A" => "LISTEN",
            other => other,
        };
        told.insert((here, there, state.to_owned()));
    }
    let found: BTreeSet<_> = rows
        .iter()
        .filter(|row| row["protocol"] == "TCP")
        .filter_map(|row| {
            Some((row["source_port"].as_i64()?, row["destination_port"].as_i64()?, row["state"].as_str()?.to_owned()))
        })
        .collect();
    ensure!(told.len() >= 3 && told == found, "sockets: told {told:?}, found {found:?}");
    Ok(())
}

fn what_was_planted_is_found(memory: &Memory<'_>) -> Result<()> {
    let arguments = memory.rows("linux.psaux")?;
    let planted =
        texts(&arguments, "args").iter().any(|args| args.ends_with("planted-shell --token marker-arg-91c5e7"));
    ensure!(planted, "{arguments:?}");
    let variable = [("key", "IMPOUND_PLANTED_ENV".into()), ("value", "marker-env-2b8d64".into())];
    assert!(has(&memory.rows("linux.envars")?, &variable));
    let history = memory.rows("linux.bash")?;
    assert!(texts(&history, "command").contains(&"echo marker-history-d70a35"), "{history:?}");
    let deleted = [("comm", "sleep".into()), ("path", "/tmp/deleted-but-open.txt".into()), ("deleted", true.into())];
    assert!(has(&memory.rows("linux.lsof")?, &deleted));
    let log = memory.rows("linux.kmsg")?;
    assert!(texts(&log, "line").iter().any(|line| line.contains("Linux version")));
    let scanned: BTreeSet<_> = memory.rows("linux.psscan")?.iter().filter_map(|row| row["pid"].as_i64()).collect();
    let listed: BTreeSet<_> = memory.rows("linux.pslist")?.iter().filter_map(|row| row["pid"].as_i64()).collect();
    assert!(listed.is_subset(&scanned), "{:?}", listed.difference(&scanned));
    let calls = memory.rows("linux.check_syscall")?;
    assert!(calls.len() > 400 && calls.iter().all(|row| row["hooked"] == false));
    // What is innocent on one kernel is so on all.
    for name in ["hidden_modules", "check_modules", "malfind", "keyboard_notifiers", "ptrace", "findings"] {
        assert_eq!(memory.rows(&format!("linux.{name}"))?, Vec::<Value>::new(), "{name}");
    }
    let all = memory.ask(&["all"])?;
    ensure!(all.code == Some(0), "all: {}", all.stderr);
    Ok(())
}

/// An image from which what leads to the kernel is wiped, one after the other and then all of it: the page tables in low memory, and
/// every copy of VMCOREINFO. Then the tables have to be found by what they look like.
fn where_nothing_leads_to_the_kernel_it_is_found_all_the_same(image: &Path) -> Result<()> {
    let image = Arc::clone(image::open(image, &image::Options::default())?.bytes());
    let kernel = find(Arc::clone(&image))?;
    assert!(kernel.note().is_some_and(|note| note.get("OSRELEASE").is_some()));
    let notes = mentions(&image, b"OSRELEASE=")?;
    let x86 = kernel.symbols.address("init_top_pgt").is_some();
    let low: Vec<_> = (0..if x86 { 1 << 20 } else { 0 }).map(|at| (at, 0)).collect();
    let without = |changes: Vec<(u64, u8)>| find(Arc::new(Changed::new(&image, changes)));
    let (noteless, tableless) = (without(notes.clone())?, without(low.clone())?);
    let blind = without([notes, low].concat())?;
    assert_eq!(blind.symbols_from, "kallsyms by its structure");
    assert_eq!(noteless.symbols_from, if x86 { kernel.symbols_from } else { blind.symbols_from });
    assert!(noteless.note().is_none() && !tableless.symbols_from.contains("page tables"), "{}", tableless.symbols_from);
    for other in [&noteless, &tableless, &blind] {
        assert_eq!((kernel.place, kernel.symbols_at), (other.place, other.symbols_at), "{}", other.symbols_from);
    }
    for analyzer in analyzer::ALL.iter().filter(|analyzer| analyzer.name != "linux.vmcoreinfo") {
        let (told, found) = (answers(&kernel, analyzer.name)?, answers(&blind, analyzer.name)?);
        ensure!(told == found, "{} differs where nothing leads to the kernel", analyzer.name);
    }
    Ok(())
}

/// What does not print the names of the kernel's symbols, of which a file may know several for one address.
const NAMELESS: [&str; 12] = [
    "linux.pslist",
    "linux.psaux",
    "linux.envars",
    "linux.bash",
    "linux.lsof",
    "linux.sockstat",
    "linux.mountinfo",
    "linux.proc.maps",
    "linux.lsmod",
    "linux.kmsg",
    "linux.pidhashtable",
    "linux.capabilities",
];

/// A kernel that tells neither symbols nor types is analysed with a file that does: here one of ours, packed.
fn a_symbol_file_stands_in(memory: &Memory<'_>, folder: &Path) -> Result<()> {
    let file = folder.join("symbols.json");
    let text = file.display().to_string();
    memory.ask(&["isf", "--output", &text])?.expect(0)?;
    let packed = Command::new("xz").args(["-0", "--keep", &text]).status().context("run xz: scripts/install test")?;
    ensure!(packed.success(), "xz: {packed}");
    let packed = folder.join("symbols.json.xz");

    let image = Arc::clone(image::open(memory.0, &image::Options::default())?.bytes());
    let whole = find(Arc::clone(&image))?;
    let mut changes = mentions(&image, b"OSRELEASE=")?;
    changes.extend(mentions(&image, b"0\x001\x002\x003\x004\x005\x006\x007\x008\x009\0")?);
    changes.extend(mentions(&image, &[0x9f, 0xeb, 1, 0, 24, 0, 0, 0])?);
    let mute: Arc<dyn ReadAt> = Arc::new(Changed::new(&image, changes));
    let said = find(Arc::clone(&mute)).err().context("a kernel without symbols was found")?.to_string();
    ensure!(said.contains("a banner is there: Linux version 5.10.") && said.contains("--symbols"), "{said}");

    let isf = || Isf::read(fs::File::open(&packed)?).map_err(|why| anyhow!(why));
    let helped = Kernel::find_with(Physical::new(mute), isf()?)?;
    assert_eq!((helped.place, helped.slide()), (whole.place, whole.slide()));
    for name in NAMELESS {
        ensure!(answers(&whole, name)? == answers(&helped, name)?, "{name} differs with a symbol file");
    }

    // By the program, too; and a file for another kernel is refused with both banners.
    let told = memory.rows("linux.pslist")?;
    let asked = memory.ask(&["linux.pslist", "--symbols", &packed.display().to_string()])?.expect(0)?.rows()?;
    assert_eq!(told, asked);
    let mut other: Value = serde_json::from_slice(&fs::read(&file)?)?;
    other["symbols"]["linux_banner"]["constant_data"] = "TGludXggdmVyc2lvbiA0LjE5IG9mIHNvbWVib2R5IGVsc2UKAA==".into();
    fs::write(&file, serde_json::to_vec(&other)?)?;
    let refused = memory.ask(&["linux.pslist", "--symbols", &text])?.expect(1)?;
    refused
        .says("the symbol file is for Linux version 4.19 of somebody else")?
        .says("a banner is there: Linux version 5.10.")?;
    fs::write(&file, b"{}")?;
    memory.ask(&["linux.pslist", "--symbols", &text])?.expect(1)?.says("it is no ISF")?;
    Ok(())
}

/// Memory whose frames have other numbers than its page tables say, as those of a Xen PV guest: all are moved on by so many bytes,
/// and what falls off the end comes back at the front.
struct Turned(Arc<dyn ReadAt>, u64);

/// How far they are moved, or moved back.
const TURN: u64 = 64 << 20;

impl Frames for Turned {
    fn guest_frame(&self, machine_frame: u64) -> Option<u64> {
        let at = machine_frame.checked_mul(4096).filter(|at| *at < self.0.len())?;
        Some((at + self.1) % self.0.len() / 4096)
    }
}

impl ReadAt for Turned {
    fn len(&self) -> u64 {
        self.0.len()
    }

    fn read_at(&self, at: u64, into: &mut [u8]) -> Result<(), ReadError> {
        let (mut at, mut into) = (at, into);
        while !into.is_empty() {
            let extent = self.extent(at)?;
            let (part, rest) = into.split_at_mut(usize::try_from(extent.len).unwrap().min(into.len()));
            self.0.read_at((at + self.len() - self.1) % self.len(), part)?;
            (at, into) = (at + part.len() as u64, rest);
        }
        Ok(())
    }

    fn extent(&self, at: u64) -> Result<Extent, ReadError> {
        if at >= self.len() {
            return Err(ReadError::caller("read memory", "it ends before"));
        }
        let below = self.0.extent((at + self.len() - self.1) % self.len())?;
        let left = if at < self.1 { self.1 - at } else { self.len() - at };
        Ok(Extent { at, len: below.len.min(left), kind: below.kind })
    }
}

fn frames_of_the_machine_are_translated(image: &Path) -> Result<()> {
    let image = Arc::clone(image::open(image, &image::Options::default())?.bytes());
    let whole = find(Arc::clone(&image))?;
    let wiped: Arc<dyn ReadAt> = Arc::new(Changed::new(&image, mentions(&image, b"OSRELEASE=")?));
    // The kernel's image is one piece and has to stay one; where it lies is chosen anew at every boot.
    let text = whole.place.physical(whole.symbols.address("_text").context("no _text")?);
    let turn = if text + 2 * TURN <= image.len() { TURN } else { image.len() - TURN };
    let turned = Arc::new(Turned(wiped, turn));
    // Without the way from the machine's frames to the guest's, nothing is believed.
    assert!(find(Arc::clone(&turned) as Arc<dyn ReadAt>).is_err());
    let machine = Machine { cpus: Vec::new(), frames: Some(Arc::clone(&turned) as Arc<dyn Frames>) };
    let kernel = Kernel::find(Physical::new(turned).with_machine(Some(&machine)))?;
    let moved = kernel.place.physical(kernel.symbols.address("_text").context("no _text")?);
    assert_eq!(moved, (text + turn) % image.len());
    for name in NAMELESS {
        ensure!(answers(&whole, name)? == answers(&kernel, name)?, "{name} differs where frames are the machine's");
    }
    Ok(())
}

/// Changes that overwrite each mention of `what`.
fn mentions(image: &Arc<dyn ReadAt>, what: &[u8]) -> Result<Vec<(u64, u8)>> {
    let mut changes = Vec::new();
    let step = 1 << 20;
    let mut at = 0;
    let mut buffer = Vec::new();
    while at < image.len() {
        let len = (step + what.len() as u64 - 1).min(image.len() - at);
        buffer.resize(usize::try_from(len)?, 0);
        if image.read_at(at, &mut buffer).is_ok() {
            for hit in memchr::memmem::find_iter(&buffer, what) {
                changes.extend((0..what.len() as u64).map(|n| (at + hit as u64 + n, b'x')));
            }
        }
        at += step;
    }
    ensure!(!changes.is_empty(), "nothing to wipe");
    Ok(changes)
}
