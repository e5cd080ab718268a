//! Symbols of modules: each module keeps its own table of them (`struct mod_kallsyms`, `kernel/module/kallsyms.c`).
//!
//! What is listed is what `/proc/kallsyms` shows with the module's name behind it. A module whose table does not read is told in a note;
//! one that is on no list has its table read by whoever found it, through [`Kernel::symbols_of`].

use std::sync::OnceLock;

use super::super::{MemoryError, Outcome};
use super::{Ask, Kernel, Object};

/// The most symbols of one module: the largest, of graphics cards, have some fifty thousand.
const MOST: u64 = 1 << 18;
/// Bytes of `Elf64_Sym`, and where its value stands.
const ENTRY: usize = 24;
const VALUE: usize = 8;
/// The longest name (`KSYM_NAME_LEN`).
const NAME: usize = 512;

/// A symbol of a module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModuleSymbol {
    /// Its name.
    pub name: String,
    /// Its address.
    pub address: u64,
    /// The letter that `nm` shows, as far as the kernel keeps it.
    pub kind: Option<char>,
    /// Whose.
    pub module: String,
}

/// Symbols of all modules on the kernel's list, read once.
#[derive(Default)]
pub(super) struct OfModules(OnceLock<(Vec<ModuleSymbol>, Vec<String>)>);

impl Kernel {
    /// Symbols of all modules on the kernel's list, in the order of their addresses.
    pub fn module_symbols(&self, ask: &Ask) -> &[ModuleSymbol] {
        let (symbols, notes) = self.of_modules.0.get_or_init(|| {
            let own = Ask::default();
            let mut symbols = self.collect(&own).unwrap_or_else(|error| {
                own.note(format!("the symbols of modules: {error}"));
                Vec::new()
            });
            symbols.sort_by_key(|symbol| symbol.address);
            (symbols, own.notes())
        });
        for note in notes {
            ask.note(note);
        }
        symbols
    }

    fn collect(&self, ask: &Ask) -> Outcome<Vec<ModuleSymbol>> {
        let mut symbols = Vec::new();
        for module in ask.all("the list of modules", self.list(self.symbol("modules")?, "module", "list")?) {
            match self.symbols_of(&module) {
                Ok(more) => symbols.extend(more),
                Err(error) => ask.note(format!("the symbols of the module at {:#x}: {error}", module.at)),
            }
        }
        Ok(symbols)
    }

    /// The symbols of one module.
    pub fn symbols_of(&self, module: &Object<'_>) -> Outcome<Vec<ModuleSymbol>> {
        let name = module.text("name")?;
        let table = module.follow("kallsyms")?;
        let count = table.u64("num_symtab")?;
        if count > MOST {
            return Err(MemoryError::corrupt("a module's table of symbols", table.at, format!("{count} symbols")));
        }
        let (texts, entries) = (table.u64("strtab")?, table.u64("symtab")?);
        let entries = self.space.vec(entries, count as usize * ENTRY)?;
        let kinds = table.u64("typetab").and_then(|at| Ok(self.space.vec(at, count as usize)?)).ok();
        let mut symbols = Vec::new();
        for (n, entry) in entries.chunks_exact(ENTRY).enumerate() {
            let (Some((&at, _)), Some(Some((&value, _)))) =
                (entry.split_first_chunk(), entry.get(VALUE..).map(<[u8]>::split_first_chunk))
            else {
                continue;
            };
            let text = self.space.text(texts.wrapping_add(u64::from(u32::from_le_bytes(at))), NAME)?;
            // The first entry is nobody's.
            if !text.is_empty() {
                let kind = kinds.as_ref().and_then(|kinds| kinds.get(n)).map(|&kind| char::from(kind));
                let (text, address) = (String::from_utf8_lossy(&text).into_owned(), u64::from_le_bytes(value));
                symbols.push(ModuleSymbol { name: text, address, kind, module: name.clone() });
            }
        }
        Ok(symbols)
    }

    /// `name+0x10 [module]` for an address that a listed module's symbol begins at or shortly before.
    pub fn module_name_of(&self, address: u64) -> Option<String> {
        let symbols = self.module_symbols(&Ask::default());
        let above = symbols.partition_point(|symbol| symbol.address <= address);
        let symbol = symbols.get(above.checked_sub(1)?)?;
        // Modules lie pages apart: further than that it is another's, or nobody's.
        match address - symbol.address {
            0 => Some(format!("{} [{}]", symbol.name, symbol.module)),
            more if more < 1 << 16 => Some(format!("{}+{more:#x} [{}]", symbol.name, symbol.module)),
            _ => None,
        }
    }
}
