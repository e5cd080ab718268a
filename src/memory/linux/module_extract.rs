//! `linux.module_extract`: modules as files again: ELF of a loaded module, from memory alone.
//!
//! Source: the sections that the kernel remembers for sysfs (`struct module_sect_attrs`), what lies there, and the module's own table of
//! symbols. It is what runs: relocations are done, and what the loader threw away (`.init`, names of sections for debugging) is not there. Where
//! a section ends is not remembered: it is taken to go on to the next one, or to the end of the module's part of memory. Modules that hide
//! are written, too.

use serde_json::json;

use super::super::cells::{some_text, text};
use super::super::paging::Tables;
use super::super::{MemoryError, Outcome};
use super::{Ask, Kernel, Object, hidden_modules, lsmod};
use crate::image::InMemory;
use crate::report::{Cell, Column, Rows};

/// Its columns.
pub const COLUMNS: &[Column] = &[
    Column("base"),
    Column("name"),
    Column("sections"),
    Column("symbols"),
    Column("file_size"),
    Column("file_output"),
];

/// Sections of one module, and bytes of all of them.
const MOST_SECTIONS: u64 = 1024;
const MOST_BYTES: u64 = 256 << 20;
/// Symbols of one module.
const MOST_SYMBOLS: u64 = 1 << 18;
/// Bytes of `Elf64_Ehdr`, `Elf64_Shdr` and `Elf64_Sym`.
const HEADER: usize = 64;
const SECTION: usize = 64;
const SYMBOL: usize = 24;

/// See the module.
pub fn run(kernel: &Kernel, ask: &Ask, rows: &mut dyn Rows) -> Outcome<()> {
    let mut modules = lsmod::modules(kernel, ask)?;
    modules.extend(hidden_modules::hidden(kernel, ask)?.into_iter().map(|(module, _)| module));
    for module in modules {
        let name = module.text("name");
        if ask.terms.name.as_ref().is_some_and(|wanted| name.as_ref().ok() != Some(wanted)) {
            continue;
        }
        let base = lsmod::ranges(&module).ok().and_then(|ranges| ranges.first().map(|(base, _)| *base));
        let shown = name.as_ref().map_or_else(|_| format!("{:#x}", module.at), Clone::clone);
        let mut cells = vec![Cell::or_absent(base, crate::report::Absent::Unreadable, Cell::Address), text(name)];
        match rebuild(kernel, &module) {
            Ok(built) => {
                let more =
                    json!({ "module": shown, "at": format!("{:#x}", module.at), "missing_sections": built.missing });
                if ask.writes() && !built.missing.is_empty() {
                    ask.note(format!("{shown}: not all of {} is in memory", built.missing.join(", ")));
                }
                let size = built.bytes.len() as u64;
                let file = ask.write("linux.module_extract", &format!("{shown}.ko"), &InMemory(built.bytes), &more)?;
                cells.extend([
                    Cell::Int(built.sections as i64),
                    Cell::Int(built.symbols as i64),
                    Cell::Bytes(size),
                    file,
                ]);
            }
            Err(error) => {
                ask.note(format!("the module {shown}: {error}"));
                cells.extend([some_text(None), some_text(None), some_text(None), Cell::Absent(error.absent())]);
            }
        }
        rows.row(cells)?;
    }
    Ok(())
}

struct Built {
    bytes: Vec<u8>,
    sections: usize,
    symbols: usize,
    /// Sections that did not read to their end.
    missing: Vec<String>,
}

/// A section in memory.
struct Section {
    name: String,
    at: u64,
    len: u64,
}

