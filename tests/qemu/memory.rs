//! Analysis of a real guest's memory: what was planted is found, what was not is not, and damage neither panics nor hangs.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use impound::analyzer;
use impound::image::{self, ReadAt, ReadError};
use impound::memory::linux::settle::settle;
use impound::memory::linux::{Ask, Kernel, pslist};
use serde_json::Value;

use crate::common::guest::{Guest, Spec};
use crate::common::live;
use crate::common::memory::{Changed, Memory, answers, find, has, pid_of, texts};
use crate::common::pages;
use crate::common::run::{Exhibit, Ran, run};
use crate::common::xencore;

/// One guest for all: booting is what takes long.
#[test]
fn a_real_guest_is_analysed_from_its_memory_alone() -> Result<()> {
    let guest = Guest::boot(&Spec::new("linux-small"))?;
    let case = guest.folder().join("case");
    let (target, case_text) = (guest.target(), case.display().to_string());
    live::a_running_guest_answers_and_does_not_notice(&guest)?;
    live::a_process_in_between_is_refused(&guest)?;
    let method = ["--memory", "--memory-method", "paused"];
    run(&[&["acquire", target.as_str(), "--case", case_text.as_str()], &method[..]].concat())?.expect(0)?;
    guest.kill()?;
    let exhibit = Exhibit::find(&case, "memory")?;
    let memory = Memory(&exhibit.dir);

    the_kernel_is_found(&memory)?;
    processes_are_found(&memory)?;
    files_and_sockets_are_found(&memory)?;
    the_system_is_told(&memory)?;
    nothing_hides_in_an_innocent_guest(&memory)?;
    pages::all_is_found_and_written(&memory, guest.folder())?;
    let files = memory.rows("linux.pagecache.Files")?;
    assert!(has(&files, &[("file_path", "/mnt/vda/evidence/note.txt".into()), ("mount_point", "/mnt/vda".into())]));
    mistakes_are_told(&memory, guest.folder())?;
    every_form_of_the_image_tells_the_same(&memory, &exhibit, guest.folder())?;
    an_isf_is_written(&memory, guest.folder())?;
    let image = exhibit.image();
    what_was_hidden_is_found(&image)?;
    a_torn_walk_is_tried_again(&image)?;
    claims_without_end_are_bounded(&image)?;
    damage_neither_panics_nor_hangs(&image)
}

fn the_kernel_is_found(memory: &Memory<'_>) -> Result<()> {
    let rows = memory.rows("info")?;
    let value = |name: &str| rows.iter().find(|row| row["property"] == name).map(|row| row["value"].clone());
    let value = |name: &str| value(name).with_context(|| format!("info tells no {name}"));
    assert_eq!(value("hostname")?, "web01");
    assert!(value("banner")?.as_str().is_some_and(|banner| banner.starts_with("Linux version 6.")));
    assert_eq!((value("cpus")?, value("page_table_levels")?), (2.into(), 4.into()));
    // Each module of this kernel brought types.
    assert_eq!(value("modules_with_types")?, memory.rows("linux.lsmod")?.len());
    assert!(value("symbols")?.as_i64().is_some_and(|count| count > 50_000));
    assert!(value("sure_because")?.as_str().is_some_and(|why| why.contains("map _text")));
    let boot: jiff::Timestamp = value("boot_time")?.as_str().context("no boot time")?.parse()?;
    let since = jiff::Timestamp::now().duration_since(boot);
    assert!(since.as_secs() > 0 && since.as_secs() < 600, "booted {since:?} ago");
    Ok(())
}

