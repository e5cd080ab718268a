//! BTF, the kernel's own description of its types.
//!
//! Layout: `Documentation/bpf/btf.rst`. [`Btf::parse`] checks every record, name and reference once, so that a torn or
//! corrupt copy (the boot leaves one in memory) is refused as a whole; what follows only looks things up.
//! It holds no addresses, and of variables only those of CPUs.

mod split;

use super::{ByName, hash};

/// What a valid copy begins with: magic, version, flags, and the length of the header.
pub const MAGIC: [u8; 8] = [0x9f, 0xeb, 1, 0, 24, 0, 0, 0];
/// More than any kernel has; bounds what is believed of a header.
pub const MOST_BYTES: usize = 64 << 20;
/// Modifiers around each other, structures in each other: more is a circle.
const DEEP: usize = 32;
/// Members that are looked at in the search for one name.
const MOST_MEMBERS: usize = 20_000;

/// Number of a type; 0 is `void`.
pub type Id = u32;

/// Kinds of types, as far as they matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// No type.
    Void,
    /// An integer, also of floating point: is it signed?
    Int {
        /// Has a sign.
        signed: bool,
    },
    /// A pointer.
    Pointer,
    /// An array of so many.
    Array(u32),
    /// A structure.
    Struct,
    /// A union.
    Union,
    /// An enumeration.
    Enum {
        /// Has a sign.
        signed: bool,
    },
    /// Declared and nowhere described.
    Forward,
    /// Another name or a modifier.
    Alias,
    /// Something without a size: a function, a variable, a section, a tag.
    Other,
}

/// A member of a structure, or of an unnamed one within.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    /// Where it begins, in bits from the structure's begin.
    pub bit: u64,
    /// Its width if it is a bit field.
    pub bits: Option<u8>,
    /// Its type.
    pub id: Id,
}

/// See the module.
#[derive(Clone)]
pub struct Btf {
    bytes: Vec<u8>,
    /// Where each record begins in `bytes`; `void` has none.
    records: Vec<u32>,
    strings: usize,
    /// Types that have a name and are looked for by it.
    named: Vec<Id>,
    names: ByName,
}

/// The parts of a record that all kinds have.
#[derive(Clone, Copy)]
struct Record {
    at: usize,
    name: u32,
    kind: u32,
    vlen: u32,
    flag: bool,
    size_or_type: u32,
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let end = at.checked_add(4)?;
    Some(u32::from_le_bytes(bytes.get(at..end)?.try_into().ok()?))
}

impl Btf {
    /// Reads a copy that begins with [`MAGIC`]; says what is wrong with one that is damaged. Bytes behind it are ignored.
    pub fn parse(bytes: impl Into<Vec<u8>>) -> Result<Self, String> {
        let mut bytes = bytes.into();
        let (types, strings, end) = Self::layout(&bytes)?;
        if end > bytes.len() {
            return Err("it is cut short".to_owned());
        }
        bytes.truncate(end);
        let mut records = vec![0];
        let mut named = Vec::new();
        let mut furthest = Furthest::default();
        let mut at = types;
        while at < strings {
            let record = Record::read(&bytes, at).ok_or_else(|| format!("a record at {at:#x} is cut short"))?;
            let len = record.len().ok_or_else(|| format!("a record of kind {} at {at:#x}", record.kind))?;
            let body = bytes.get(at + 12..at + len).ok_or_else(|| format!("a record at {at:#x} is cut short"))?;
            furthest.see(&record, body, records.len());
            if matches!(record.kind, 4..=6 | 19) && record.name != 0 {
                named.push(records.len() as u32);
            }
            records.push(at as u32);
            at += len;
        }
        if at != strings {
            return Err(format!("its last record ends at {at:#x} and not at {strings:#x}"));
        }
        furthest.check(records.len(), end - strings)?;
        let names = ByName::for_about(named.len());
        let mut btf = Self { bytes, records, strings, named: Vec::new(), names };
        btf.index(named);
        Ok(btf)
    }

    /// Makes types be found by their names.
    fn index(&mut self, named: Vec<Id>) {
        for &id in &named {
            let hash = hash(self.name(id));
            self.names.add(hash);
        }
        self.named.extend(named);
    }

    /// Begin of the types, of the strings, and the end.
    fn layout(bytes: &[u8]) -> Result<(usize, usize, usize), String> {
        if !bytes.starts_with(&MAGIC) {
            return Err("it has no BTF header".to_owned());
        }
        let word = |at| u32_at(bytes, at).map_or(usize::MAX, |word| word as usize);
        let (type_off, type_len, str_off, str_len) = (word(8), word(12), word(16), word(20));
        if type_off != 0 || str_off != type_len || type_len > MOST_BYTES || str_len > MOST_BYTES || str_len == 0 {
            return Err("its header makes no sense".to_owned());
        }
        let (strings, end) = (24 + type_len, 24 + type_len + str_len);
        let ends = bytes.get(strings) == Some(&0) && bytes.get(end - 1) == Some(&0);
        if ends { Ok((24, strings, end)) } else { Err("its names do not begin and end with a NUL".to_owned()) }
    }

