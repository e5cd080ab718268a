//! `linux.bash`: what was typed into shells, from their own memory.
//!
//! Source: `HIST_ENTRY` of GNU Readline (`history.h`: a line, a time, data). A time is kept as text, `#` and seconds; pointers to such
//! texts lead to the entries. Shells without Readline's history (busybox) keep theirs otherwise and are not seen.

use std::collections::{BTreeMap, HashSet};

use jiff::Timestamp;

use super::super::Outcome;
use super::super::cells::{int, text};
use super::vma::{self, WRITE};
use super::{Ask, Kernel, Task};
use crate::report::{Cell, Column, Rows};

/// Its columns.
pub const COLUMNS: &[Column] = &[Column("pid"), Column("comm"), Column("command_time"), Column("command")];

/// The most memory of one shell that is looked through.
const MOST: u64 = 64 << 20;
/// Pages of one shell that are asked for: a range may claim to be as long as the address space.
const PAGES: u64 = 1 << 18;
/// The longest command.
const LINE: usize = 16 << 10;

/// See the module.
pub fn run(kernel: &Kernel, ask: &Ask, rows: &mut dyn Rows) -> Outcome<()> {
    for task in kernel.processes(ask)? {
        let named =
            ask.pids.is_empty() && !task.comm().is_ok_and(|comm| matches!(comm.as_str(), "bash" | "sh" | "dash"));
        if named || task.is_kernel_thread() {
            continue;
        }
        for ((time, _), command) in history(&task, ask) {
            let time = Timestamp::from_second(time).map_or(Cell::Absent(crate::report::Absent::Unreadable), Cell::Time);
            rows.row(vec![int(task.pid()), text(task.comm()), time, Cell::Text(command)])?;
        }
    }
    Ok(())
}

/// Commands by time, and of one second by their place in the history.
fn history(task: &Task<'_>, ask: &Ask) -> BTreeMap<(i64, u64), String> {
    let mut found = BTreeMap::new();
    let Ok(space) = task.space() else { return found };
    let (mut parts, mut left): (Vec<(u64, Vec<u8>)>, u64) = (Vec::new(), MOST);
    let mut tries = PAGES;
    for vma in vma::all(task, ask).iter().filter(|vma| vma.flags & WRITE != 0 && vma.file().is_err()) {
        // Pages that were never touched are absent, and may stand between others.
        let mut at = vma.start;
        while at < vma.end && left > 0 && tries > 0 {
            tries -= 1;
            if let Ok(page) = space.vec(at, 4096) {
                parts.push((at, page));
                left = left.saturating_sub(4096);
            }
            at = at.saturating_add(4096);
        }
    }
    if left == 0 || tries == 0 {
        ask.note(format!("the shell at {:#x} has more memory than was looked through", task.0.at));
    }
    let times = times(&parts);
    let places: HashSet<u64> = times.keys().copied().collect();
    let mut entries = BTreeMap::new();
    for (at, word) in words(&parts) {
        let Some(time) = times.get(&word).filter(|_| places.contains(&word)) else { continue };
        // The time is the second member of the entry, the line its first.
        let entry = at.wrapping_sub(8);
        if let Ok(line) = space.u64(entry).and_then(|line| space.text(line, LINE)) {
            entries.insert(entry, (*time, String::from_utf8_lossy(&line).into_owned()));
        }
    }
    // What points at an entry is the history itself: its order is that of the commands.
    let mut order: BTreeMap<u64, u64> = BTreeMap::new();
    for (at, word) in words(&parts).filter(|(_, word)| entries.contains_key(word)) {
        order.entry(word).or_insert(at);
    }
    for (entry, (time, line)) in entries {
        found.insert((time, order.get(&entry).copied().unwrap_or(entry)), line);
    }
    found
}

/// Every aligned word, with its address.
fn words(parts: &[(u64, Vec<u8>)]) -> impl Iterator<Item = (u64, u64)> + '_ {
    parts.iter().flat_map(|(base, bytes)| {
        let words = bytes.chunks_exact(8).map(|word| word.try_into().map_or(0, u64::from_le_bytes));
        words.enumerate().map(|(n, word)| (base.wrapping_add(8 * n as u64), word))
    })
}

/// Texts that are times, by their address.
fn times(parts: &[(u64, Vec<u8>)]) -> BTreeMap<u64, i64> {
    let mut times = BTreeMap::new();
    for (base, bytes) in parts {
        for at in memchr::memchr_iter(b'#', bytes) {
            let digits = bytes.get(at + 1..bytes.len().min(at + 12)).unwrap_or_default();
            let len = digits.iter().take_while(|byte| byte.is_ascii_digit()).count();
            let text = digits.get(..len).and_then(|text| std::str::from_utf8(text).ok()).unwrap_or_default();
            if (9..=10).contains(&len)
                && digits.get(len) == Some(&0)
                && let Ok(seconds) = text.parse()
            {
                times.insert(base.wrapping_add(at as u64), seconds);
            }
        }
    }
    times
}