fn processes_are_found(memory: &Memory<'_>) -> Result<()> {
    let list = memory.rows("linux.pslist")?;
    for comm in ["init", "planted-shell", "bash", "sleep", "nc", "kthreadd"] {
        assert!(texts(&list, "comm").contains(&comm), "{comm} is not listed");
    }
    let (shell, threads) = (pid_of(&list, "planted-shell")?, pid_of(&list, "kthreadd")?);
    assert_eq!(list.iter().filter(|row| row["comm"] == "nc").count(), 3);
    let started = list.iter().find(|row| row["pid"] == shell).and_then(|row| row["creation_time"].as_str());
    let started: jiff::Timestamp = started.context("no time of start")?.parse()?;
    assert!(jiff::Timestamp::now().duration_since(started).as_secs() < 600);

    let arguments = memory.rows("linux.psaux")?;
    let of = |pid: i64| arguments.iter().find(|row| row["pid"] == pid).map(|row| row["args"].clone());
    let planted = of(shell).context("no arguments")?;
    assert!(
        planted.as_str().is_some_and(|args| args.ends_with("planted-shell --token marker-arg-91c5e7")),
        "{planted}"
    );
    // A thread of the kernel has none, which is not the same as empty ones.
    assert_eq!(of(threads).context("no row")?["absent"], "not-applicable");

    let environment = memory.rows("linux.envars")?;
    let marker = [("pid", shell.into()), ("key", "IMPOUND_PLANTED_ENV".into()), ("value", "marker-env-2b8d64".into())];
    assert!(has(&environment, &marker));
    assert!(!has(&environment, &[("pid", threads.into())]));

    let history = memory.rows("linux.bash")?;
    let typed = ["echo marker-history-d70a35", "cd /mnt/vda/evidence", "export PLANTED=typed-by-hand"];
    assert_eq!(texts(&history, "command").get(..3), Some(&typed[..]), "{history:?}");

    // Four ways to the same processes.
    let pids = |rows: &[Value]| rows.iter().filter_map(|row| row["pid"].as_i64()).collect::<BTreeSet<_>>();
    let listed = pids(&list);
    assert_eq!(pids(&memory.rows("linux.pidhashtable")?), listed);
    assert_eq!(pids(&memory.rows("linux.pstree")?), listed);
    let scanned = pids(&memory.rows("linux.psscan")?);
    assert!(listed.is_subset(&scanned), "{:?}", listed.difference(&scanned));
    let one = memory.ask(&["linux.pslist", "--pid", &shell.to_string()])?.expect(0)?.rows()?;
    assert_eq!(pids(&one), BTreeSet::from([shell]));

    let maps = memory.rows("linux.proc.maps")?;
    assert!(has(&maps, &[("pid", shell.into()), ("path", "/bin/bash".into()), ("flags", "r-xp".into())]));
    assert!(has(&maps, &[("pid", shell.into()), ("path", "[heap]".into())]));
    assert!(has(&memory.rows("linux.elfs")?, &[("pid", shell.into()), ("path", "/bin/bash".into())]));
    let may = memory.rows("linux.capabilities")?;
    assert!(has(&may, &[("pid", shell.into()), ("cap_effective", "all".into())]));
    let threads = memory.rows("linux.kthreads")?;
    assert!(has(&threads, &[("thread_name", "kthreadd".into())]) || threads.len() > 20);
    assert!(has(&threads, &[("module", "kernel".into()), ("symbol", "kjournald2".into())]));
    Ok(())
}

fn files_and_sockets_are_found(memory: &Memory<'_>) -> Result<()> {
    let files = memory.rows("linux.lsof")?;
    let deleted = [("comm", "sleep".into()), ("path", "/tmp/deleted-but-open.txt".into()), ("deleted", true.into())];
    assert!(has(&files, &deleted));
    assert_eq!(files.iter().filter(|row| row["deleted"] == true).count(), 1);
    assert!(has(&files, &[("path", "/dev/console".into()), ("type", "CHR".into()), ("deleted", false.into())]));

    let sockets = memory.rows("linux.sockstat")?;
    let listens = [("comm", "nc".into()), ("source_port", 31337.into()), ("state", "LISTEN".into())];
    assert!(has(&sockets, &listens), "{sockets:?}");
    let server = [("source_port", 40404.into()), ("state", "ESTABLISHED".into()), ("family", "AF_INET6".into())];
    assert!(has(&sockets, &server));
    let client = [
        ("source_address", "127.0.0.1".into()),
        ("destination_address", "127.0.0.1".into()),
        ("destination_port", 40404.into()),
        ("state", "ESTABLISHED".into()),
        ("family", "AF_INET".into()),
    ];
    assert!(has(&sockets, &client));

    let mounts = memory.rows("linux.mountinfo")?;
    for (point, source, kind) in
        [("/mnt/vda", "/dev/vda", "ext4"), ("/mnt/vdb", "/dev/vdb", "ext4"), ("/dev/shm", "shm", "tmpfs")]
    {
        let mount = [("mount_point", point.into()), ("mount_source", source.into()), ("fstype", kind.into())];
        assert!(has(&mounts, &mount), "{point} is not mounted: {mounts:?}");
    }
    let addresses = memory.rows("linux.ip.addr")?;
    assert!(has(&addresses, &[("interface", "eth0".into()), ("ip", "10.0.2.15".into()), ("prefix", 24.into())]));
    assert!(has(&memory.rows("linux.ip.link")?, &[("interface", "lo".into()), ("mtu", 65536.into())]));
    Ok(())
}