    /// Length that a header claims, if it may be one: header, types, names; and of the types alone.
    pub fn claimed(header: &[u8]) -> Option<(usize, usize)> {
        let (types, offset, names) = (u32_at(header, 12)?, u32_at(header, 16)?, u32_at(header, 20)?);
        let all = (types as usize).checked_add(names as usize)?.checked_add(24)?;
        (header.starts_with(&MAGIC) && offset == types && all <= MOST_BYTES).then_some((all, types as usize))
    }

    fn record(&self, id: Id) -> Option<Record> {
        let at = *self.records.get(id as usize)?;
        if id == 0 { None } else { Record::read(&self.bytes, at as usize) }
    }

    fn text(&self, name: u32) -> &[u8] {
        let bytes = self.bytes.get(self.strings + name as usize..).unwrap_or_default();
        bytes.split(|&byte| byte == 0).next().unwrap_or_default()
    }

    /// Types there are, `void` included.
    pub fn count(&self) -> u32 {
        self.records.len() as u32
    }

    /// Length of its names in bytes.
    pub fn names_len(&self) -> usize {
        self.bytes.len() - self.strings
    }

    /// Length of all of it in bytes, header included.
    pub fn size_in_memory(&self) -> usize {
        self.bytes.len()
    }

    /// The structure or union of this name.
    pub fn find(&self, name: &str) -> Option<Id> {
        self.named(name, |kind| matches!(kind, 4 | 5))
    }

    /// The enumeration of this name.
    pub fn find_enum(&self, name: &str) -> Option<Id> {
        self.named(name, |kind| matches!(kind, 6 | 19))
    }

    fn named(&self, name: &str, fits: impl Fn(u32) -> bool) -> Option<Id> {
        let is = |&id: &Id| {
            self.record(id).is_some_and(|record| fits(record.kind) && self.text(record.name) == name.as_bytes())
        };
        self.names.find(hash(name.as_bytes())).filter_map(|at| self.named.get(at).copied()).find(is)
    }

    /// A type's own name; empty for many.
    pub fn name(&self, id: Id) -> &[u8] {
        self.record(id).map_or(b"", |record| self.text(record.name))
    }

    /// The type behind names and modifiers.
    pub fn plain(&self, mut id: Id) -> Id {
        for _ in 0..DEEP {
            match self.record(id) {
                Some(record) if matches!(record.kind, 8..=11 | 18) => id = record.size_or_type,
                _ => return id,
            }
        }
        0
    }

    /// What a type is. Names and modifiers are [`Kind::Alias`].
    pub fn kind(&self, id: Id) -> Kind {
        let Some(record) = self.record(id) else { return Kind::Void };
        match record.kind {
            1 => Kind::Int { signed: u32_at(&self.bytes, record.at + 12).is_some_and(|word| word >> 24 & 1 == 1) },
            16 => Kind::Int { signed: true },
            2 => Kind::Pointer,
            3 => Kind::Array(u32_at(&self.bytes, record.at + 20).unwrap_or(0)),
            4 => Kind::Struct,
            5 => Kind::Union,
            6 | 19 => Kind::Enum { signed: record.flag },
            7 => Kind::Forward,
            8..=11 | 18 => Kind::Alias,
            _ => Kind::Other,
        }
    }

    /// What a pointer points at, an array holds, a name stands for.
    pub fn target(&self, id: Id) -> Id {
        match self.record(id) {
            Some(record) if record.kind == 3 => u32_at(&self.bytes, record.at + 12).unwrap_or(0),
            Some(record) if matches!(record.kind, 2 | 8..=12 | 18) => record.size_or_type,
            _ => 0,
        }
    }

    /// Size in bytes; 0 for what has none.
    pub fn size(&self, id: Id) -> u64 {
        let (mut id, mut times) = (id, 1_u64);
        for _ in 0..DEEP {
            id = self.plain(id);
            match self.kind(id) {
                Kind::Pointer => return times.saturating_mul(8),
                Kind::Array(count) => (id, times) = (self.target(id), times.saturating_mul(u64::from(count))),
                Kind::Int { .. } | Kind::Struct | Kind::Union | Kind::Enum { .. } => {
                    return times.saturating_mul(self.record(id).map_or(0, |record| u64::from(record.size_or_type)));
                }
                _ => return 0,
            }
        }
        0
    }

