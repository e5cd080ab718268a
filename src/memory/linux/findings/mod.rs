//! `linux.findings`: what a responder looks at first, from views that contradict each other. One file for each kind of thing looked at.
//!
//! Each row names what was found, where, the bytes that stand there, and what would be innocent. Nothing here proves an intrusion, and no row
//! proves that there is none: what took itself out of every structure that is looked at is not seen.

mod bpf;
mod credentials;
mod hooked;
mod modules;
mod programs;
mod sockets;
mod tasks;

use super::super::Outcome;
use super::{Ask, Kernel};
use crate::image::hex;
use crate::report::{Absent, Cell, Column, Rows};

/// Its columns.
pub const COLUMNS: &[Column] = &[
    Column("severity"),
    Column("finding"),
    Column("pid"),
    Column("address"),
    Column("evidence"),
    Column("bytes"),
    Column("innocent_if"),
];

/// Bytes of code that are shown: enough to tell a function's begin from a jump elsewhere.
const SHOWN: usize = 16;

/// How soon to look: `High` has next to no innocent cause, `Low` is what a sound system has, too.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Severity {
    High,
    Medium,
    Low,
}

struct Finding {
    severity: Severity,
    what: &'static str,
    /// The process or thread, where there is one.
    pid: Option<i64>,
    /// Where the evidence stands: of the kernel, or of the process for its own memory.
    at: u64,
    evidence: String,
    /// What stands there, where the bytes tell more than the words.
    bytes: Vec<u8>,
    innocent: &'static str,
}

type Look = fn(&Kernel, &Ask) -> Outcome<Vec<Finding>>;

const LOOKS: [(&str, Look); 7] = [
    ("processes", tasks::look),
    ("modules", modules::look),
    ("hooks", hooked::look),
    ("programs", programs::look),
    ("credentials", credentials::look),
    ("sockets", sockets::look),
    ("BPF programs", bpf::look),
];

/// See the module.
pub fn run(kernel: &Kernel, ask: &Ask, rows: &mut dyn Rows) -> Outcome<()> {
    for (name, look) in LOOKS {
        match look(kernel, ask) {
            Ok(findings) => {
                for finding in findings {
                    rows.row(finding.row())?;
                }
            }
            // One view that fails leaves the others.
            Err(error) => ask.note(format!("{name} could not be looked at: {error}")),
        }
    }
    Ok(())
}

impl Finding {
    fn row(self) -> Vec<Cell> {
        let severity = match self.severity {
            Severity::High => "high",
            Severity::Medium => "medium",
            Severity::Low => "low",
        };
        let bytes = if self.bytes.is_empty() { None } else { Some(hex(&self.bytes)) };
        vec![
            Cell::Word(severity),
            Cell::Word(self.what),
            Cell::or_absent(self.pid, Absent::NotApplicable, Cell::Int),
            Cell::Address(self.at),
            Cell::Text(self.evidence),
            Cell::or_absent(bytes, Absent::NotApplicable, Cell::Text),
            Cell::Word(self.innocent),
        ]
    }
}

/// What a function begins with; nothing if it does not read.
fn code_at(kernel: &Kernel, at: u64) -> Vec<u8> {
    kernel.space.as_far_as(at, SHOWN)
}
