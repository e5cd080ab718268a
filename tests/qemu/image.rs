//! What QEMU itself writes: one stopped VM, dumped in every form, reads like `pmemsave` in each of them.
//!
//! No guest is booted: the firmware runs, and what it leaves in RAM is content enough, with a few bytes more written into
//! it from outside. The VMs have so much RAM that a part of it lies above 4 GiB; it is never touched, so it costs nothing.

#[path = "../image/kit.rs"]
#[allow(dead_code, reason = "other tests ask more of it")]
mod kit;

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use impound::image::{Content, Image, Kind, ReadError, map};
use impound_backends::Why;
use serde_json::{Value, json};

use crate::common::control::Control;

/// A stopped VM. Dropping it ends QEMU.
struct Vm {
    qemu: Child,
    control: Control,
    folder: tempfile::TempDir,
    /// Ranges of RAM, below the VGA window, behind it, and above 4 GiB.
    ram: Vec<(u64, u64)>,
}

impl Drop for Vm {
    fn drop(&mut self) {
        let _ended = self.qemu.kill();
        let _reaped = self.qemu.wait();
    }
}

fn wait(what: &str, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < Duration::from_secs(60), "waited for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

impl Vm {
    /// RAM is a sparse file of ours: marks are put into it directly, at both sides of each border.
    fn start(machine: &str, mib: u64, low_mib: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (socket, ram) = (folder.path().join("qmp.sock"), folder.path().join("ram"));
        let mut command = Command::new("qemu-system-x86_64");
        command.args(["-machine", &format!("{machine},memory-backend=pc.ram"), "-accel", "tcg", "-display", "none"]);
        command.args(["-m", &mib.to_string(), "-smp", "2", "-nic", "none", "-nodefaults", "-device", "VGA", "-S"]);
        let backend = format!("memory-backend-file,id=pc.ram,size={mib}M,share=on,mem-path={}", ram.display());
        command.args(["-object", &backend, "-qmp", &format!("unix:{},server=on,wait=off", socket.display())]);
        let said = folder.path().join("firmware");
        command.args(["-chardev", &format!("file,id=said,path={}", said.display())]);
        command.args(["-device", "isa-debugcon,iobase=0x402,chardev=said"]);
        let mut qemu = command.stdin(Stdio::null()).stderr(Stdio::inherit()).spawn().expect("scripts/install test");
        wait("QEMU's socket", || socket.exists() || qemu.try_wait().unwrap().is_some());
        let mut control = Control::connect(&socket).unwrap();
        // The firmware opens and closes windows over RAM until it looks for something to boot; it says so on its debug port.
        control.execute("cont", &json!({})).unwrap();
        wait("the firmware", || fs::read_to_string(&said).is_ok_and(|text| text.contains("No bootable device")));
        control.execute("stop", &json!({})).unwrap();
        let (low, all) = (low_mib << 20, mib << 20);
        let file = fs::File::options().write(true).open(&ram).unwrap();
        let content = kit::content(300_000);
        for at in [0x10_0000, low - 300_000, low, all - 300_000] {
            file.write_all_at(&content, at.min(all - 300_000)).unwrap();
        }
        let mut ranges = vec![(0, 0xa_0000), (0x10_0000, low)];
        if all > low {
            ranges.push((1 << 32, (1 << 32) + all - low));
        }
        Self { qemu, control, folder, ram: ranges }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn execute(&mut self, command: &str, arguments: &Value) -> Value {
        self.control.execute(command, arguments).unwrap()
    }

    fn dump(&mut self, name: &str, format: &str) -> PathBuf {
        let path = self.path(name);
        let arguments = json!({ "paging": false, "protocol": format!("file:{}", path.display()), "format": format });
        self.execute("dump-guest-memory", &arguments);
        path
    }

    fn migrate(&mut self, uri: &str, mapped: bool) {
        let capability = json!({ "capabilities": [{ "capability": "mapped-ram", "state": mapped }] });
        self.execute("migrate-set-capabilities", &capability);
        self.execute("migrate-set-parameters", &json!({ "max-bandwidth": 0 }));
        self.execute("migrate", &json!({ "uri": uri }));
        let begun = Instant::now();
        loop {
            let status = self.execute("query-migrate", &json!({}));
            match status["status"].as_str() {
                Some("completed") => return,
                Some("failed" | "cancelled") => panic!("{status}"),
                _ => assert!(begun.elapsed() < Duration::from_secs(120), "{status}"),
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// QEMU's own view of some ranges of memory.
    fn truth(&mut self) -> Vec<(u64, Vec<u8>)> {
        let mut all = Vec::new();
        for (begin, end) in self.ram.clone() {
            for at in [begin, end.saturating_sub(1 << 20).max(begin)] {
                let size = (end - at).min(1 << 20);
                let path = self.path("truth");
                self.execute("pmemsave", &json!({ "val": at, "size": size, "filename": path }));
                all.push((at, fs::read(&path).unwrap()));
            }
        }
        let path = self.path("truth");
        self.execute("pmemsave", &json!({ "val": 0xf_0000, "size": 0x1_0000, "filename": path }));
        all.push((0xf_0000, fs::read(&path).unwrap()));
        assert!(all.iter().filter(|(_, bytes)| bytes.iter().any(|&byte| byte != 0)).count() >= 4);
        all
    }
}

/// The image holds what QEMU shows, and nothing between the ranges.
fn agrees(image: &Image, truth: &[(u64, Vec<u8>)], vm: &Vm, what: &str) {
    assert_eq!(image.content(), Content::Memory, "{what}");
    for (at, want) in truth {
        let mut found = vec![0xee; want.len()];
        image.bytes().read_at(*at, &mut found).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert!(found == *want, "{what}: the {} bytes at {at:#x} differ", want.len());
    }
    for at in [0xa_0000, 0xb_ffff] {
        let gap = image.bytes().read_at(at, &mut [0]).unwrap_err();
        assert!(matches!(gap.root(), ReadError::Gap { why: Why::NotRam, .. }), "{what}: {gap}");
    }
    let extents: Vec<_> = map::walk(image.bytes().as_ref(), 0..image.bytes().len()).map(Result::unwrap).collect();
    assert!(!extents.iter().any(|e| matches!(&e.kind, Kind::Gap(Why::Unreadable(_)))), "{what}: {extents:?}");
    let there = |at: u64| extents.iter().any(|e| e.at <= at && at < e.end() && !matches!(e.kind, Kind::Gap(_)));
    for &(begin, end) in &vm.ram {
        assert!(there(begin) && there(end - 1), "{what}: {begin:#x} to {end:#x}");
    }
    let (.., last) = vm.ram.last().unwrap();
    assert!(!there(*last), "{what}: memory behind {last:#x}");
    assert!(*last > 1 << 32, "the hole is not crossed");
    assert!(!there(vm.ram[1].1), "{what}: the hole for devices");
}

fn has_registers(image: &Image) {
    let cpus = &image.machine().unwrap().cpus;
    assert_eq!(cpus.len(), 2);
    assert!(cpus.iter().all(|cpu| cpu.cr0.is_some() && cpu.cr3.is_some() && cpu.cr4.is_some() && cpu.idt.is_some()));
    assert_eq!(cpus[0].cr0.unwrap() & 0x10, 0x10, "CR0.ET is always set");
}

/// libvirt's header and some XML in front of a stream (`qemu_saveimage.h`).
fn libvirt_save(stream: &Path, into: &Path, format: u32) {
    let xml = b"<domain type='qemu'><name>suspect</name><uuid>6a2f1c7e-0d94-4b3e-9a51-2c8e7f40b6d3</uuid></domain>\0";
    let mut file = b"LibvirtQemudSave".to_vec();
    for word in [2, u32::try_from(xml.len()).unwrap(), 1, format, 0] {
        file.extend_from_slice(&u32::to_le_bytes(word));
    }
    file.resize(92, 0);
    file.extend_from_slice(xml);
    file.extend_from_slice(&fs::read(stream).unwrap());
    fs::write(into, file).unwrap();
}

fn every_form(machine: &str, mib: u64, low_mib: u64) {
    let mut vm = Vm::start(machine, mib, low_mib);
    let truth = vm.truth();
    let elf = vm.dump("dump.elf", "elf");
    let image = kit::open(&elf);
    assert_eq!(kit::wrappings(&image), ["elf"]);
    agrees(&image, &truth, &vm, "ELF");
    has_registers(&image);
    fs::remove_file(elf).unwrap();

    for format in ["kdump-zlib", "kdump-raw-zlib"] {
        let path = vm.dump(format, format);
        let image = kit::open(&path);
        let flat = image.layers().len() == 2;
        assert_eq!(flat, format == "kdump-zlib", "{:?}", kit::wrappings(&image));
        assert_eq!(*kit::wrappings(&image).last().unwrap(), "kdump");
        agrees(&image, &truth, &vm, format);
        has_registers(&image);
        if flat {
            // What makedumpfile puts together again is what we see through.
            let raw = vm.path("rearranged");
            let input = fs::File::open(&path).unwrap();
            let done =
                Command::new("makedumpfile").arg("-R").arg(&raw).stdin(input).output().expect("scripts/install test");
            assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
            agrees(&kit::open(&raw), &truth, &vm, "kdump-zlib rearranged by makedumpfile");
        }
    }

    let path = vm.path("stream");
    vm.migrate(&format!("exec:cat > {}", path.display()), false);
    let image = kit::open(&path);
    assert_eq!(kit::wrappings(&image), ["qemu-migration"]);
    agrees(&image, &truth, &vm, "stream");
    let saved = vm.path("saved");
    libvirt_save(&path, &saved, 0);
    let image = kit::open(&saved);
    assert_eq!(kit::wrappings(&image), ["libvirt-save", "qemu-migration"]);
    agrees(&image, &truth, &vm, "libvirt save");
    libvirt_save(&path, &saved, 1);
    let error = kit::explore(&saved).unwrap_err();
    assert!(error.to_string().contains("compressed with gzip"), "{error}");
    cut_streams_are_named(&path);
}

fn cut_streams_are_named(path: &Path) {
    let all = fs::read(path).unwrap();
    let cut = path.with_extension("cut");
    for len in [5, 9, 40, 200, 5000, 100_000] {
        fs::write(&cut, &all[..len]).unwrap();
        let error = kit::explore(&cut).unwrap_err();
        assert!(matches!(error.root(), ReadError::Corrupt { .. } | ReadError::Unsupported { .. }), "{len}: {error}");
    }
}

fn mapped_ram(machine: &str, mib: u64, low_mib: u64) {
    let mut vm = Vm::start(machine, mib, low_mib);
    let truth = vm.truth();
    let path = vm.path("mapped");
    vm.migrate(&format!("file:{}", path.display()), true);
    let image = kit::open(&path);
    assert_eq!(kit::wrappings(&image), ["qemu-migration"]);
    agrees(&image, &truth, &vm, "mapped-ram");

    // As libvirt's sparse form: the stream begins at a page, and its offsets count from the beginning of the file.
    let saved = vm.path("saved");
    vm.execute("cont", &json!({}));
    vm.execute("stop", &json!({}));
    let truth = vm.truth();
    vm.migrate(&format!("file:{},offset=0x1000", saved.display()), true);
    let mut head = b"LibvirtQemudSave".to_vec();
    for word in [3_u32, 0, 1, 6, 0] {
        head.extend_from_slice(&word.to_le_bytes());
    }
    fs::File::options().write(true).open(&saved).unwrap().write_all_at(&head, 0).unwrap();
    let image = kit::open(&saved);
    assert_eq!(kit::wrappings(&image), ["libvirt-save"]);
    agrees(&image, &truth, &vm, "libvirt sparse");
}

/// A kernel's core as `/proc/vmcore` shows it: makedumpfile wants its program headers behind the ELF header, VMCOREINFO, and
/// the virtual addresses of the direct map, none of which QEMU's own dump has.
fn vmcore(raw: &[u8], into: &Path) {
    let texts = raw.windows(10).enumerate().filter(|(_, text)| text == b"OSRELEASE=").map(|(at, _)| at);
    let text = |at: usize| &raw[at..at + raw[at..].iter().position(|&byte| byte == 0).unwrap()];
    let info = texts.map(text).max_by_key(|text| text.len()).unwrap();
    let mut note = Vec::new();
    for word in [11, u32::try_from(info.len()).unwrap(), 0] {
        note.extend_from_slice(&word.to_le_bytes());
    }
    note.extend_from_slice(b"VMCOREINFO\0\0");
    note.extend_from_slice(info);
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x04\0\x3e\0\x01\0\0\0".to_vec();
    let le = |words: &[u64]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>();
    file.extend_from_slice(&le(&[0, 64, 0]));
    file.extend_from_slice(&[0, 0, 0, 0, 64, 0, 56, 0, 3, 0, 0, 0, 0, 0, 0, 0]);
    let mut header = |kind: u64, from: u64, at: u64, len: usize| {
        file.extend_from_slice(&le(&[kind, from, 0xffff_8880_0000_0000 + at, at, len as u64, len as u64, 4096]));
    };
    let low = 0xa_0000 - 0x1000;
    header(4, 4096, 0, note.len());
    header(1, 16384, 0x1000, low);
    header(1, 16384 + low as u64, 0x10_0000, raw.len() - 0x10_0000);
    file.resize(4096, 0);
    file.extend_from_slice(&note);
    file.resize(16384, 0);
    file.extend_from_slice(&raw[0x1000..0xa_0000]);
    file.extend_from_slice(&raw[0x10_0000..]);
    fs::write(into, file).unwrap();
}

/// All that the image says it has is as in `raw`; answers how much that is, and how much it calls unreadable.
fn is_part_of(image: &Image, raw: &[u8]) -> map::Totals {
    let mut totals = map::Totals::default();
    let mut buffer = vec![0; 1 << 20];
    for extent in map::walk(image.bytes().as_ref(), 0..image.bytes().len()).map(Result::unwrap) {
        totals.add(&extent);
        let (mut at, end) = (extent.at, extent.end());
        while at < end && !matches!(extent.kind, Kind::Gap(_)) {
            let part = &mut buffer[..usize::try_from((end - at).min(1 << 20)).unwrap()];
            image.bytes().read_at(at, part).unwrap_or_else(|error| panic!("{error}"));
            let from = usize::try_from(at).unwrap();
            assert!(part == &raw[from..from + part.len()], "the bytes at {at:#x} differ");
            at += part.len() as u64;
        }
    }
    totals
}

/// Debian's makedumpfile is built without Snappy and Zstandard and stores pages as they are if asked for those.
#[test]
fn what_makedumpfile_makes_of_a_guests_dump_is_read() {
    let guest = crate::common::guest::Guest::boot(&crate::common::guest::Spec::new("linux-small")).unwrap();
    let path = |name: &str| guest.folder().join(name);
    let arguments = json!({ "val": 0, "size": 256 << 20, "filename": path("raw") });
    guest.control().execute("stop", &json!({})).unwrap();
    guest.control().execute("pmemsave", &arguments).unwrap();
    guest.kill().unwrap();
    let raw = fs::read(path("raw")).unwrap();
    vmcore(&raw, &path("vmcore"));
    let all = (256 << 20) - 0x6_1000;
    let image = kit::open(&path("vmcore"));
    assert_eq!(is_part_of(&image, &raw).data, all);
    let release = image.layers()[0].facts.iter().find(|(name, _)| *name == "kernel release").unwrap();
    assert!(release.1.starts_with("6.1."), "{release:?}");

    for (options, wrappings, compression) in [
        (&["-c", "-d", "0"][..], &["kdump"][..], "zlib"),
        (&["-l", "-d", "0"], &["kdump"], "lzo"),
        (&["-l", "-d", "31"], &["kdump"], "lzo"),
        (&["-E", "-d", "31"], &["elf"], ""),
        (&["-F", "-c", "-d", "1"], &["flattened", "kdump"], "zlib"),
    ] {
        let made = path("made");
        let mut command = Command::new("makedumpfile");
        command.args(options).arg(path("vmcore"));
        if options[0] == "-F" {
            command.stdout(fs::File::create(&made).unwrap());
        } else {
            command.arg("-f").arg(&made);
        }
        let done = command.stderr(Stdio::piped()).output().expect("scripts/install test");
        assert!(done.status.success(), "{options:?}: {}", String::from_utf8_lossy(&done.stderr));
        let image = kit::open(&made);
        assert_eq!(kit::wrappings(&image), wrappings);
        let layer = image.layers().last().unwrap();
        assert!(compression.is_empty() || layer.facts.contains(&("compression", compression.to_owned())), "{layer:?}");
        let totals = is_part_of(&image, &raw);
        assert_eq!(totals.data + totals.unreadable, all, "{options:?}: {totals:?}");
        assert_eq!(totals.unreadable > 0, options.last() == Some(&"31"), "{options:?}: {totals:?}");
    }
}

#[test]
fn each_form_of_a_pc_reads_alike() {
    every_form("pc", 3840, 3072);
}

#[test]
fn each_form_of_a_q35_reads_alike() {
    every_form("q35", 3072, 2048);
}

#[test]
fn a_mapped_ram_file_of_a_q35_reads_alike() {
    mapped_ram("q35", 3072, 2048);
}
