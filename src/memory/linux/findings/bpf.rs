//! Programs in the kernel's own virtual machine (eBPF): what watches or changes calls and packets without a module.

use super::super::super::Outcome;
use super::super::{Ask, Kernel, Object};
use super::{Finding, Severity, code_at};

/// Types that see what is not their own (`enum bpf_prog_type`): tracing, packets of every card, decisions of security.
const FAR: [&str; 9] = [
    "KPROBE",
    "TRACEPOINT",
    "PERF_EVENT",
    "RAW_TRACEPOINT",
    "RAW_TRACEPOINT_WRITABLE",
    "TRACING",
    "LSM",
    "XDP",
    "SCHED_CLS",
];

pub(super) fn look(kernel: &Kernel, _: &Ask) -> Outcome<Vec<Finding>> {
    // A kernel without eBPF has no table of programs.
    if kernel.symbols.address("prog_idr").is_none() {
        return Ok(Vec::new());
    }
    let table = kernel.global("prog_idr", "idr")?.get("idr_rt")?;
    let mut found = Vec::new();
    for (id, at) in kernel.xarray(table)? {
        found.push(told(kernel, id, &kernel.object("bpf_prog", at)?));
    }
    Ok(found)
}

fn told(kernel: &Kernel, id: u64, program: &Object<'_>) -> Finding {
    let kind = kind(kernel, program).unwrap_or_else(|| "unknown".to_owned());
    let name =
        program.text("aux.name").ok().filter(|name| !name.is_empty()).unwrap_or_else(|| "without a name".to_owned());
    let by = program.u64("aux.user.uid.val").map_or_else(|_| String::new(), |uid| format!(", loaded by user {uid}"));
    let function = program.u64("bpf_func").unwrap_or(0);
    let far = FAR.contains(&kind.as_str());
    Finding {
        severity: if far { Severity::Medium } else { Severity::Low },
        what: "BPF program",
        pid: None,
        at: program.at,
        evidence: format!("program {id}, {name}, of type {kind}{by}, runs at {function:#x}"),
        bytes: code_at(kernel, function),
        innocent: "systemd, a container runtime, a firewall or a tracer put it there",
    }
}

/// The name of its type, without what all names begin with.
fn kind(kernel: &Kernel, program: &Object<'_>) -> Option<String> {
    let member = program.get("type").ok()?;
    let value = member.value().ok()?;
    let mut names = kernel.types.values(member.id).filter(|(_, known)| *known as u64 == value);
    let name = String::from_utf8_lossy(names.next()?.0).into_owned();
    Some(name.strip_prefix("BPF_PROG_TYPE_").unwrap_or(&name).to_owned())
}
