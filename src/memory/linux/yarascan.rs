//! `linux.vmayarascan` and `yarascan`: where rules of YARA match, in the memory of programs or in all of it.
//!
//! The engine is `boreal`, which reads the rules as YARA does. (VirusTotal's own `yara-x` compiles rules to WebAssembly and brings a
//! whole compiler with it.) It is behind the feature `yara`: a program without it says so. Rules see a window of memory at a time, not a file: conditions on the size or the beginning of a
//! file mean nothing here.

use super::super::Outcome;
use super::{Ask, Kernel};
use crate::report::{Column, Rows};

/// Columns of `linux.vmayarascan`.
pub const RANGES: &[Column] =
    &[Column("offset"), Column("pid"), Column("process"), Column("rule"), Column("component"), Column("value")];
/// Columns of `yarascan`.
pub const IMAGE: &[Column] = &[Column("offset"), Column("rule"), Column("component"), Column("value")];

#[cfg(feature = "yara")]
mod engine {
    use boreal::scanner::ScanParams;
    use boreal::{Compiler, Scanner};
    use rayon::prelude::*;

    use super::super::super::cells::{int, text};
    use super::super::super::{MemoryError, Outcome};
    use super::super::terms::needed;
    use super::super::{Ask, Kernel, strings, vmaregexscan};
    use crate::report::{Cell, Rows};

    /// Bytes of a match that are shown, and matches of one window.
    const SHOWN: usize = 128;
    const MOST: usize = 4096;

    /// A match: where, of which rule, of which of its strings, and what stands there.
    struct Match {
        at: u64,
        rule: String,
        component: String,
        value: String,
    }

    fn scanner(ask: &Ask) -> Outcome<Scanner> {
        let rules = needed(ask.terms.rules.as_ref(), "--rules")?;
        let mut compiler = Compiler::new();
        compiler.add_rules_str(rules.as_str()).map_err(|error| MemoryError::Rules(error.to_string()))?;
        let mut scanner = compiler.finalize();
        // All places, also where one would decide.
        scanner.set_scan_params(ScanParams::default().compute_full_matches(true));
        Ok(scanner)
    }

    fn matches(scanner: &Scanner, at: u64, bytes: &[u8], own: usize, ask: &Ask) -> Result<Vec<Match>, String> {
        let result = scanner.scan_mem(bytes).map_err(|(error, _)| error.to_string())?;
        let mut all = Vec::new();
        for rule in &result.rules {
            for string in &rule.matches {
                for one in string.matches.iter().filter(|one| one.offset < own) {
                    let shown = one.data.get(..one.data.len().min(SHOWN)).unwrap_or_default();
                    all.push(Match {
                        at: at.wrapping_add(one.offset as u64),
                        rule: rule.name.to_owned(),
                        component: format!("${}", string.name),
                        value: crate::image::hex(shown),
                    });
                }
            }
        }
        if all.len() > MOST {
            ask.note(format!("the memory at {at:#x} matches more than {MOST} times, of which the first are told"));
            all.truncate(MOST);
        }
        Ok(all)
    }

    /// In the memory of programs.
    pub(super) fn ranges(kernel: &Kernel, ask: &Ask, rows: &mut dyn Rows) -> Outcome<()> {
        let scanner = scanner(ask)?;
        let tasks = kernel.processes(ask)?;
        let each = |task: &super::super::Task<'_>| {
            let mut all = Vec::new();
            vmaregexscan::windows(task, ask, &mut |at, bytes, own| match matches(&scanner, at, bytes, own, ask) {
                Ok(found) => all.extend(found),
                Err(error) => ask.note(format!("the memory at {at:#x} of the task at {:#x}: {error}", task.0.at)),
            });
            all
        };
        let found: Vec<Vec<Match>> = tasks.par_iter().map(each).collect();
        for (task, found) in tasks.iter().zip(found) {
            for one in found {
                let place = [Cell::Address(one.at), int(task.pid()), text(task.comm())];
                rows.row(place.into_iter().chain(cells(one)).collect())?;
            }
        }
        Ok(())
    }

    /// In all of memory.
    pub(super) fn image(kernel: &Kernel, ask: &Ask, rows: &mut dyn Rows) -> Outcome<()> {
        let scanner = scanner(ask)?;
        let (found, _) = strings::everywhere(kernel.physical(), |at, bytes, own| {
            matches(&scanner, at, bytes, own, ask).unwrap_or_else(|error| {
                ask.note(format!("the memory at physical {at:#x}: {error}"));
                Vec::new()
            })
        });
        for one in found {
            let at = one.at;
            rows.row([Cell::Address(at)].into_iter().chain(cells(one)).collect())?;
        }
        Ok(())
    }

    fn cells(one: Match) -> [Cell; 3] {
        [Cell::Text(one.rule), Cell::Text(one.component), Cell::Text(one.value)]
    }
}

#[cfg(not(feature = "yara"))]
mod engine {
    use super::super::super::{MemoryError, Outcome};
    use super::super::{Ask, Kernel};
    use crate::report::Rows;

    const MISSING: &str = "an engine for rules, which this program was built without: build it with --features yara";

    pub(super) fn ranges(_: &Kernel, _: &Ask, _: &mut dyn Rows) -> Outcome<()> {
        Err(MemoryError::Needs(MISSING))
    }

    pub(super) fn image(_: &Kernel, _: &Ask, _: &mut dyn Rows) -> Outcome<()> {
        Err(MemoryError::Needs(MISSING))
    }
}

/// In the memory of programs.
pub fn ranges(kernel: &Kernel, ask: &Ask, rows: &mut dyn Rows) -> Outcome<()> {
    engine::ranges(kernel, ask, rows)
}

/// In all of memory.
pub fn image(kernel: &Kernel, ask: &Ask, rows: &mut dyn Rows) -> Outcome<()> {
    engine::image(kernel, ask, rows)
}
