//! `linux.envars`: the environment that each process was started with.
//!
//! Source: `env_start` and `env_end` of `struct mm_struct`. What a program sets later (`setenv`) may be elsewhere in its memory.

use super::super::cells::{int, text};
use super::super::{MemoryError, Outcome};
use super::psaux::strings;
use super::{Ask, Kernel};
use crate::report::{Absent, Cell, Column, Rows};

/// Its columns.
pub const COLUMNS: &[Column] = &[Column("pid"), Column("ppid"), Column("comm"), Column("key"), Column("value")];

/// See the module.
pub fn run(kernel: &Kernel, ask: &Ask, rows: &mut dyn Rows) -> Outcome<()> {
    for task in kernel.processes(ask)? {
        let who = || [int(task.pid()), int(task.ppid()), text(task.comm())];
        match strings(&task, "env_start", "env_end") {
            Ok(list) => {
                for line in list.iter().filter(|line| !line.is_empty()) {
                    let (key, value) =
                        line.split_once('=').map_or((line.as_str(), None), |(key, value)| (key, Some(value)));
                    let value = Cell::or_absent(value, Absent::NotApplicable, Cell::text);
                    rows.row(who().into_iter().chain([Cell::text(key), value]).collect())?;
                }
            }
            // Threads of the kernel.
            Err(MemoryError::Null(_)) => {}
            Err(error) => {
                let absent = error.absent();
                rows.row(who().into_iter().chain([Cell::Absent(absent), Cell::Absent(absent)]).collect())?;
            }
        }
    }
    Ok(())
}
