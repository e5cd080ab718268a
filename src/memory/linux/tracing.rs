//! `linux.tracing.ftrace`, `linux.tracing.tracepoints`, `linux.tracing.perf_events` and `linux.ebpf`: who is called while the kernel runs.
//!
//! Source: `ftrace_ops_list` with the functions each entry is for (`kernel/trace/ftrace.c`), the tracepoints of the kernel and of its modules
//! with their probes (`struct tracepoint`), the performance events of each task, and `prog_idr`, all programs of BPF that are loaded.

use jiff::SignedDuration;

use super::super::cells::{address, cell, int, some_text, text, uint};
use super::super::{MemoryError, Outcome};
use super::owners::Owners;
use super::{Ask, Kernel, Object, lsmod};
use crate::report::{Cell, Column, Rows};

/// Columns of `linux.tracing.ftrace`.
pub const FTRACE: &[Column] = &[
    Column("ftrace_ops_address"),
    Column("callback"),
    Column("callback_address"),
    Column("hooked_symbols"),
    Column("module"),
    Column("module_address"),
    Column("flags"),
];
/// Columns of `linux.tracing.tracepoints`.
pub const TRACEPOINTS: &[Column] = &[
    Column("tracepoint"),
    Column("tracepoint_address"),
    Column("probe"),
    Column("probe_address"),
    Column("probe_priority"),
    Column("module"),
    Column("module_address"),
];
/// Columns of `linux.tracing.perf_events`.
pub const PERF: &[Column] = &[
    Column("pid"),
    Column("process"),
    Column("event"),
    Column("short_program_name"),
    Column("full_name"),
    Column("address"),
];
/// Columns of `linux.ebpf`.
pub const EBPF: &[Column] =
    &[Column("address"), Column("name"), Column("tag"), Column("type"), Column("loaded"), Column("uid")];

/// Entries of `ftrace_ops_list`, and functions of one of them.
const MOST_OPS: usize = 4096;
const MOST_FUNCTIONS: usize = 1 << 17;
/// Tracepoints of one table, and probes of one.
const MOST_POINTS: u64 = 1 << 16;
const MOST_PROBES: u64 = 256;

/// Bits of `ftrace_ops.flags`, in their order (`include/linux/ftrace.h`, `FTRACE_OPS_FL_…`).
const FLAGS: [&str; 19] = [
    "ENABLED",
    "DYNAMIC",
    "SAVE_REGS",
    "SAVE_REGS_IF_SUPPORTED",
    "RECURSION",
    "STUB",
    "INITIALIZED",
    "DELETED",
    "ADDING",
    "REMOVING",
    "MODIFYING",
    "ALLOC_TRAMP",
    "IPMODIFY",
    "PID",
    "RCU",
    "TRACE_ARRAY",
    "PERMANENT",
    "DIRECT",
    "SUBOP",
];

/// Who is called when functions of the kernel begin.
pub fn ftrace(kernel: &Kernel, ask: &Ask, rows: &mut dyn Rows) -> Outcome<()> {
    let owners = Owners::of(kernel, ask)?;
    for ops in registered(kernel, ask)? {
        let callback = ops.u64("func")?;
        let flags = ops.u64("flags").map(|flags| {
            let set = FLAGS.iter().enumerate().filter(|(n, _)| flags >> n & 1 == 1).map(|(_, name)| *name);
            set.collect::<Vec<_>>().join(",")
        });
        let functions = functions(&ops, ask)?;
        // No function named means every function.
        let hooked: Vec<String> = if functions.is_empty() {
            vec!["(every function)".to_owned()]
        } else {
            functions.iter().map(|at| hooked_name(kernel, *at).unwrap_or_else(|| format!("{at:#x}"))).collect()
        };
        for name in hooked {
            let mut cells = vec![
                Cell::Address(ops.at),
                some_text(owners.symbol(callback)),
                Cell::Address(callback),
                Cell::Text(name),
            ];
            cells.extend(owners.cells(callback));
            cells.push(text(flags.as_ref().map(Clone::clone).map_err(|_| MemoryError::Null("flags"))));
            rows.row(cells)?;
        }
    }
    Ok(())
}

