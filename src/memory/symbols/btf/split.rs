//! Types of modules: BTF that goes on where the kernel's own ends ("split BTF", `Documentation/bpf/btf.rst`, `kernel/bpf/btf.c`).
//!
//! A module's records refer to types of the kernel by their numbers, and to its own by the numbers that follow; with names it is the same. Every
//! module's numbers begin at the same place, so they are given new ones here, and all types are one table. A copy of which one record, name or
//! reference does not fit is refused as a whole.

use super::{Btf, Id, MAGIC, MOST_BYTES, Parts, Record, u32_at};

impl Btf {
    /// Adds the types of modules. Answers which modules were refused, and why.
    pub fn add_modules(&mut self, modules: &[(String, Vec<u8>)]) -> Vec<(String, String)> {
        let base = Base { types: self.count(), names: self.names_len() as u32 };
        let (mut refused, mut named) = (Vec::new(), Vec::new());
        self.bytes.reserve(modules.iter().map(|(_, bytes)| bytes.len()).sum());
        for (module, bytes) in modules {
            if let Err(why) = self.append(&base, bytes, &mut named) {
                refused.push((module.clone(), why));
            }
        }
        self.index(named);
        refused
    }

    /// Adds one module's records behind all there are; nothing is added if one of them is wrong.
    fn append(&mut self, base: &Base, bytes: &[u8], named: &mut Vec<Id>) -> Result<(), String> {
        let (types, names) = layout(bytes)?;
        let new = self.bytes.len() + types.len();
        if new + names.len() > MOST_BYTES {
            return Err(format!("the types of all modules are more than {} MiB", MOST_BYTES >> 20));
        }
        let mut records = Vec::new();
        let mut at = 0;
        while at < types.len() {
            let record = Record::read(types, at).ok_or("a record is cut short")?;
            let len = record.len().ok_or_else(|| format!("a record of kind {} at {at:#x}", record.kind))?;
            types.get(at..at.saturating_add(len)).ok_or("a record is cut short")?;
            records.push(record);
            at += len;
        }
        let moved = Moved {
            base,
            first: self.count(),
            types: records.len() as u32,
            texts: (new - self.strings) as u32,
            names: names.len() as u32,
        };
        let mut rewritten = types.to_vec();
        for (n, record) in records.iter().enumerate() {
            moved.rewrite(record, &mut rewritten).ok_or_else(|| {
                format!("type {} names or refers to something that is not there", base.types + n as u32)
            })?;
        }
        let begin = self.bytes.len();
        self.bytes.extend_from_slice(&rewritten);
        self.bytes.extend_from_slice(names);
        for record in records {
            let (id, at) = (self.records.len() as u32, begin + record.at);
            self.records.push(at as u32);
            let name = u32_at(&self.bytes, at).unwrap_or(0);
            if matches!(record.kind, 4 | 5) && name != 0 {
                named.push(id);
            }
        }
        Ok(())
    }
}

/// What the kernel's own have, which every module counts on.
struct Base {
    types: u32,
    names: u32,
}

/// Where a module's types and names go.
struct Moved<'b> {
    base: &'b Base,
    /// New number of its first type.
    first: u32,
    types: u32,
    /// Where its names are, from the begin of the kernel's.
    texts: u32,
    names: u32,
}

impl Moved<'_> {
    fn id(&self, id: u32) -> Option<u32> {
        match id.checked_sub(self.base.types) {
            None => Some(id),
            Some(own) => (own < self.types).then_some(self.first + own),
        }
    }

    fn name(&self, name: u32) -> Option<u32> {
        match name.checked_sub(self.base.names) {
            None => Some(name),
            Some(own) => (own < self.names).then_some(self.texts + own),
        }
    }

    /// Gives one record of `types` its new names and numbers; `None` if one of the old ones leads nowhere.
    fn rewrite(&self, record: &Record, types: &mut [u8]) -> Option<()> {
        put(types, record.at, self.name(record.name)?)?;
        if record.refers() {
            put(types, record.at + 8, self.id(record.size_or_type)?)?;
        }
        let Parts { count, step, name, target } = record.parts();
        for part in (record.at + 12..).step_by(step).take(count) {
            if let Some(word) = name {
                put(types, part + word, self.name(u32_at(types, part + word)?)?)?;
            }
            if let Some(word) = target {
                put(types, part + word, self.id(u32_at(types, part + word)?)?)?;
            }
        }
        Some(())
    }
}

fn put(types: &mut [u8], at: usize, word: u32) -> Option<()> {
    types.get_mut(at..at.checked_add(4)?)?.copy_from_slice(&word.to_le_bytes());
    Some(())
}

