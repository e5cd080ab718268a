//! The questions that can be asked: each a record in [`ALL`]. Adding one is a file and a row.

use crate::memory::Outcome;
use crate::memory::linux::{Ask, Kernel};
use crate::report::{Column, Rows};

use crate::memory::linux::{
    bash, boottime, capabilities, check_syscall, elfs, envars, fbdev, findings, hidden_modules, hooks, ip, kmsg,
    kthreads, lsmod, lsof, malfind, maps, module_extract, mountinfo, namespaces, pagecache, pidhashtable, psaux,
    pscallstack, pslist, psscan, pstree, sockets, sockscan, strings, suspects, tables, tracing, vmaregexscan, yarascan,
};

/// One question.
pub struct Analyzer {
    /// Its name, as on the command line; Volatility's for the same question.
    pub name: &'static str,
    /// What it answers, in one line.
    pub about: &'static str,
    /// The columns of its rows.
    pub columns: &'static [Column],
    /// How it is answered; the variant says of what.
    pub run: Run,
    /// It looks through all of memory: several such share one pass ([`Kernel::look_around`]).
    pub scans: bool,
    /// What it looks at besides `--pid` and `--threads`.
    pub takes: &'static [Takes],
    /// What it cannot do without: `all` leaves it out where that is not given. One of several is enough.
    pub needs: &'static [Takes],
}

/// An argument that only some questions look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Takes {
    /// A file of the guest.
    Path,
    /// The address of an inode.
    Inode,
    /// The name of a module.
    Name,
    /// A pattern.
    Regex,
    /// Places and texts.
    Strings,
    /// Rules of YARA.
    Rules,
    /// A folder for files.
    Output,
}

impl Takes {
    /// As on the command line.
    pub fn flag(self) -> &'static str {
        match self {
            Self::Path => "--path",
            Self::Inode => "--inode",
            Self::Name => "--name",
            Self::Regex => "--regex",
            Self::Strings => "--strings",
            Self::Rules => "--rules",
            Self::Output => "--output",
        }
    }
}

impl Analyzer {
    const fn scanning(mut self) -> Self {
        self.scans = true;
        self
    }

    const fn taking(mut self, takes: &'static [Takes]) -> Self {
        self.takes = takes;
        self
    }

    const fn needing(mut self, needs: &'static [Takes]) -> Self {
        self.needs = needs;
        self
    }
}

/// What an analyzer needs, and how it is called.
#[derive(Clone, Copy)]
pub enum Run {
    /// The kernel of a Linux guest.
    Linux(fn(&Kernel, &Ask, &mut dyn Rows) -> Outcome<()>),
}

const fn linux(
    name: &'static str,
    about: &'static str,
    columns: &'static [Column],
    run: fn(&Kernel, &Ask, &mut dyn Rows) -> Outcome<()>,
) -> Analyzer {
    Analyzer { name, about, columns, run: Run::Linux(run), scans: false, takes: &[], needs: &[] }
}