fn the_system_is_told(memory: &Memory<'_>) -> Result<()> {
    let modules = memory.rows("linux.lsmod")?;
    for name in ["virtio", "virtio_ring", "virtio_pci", "virtio_blk", "virtio_net"] {
        assert!(texts(&modules, "name").contains(&name), "{name} is not loaded");
    }
    let log = memory.rows("linux.kmsg")?;
    assert!(texts(&log, "line").iter().any(|line| line.contains("EXT4-fs (vda): mounted filesystem")));
    assert!(texts(&log, "line").first().is_some_and(|line| line.starts_with("Linux version")));
    assert_eq!(memory.rows("linux.boottime")?.len(), 1);
    let ranges = memory.rows("linux.iomem")?;
    assert!(texts(&ranges, "name").contains(&"System RAM") && texts(&ranges, "name").contains(&"Kernel code"));
    let note = memory.rows("linux.vmcoreinfo")?;
    assert!(has(&note, &[("key", "PAGESIZE".into()), ("value", "4096".into())]));
    let symbols = memory.rows("linux.kallsyms")?;
    assert!(has(&symbols, &[("symbol_name", "init_task".into())]));
    Ok(())
}

fn nothing_hides_in_an_innocent_guest(memory: &Memory<'_>) -> Result<()> {
    let calls = memory.rows("linux.check_syscall")?;
    assert!(calls.len() > 400 && calls.iter().all(|row| row["hooked"] == false));
    assert!(has(&calls, &[("index", 0.into()), ("handler_symbol", "__x64_sys_read".into())]));
    let interrupts = memory.rows("linux.check_idt")?;
    assert!(has(&interrupts, &[("index", 14.into()), ("symbol", "asm_exc_page_fault".into())]));
    let terminals = memory.rows("linux.tty_check")?;
    assert!(has(&terminals, &[("name", "ttyS0".into()), ("symbol", "n_tty_receive_buf".into())]));
    for rows in [interrupts, terminals, memory.rows("linux.netfilter")?] {
        assert!(rows.iter().all(|row| row["hooked"] == false), "{rows:?}");
    }
    for name in
        ["hidden_modules", "check_modules", "malfind", "keyboard_notifiers", "check_creds", "ptrace", "findings"]
    {
        assert_eq!(memory.rows(&format!("linux.{name}"))?, Vec::<Value>::new(), "{name}");
    }
    let claims = memory.rows("linux.process_spoofing")?;
    assert!(has(&claims, &[("comm", "planted-shell".into()), ("exe", "/bin/bash".into())]));
    // Volatility's own names lead to the same.
    memory.ask(&["linux.malware.check_idt"])?.expect(0)?;
    let all = memory.ask(&["all"])?.expect(0)?.rows()?;
    let named: BTreeSet<_> = all.iter().filter_map(|row| row["analyzer"].as_str()).collect();
    assert!(named.len() > 25, "{named:?}");
    Ok(())
}

