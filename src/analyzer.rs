//! The questions that can be asked: each a record in [`ALL`]. Adding one is a file and a row.

use crate::memory::Outcome;
use crate::memory::linux::{Ask, Kernel};
use crate::report::{Column, Rows};

use crate::memory::linux::{
    bash, boottime, capabilities, check_syscall, elfs, envars, findings, hidden_modules, hooks, ip, kmsg, kthreads,
    lsmod, lsof, malfind, maps, mountinfo, namespaces, pidhashtable, psaux, pslist, psscan, pstree, sockets, suspects,
    tables,
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
}

impl Analyzer {
    const fn scanning(self) -> Self {
        Self { scans: true, ..self }
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
    Analyzer { name, about, columns, run: Run::Linux(run), scans: false }
}

/// All of them, in the order in which `all` asks.
pub static ALL: &[Analyzer] = &[
    linux("linux.pslist", "processes of the kernel's list", pslist::COLUMNS, pslist::run),
    linux("linux.pstree", "the same, each below its parent", pstree::COLUMNS, pstree::run),
    linux("linux.psaux", "what each process was started with", psaux::COLUMNS, psaux::run),
    linux("linux.envars", "the environment each process was started with", envars::COLUMNS, envars::run),
    linux("linux.lsmod", "modules of the kernel's list", lsmod::COLUMNS, lsmod::run),
    linux("linux.lsof", "open files of each process", lsof::COLUMNS, lsof::run),
    linux("linux.proc.maps", "what each process has mapped", maps::COLUMNS, maps::run),
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
    linux("linux.elfs", "ELF files mapped into each process", elfs::COLUMNS, elfs::run),
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
    linux("linux.findings", "what a responder looks at first", findings::COLUMNS, findings::run).scanning(),
];

/// The one of this name.
pub fn by_name(name: &str) -> Option<&'static Analyzer> {
    ALL.iter().find(|analyzer| analyzer.name == name)
}