/// Sections by their addresses.
fn sections(module: &Object<'_>) -> Outcome<Vec<Section>> {
    let ranges = lsmod::ranges(module)?;
    let mut all: Vec<(u64, String)> = Vec::new();
    let table = module.follow("sect_attrs")?;
    let first = table.get("attrs")?;
    let count = if table.has("nsections") { table.u64("nsections")? } else { listed(&table)? };
    if count > MOST_SECTIONS {
        return Err(MemoryError::corrupt("the sections of a module", table.at, format!("{count} of them")));
    }
    for n in 0..count {
        let one = first.element(n);
        // Since 6.14 the attribute itself holds the address.
        let at = one.either(&["address", "private"])?.value()?;
        let name = one.get(if one.has("battr.attr.name") { "battr.attr.name" } else { "attr.name" })?.value()?;
        let name = String::from_utf8_lossy(&module.kernel.space.text(name, 256)?).into_owned();
        all.push((at, name));
    }
    all.sort();
    let mut sections = Vec::new();
    for (n, (at, name)) in all.iter().enumerate() {
        // What the loader freed lies nowhere any more.
        let Some((base, size)) =
            ranges.iter().find(|(base, size)| at.checked_sub(*base).is_some_and(|into| into < *size))
        else {
            continue;
        };
        let end = base.saturating_add(*size);
        let next = all.iter().skip(n + 1).map(|(next, _)| *next).find(|next| next > at);
        let len = next.map_or(end, |next| next.min(end)) - at;
        sections.push(Section { name: name.clone(), at: *at, len });
    }
    if sections.iter().fold(0_u64, |sum, section| sum.saturating_add(section.len)) > MOST_BYTES {
        return Err(MemoryError::corrupt("the sections of a module", table.at, "longer than any module"));
    }
    Ok(sections)
}

/// Since 6.14 the list of attributes ends with a null.
fn listed(table: &Object<'_>) -> Outcome<u64> {
    let list = table.either(&["grp.bin_attrs", "grp.bin_attrs_new"])?.value()?;
    let ends = |n: &u64| table.kernel.space.u64(list.wrapping_add(8 * n)).map_or(true, |at| at == 0);
    Ok((0..=MOST_SECTIONS).find(ends).unwrap_or(MOST_SECTIONS + 1))
}

fn rebuild(kernel: &Kernel, module: &Object<'_>) -> Outcome<Built> {
    let sections = sections(module)?;
    let mut file = Elf { bytes: vec![0; HEADER], headers: vec![Header::default()], names: vec![0] };
    let mut missing = Vec::new();
    for section in &sections {
        let mut bytes = kernel.space.as_far_as(section.at, section.len as usize);
        if (bytes.len() as u64) < section.len {
            missing.push(section.name.clone());
            bytes.resize(section.len as usize, 0);
        }
        file.add(
            &section.name,
            &Header { kind: 1, flags: flags(&section.name), at: section.at, ..Header::default() },
            &bytes,
        );
    }
    let symbols = add_symbols(kernel, module, &sections, &mut file)?;
    let machine = if matches!(kernel.place.tables, Tables::X86(_)) { 62 } else { 183 };
    let count = file.headers.len();
    Ok(Built { bytes: file.end(machine), sections: count, symbols, missing })
}

/// Writable, loaded, executable: as compilers name their sections.
fn flags(name: &str) -> u64 {
    let code = [".text", ".init.text", ".exit.text", ".noinstr.text", ".plt", ".text."];
    let data = [".data", ".bss", ".init.data", ".gnu.linkonce.this_module", "__"];
    let starts = |list: &[&str]| list.iter().any(|start| name.starts_with(start));
    2 | if starts(&code) { 4 } else { 0 } | u64::from(starts(&data))
}

