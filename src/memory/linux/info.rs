//! `info`: the kernel that was found, where its symbols and types came from, and how sure that is.

use super::super::Outcome;
use super::super::cells::{address, cell, text};
use super::super::paging::Tables;
use super::super::symbols::kallsyms::KERNEL_MAP;
use super::Kernel;
use crate::image::Machine;
use crate::report::{Absent, Cell, Column};

/// Its columns.
pub const COLUMNS: &[Column] = &[Column("property"), Column("value")];

/// One row a property.
pub fn rows(kernel: &Kernel, machine: Option<&Machine>) -> Vec<Vec<Cell>> {
    let uts = |path| text(kernel.uts().and_then(|uts| uts.text(path)));
    let note = kernel.note();
    let noted = |key: &str| Cell::or_absent(note.and_then(|note| note.get(key)), Absent::Unknown, Cell::text);
    let root = kernel.space.root();
    let mut list = vec![
        ("banner", text(kernel.banner())),
        ("release", uts("release")),
        ("version", uts("version")),
        ("architecture", uts("machine")),
        ("hostname", uts("nodename")),
        ("build_id", noted("BUILD-ID")),
        ("boot_time", cell(kernel.boot_time(), Cell::Time)),
        ("cpus", Cell::Int(kernel.cpus().len() as i64)),
        ("slide", Cell::or_absent(kernel.slide(), Absent::Unknown, Cell::Address)),
        image_offset(kernel),
        ("page_size", Cell::Int(kernel.place.tables.page() as i64)),
        ("page_table_root", Cell::Address(root)),
        ("page_table_levels", Cell::Int(i64::from(kernel.place.tables.levels()))),
        ("direct_map", address(kernel.direct_map())),
        ("memory_end", Cell::Address(kernel.physical().len())),
        ("vmcoreinfo_at", Cell::or_absent(note, Absent::Unknown, |note| Cell::Address(note.at))),
        ("symbols", Cell::Int(kernel.symbols.len() as i64)),
        ("symbols_from", Cell::text(kernel.symbols_from)),
        ("symbols_at", Cell::Address(kernel.symbols_at)),
        ("symbols_form", Cell::text(format!("{:?}", kernel.symbols.form()))),
        ("types", Cell::Int(i64::from(kernel.types.count()))),
        ("types_from", Cell::text(kernel.types_from)),
        ("modules_with_types", Cell::Int(kernel.typed_modules as i64)),
        ("sure_because", Cell::text(sure(kernel, machine))),
    ];
    if let Some(cpu) = machine.and_then(|machine| machine.cpus.first()) {
        let register = |value| Cell::or_absent(value, Absent::Unknown, Cell::Address);
        list.extend([("cr3_of_cpu_0", register(cpu.cr3)), ("cr4_of_cpu_0", register(cpu.cr4))]);
    }
    let refused = kernel.refused_types.iter().map(|(module, why)| Cell::text(format!("{module}: {why}")));
    list.extend(refused.map(|cell| ("types_refused", cell)));
    list.into_iter().map(|(name, value)| vec![Cell::text(name), value]).collect()
}

/// The difference of virtual and physical addresses of the image, as each architecture tells it.
fn image_offset(kernel: &Kernel) -> (&'static str, Cell) {
    let offset = kernel.place.offset;
    match kernel.place.tables {
        Tables::X86(_) => ("phys_base", Cell::Address(KERNEL_MAP.wrapping_sub(offset))),
        Tables::Arm64(_) => ("kimage_voffset", Cell::Address(offset)),
    }
}

/// What agrees with what.
fn sure(kernel: &Kernel, machine: Option<&Machine>) -> String {
    let mut reasons = vec!["page tables map _text to where it was found".to_owned()];
    let agrees = |a: Outcome<String>, b: Option<&str>| a.is_ok_and(|a| b.is_some_and(|b| a == b));
    let release = kernel.uts().and_then(|uts| uts.text("release"));
    if kernel.banner().is_ok_and(|banner| release.as_ref().is_ok_and(|release| banner.contains(release.as_str()))) {
        reasons.push("the banner and the guest's own release agree".to_owned());
    }
    if agrees(release, kernel.note().and_then(|note| note.get("OSRELEASE"))) {
        reasons.push("VMCOREINFO agrees".to_owned());
    }
    let levels =
        machine.and_then(|machine| machine.cpus.first()?.cr4).map(|cr4| if cr4 >> 12 & 1 == 1 { 5 } else { 4 });
    if levels == Some(kernel.place.tables.levels()) {
        reasons.push("CR4 agrees on the levels of the page tables".to_owned());
    }
    let leads = |root: u64| kernel.reaches_text(root);
    if machine.is_some_and(|machine| machine.cpus.iter().filter_map(|cpu| cpu.cr3).any(leads)) {
        reasons.push("the tables that a CPU was using map it there, too".to_owned());
    }
    reasons.join("; ")
}