fn mistakes_are_told(memory: &Memory<'_>, folder: &Path) -> Result<()> {
    memory.ask(&["linux.nonsense"])?.expect(2)?.says("no question is named `linux.nonsense`")?;
    memory.ask(&["info", "linux.pslist"])?.expect(2)?.says("asked alone")?;
    memory.ask(&["isf"])?.expect(2)?.says("--output")?;
    memory.ask(&["linux.pslist", "--regex", "x"])?.expect(2)?.says("these do: linux.vmaregexscan")?;
    memory.ask(&["linux.vmaregexscan"])?.expect(2)?.says("linux.vmaregexscan needs --regex")?;
    memory.ask(&["linux.vmaregexscan", "--regex", "("])?.expect(2)?.says("unclosed group")?;
    memory.ask(&["linux.pagecache.InodePages"])?.expect(2)?.says("needs --path or --inode")?;
    memory.ask(&["linux.pagecache.InodePages", "--inode", "zz"])?.expect(2)?.says("no hexadecimal address")?;
    memory.ask(&["linux.pagecache.InodePages", "--path", "/no/such"])?.expect(3)?.says("no such file")?;
    let csv = ["linux.pslist", "linux.lsmod", "--format", "csv"];
    let image = memory.0.display().to_string();
    let ran = Ran::of(&crate::common::run::impound().args(["memory", image.as_str()]).args(csv).output()?);
    ran.expect(2)?.says("one by one")?;
    let empty = folder.join("no-kernel.raw");
    let file = fs::File::create(&empty)?;
    file.set_len(16 << 20)?;
    let nothing = Memory(&empty).ask(&["linux.pslist"])?.expect(1)?;
    nothing.says("no Linux kernel that can be analysed")?.says("CONFIG_KALLSYMS_ALL")?;
    Ok(())
}

fn every_form_of_the_image_tells_the_same(memory: &Memory<'_>, exhibit: &Exhibit, folder: &Path) -> Result<()> {
    let names = ["linux.pslist", "linux.lsof", "linux.sockstat", "linux.mountinfo", "linux.bash"];
    let truth: Vec<_> = names.iter().map(|name| memory.rows(name)).collect::<Result<_>>()?;
    for format in ["lime", "elf"] {
        let path = folder.join(format!("memory.{format}"));
        let (from, to) = (exhibit.dir.display().to_string(), path.display().to_string());
        run(&["export", &from, "--to", format, "--output", &to])?.expect(0)?;
        for (name, truth) in names.iter().zip(&truth) {
            ensure!(Memory(&path).rows(name)? == *truth, "{name} differs in {format}");
        }
        fs::remove_file(path)?;
    }
    // As Xen would dump it: a PVH domain's memory is as a PC's, and its core has a frame for each page.
    let path = folder.join("memory.xen-core");
    fs::write(&path, xencore::pvh(&fs::read(exhibit.image())?).file)?;
    for (name, truth) in names.iter().zip(&truth) {
        ensure!(Memory(&path).rows(name)? == *truth, "{name} differs in a core of Xen");
    }
    fs::remove_file(path)?;
    Ok(())
}

fn an_isf_is_written(memory: &Memory<'_>, folder: &Path) -> Result<()> {
    let path = folder.join("isf.json");
    memory.ask(&["isf", "--output", &path.display().to_string()])?.expect(0)?;
    memory.ask(&["isf", "--output", &path.display().to_string()])?.expect(1)?.says("nothing is ever overwritten")?;
    let isf: Value = serde_json::from_slice(&fs::read(path)?)?;
    assert_eq!(isf["metadata"]["format"], "6.2.0");
    assert_eq!(isf["symbols"]["init_task"]["type"]["name"], "task_struct");
    assert!(isf["symbols"]["linux_banner"]["constant_data"].is_string());
    assert!(isf["user_types"]["task_struct"]["fields"]["comm"]["offset"].is_u64());
    Ok(())
}