fn registered<'k>(kernel: &'k Kernel, ask: &Ask) -> Outcome<Vec<Object<'k>>> {
    let end = kernel.symbol("ftrace_list_end")?;
    let (mut at, mut all) = (kernel.space.u64(kernel.symbol("ftrace_ops_list")?)?, Vec::new());
    while at != 0 && at != end {
        if all.len() > MOST_OPS || all.iter().any(|known: &Object<'_>| known.at == at) {
            ask.note("the list of ftrace_ops leads back into itself");
            break;
        }
        let ops = kernel.object("ftrace_ops", at)?;
        all.push(ops);
        at = ops.u64("next")?;
    }
    Ok(all)
}

/// Places that an entry is for: calls at the beginning of functions.
fn functions(ops: &Object<'_>, ask: &Ask) -> Outcome<Vec<u64>> {
    let Some(hash) = filter(ops)? else { return Ok(Vec::new()) };
    let (bits, buckets) = (hash.u64("size_bits")?, hash.u64("buckets")?);
    let mut all = Vec::new();
    if buckets == 0 || hash.u64("count")? == 0 {
        return Ok(all);
    }
    if bits > 16 {
        return Err(MemoryError::corrupt("a table of functions", hash.at, format!("of 2^{bits} buckets")));
    }
    for n in 0..1_u64 << bits {
        let first = hash.kernel.space.u64(buckets.wrapping_add(8 * n))?;
        for entry in ask.all("a table of functions", hash.kernel.bucket(first, "ftrace_func_entry", "hlist")?) {
            if all.len() > MOST_FUNCTIONS {
                ask.note(format!("the functions of {:#x} are more than are told", ops.at));
                return Ok(all);
            }
            all.push(entry.u64("ip")?);
        }
    }
    all.sort_unstable();
    Ok(all)
}

fn filter<'k>(ops: &Object<'k>) -> Outcome<Option<Object<'k>>> {
    if ops.has("func_hash") {
        let Some(hash) = ops.perhaps("func_hash")? else { return Ok(None) };
        return hash.perhaps("filter_hash");
    }
    ops.perhaps("filter_hash")
}

/// A function by the call in its first bytes.
fn hooked_name(kernel: &Kernel, at: u64) -> Option<String> {
    if let Some(symbol) = kernel.symbols.at(at).filter(|_| kernel.in_text(at)) {
        let more = at - symbol.address;
        return Some(if more <= 16 { symbol.name.to_owned() } else { format!("{}+{more:#x}", symbol.name) });
    }
    kernel.module_name_of(at)
}

/// Who is called at the kernel's own marks.
pub fn tracepoints(kernel: &Kernel, ask: &Ask, rows: &mut dyn Rows) -> Outcome<()> {
    let owners = Owners::of(kernel, ask)?;
    let (begin, end) = (kernel.symbol("__start___tracepoints_ptrs")?, kernel.symbol("__stop___tracepoints_ptrs")?);
    let mut points = table(kernel, begin, end.saturating_sub(begin) / 4)?;
    for module in lsmod::modules(kernel, ask)? {
        let own = module.u64("num_tracepoints").and_then(|count| table(kernel, module.u64("tracepoints_ptrs")?, count));
        match own {
            Ok(own) => points.extend(own),
            Err(MemoryError::NoMember { .. }) => {}
            Err(error) => ask.note(format!("the tracepoints of the module at {:#x}: {error}", module.at)),
        }
    }
    for point in points {
        let Ok(funcs @ 1..) = point.u64("funcs") else { continue };
        let first = kernel.object("tracepoint_func", funcs)?;
        for n in 0..MOST_PROBES {
            let probe = first.element(n);
            let Ok(function @ 1..) = probe.u64("func") else { break };
            let mut cells = vec![
                text(point.text("name")),
                Cell::Address(point.at),
                some_text(owners.symbol(function)),
                Cell::Address(function),
                int(probe.i64("prio")),
            ];
            cells.extend(owners.cells(function));
            rows.row(cells)?;
        }
    }
    Ok(())
}

