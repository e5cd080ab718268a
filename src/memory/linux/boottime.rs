//! `linux.boottime`: when the guest was booted, for each time namespace.
//!
//! Source: `struct timekeeper` (wall clock less time since boot) and `time_namespace`. It is the guest's own idea: a clock that was set
//! later moves it.

use std::collections::BTreeMap;

use jiff::SignedDuration;

use super::super::Outcome;
use super::super::cells::uint;
use super::{Ask, Kernel};
use crate::report::{Absent, Cell, Column, Rows};

/// Its columns.
pub const COLUMNS: &[Column] = &[Column("time_ns"), Column("boot_time")];

/// See the module.
pub fn run(kernel: &Kernel, ask: &Ask, rows: &mut dyn Rows) -> Outcome<()> {
    let boot = kernel.boot_time()?;
    let mut spaces = BTreeMap::new();
    for task in kernel.processes(ask)? {
        let Ok(space) = task.0.follow("nsproxy").and_then(|proxy| proxy.follow("time_ns")) else { continue };
        spaces.insert(space.u64("ns.inum").unwrap_or(0), space);
    }
    if spaces.is_empty() {
        rows.row(vec![Cell::Absent(Absent::Unknown), Cell::Time(boot)])?;
    }
    for (number, space) in spaces {
        let offset = space.i64("offsets.boottime.tv_sec").unwrap_or(0);
        // A process sees its own time since boot grow by the offset: its boot is that much earlier.
        let seen = boot.checked_sub(SignedDuration::from_secs(offset));
        let seen = seen.map_or(Cell::Absent(Absent::Unreadable), Cell::Time);
        rows.row(vec![uint(Ok(number)), seen])?;
    }
    Ok(())
}