/// A task and a module are taken off their lists, as a rootkit does, and a system call is led astray.
fn what_was_hidden_is_found(image: &Path) -> Result<()> {
    let image = Arc::clone(image::open(image, &image::Options::default())?.bytes());
    let kernel = find(Arc::clone(&image))?;
    let mut changes = Vec::new();
    let mut write = |at: u64, value: u64| -> Result<()> {
        let place = kernel.space.translate(at)?.physical;
        changes.extend(value.to_le_bytes().into_iter().enumerate().map(|(n, byte)| (place + n as u64, byte)));
        Ok(())
    };
    let mut unlink = |at: u64| -> Result<()> {
        let (next, previous) = (kernel.space.u64(at)?, kernel.space.u64(at + 8)?);
        write(previous, next)?;
        write(next + 8, previous)
    };
    // A type that only a module has, with a member of one that the kernel has.
    let cards = kernel.object("virtnet_info", 0)?;
    assert!(cards.has("vdev") && cards.has("dev.name") && kernel.types.size(cards.id) > 100);
    let tasks = kernel.processes(&Ask::default())?;
    let shell = tasks.iter().find(|task| task.comm().is_ok_and(|comm| comm == "planted-shell")).context("no shell")?;
    unlink(shell.0.get("tasks")?.at)?;
    let modules = kernel.list(kernel.symbol("modules")?, "module", "list")?.members;
    let card = modules.iter().find(|module| module.text("name").is_ok_and(|name| name == "virtio_net"));
    unlink(card.context("no virtio_net")?.get("list")?.at)?;
    let astray = card.context("no virtio_net")?.at;
    write(kernel.symbol("sys_call_table")? + 8 * 59, astray)?;

    let kernel = find(Arc::new(Changed::new(&image, changes)))?;
    assert!(!answers(&kernel, "linux.pslist")?.iter().any(|row| row.contains("planted-shell")));
    assert!(answers(&kernel, "linux.pidhashtable")?.iter().any(|row| row.contains("planted-shell")));
    assert!(answers(&kernel, "linux.psscan")?.iter().any(|row| row.contains("planted-shell")));
    for name in ["linux.hidden_modules", "linux.check_modules"] {
        assert!(answers(&kernel, name)?.iter().any(|row| row.contains("virtio_net")), "{name}");
    }
    let findings = answers(&kernel, "linux.findings")?;
    let finding = |what: &str, who: &str| findings.iter().any(|row| row.contains(what) && row.contains(who));
    assert!(finding("hidden task", "planted-shell"), "{findings:?}");
    assert!(finding("hidden module", "virtio_net"), "{findings:?}");
    assert!(finding("hooked system call", "64bit call 59"), "{findings:?}");
    Ok(())
}

/// Memory of which one page is at first not as it should be.
struct Torn {
    sound: Arc<dyn ReadAt>,
    broken: Changed,
    page: u64,
    /// How often the page is still read as it should not be.
    left: AtomicU64,
}

impl ReadAt for Torn {
    fn len(&self) -> u64 {
        self.sound.len()
    }

    fn read_at(&self, at: u64, into: &mut [u8]) -> Result<(), ReadError> {
        let here = (at..at + into.len() as u64).contains(&self.page);
        let torn = here && self.left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok();
        if torn { self.broken.read_at(at, into) } else { self.sound.read_at(at, into) }
    }
}

/// The first process is read with a pointer to the list's end, as if it had just been freed and used again: no walk would notice by itself.
fn a_torn_walk_is_tried_again(image: &Path) -> Result<()> {
    let image = Arc::clone(image::open(image, &image::Options::default())?.bytes());
    let kernel = find(Arc::clone(&image))?;
    let truth = settle(&kernel, Ask::default, pslist::run);
    assert!(truth.tries == 1 && truth.rows.len() > 40, "{} rows", truth.rows.len());
    let head = kernel.global("init_task", "task_struct")?.get("tasks")?.at;
    let first = kernel.list(head, "task_struct", "tasks")?.members[10].get("tasks")?.at;
    let place = kernel.space.translate(first)?.physical;
    let changes: Vec<(u64, u8)> = (place..).zip(head.to_le_bytes()).collect();
    for (times, tries) in [(0, 1), (1, 2), (3, 4), (u64::MAX, 5)] {
        let torn = Changed::new(&image, changes.clone());
        let torn = Torn { sound: Arc::clone(&image), broken: torn, page: place & !4095, left: AtomicU64::new(0) };
        let torn = Arc::new(torn);
        let kernel = find(Arc::clone(&torn) as Arc<dyn ReadAt>)?.running();
        torn.left.store(times, Relaxed);
        let settled = settle(&kernel, Ask::default, pslist::run);
        assert_eq!(settled.tries, tries, "{times} times broken: {:?}", settled.notes);
        if times == u64::MAX {
            assert_eq!(settled.rows.len(), 11);
            assert!(settled.notes[0].contains("it changed while it was read"), "{:?}", settled.notes);
        } else {
            assert!(settled.rows == truth.rows && settled.notes.is_empty(), "{times} times torn");
        }
    }
    Ok(())
}

