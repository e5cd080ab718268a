//! kallsyms: the kernel's own table of its symbols, found by its structure wherever it lies.
//!
//! Layout: `scripts/kallsyms.c` and `kernel/kallsyms.c`. The tables stand in one of two orders, with or without
//! `seqs_of_names`, with offsets to a base, to themselves or full addresses; which, is probed and never told by a version.
//! Names are accepted only if decoding them leads to every one of the table's own markers. Symbols of modules are elsewhere.

mod addresses;
mod names;
mod tables;

use std::sync::{Arc, OnceLock};

use super::ByName;
use addresses::Addresses;
pub use addresses::Form;
use names::{Names, Plain};
use tables::Tables;
pub use tables::{DECOY, TOKENS};

/// Where x86-64 maps the kernel's image: the part of the address space that all its symbols lie in.
pub const KERNEL_MAP: u64 = 0xffff_ffff_8000_0000;

/// See the module. In the order of the kernel's table, which is that of the addresses.
pub struct Kallsyms {
    names: Names,
    addresses: Addresses,
    by_name: ByName,
    by_address: OnceLock<Vec<u32>>,
    plain: OnceLock<Plain>,
}

/// One symbol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Symbol<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its address; of what each CPU has its own, an offset.
    pub address: u64,
    /// The letter that `nm` shows.
    pub kind: char,
}

impl Kallsyms {
    /// Reads the table around the token table in `window` at `hit` (see [`TOKENS`]). `at` is where the window begins: addresses
    /// of [`Form::Relative`] are told from there, and stay so until they are [moved](Self::moved).
    pub fn parse(window: impl Into<Vec<u8>>, hit: usize, at: u64) -> Result<Self, String> {
        let window = Arc::new(window.into());
        let tables = Tables::find(&window, hit)?;
        let stored = tables.addresses(at).ok_or("it has no addresses that ascend")?;
        let tokens = tables.tokens.into_iter().map(Box::from).collect();
        let names = Names::new(Arc::clone(&window), tables.names, tables.count, tables.markers, tokens);
        let addresses = Addresses::new(window, stored);
        Self::new(names, addresses).ok_or_else(|| "its names end too early, or are longer than any".to_owned())
    }

    fn new(names: Names, addresses: Addresses) -> Option<Self> {
        let by_name = names.index()?;
        Some(Self { names, addresses, by_name, by_address: OnceLock::new(), plain: OnceLock::new() })
    }

    /// Do the ten digits in `window` at `hit` stand in a token table with its index?
    pub fn has_tokens(window: &[u8], hit: usize) -> bool {
        tables::tokens(window, hit).is_some()
    }

    /// How addresses were stored.
    pub fn form(&self) -> Form {
        self.addresses.form()
    }

    /// Symbols that are known from elsewhere. None if their names are longer than those of any kernel.
    pub fn listed<'a>(symbols: impl Iterator<Item = (&'a str, u64)>) -> Option<Self> {
        let mut list: Vec<_> = symbols.collect();
        list.sort_by_key(|(_, address)| *address);
        let (names, addresses): (Vec<_>, Vec<_>) = list.into_iter().unzip();
        Self::new(Names::listed(names.into_iter()), Addresses::listed(&addresses))
    }

    /// The same symbols with `by` added to each address. Those of a symbol file that are no addresses but offsets, of what each CPU
    /// has its own, stay.
    #[must_use]
    pub fn moved(self, by: u64) -> Self {
        Self { addresses: self.addresses.moved(by), ..self }
    }

    /// Symbols there are.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Are there none?
    pub fn is_empty(&self) -> bool {
        self.names.len() == 0
    }

    fn symbol(&self, n: usize) -> Option<Symbol<'_>> {
        let (name, kind) = self.plain.get_or_init(|| self.names.plain()).name(n)?;
        Some(Symbol { name, address: self.addresses.address(n)?, kind })
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = Symbol<'_>> {
        (0..self.len()).map_while(|n| self.symbol(n))
    }

    /// The address of the first symbol of this name.
    pub fn address(&self, name: &str) -> Option<u64> {
        self.addresses.address(self.names.find(&self.by_name, name)?)
    }

    /// The symbol that an address belongs to: the last one that begins at or before it.
    pub fn at(&self, address: u64) -> Option<Symbol<'_>> {
        let address_of = |n: &u32| self.addresses.address(*n as usize).unwrap_or_default();
        let index = self.by_address.get_or_init(|| {
            let mut order: Vec<u32> = (0..self.len() as u32).collect();
            order.sort_by_key(address_of);
            order
        });
        let above = index.partition_point(|n| address_of(n) <= address);
        let last = address_of(index.get(above.checked_sub(1)?)?);
        // Of several at one address the first is the one that kallsyms itself would tell.
        let first = index.partition_point(|n| address_of(n) < last);
        self.symbol(*index.get(first)? as usize)
    }
}
