//! `linux.pscallstack`: where each thread waits in the kernel.
//!
//! Source: the words of its stack (`task_struct.stack`, `thread.sp`) that are addresses of symbols. Not every one is a place that will be
//! returned to: what ended before leaves its addresses behind.

use super::super::Outcome;
use super::super::cells::{int, some_text, text};
use super::owners::Owners;
use super::{Ask, Kernel};
use crate::report::{Absent, Cell, Column, Rows};

/// Its columns.
pub const COLUMNS: &[Column] = &[
    Column("tid"),
    Column("comm"),
    Column("position"),
    Column("address"),
    Column("value"),
    Column("name"),
    Column("type"),
    Column("module"),
];

/// What stands on the stack that each thread has in the kernel, from where it was last put to sleep, and is an address of a symbol. What a
/// thread that runs has done since is not there.
pub fn run(kernel: &Kernel, ask: &Ask, rows: &mut dyn Rows) -> Outcome<()> {
    let threads = Ask::new(ask.pids.clone(), true);
    let size = kernel.types.find("thread_union").map_or(16 << 10, |id| kernel.types.size(id).clamp(4096, 256 << 10));
    let owners = Owners::of(kernel, ask)?;
    for task in kernel.tasks(&threads)? {
        let saved = task.0.either(&["thread.sp", "thread.cpu_context.sp"]).and_then(|sp| sp.value());
        let ends = saved.and_then(|sp| Ok((sp, task.0.u64("stack")?)));
        let (from, upto) = match ends {
            Ok((sp, stack)) if (stack..stack.saturating_add(size)).contains(&sp) => (sp, stack.saturating_add(size)),
            Ok((sp, _)) => {
                ask.note(format!("the task at {:#x} has its stack pointer elsewhere, at {sp:#x}", task.0.at));
                continue;
            }
            Err(error) => {
                ask.note(format!("the stack of the task at {:#x}: {error}", task.0.at));
                continue;
            }
        };
        let bytes = kernel.space.as_far_as(from, (upto - from) as usize);
        for (n, word) in bytes.chunks_exact(8).enumerate() {
            let value = word.try_into().map_or(0, u64::from_le_bytes);
            if let Some(cells) = frame(kernel, &owners, value) {
                let place = from.wrapping_add(8 * n as u64);
                let mut row = vec![int(task.tid()), text(task.comm()), Cell::Int(n as i64), Cell::Address(place)];
                row.extend(cells);
                rows.row(row)?;
            }
        }
    }
    threads.notes().into_iter().for_each(|note| ask.note(note));
    Ok(())
}

fn frame(kernel: &Kernel, owners: &Owners<'_>, value: u64) -> Option<[Cell; 4]> {
    // Most words are no addresses of the kernel.
    if value >> 63 == 0 {
        return None;
    }
    if kernel.name_of(value).is_some() {
        let symbol = kernel.symbols.at(value)?;
        let none = some_text(None);
        return Some([Cell::Address(value), Cell::text(symbol.name), Cell::text(symbol.kind), none]);
    }
    let nearest = owners.in_module(value)?;
    Some([
        Cell::Address(value),
        Cell::text(&nearest.name),
        Cell::or_absent(nearest.kind, Absent::Unknown, Cell::text),
        Cell::text(&nearest.module),
    ])
}