/// Whatever a damaged kernel answers, errors too, it answers soon.
fn ask_everything(kernel: &Kernel, what: &str) {
    for analyzer in analyzer::ALL.iter().filter(|analyzer| analyzer.name != "linux.kallsyms") {
        let begun = Instant::now();
        let _ = answers(kernel, analyzer.name);
        let took = begun.elapsed();
        assert!(took < Duration::from_secs(20), "{what}: {} took {took:?}", analyzer.name);
    }
}

/// Lengths and counts that claim far more than there is: the walks that trust them must end.
fn claims_without_end_are_bounded(image: &Path) -> Result<()> {
    let image = Arc::clone(image::open(image, &image::Options::default())?.bytes());
    let kernel = find(Arc::clone(&image))?;
    let tasks = kernel.processes(&Ask::default())?;
    let shell = tasks.iter().find(|task| task.comm().is_ok_and(|comm| comm == "bash")).context("no bash")?;
    let mut claims = vec![("max_fds", shell.0.get("files.fdt.max_fds")?.at, 0x7fff_ffff_u64, 4)];
    let ring = kernel.object("printk_ringbuffer", kernel.space.u64(kernel.symbol("prb")?)?)?;
    claims.push(("records of the log", ring.get("desc_ring.count_bits")?.at, 40, 4));
    claims.push(("newest record", ring.get("desc_ring.head_id.counter")?.at, u64::MAX >> 3, 8));
    claims.push(("end of the arguments", shell.0.get("mm.arg_end")?.at, u64::MAX >> 2, 8));
    for range in kernel.maple(shell.0.get("mm.mm_mt")?)? {
        let range = kernel.object("vm_area_struct", range)?;
        claims.push(("end of a range", range.get("vm_end")?.at, (1 << 57) - 4096, 8));
        // Writable, executable, and as long as the address space.
        claims.push(("flags of a range", range.get("vm_flags")?.at, 7, 8));
    }
    let change = |claims: &[(&str, u64, u64, usize)]| -> Result<Changed> {
        let mut bytes = Vec::new();
        for (_, at, value, len) in claims {
            let place = kernel.space.translate(*at)?.physical;
            bytes.extend(
                value.to_le_bytes().into_iter().take(*len).enumerate().map(|(n, byte)| (place + n as u64, byte)),
            );
        }
        Ok(Changed::new(&image, bytes))
    };
    for claim in &claims {
        ask_everything(&find(Arc::new(change(std::slice::from_ref(claim))?))?, claim.0);
    }
    ask_everything(&find(Arc::new(change(&claims)?))?, "all claims at once");
    Ok(())
}

/// Bits of the pages that analysis looks at are flipped, some a run, and everything is asked.
fn damage_neither_panics_nor_hangs(image: &Path) -> Result<()> {
    let image = Arc::clone(image::open(image, &image::Options::default())?.bytes());
    let sound = Arc::new(Changed::new(&image, Vec::new()));
    let kernel = find(Arc::clone(&sound) as Arc<dyn ReadAt>)?;
    for analyzer in analyzer::ALL {
        answers(&kernel, analyzer.name)?;
    }
    let pages: Vec<u64> = sound.seen.lock().unwrap().iter().copied().collect();
    assert!(pages.len() > 100, "{}", pages.len());

    let (begun, mut state) = (Instant::now(), 0x9e37_79b9_7f4a_7c15_u64);
    let mut random = move |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };
    let (mut runs, mut found) = (0, 0);
    while runs < 300 && begun.elapsed() < Duration::from_secs(60) {
        let flips = 1 << random(12);
        let mut changes = Vec::new();
        for _ in 0..flips {
            let at = pages[usize::try_from(random(pages.len() as u64))?] * 4096 + random(4096);
            let mut byte = [0];
            image.read_at(at, &mut byte)?;
            changes.push((at, byte[0] ^ 1 << random(8)));
        }
        if let Ok(kernel) = find(Arc::new(Changed::new(&image, changes))) {
            found += 1;
            ask_everything(&kernel, &format!("run {runs}"));
        }
        runs += 1;
    }
    assert!(runs >= 20 && found > 0, "{runs} runs, {found} of them with a kernel");
    eprintln!("{runs} damaged images in {:?}, {found} of them with a kernel", begun.elapsed());
    Ok(())
}
