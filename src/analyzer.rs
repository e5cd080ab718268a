//! The questions that can be asked: each a record in [`ALL`]. Adding one is a file and a row.

use crate::memory::Outcome;
use crate::memory::linux::{Ask, Kernel};
use crate::report::{Column, Rows};

use crate::memory::linux::pslist;

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
    Analyzer { name, about, columns, run: Run::Linux(run) }
}

/// All of them, in the order in which `all` asks.
pub static ALL: &[Analyzer] = &[linux("linux.pslist", "processes of the kernel's list", pslist::COLUMNS, pslist::run)];

/// The one of this name.
pub fn by_name(name: &str) -> Option<&'static Analyzer> {
    ALL.iter().find(|analyzer| analyzer.name == name)
}