    /// All members of a structure or union, in their order, with their names; unnamed ones have an empty name.
    pub fn members(&self, id: Id) -> impl Iterator<Item = (&[u8], Member)> {
        let record = self.record(id).filter(|record| matches!(record.kind, 4 | 5));
        let (at, count, flag) = record.map_or((0, 0, false), |r| (r.at + 12, r.vlen as usize, r.flag));
        (0..count).filter_map(move |n| {
            let word = |part: usize| u32_at(&self.bytes, at + 12 * n + 4 * part);
            let (name, id, offset) = (word(0)?, word(1)?, word(2)?);
            let bits = (flag && offset >> 24 != 0).then_some((offset >> 24) as u8);
            let bit = u64::from(if flag { offset & 0xff_ffff } else { offset });
            Some((self.text(name), Member { bit, bits, id }))
        })
    }

    /// The member `name` of a structure, also through unnamed structures and unions.
    pub fn member(&self, id: Id, name: &str) -> Option<Member> {
        let mut budget = MOST_MEMBERS;
        self.member_within(self.plain(id), name.as_bytes(), DEEP, &mut budget)
    }

    fn member_within(&self, id: Id, name: &[u8], deep: usize, budget: &mut usize) -> Option<Member> {
        for (found, member) in self.members(id) {
            *budget = budget.checked_sub(1)?;
            if found == name {
                return Some(member);
            }
            if found.is_empty() && deep > 0 {
                let inner = self.member_within(self.plain(member.id), name, deep - 1, budget);
                if let Some(inner) = inner {
                    return Some(Member { bit: member.bit + inner.bit, ..inner });
                }
            }
        }
        None
    }

    /// The names of an enumeration's values.
    pub fn values(&self, id: Id) -> impl Iterator<Item = (&[u8], i64)> {
        let record = self.record(id).filter(|record| matches!(record.kind, 6 | 19));
        let (at, count, step) = record.map_or((0, 0, 8), |r| (r.at + 12, r.vlen as usize, r.step()));
        (0..count).filter_map(move |n| {
            let low = u32_at(&self.bytes, at + step * n + 4)?;
            let value = match step {
                8 => i64::from(low as i32),
                _ => (u64::from(low) | u64::from(u32_at(&self.bytes, at + step * n + 8)?) << 32) as i64,
            };
            Some((self.text(u32_at(&self.bytes, at + step * n)?), value))
        })
    }
}

/// The highest name and the highest type that records name and refer to, each with the number of the first record that does.
#[derive(Default)]
struct Furthest {
    name: (u32, usize),
    target: (u32, usize),
}

impl Furthest {
    /// Takes what the record of this number, with `body` behind it, names and refers to.
    fn see(&mut self, record: &Record, body: &[u8], number: usize) {
        let Parts { count, step, name: names, target: targets } = record.parts();
        let (mut name, mut target) = (record.name, if record.refers() { record.size_or_type } else { 0 });
        for part in body.chunks_exact(step).take(count) {
            name = name.max(names.and_then(|at| u32_at(part, at)).unwrap_or(0));
            target = target.max(targets.and_then(|at| u32_at(part, at)).unwrap_or(0));
        }
        if name > self.name.0 {
            self.name = (name, number);
        }
        if target > self.target.0 {
            self.target = (target, number);
        }
    }

    /// Every name and reference leads somewhere.
    fn check(&self, types: usize, names: usize) -> Result<(), String> {
        match (self.name, self.target) {
            ((name, id), _) if name as usize >= names => Err(format!("type {id} has a name that is not there")),
            (_, (target, id)) if target as usize >= types => Err(format!("type {id} refers to one that is not there")),
            _ => Ok(()),
        }
    }
}

/// What stands behind a record that names or refers to something: so many parts of so many bytes, and where in each.
struct Parts {
    count: usize,
    step: usize,
    name: Option<usize>,
    target: Option<usize>,
}

impl Record {
    fn read(bytes: &[u8], at: usize) -> Option<Self> {
        let info = u32_at(bytes, at + 4)?;
        let (name, size_or_type) = (u32_at(bytes, at)?, u32_at(bytes, at + 8)?);
        let (kind, vlen, flag) = (info >> 24 & 0x1f, info & 0xffff, info >> 31 == 1);
        Some(Self { at, name, kind, vlen, flag, size_or_type })
    }

    /// Length of one of the parts behind the record.
    fn step(&self) -> usize {
        match self.kind {
            4 | 5 | 15 | 19 => 12,
            _ => 8,
        }
    }

    /// Is `size_or_type` a type?
    fn refers(&self) -> bool {
        matches!(self.kind, 2 | 8..=14 | 17 | 18)
    }

