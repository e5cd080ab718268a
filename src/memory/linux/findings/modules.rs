//! Modules that are in memory and not in the list of modules.

use super::super::super::Outcome;
use super::super::{Ask, Kernel, hidden_modules, lsmod};
use super::{Finding, Severity, code_at};

pub(super) fn look(kernel: &Kernel, ask: &Ask) -> Outcome<Vec<Finding>> {
    let found = hidden_modules::hidden(kernel, ask)?.into_iter().map(|(module, place)| {
        let name = module.text("name").unwrap_or_default();
        let code = lsmod::ranges(&module).ok().and_then(|ranges| ranges.first().copied());
        let range = code.map_or_else(String::new, |(base, size)| {
            format!(", with code at {base:#x} to {:#x}", base.saturating_add(size))
        });
        Finding {
            severity: Severity::High,
            what: "hidden module",
            pid: None,
            at: module.at,
            evidence: format!("{name} is in {place} and not in the list of modules{range}"),
            bytes: code.map(|(base, _)| code_at(kernel, base)).unwrap_or_default(),
            innocent: "the image was taken while it was loaded or unloaded",
        }
    });
    Ok(found.collect())
}
