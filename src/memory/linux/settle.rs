//! Questions to memory that changes while it is read: asked again, of what is there then, until an answer is whole.
//!
//! A walk is torn if the guest changes a structure under it: it meets a page that is gone, or a member that does not point back. What a try
//! noted as missing may be there in the next. After the last one the best stands, with its notes.

use std::io;

use super::super::{MemoryError, Outcome};
use super::{Ask, Kernel};
use crate::report::{Cell, Rows};

/// The most tries of one question.
const TRIES: u32 = 5;

/// A question: what it asks of, and how.
pub type Question = fn(&Kernel, &Ask, &mut dyn Rows) -> Outcome<()>;

/// An answer.
#[derive(Default)]
pub struct Settled {
    /// Its rows.
    pub rows: Vec<Vec<Cell>>,
    /// Why there are not more.
    pub failed: Option<MemoryError>,
    /// What is missing, and why.
    pub notes: Vec<String>,
    /// How often it was asked.
    pub tries: u32,
}

impl Settled {
    fn whole(&self) -> bool {
        self.failed.is_none() && self.notes.is_empty()
    }

    fn lacks(&self) -> (bool, usize) {
        (self.failed.is_some(), self.notes.len())
    }
}

/// Asks until the answer lacks nothing, but not for ever. Each try reads everything anew.
pub fn settle(kernel: &Kernel, ask: impl Fn() -> Ask, question: Question) -> Settled {
    let mut best = once(&kernel.afresh(), &ask(), question);
    for _ in 1..TRIES {
        if best.whole() {
            break;
        }
        let next = once(&kernel.afresh(), &ask(), question);
        let tries = best.tries + 1;
        if next.lacks() < best.lacks() {
            best = next;
        }
        best.tries = tries;
    }
    best
}

fn once(kernel: &Kernel, ask: &Ask, question: Question) -> Settled {
    let mut kept = Kept::default();
    let failed = question(kernel, ask, &mut kept).err();
    Settled { rows: kept.0, failed, notes: ask.notes(), tries: 1 }
}

#[derive(Default)]
struct Kept(Vec<Vec<Cell>>);

impl Rows for Kept {
    fn row(&mut self, cells: Vec<Cell>) -> io::Result<()> {
        self.0.push(cells);
        Ok(())
    }

    fn end(&mut self) -> io::Result<()> {
        Ok(())
    }
}