    fn parts(&self) -> Parts {
        let (count, name, target) = (self.vlen as usize, Some(0), Some(4));
        match self.kind {
            3 => Parts { count: 2, step: 4, name: None, target: Some(0) },
            4 | 5 | 13 => Parts { count, step: self.step(), name, target },
            6 | 19 => Parts { count, step: self.step(), name, target: None },
            15 => Parts { count, step: self.step(), name: None, target: Some(0) },
            _ => Parts { count: 0, step: self.step(), name: None, target: None },
        }
    }

    fn len(&self) -> Option<usize> {
        let parts = self.vlen as usize * self.step();
        match self.kind {
            2 | 7..=12 | 16 | 18 => Some(12),
            1 | 14 | 17 => Some(16),
            3 => Some(24),
            4 | 5 | 6 | 13 | 15 | 19 => Some(12 + parts),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn record(name: u32, kind: u32, vlen: u32, flag: u32, last: u32, body: &[u32]) -> Vec<u32> {
        let mut words = vec![name, flag << 31 | kind << 24 | vlen, last];
        words.extend_from_slice(body);
        words
    }

    pub(super) fn packed(records: &[Vec<u32>], strings: &[u8]) -> Vec<u8> {
        let types: Vec<u8> = records.concat().iter().flat_map(|word| word.to_le_bytes()).collect();
        let mut bytes = MAGIC.to_vec();
        for word in [0, types.len(), types.len(), strings.len()] {
            bytes.extend_from_slice(&(word as u32).to_le_bytes());
        }
        bytes.extend_from_slice(&types);
        bytes.extend_from_slice(strings);
        bytes
    }

    /// `struct s { int a; struct { unsigned b:3; void *c; }; int d[4]; }`, in records.
    pub(super) fn sample() -> Vec<u8> {
        let records = [
            record(1, 1, 0, 0, 4, &[1 << 24 | 32]),
            record(0, 2, 0, 0, 0, &[]),
            record(0, 3, 0, 0, 0, &[1, 1, 4]),
            record(0, 4, 2, 1, 16, &[9, 1, 3 << 24, 11, 2, 64]),
            record(5, 4, 3, 0, 40, &[7, 1, 0, 0, 4, 64, 13, 3, 192]),
            record(0, 10, 0, 0, 5, &[]),
        ];
        packed(&records, b"\0int\0s\0a\0b\0c\0d\0")
    }

    #[test]
    fn members_are_found_through_unnamed_structures_with_their_bits() {
        let btf = Btf::parse(sample()).unwrap();
        let s = btf.find("s").unwrap();
        assert_eq!((s, btf.size(s), btf.plain(6)), (5, 40, 5));
        assert_eq!(btf.member(6, "b"), Some(Member { bit: 64, bits: Some(3), id: 1 }));
        assert_eq!(btf.member(s, "c"), Some(Member { bit: 128, bits: None, id: 2 }));
        let d = btf.member(s, "d").unwrap();
        assert_eq!((d.bit, btf.kind(d.id), btf.size(d.id)), (192, Kind::Array(4), 16));
        assert_eq!(btf.member(s, "e"), None);
        assert_eq!(btf.kind(1), Kind::Int { signed: true });
    }

    /// Words of the sample: what the last type stands for, the type of an array's members, a member's type and name, a type's name.
    #[test]
    fn what_names_or_refers_to_something_that_is_not_there_is_refused() {
        let sample = sample();
        let names = u32_at(&sample, 20).unwrap();
        let words = |at: usize| 24 + 4 * at;
        for (word, wrong, id, why) in [
            (36, 7, 6, "refers to one"),
            (10, 7, 3, "refers to one"),
            (17, 7, 4, "refers to one"),
            (16, names, 4, "has a name"),
            (22, names, 5, "has a name"),
        ] {
            let mut bytes = sample.clone();
            for (put, good) in [(wrong, false), (wrong - 1, true)] {
                bytes[words(word)..words(word) + 4].copy_from_slice(&put.to_le_bytes());
                match Btf::parse(bytes.clone()) {
                    Ok(_) => assert!(good, "word {word}"),
                    Err(error) => assert!(!good && error.starts_with(&format!("type {id} {why}")), "{error}"),
                }
            }
        }
    }

    #[test]
    fn a_copy_that_is_cut_or_changed_is_refused_or_harmless() {
        let sample = sample();
        for end in 0..sample.len() {
            assert!(Btf::parse(&sample[..end]).is_err(), "{end}");
        }
        for at in 0..sample.len() {
            for bit in 0..8 {
                let mut bytes = sample.clone();
                bytes[at] ^= 1 << bit;
                if let Ok(btf) = Btf::parse(bytes) {
                    for id in 0..btf.count() + 2 {
                        let _ = (btf.size(id), btf.member(id, "zz"), btf.kind(id), btf.values(id).count());
                    }
                }
            }
        }
    }
}