/// The tracepoints of a table of offsets from each entry's own place.
fn table(kernel: &Kernel, at: u64, count: u64) -> Outcome<Vec<Object<'_>>> {
    if count > MOST_POINTS {
        return Err(MemoryError::corrupt("a table of tracepoints", at, format!("of {count} entries")));
    }
    let bytes = kernel.space.vec(at, 4 * count as usize)?;
    let offsets = bytes.chunks_exact(4).map(|word| word.try_into().map_or(0, i32::from_le_bytes));
    let places =
        (0_u64..).zip(offsets).map(|(n, offset)| at.wrapping_add(4 * n).wrapping_add_signed(i64::from(offset)));
    places.map(|place| kernel.object("tracepoint", place)).collect()
}

/// Performance events of each thread, and the BPF programs that they run.
pub fn perf_events(kernel: &Kernel, ask: &Ask, rows: &mut dyn Rows) -> Outcome<()> {
    let threads = Ask::new(ask.pids.clone(), true);
    for task in kernel.tasks(&threads)? {
        let head = task.0.get("perf_event_list")?.at;
        let events = ask.all("a list of performance events", kernel.list(head, "perf_event", "owner_entry")?);
        for event in events {
            rows.row(vec![
                int(task.tid()),
                text(task.comm()),
                text(event.text("pmu.name").or_else(|_| event.u64("attr.type").and_then(kind))),
                text(event.text("prog.aux.name")),
                text(event.text("prog.aux.ksym.name")),
                address(event.u64("prog").and_then(|at| if at == 0 { Err(MemoryError::Null("prog")) } else { Ok(at) })),
            ])?;
        }
    }
    threads.notes().into_iter().for_each(|note| ask.note(note));
    Ok(())
}

/// What counts an event, where its unit has no name, as those of the kernel's clocks (`include/uapi/linux/perf_event.h`, `perf_type_id`).
fn kind(number: u64) -> Outcome<String> {
    let names = ["hardware", "software", "tracepoint", "hw_cache", "raw", "breakpoint"];
    let name = usize::try_from(number).ok().and_then(|number| names.get(number));
    name.map(|name| (*name).to_owned()).ok_or(MemoryError::Null("pmu.name"))
}

/// All programs of BPF that are loaded.
pub fn ebpf(kernel: &Kernel, _: &Ask, rows: &mut dyn Rows) -> Outcome<()> {
    for (_, at) in kernel.xarray(kernel.global("prog_idr", "idr")?.get("idr_rt")?)? {
        let program = kernel.object("bpf_prog", at)?;
        let tag = program.get("tag").and_then(|tag| tag.bytes(8));
        let tag = tag.map(|tag| crate::image::hex(&tag));
        rows.row(vec![
            Cell::Address(at),
            text(program.text("aux.name")),
            text(tag),
            text(program.u64("type").map(|kind| type_name(kernel, kind))),
            loaded(&program),
            uint(program.u64("aux.user.uid.val").or_else(|_| program.u64("aux.user.uid"))),
        ])?;
    }
    Ok(())
}

fn loaded(program: &Object<'_>) -> Cell {
    let since = program.u64("aux.load_time");
    let at = since.and_then(|since| {
        let boot = program.kernel.boot_time()?;
        let wrong = |_| MemoryError::corrupt("a time of loading", program.at, "no such time");
        boot.checked_add(SignedDuration::from_nanos(since as i64)).map_err(wrong)
    });
    cell(at, Cell::Time)
}

pub(super) fn type_name(kernel: &Kernel, kind: u64) -> String {
    let names = kernel.types.find_enum("bpf_prog_type").map(|id| kernel.types.values(id));
    let known = names.and_then(|mut names| names.find(|(_, value)| u64::try_from(*value) == Ok(kind)));
    known.map_or_else(|| kind.to_string(), |(name, _)| String::from_utf8_lossy(name).into_owned())
}
