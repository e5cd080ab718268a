//! Types of a symbol file, written as BTF: what describes them there is what describes a kernel's own.
//!
//! Layout: `Documentation/bpf/btf.rst`. First what has a name (integers, enumerations, structures), so that a structure can name any
//! other; then pointers and arrays, as they turn up in members. A type that the file names and does not describe is `void`.

use std::collections::HashMap;

use super::super::btf::{Id, MAGIC};
use super::{Base, Enumeration, Field, File, Type, User};

const INT: u32 = 1;
const POINTER: u32 = 2;
const ARRAY: u32 = 3;
const STRUCT: u32 = 4;
const UNION: u32 = 5;
const FLOAT: u32 = 16;
const ENUM_64: u32 = 19;
/// The most members of one structure.
const MOST: usize = 0xffff;
/// Where members of a structure with bit fields can begin.
const BITS: u64 = 1 << 24;

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Derived {
    Pointer(Id),
    Array(Id, u32),
}

struct Writer<'f> {
    types: Vec<u32>,
    strings: Vec<u8>,
    bases: HashMap<&'f str, Id>,
    enums: HashMap<&'f str, Id>,
    users: HashMap<&'f str, Id>,
    derived: HashMap<Derived, Id>,
    waiting: Vec<Derived>,
    next: Id,
}

/// The file's types.
pub(super) fn convert(file: &File) -> Result<Vec<u8>, String> {
    let mut writer = Writer {
        types: Vec::new(),
        strings: vec![0],
        bases: HashMap::new(),
        enums: HashMap::new(),
        users: HashMap::new(),
        derived: HashMap::new(),
        waiting: Vec::new(),
        next: 1,
    };
    let described = file.base_types.iter().filter(|(_, base)| base.kind != "void");
    for (name, base) in described {
        let id = writer.number();
        writer.bases.insert(name, id);
        writer.base(name, base);
    }
    for (name, enumeration) in &file.enums {
        let id = writer.number();
        writer.enums.insert(name, id);
        writer.enumeration(name, enumeration);
    }
    for name in file.user_types.keys() {
        let id = writer.number();
        writer.users.insert(name, id);
    }
    for (name, user) in &file.user_types {
        writer.user(name, user);
    }
    for derived in std::mem::take(&mut writer.waiting) {
        match derived {
            Derived::Pointer(to) => writer.record(0, POINTER << 24, to),
            Derived::Array(of, count) => {
                writer.record(0, ARRAY << 24, 0);
                writer.types.extend([of, 0, count]);
            }
        }
    }
    writer.finish()
}

impl Writer<'_> {
    fn number(&mut self) -> Id {
        let id = self.next;
        self.next += 1;
        id
    }

    fn text(&mut self, name: &str) -> u32 {
        let at = self.strings.len() as u32;
        self.strings.extend(name.bytes().filter(|byte| *byte != 0));
        self.strings.push(0);
        at
    }

    fn record(&mut self, name: u32, info: u32, size_or_type: u32) {
        self.types.extend([name, info, size_or_type]);
    }

    fn base(&mut self, name: &str, base: &Base) {
        let (name, size) = (self.text(name), base.size as u32);
        if base.kind == "float" {
            return self.record(name, FLOAT << 24, size);
        }
        self.record(name, INT << 24, size);
        self.types.push(u32::from(base.signed) << 24 | size.saturating_mul(8).min(0xff));
    }

    fn enumeration(&mut self, name: &str, enumeration: &Enumeration) {
        let name = self.text(name);
        let signed = enumeration.constants.values().any(|value| *value < 0);
        let count = enumeration.constants.len().min(MOST);
        self.record(name, u32::from(signed) << 31 | ENUM_64 << 24 | count as u32, enumeration.size as u32);
        for (name, value) in enumeration.constants.iter().take(MOST) {
            let name = self.text(name);
            self.types.extend([name, *value as u32, (*value >> 32) as u32]);
        }
    }

    fn user(&mut self, name: &str, user: &User) {
        let bits = user.fields.values().any(|field| matches!(field.of, Type::Bitfield { .. }));
        let mut members: Vec<_> =
            user.fields.iter().filter_map(|(name, field)| self.member(name, field, bits)).collect();
        members.truncate(MOST);
        // What lies first is told first, as the kernel does.
        members.sort_by_key(|member| if bits { member[2] & 0xff_ffff } else { member[2] });
        let name = self.text(name);
        let kind = if user.kind == "union" { UNION } else { STRUCT };
        self.record(name, u32::from(bits) << 31 | kind << 24 | members.len() as u32, user.size as u32);
        self.types.extend(members.concat());
    }

    /// The three words of a member; none if it lies further in than BTF can say.
    fn member(&mut self, name: &str, field: &Field, with_bits: bool) -> Option<[u32; 3]> {
        let begin = field.offset.checked_mul(8)?;
        let (of, begin, width) = match &field.of {
            Type::Bitfield { bit_position, bit_length, of } => {
                (self.describe(of), begin.checked_add(*bit_position)?, (*bit_length).min(0xff) as u32)
            }
            of => (self.describe(of), begin, 0),
        };
        if begin >= if with_bits { BITS } else { 1 << 32 } {
            return None;
        }
        let name = if field.anonymous { 0 } else { self.text(name) };
        Some([name, of, width << 24 | begin as u32])
    }

    fn describe(&mut self, of: &Type) -> Id {
        let known = |names: &HashMap<&str, Id>, name: &str| names.get(name).copied().unwrap_or(0);
        match of {
            Type::Base { name } => known(&self.bases, name),
            Type::Struct { name } => known(&self.users, name),
            Type::Enum { name } => known(&self.enums, name),
            Type::Pointer { subtype } => {
                let to = subtype.as_ref().map_or(0, |subtype| self.describe(subtype));
                self.derive(Derived::Pointer(to))
            }
            Type::Array { count, subtype } => {
                let of = self.describe(subtype);
                self.derive(Derived::Array(of, u32::try_from(*count).unwrap_or(u32::MAX)))
            }
            Type::Bitfield { of, .. } => self.describe(of),
            Type::Other => 0,
        }
    }

    fn derive(&mut self, derived: Derived) -> Id {
        if let Some(&known) = self.derived.get(&derived) {
            return known;
        }
        let id = self.number();
        self.derived.insert(derived, id);
        self.waiting.push(derived);
        id
    }

    fn finish(self) -> Result<Vec<u8>, String> {
        let types = u32::try_from(self.types.len() * 4).map_err(|_| "it has too many types")?;
        let strings = u32::try_from(self.strings.len()).map_err(|_| "its names are too long")?;
        let mut bytes = MAGIC.to_vec();
        bytes.extend([0, types, types, strings].iter().flat_map(|word| word.to_le_bytes()));
        bytes.extend(self.types.iter().flat_map(|word| word.to_le_bytes()));
        bytes.extend(self.strings);
        Ok(bytes)
    }
}
