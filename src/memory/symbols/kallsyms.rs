//! kallsyms: the kernel's own table of its symbols, found by its structure wherever it lies.
//!
//! Layout: `scripts/kallsyms.c` and `kernel/kallsyms.c`. The tables stand in one of two orders, with or without
//! `seqs_of_names`, with offsets to a base, to themselves or full addresses; which, is probed and never told by a version.
//! Names are accepted only if decoding them leads to every one of the table's own markers. Symbols of modules are elsewhere.

mod tables;

use std::sync::OnceLock;

use super::{ByName, hash};
use tables::Tables;
pub use tables::{DECOY, Form, TOKENS};

/// Where x86-64 maps the kernel's image: the part of the address space that all its symbols lie in.
pub const KERNEL_MAP: u64 = 0xffff_ffff_8000_0000;

/// See the module. In the order of the kernel's table, which is that of the addresses.
pub struct Kallsyms {
    list: Vec<Entry>,
    names: String,
    form: Form,
    by_name: OnceLock<ByName>,
    by_address: OnceLock<Vec<u32>>,
}

#[derive(Clone, Copy)]
struct Entry {
    address: u64,
    name: u32,
    len: u16,
    kind: u8,
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
    pub fn parse(window: &[u8], hit: usize, at: u64) -> Result<Self, String> {
        let tables = Tables::find(window, hit)?;
        // There is a name for each: the markers have agreed.
        let mut list = Vec::with_capacity(tables.count);
        let mut begin = 0;
        let names = tables.names(|kind, end| {
            list.push(Entry { address: 0, name: begin as u32 + 1, len: (end - begin - 1) as u16, kind });
            begin = end;
        });
        let names = ascii(names.ok_or("its names end too early, or are longer than any")?);
        let (form, addresses) = tables.addresses(at).ok_or("it has no addresses that ascend")?;
        for (entry, address) in list.iter_mut().zip(addresses) {
            entry.address = address;
        }
        Ok(Self { list, names, form, by_name: OnceLock::new(), by_address: OnceLock::new() })
    }

    /// Do the ten digits in `window` at `hit` stand in a token table with its index?
    pub fn has_tokens(window: &[u8], hit: usize) -> bool {
        tables::tokens(window, hit).is_some()
    }

    /// How addresses were stored.
    pub fn form(&self) -> Form {
        self.form
    }

    /// Symbols that are known from elsewhere, in the order of their addresses.
    pub fn listed<'a>(symbols: impl Iterator<Item = (&'a str, u64)>) -> Self {
        let (mut names, mut list) = (String::new(), Vec::new());
        for (name, address) in symbols {
            let len = name.len().min(usize::from(u16::MAX));
            list.push(Entry { address, name: names.len() as u32, len: len as u16, kind: b'?' });
            names.push_str(name.get(..len).unwrap_or_default());
        }
        list.sort_by_key(|entry| entry.address);
        Self { list, names, form: Form::Listed, by_name: OnceLock::new(), by_address: OnceLock::new() }
    }

    /// The same symbols with `by` added to each address. Those of a symbol file that are no addresses but offsets, of what each CPU
    /// has its own, stay.
    #[must_use]
    pub fn moved(mut self, by: u64) -> Self {
        let stays = |address: u64| self.form == Form::Listed && address >> 63 == 0;
        for entry in self.list.iter_mut().filter(|entry| !stays(entry.address)) {
            entry.address = entry.address.wrapping_add(by);
        }
        self
    }

    /// Symbols there are.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Are there none?
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    fn symbol(&self, entry: &Entry) -> Symbol<'_> {
        let begin = entry.name as usize;
        let name = self.names.get(begin..begin.saturating_add(entry.len as usize)).unwrap_or_default();
        Symbol { name, address: entry.address, kind: char::from(entry.kind) }
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = Symbol<'_>> {
        self.list.iter().map(|entry| self.symbol(entry))
    }

    /// The address of the first symbol of this name.
    pub fn address(&self, name: &str) -> Option<u64> {
        let index = self.by_name.get_or_init(|| {
            let hashed = self.iter().enumerate().map(|(n, symbol)| (hash(symbol.name.as_bytes()), n as u32));
            ByName::new(hashed)
        });
        let found = index.find(name.as_bytes()).filter_map(|n| self.list.get(n as usize));
        found.map(|entry| self.symbol(entry)).find(|symbol| symbol.name == name).map(|symbol| symbol.address)
    }

    /// The symbol that an address belongs to: the last one that begins at or before it.
    pub fn at(&self, address: u64) -> Option<Symbol<'_>> {
        let index = self.by_address.get_or_init(|| {
            let mut order: Vec<u32> = (0..self.list.len() as u32).collect();
            order.sort_by_key(|&n| self.list.get(n as usize).map_or(0, |entry| entry.address));
            order
        });
        let entry = |n: &u32| self.list.get(*n as usize);
        let above = index.partition_point(|n| entry(n).is_some_and(|entry| entry.address <= address));
        let last = entry(index.get(above.checked_sub(1)?)?)?;
        // Of several at one address the first is the one that kallsyms itself would tell.
        let first = index.partition_point(|n| entry(n).is_some_and(|entry| entry.address < last.address));
        Some(self.symbol(entry(index.get(first)?)?))
    }
}

/// Names are ASCII: what else is there, is damage.
fn ascii(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap_or_else(|error| {
        let bytes = error.into_bytes().into_iter();
        bytes.map(|byte| if byte.is_ascii() { char::from(byte) } else { '?' }).collect()
    })
}