/// The module's own table of symbols and their names; each told relative to its section, as in a file.
fn add_symbols(kernel: &Kernel, module: &Object<'_>, sections: &[Section], file: &mut Elf) -> Outcome<usize> {
    let table = module.follow("kallsyms")?;
    let count = table.u64("num_symtab")?;
    if count > MOST_SYMBOLS {
        return Err(MemoryError::corrupt("a module's table of symbols", table.at, format!("{count} symbols")));
    }
    let entries = kernel.space.vec(table.u64("symtab")?, count as usize * SYMBOL)?;
    let texts = table.u64("strtab")?;
    let (mut symbols, mut names) = (vec![0; SYMBOL], vec![0]);
    for entry in entries.chunks_exact(SYMBOL).skip(1) {
        let field = |at: usize, len: usize| entry.get(at..at + len).unwrap_or_default();
        let number = |bytes: &[u8]| bytes.iter().rev().fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
        let (value, name) = (number(field(8, 8)), texts.wrapping_add(number(field(0, 4))));
        let within = |section: &&Section| value.checked_sub(section.at).is_some_and(|into| into < section.len);
        let home = sections.iter().position(|section| within(&section));
        let (index, value) = match home.and_then(|home| Some((home, sections.get(home)?))) {
            // The first header is nobody's.
            Some((home, section)) => (home as u16 + 1, value - section.at),
            None => (0xfff1, value),
        };
        let place = names.len() as u32;
        names.extend_from_slice(&kernel.space.text(name, 512)?);
        names.push(0);
        symbols.extend_from_slice(&place.to_le_bytes());
        symbols.extend_from_slice(field(4, 2));
        symbols.extend_from_slice(&index.to_le_bytes());
        symbols.extend_from_slice(&value.to_le_bytes());
        symbols.extend_from_slice(field(16, 8));
    }
    let strings = file.headers.len() as u32 + 1;
    // All are told as if they were global: the order of local ones is the linker's business.
    file.add(
        ".symtab",
        &Header { kind: 2, link: strings, info: 1, entry: SYMBOL as u64, ..Header::default() },
        &symbols,
    );
    file.add(".strtab", &Header { kind: 3, ..Header::default() }, &names);
    Ok(symbols.len() / SYMBOL - 1)
}

/// A section's header (ELF-64 object file format, figure 6).
#[derive(Debug, Default, Clone, Copy)]
struct Header {
    name: u32,
    kind: u32,
    flags: u64,
    at: u64,
    offset: u64,
    size: u64,
    link: u32,
    info: u32,
    entry: u64,
}

/// A file in the making.
struct Elf {
    bytes: Vec<u8>,
    headers: Vec<Header>,
    names: Vec<u8>,
}

impl Elf {
    fn add(&mut self, name: &str, header: &Header, content: &[u8]) {
        self.bytes.resize(self.bytes.len().next_multiple_of(16), 0);
        let (offset, size, place) = (self.bytes.len() as u64, content.len() as u64, self.names.len() as u32);
        self.bytes.extend_from_slice(content);
        self.names.extend(name.bytes().filter(|byte| *byte != 0));
        self.names.push(0);
        self.headers.push(Header { name: place, offset, size, ..*header });
    }

    /// The file, for a machine (`e_machine`).
    fn end(mut self, machine: u16) -> Vec<u8> {
        let names = self.names.clone();
        self.add(".shstrtab", &Header { kind: 3, ..Header::default() }, &[names.as_slice(), b".shstrtab\0"].concat());
        self.bytes.resize(self.bytes.len().next_multiple_of(16), 0);
        let table = self.bytes.len() as u64;
        for header in &self.headers {
            for word in [header.name, header.kind] {
                self.bytes.extend_from_slice(&word.to_le_bytes());
            }
            for word in [header.flags, header.at, header.offset, header.size] {
                self.bytes.extend_from_slice(&word.to_le_bytes());
            }
            for word in [header.link, header.info] {
                self.bytes.extend_from_slice(&word.to_le_bytes());
            }
            for word in [16, header.entry] {
                self.bytes.extend_from_slice(&word.to_le_bytes());
            }
        }
        let count = self.headers.len() as u16;
        // 64 bits, little-endian, version 1; ET_REL.
        let mut head = b"\x7fELF\x02\x01\x01".to_vec();
        head.resize(16, 0);
        head.extend_from_slice(&1_u16.to_le_bytes());
        head.extend_from_slice(&machine.to_le_bytes());
        head.extend_from_slice(&1_u32.to_le_bytes());
        head.extend_from_slice(&[0; 16]);
        head.extend_from_slice(&table.to_le_bytes());
        head.extend_from_slice(&[0; 4]);
        for half in [HEADER as u16, 0, 0, SECTION as u16, count, count - 1] {
            head.extend_from_slice(&half.to_le_bytes());
        }
        if let Some(first) = self.bytes.get_mut(..HEADER) {
            first.copy_from_slice(&head);
        }
        self.bytes
    }
}