/// All of them, in the order in which `all` asks.
pub static ALL: &[Analyzer] = &[
    linux("linux.pslist", "processes of the kernel's list", pslist::COLUMNS, pslist::run),
    linux("linux.pstree", "the same, each below its parent", pstree::COLUMNS, pstree::run),
    linux("linux.psaux", "what each process was started with", psaux::COLUMNS, psaux::run),
    linux("linux.envars", "the environment each process was started with", envars::COLUMNS, envars::run),
    linux("linux.lsmod", "modules of the kernel's list", lsmod::COLUMNS, lsmod::run),
    linux("linux.lsof", "open files of each process", lsof::COLUMNS, lsof::run).taking(&[Takes::Output]),
    linux("linux.proc.maps", "what each process has mapped", maps::COLUMNS, maps::run).taking(&[Takes::Output]),
    linux("linux.sockstat", "sockets of each process", sockets::COLUMNS, sockets::run),
    linux("linux.mountinfo", "mounts of each namespace", mountinfo::COLUMNS, mountinfo::run),
    linux("linux.namespaces", "which view of the system each process has", namespaces::COLUMNS, namespaces::run),
    linux("linux.kmsg", "the kernel's log", kmsg::COLUMNS, kmsg::run),
    linux("linux.bash", "what was typed into shells", bash::COLUMNS, bash::run),
    linux("linux.boottime", "when the guest was booted", boottime::COLUMNS, boottime::run),
    linux("linux.kthreads", "threads of the kernel and what they run", kthreads::COLUMNS, kthreads::run),
    linux("linux.psscan", "processes anywhere in memory, listed or not", psscan::COLUMNS, psscan::run).scanning(),
    linux("linux.pidhashtable", "processes of the table of numbers", pidhashtable::COLUMNS, pidhashtable::run),
    linux("linux.capabilities", "what each process may do", capabilities::COLUMNS, capabilities::run),
    linux(
        "linux.check_syscall",
        "tables of system calls, and what they lead to",
        check_syscall::COLUMNS,
        check_syscall::run,
    ),
    linux(
        "linux.check_modules",
        "modules that sysfs shows and the list does not",
        hidden_modules::COLUMNS,
        hidden_modules::run_check,
    ),
    linux(
        "linux.hidden_modules",
        "modules that are anywhere but in the list",
        hidden_modules::COLUMNS,
        hidden_modules::run,
    ),
    linux("linux.malfind", "executable memory of programs without a file", malfind::COLUMNS, malfind::run),
    linux("linux.elfs", "ELF files mapped into each process", elfs::COLUMNS, elfs::run).taking(&[Takes::Output]),
    linux("linux.library_list", "shared objects mapped into each process", elfs::LIBRARIES, elfs::libraries),
    linux("linux.ip.addr", "addresses of network cards", ip::ADDRESSES, ip::addresses),
    linux("linux.ip.link", "network cards", ip::LINKS, ip::links),
    linux("linux.iomem", "the machine's ranges of physical addresses", tables::IOMEM, tables::iomem),
    linux("linux.vmcoreinfo", "the kernel's crash note", tables::VMCOREINFO, tables::vmcoreinfo),
    linux("linux.kallsyms", "symbols of the kernel", tables::KALLSYMS, tables::kallsyms),
    linux("linux.check_idt", "handlers of interrupts, and whose they are", hooks::IDT, hooks::check_idt),
    linux("linux.tty_check", "what terminals call with what is typed", hooks::TTY, hooks::tty_check),
    linux("linux.keyboard_notifiers", "who is told of each key", hooks::KEYBOARD, hooks::keyboard_notifiers),
    linux("linux.netfilter", "who sees, changes or drops packets", hooks::NETFILTER, hooks::netfilter),
    linux("linux.check_creds", "credentials that processes share", suspects::CREDS, suspects::check_creds),
    linux(
        "linux.process_spoofing",
        "what each process claims to be and what it runs",
        suspects::SPOOFING,
        suspects::process_spoofing,
    ),
    linux("linux.ptrace", "who traces whom", suspects::PTRACE, suspects::ptrace),
    linux("linux.pagecache.Files", "files that the kernel knows of", pagecache::FILES, pagecache::list)
        .taking(&[Takes::Path, Takes::Inode]),
    linux("linux.pagecache.InodePages", "what of one file is in memory", pagecache::PAGES, pagecache::pages)
        .taking(&[Takes::Path, Takes::Inode, Takes::Output])
        .needing(&[Takes::Path, Takes::Inode]),
    linux("linux.pagecache.RecoverFs", "everything that is in memory of files", pagecache::FILES, pagecache::recover)
        .taking(&[Takes::Output])
        .needing(&[Takes::Output]),
    linux("linux.sockscan", "sockets anywhere in memory, open or not", sockscan::COLUMNS, sockscan::run).scanning(),
    linux("linux.modxview", "each module, and where it is known", hidden_modules::VIEW, hidden_modules::view),
    linux("linux.check_afinfo", "what is called to list sockets", hooks::AFINFO, hooks::check_afinfo),
    linux("linux.ebpf", "programs of BPF that are loaded", tracing::EBPF, tracing::ebpf),
    linux("linux.tracing.ftrace", "who is called when functions of the kernel begin", tracing::FTRACE, tracing::ftrace),
    linux(
        "linux.tracing.tracepoints",
        "who is called at the kernel's own marks",
        tracing::TRACEPOINTS,
        tracing::tracepoints,
    ),
    linux(
        "linux.tracing.perf_events",
        "performance events, and the programs they run",
        tracing::PERF,
        tracing::perf_events,
    ),
    linux("linux.pscallstack", "where each thread waits in the kernel", pscallstack::COLUMNS, pscallstack::run),
    linux("linux.graphics.fbdev", "screens that the kernel draws on", fbdev::COLUMNS, fbdev::run)
        .taking(&[Takes::Output]),
    linux("linux.module_extract", "modules as files again", module_extract::COLUMNS, module_extract::run)
        .taking(&[Takes::Name, Takes::Output]),
    linux("linux.vmaregexscan", "where a pattern stands in programs", vmaregexscan::COLUMNS, vmaregexscan::run)
        .taking(&[Takes::Regex])
        .needing(&[Takes::Regex]),
    linux("linux.vmayarascan", "where rules match in programs", yarascan::RANGES, yarascan::ranges)
        .taking(&[Takes::Rules])
        .needing(&[Takes::Rules]),
    linux("yarascan", "where rules match in all of memory", yarascan::IMAGE, yarascan::image)
        .taking(&[Takes::Rules])
        .needing(&[Takes::Rules]),
    linux("linux.strings", "whose memory a place of the image is", strings::COLUMNS, strings::run)
        .taking(&[Takes::Strings, Takes::Regex])
        .needing(&[Takes::Strings, Takes::Regex]),
    linux("linux.findings", "what a responder looks at first", findings::COLUMNS, findings::run).scanning(),
];

/// The one of this name.
pub fn by_name(name: &str) -> Option<&'static Analyzer> {
    ALL.iter().find(|analyzer| analyzer.name == name)
}
