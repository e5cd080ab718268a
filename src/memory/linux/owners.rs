//! Whose a place in code is: the kernel's, a listed module's, that of a module that hides, or nobody's.

use std::cell::OnceCell;

use super::super::Outcome;
use super::super::cells::some_text;
use super::{Ask, Kernel, ModuleSymbol, Object, hidden_modules, lsmod};
use crate::report::Cell;

/// Code of modules, listed or not.
pub(super) struct Owners<'k> {
    kernel: &'k Kernel,
    modules: Vec<Owner<'k>>,
}

struct Owner<'k> {
    module: Object<'k>,
    ranges: Vec<(u64, u64)>,
    /// In the order of their addresses, once they are asked for.
    symbols: OnceCell<Vec<ModuleSymbol>>,
}

impl<'k> Owners<'k> {
    pub(super) fn of(kernel: &'k Kernel, ask: &Ask) -> Outcome<Self> {
        let mut modules = lsmod::modules(kernel, ask)?;
        match hidden_modules::hidden(kernel, ask) {
            Ok(hidden) => modules.extend(hidden.into_iter().map(|(module, _)| module)),
            Err(error) => ask.note(format!("hidden modules: {error}")),
        }
        let owner = |module: Object<'k>| {
            let ranges = lsmod::ranges(&module).unwrap_or_default();
            Owner { module, ranges, symbols: OnceCell::new() }
        };
        Ok(Self { kernel, modules: modules.into_iter().map(owner).collect() })
    }

    fn owner(&self, address: u64) -> Option<&Owner<'k>> {
        let within = |(base, size): &(u64, u64)| address.checked_sub(*base).is_some_and(|within| within < *size);
        self.modules.iter().find(|owner| owner.ranges.iter().any(within))
    }

    /// The symbol of a module that begins at or before an address in it.
    pub(super) fn in_module(&self, address: u64) -> Option<&ModuleSymbol> {
        let owner = self.owner(address)?;
        let symbols = owner.symbols.get_or_init(|| {
            let mut symbols = self.kernel.symbols_of(&owner.module).unwrap_or_default();
            symbols.sort_by_key(|symbol| symbol.address);
            symbols
        });
        let above = symbols.partition_point(|symbol| symbol.address <= address);
        // What belongs to no section stands at 0.
        symbols.get(above.checked_sub(1)?).filter(|symbol| self.owner(symbol.address).is_some())
    }

    /// Name of the module, `kernel` for the kernel's own code; address of the module.
    pub(super) fn whose(&self, address: u64) -> (Option<String>, Option<u64>) {
        if self.kernel.in_text(address) {
            return (Some("kernel".to_owned()), None);
        }
        self.owner(address).map_or((None, None), |owner| (owner.module.text("name").ok(), Some(owner.module.at)))
    }

    /// The symbol that an address belongs to, with what is added to it.
    pub(super) fn symbol(&self, address: u64) -> Option<String> {
        let Some(symbol) = self.in_module(address) else { return self.kernel.name_of(address) };
        match address - symbol.address {
            0 => Some(symbol.name.clone()),
            more => Some(format!("{}+{more:#x}", symbol.name)),
        }
    }

    /// The last cells of a row about a function that is called: module, and where its structure is.
    pub(super) fn cells(&self, address: u64) -> [Cell; 2] {
        let (name, at) = self.whose(address);
        [some_text(name), Cell::or_absent(at, crate::report::Absent::NotApplicable, Cell::Address)]
    }
}
