//! The memory of a running guest, read in place through `/proc/PID/mem` of the QEMU that holds it.
//!
//! QEMU keeps each RAM block at one address of its own process. `info mtree -f` tells which block answers where, `gpa2hva` (HMP, since
//! QEMU 2.10) at which address of the process, and both are held against `/proc/PID/maps`. From then on QEMU is not asked any more: the
//! guest runs on, and only the pages that somebody reads are copied. A page that the guest never touched does not exist in the process
//! either, and reading would bring it into being; so `pages` asks the kernel first. Memory that is moved or plugged after it was opened is not
//! followed.

mod pages;
mod process;

use std::sync::Arc;

use super::flatview::{MemoryMap, Range};
use super::survey::Survey;
use crate::wire::qmp::Qmp;
use crate::{BackendError, LiveMemory};
use pages::{Pages, Place};
use process::Process;

const WHAT: &str = "read the guest's memory in place";

/// Opens the memory of the guest behind this monitor.
pub(super) async fn open(qmp: &mut Qmp, survey: &Survey) -> Result<Arc<dyn LiveMemory>, BackendError> {
    let on = qmp.name().to_owned();
    if let Some(kind) = &survey.encrypted {
        let why = format!("it is encrypted ({kind}): the host sees ciphertext");
        return Err(BackendError::unsupported(WHAT, on, why));
    }
    let pid = qmp.peer_pid().ok_or_else(|| {
        BackendError::unsupported(WHAT, &on, "the kernel does not tell which process listens there")
            .advise("it is possible only for a QEMU on this machine, in this or a lower PID namespace")
    })?;
    let process = Process::open(pid, &on)?;
    // After its memory was opened: the number may have gone to another process before, not from now on.
    process.runs(&on, &cpu_threads(qmp).await?)?;
    let text = qmp.human("info mtree -f").await?;
    let map = MemoryMap::parse(&text, &survey.main_memory)?;
    let mut places = Vec::new();
    for range in &map.ranges {
        let host = host_address(qmp, range).await?;
        process.place(range, host, &on, &mut places)?;
    }
    let pages = Pages::new(process, places, map.len).map_err(|e| BackendError::io(WHAT, on, &e))?;
    Ok(Arc::new(pages))
}

/// Numbers of the threads that run the guest's CPUs, as they are now.
async fn cpu_threads(qmp: &mut Qmp) -> Result<Vec<i32>, BackendError> {
    let answer = qmp.ask("query-cpus-fast", serde_json::Value::Null).await?;
    Ok(super::survey::cpu_threads(Some(&answer)))
}

/// The address in QEMU's process at which a range of guest-physical addresses begins.
async fn host_address(qmp: &mut Qmp, range: &Range) -> Result<u64, BackendError> {
    let line = format!("gpa2hva {:#x}", range.at);
    let text = qmp.human(&line).await?;
    let (name, host) = told_address(&text).ok_or_else(|| {
        BackendError::corrupt(WHAT, &line, "the answer", "the host virtual address", text.trim().escape_debug())
    })?;
    if name != range.name {
        return Err(BackendError::corrupt(WHAT, &line, "the answer", &range.name, name.escape_debug()));
    }
    Ok(host)
}

/// `Host virtual address for 0x100000 (pc.ram) is 0x7f065bf00000`: the region's name, and the address
/// (monitor/hmp-cmds.c, `hmp_gpa2hva`).
fn told_address(text: &str) -> Option<(&str, u64)> {
    let rest = text.trim().strip_prefix("Host virtual address for 0x")?;
    let (name, host) = rest.split_once(" (")?.1.rsplit_once(") is 0x")?;
    Some((name, u64::from_str_radix(host, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_of_a_block_is_read_and_nothing_else_is() {
        let told = "Host virtual address for 0x100000 (pc.ram) is 0x7f065bf00000\r\n";
        assert_eq!(told_address(told), Some(("pc.ram", 0x7f06_5bf0_0000)));
        let odd = "Host virtual address for 0x0 (a) is 0x1 (b) is 0x20";
        assert_eq!(told_address(odd), Some(("a) is 0x1 (b", 0x20)));
        for other in ["", "Memory at address 0xa0000 is not RAM\r\n", "Host virtual address for 0x0 (ram) is (nil)"] {
            assert_eq!(told_address(other), None, "{other}");
        }
    }
}
