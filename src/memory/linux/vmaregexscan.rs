//! `linux.vmaregexscan`: where a pattern stands in the memory of programs.
//!
//! Source: the pages of every range of every process, neighbours joined, so that a pattern may stand across two. Pages that are not in memory
//! hold nothing.

use rayon::prelude::*;

use super::super::Outcome;
use super::super::cells::{int, text};
use super::super::paging::Space;
use super::terms::needed;
use super::vma;
use super::{Ask, Kernel, Task};
use crate::report::{Cell, Column, Rows};

/// Its columns.
pub const COLUMNS: &[Column] = &[Column("pid"), Column("process"), Column("offset"), Column("text"), Column("hex")];

/// Pages of one process that are asked for, absent ones too: a range may claim to be as long as the address space.
const PAGES: u64 = 1 << 20;
/// Bytes that are looked through at a time, and that what is found may reach into the next ones.
const WINDOW: usize = 1 << 20;
const REACH: usize = 4096;
/// Bytes of a match that are shown, and matches of one process.
const SHOWN: usize = 128;
const MOST: usize = 1 << 16;

/// See the module.
pub fn run(kernel: &Kernel, ask: &Ask, rows: &mut dyn Rows) -> Outcome<()> {
    let pattern = needed(ask.terms.regex.as_ref(), "--regex")?;
    let tasks = kernel.processes(ask)?;
    let found: Vec<Vec<(u64, Vec<u8>)>> = tasks
        .par_iter()
        .map(|task| {
            let mut all = Vec::new();
            windows(task, ask, &mut |at, bytes, own| {
                let starts = pattern.find_iter(bytes).filter(|hit| hit.start() < own && !hit.is_empty());
                let rest = MOST.saturating_sub(all.len());
                all.extend(starts.take(rest).map(|hit| {
                    let shown = hit.as_bytes().get(..hit.len().min(SHOWN)).unwrap_or_default();
                    (at.wrapping_add(hit.start() as u64), shown.to_vec())
                }));
            });
            if all.len() >= MOST {
                ask.note(format!("the task at {:#x} holds the pattern more than {MOST} times", task.0.at));
            }
            all
        })
        .collect();
    for (task, found) in tasks.iter().zip(found) {
        for (at, bytes) in found {
            let hex = crate::image::hex(&bytes);
            let shown = String::from_utf8_lossy(&bytes).into_owned();
            rows.row(vec![int(task.pid()), text(task.comm()), Cell::Address(at), Cell::Text(shown), Cell::Text(hex)])?;
        }
    }
    Ok(())
}

/// What a process has in memory, in windows: address, bytes, and how many of these are its own; those behind are the next one's, too.
pub(super) fn windows(task: &Task<'_>, ask: &Ask, with: &mut dyn FnMut(u64, &[u8], usize)) {
    let Ok(space) = task.space() else { return };
    let mut left = PAGES;
    let mut run = Run { space: &space, at: 0, bytes: Vec::new() };
    for vma in vma::all(task, ask) {
        let mut at = vma.start;
        while at < vma.end && left > 0 {
            left -= 1;
            run.page(at, with);
            at = at.saturating_add(4096);
        }
        // Ranges that touch have other rights and other files: nothing reaches across.
        run.end(with);
    }
    if left == 0 {
        ask.note(format!("the task at {:#x} has more memory than was looked through", task.0.at));
    }
}

/// Pages that follow each other.
struct Run<'a> {
    space: &'a Space,
    at: u64,
    bytes: Vec<u8>,
}

impl Run<'_> {
    fn page(&mut self, at: u64, with: &mut dyn FnMut(u64, &[u8], usize)) {
        let Ok(page) = self.space.vec(at, 4096) else { return self.end(with) };
        if self.bytes.is_empty() {
            self.at = at;
        }
        self.bytes.extend_from_slice(&page);
        if self.bytes.len() >= WINDOW + REACH {
            let own = self.bytes.len() - REACH;
            with(self.at, &self.bytes, own);
            self.bytes.drain(..own);
            self.at = self.at.wrapping_add(own as u64);
        }
    }

    fn end(&mut self, with: &mut dyn FnMut(u64, &[u8], usize)) {
        if !self.bytes.is_empty() {
            with(self.at, &self.bytes, self.bytes.len());
            self.bytes.clear();
        }
    }
}