/// Types and names of a module's copy. Its names need not begin with an empty one: the kernel's do.
fn layout(bytes: &[u8]) -> Result<(&[u8], &[u8]), String> {
    if !bytes.starts_with(&MAGIC) {
        return Err("it has no BTF header".to_owned());
    }
    let word = |at| u32_at(bytes, at).map_or(usize::MAX, |word| word as usize);
    let (type_off, type_len, str_off, str_len) = (word(8), word(12), word(16), word(20));
    if type_off != 0 || str_off != type_len || type_len > MOST_BYTES || str_len > MOST_BYTES {
        return Err("its header makes no sense".to_owned());
    }
    let names = 24 + type_len;
    let (types, names) = (bytes.get(24..names), bytes.get(names..names + str_len));
    let (types, names) = types.zip(names).ok_or("it is cut short")?;
    if names.last().is_some_and(|&last| last != 0) {
        Err("its names do not end with a NUL".to_owned())
    } else {
        Ok((types, names))
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{packed, record, sample};
    use super::super::{Kind, Member};
    use super::*;

    /// What the kernel's sample has: six types besides `void`, and its names.
    const TYPES: u32 = 7;
    const NAMES: u32 = 15;

    /// `struct m { struct s *kernel; struct m *own; int d; }`, with `d` named by the kernel.
    fn module() -> Vec<u8> {
        let (own, kernel) = (NAMES + 2, NAMES + 6);
        let words = [
            record(0, 2, 0, 0, 5, &[]),
            record(0, 2, 0, 0, TYPES + 2, &[]),
            record(NAMES, 4, 3, 0, 24, &[kernel, TYPES, 0, own, TYPES + 1, 64, 13, 1, 128]),
        ];
        packed(&words, b"m\0own\0kernel\0")
    }

    fn named(name: &str) -> (String, Vec<u8>) {
        (name.to_owned(), module())
    }

    #[test]
    fn types_of_several_modules_are_beside_those_of_the_kernel() {
        let mut all = Btf::parse(sample()).unwrap();
        assert_eq!((all.count(), all.names_len() as u32), (TYPES, NAMES));
        assert_eq!(all.add_modules(&[named("one"), named("two")]), []);
        assert_eq!(all.count(), TYPES + 6);
        // The first of that name; the second has its own numbers.
        let (m, s) = (all.find("m").unwrap(), all.find("s").unwrap());
        assert_eq!((m, s), (TYPES + 2, 5));
        for m in [m, m + 3] {
            assert_eq!(all.name(m), b"m");
            let own = all.member(m, "own").unwrap();
            assert_eq!((own.bit, all.target(own.id)), (64, m));
            let kernel = all.member(m, "kernel").unwrap();
            assert_eq!((all.kind(kernel.id), all.target(kernel.id)), (Kind::Pointer, s));
            assert_eq!(all.member(m, "d"), Some(Member { bit: 128, bits: None, id: 1 }));
        }
    }

    #[test]
    fn a_damaged_module_is_refused_or_harmless_and_leaves_the_others() {
        let good = module();
        for at in 0..good.len() {
            for bit in 0..8 {
                let mut bytes = good.clone();
                bytes[at] ^= 1 << bit;
                let mut all = Btf::parse(sample()).unwrap();
                let refused = all.add_modules(&[("bad".to_owned(), bytes), named("good")]);
                assert!(refused.iter().all(|(module, _)| module == "bad"), "{refused:?}");
                assert!(refused.is_empty() || all.count() == TYPES + 3, "{at} {bit}");
                assert!(all.find("m").is_some());
                for id in 0..all.count() + 2 {
                    let _ = (all.size(id), all.member(id, "own"), all.kind(id), all.values(id).count());
                }
                assert_eq!(all.size(all.find("s").unwrap()), 40);
            }
        }
        for end in 0..good.len() {
            let mut all = Btf::parse(sample()).unwrap();
            let refused = all.add_modules(&[("cut".to_owned(), good[..end].to_vec())]);
            assert_eq!((all.count(), refused.len()), (TYPES, 1), "{end}");
        }
    }

    #[test]
    fn a_reference_behind_the_last_type_is_told() {
        let bytes = packed(&[record(0, 2, 0, 0, TYPES + 1, &[])], b"");
        let refused = Btf::parse(sample()).unwrap().add_modules(&[("bad".to_owned(), bytes)]);
        assert!(refused[0].1.contains("type 7 names or refers to something that is not there"), "{refused:?}");
    }
}
