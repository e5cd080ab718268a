//! A structure of the kernel in memory: its members by the names that the kernel itself uses.
//!
//! `task.get("mm.pgd")` follows pointers where the path meets them. Where a member lies is taken from the kernel's own types, looked
//! up once for each path. Nothing here knows a version.

use super::super::symbols::btf::{Id, Kind};
use super::super::{MemoryError, Outcome};
use super::Kernel;

/// The longest text that is read from the kernel.
const TEXT: usize = 4096;

/// A thing of a type at an address of the kernel.
#[derive(Clone, Copy)]
pub struct Object<'k> {
    /// Whose.
    pub kernel: &'k Kernel,
    /// Its type.
    pub id: Id,
    /// Its address.
    pub at: u64,
    bits: Option<(u8, u8)>,
}

/// Where a path leads: an offset, then for each pointer on the way what is added behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Path {
    steps: Vec<u64>,
    id: Id,
    /// First bit and width, of a bit field.
    bits: Option<(u8, u8)>,
}

impl Kernel {
    /// A thing of the named type at an address.
    pub fn object(&self, name: &str, at: u64) -> Outcome<Object<'_>> {
        let id = self.types.find(name).ok_or_else(|| MemoryError::NoType(name.to_owned()))?;
        Ok(self.of_type(id, at))
    }

    /// A thing of a type at an address.
    pub fn of_type(&self, id: Id, at: u64) -> Object<'_> {
        Object { kernel: self, id: self.types.plain(id), at, bits: None }
    }

    /// The named variable, as a thing of the named type.
    pub fn global(&self, symbol: &str, name: &str) -> Outcome<Object<'_>> {
        self.object(name, self.symbol(symbol)?)
    }

    /// Where a member lies within its type, in bytes.
    pub fn offset(&self, of: &str, path: &'static str) -> Outcome<u64> {
        let id = self.types.find(of).ok_or_else(|| MemoryError::NoType(of.to_owned()))?;
        let path = self.path(id, path)?;
        Ok(path.steps.first().copied().unwrap_or(0))
    }

    pub(super) fn path(&self, id: Id, text: &'static str) -> Outcome<Path> {
        if let Some(known) = self.known_path(id, text) {
            return Ok(known);
        }
        let path = self.resolve(id, text)?;
        self.remember_path(id, text, &path);
        Ok(path)
    }

    fn resolve(&self, id: Id, text: &str) -> Outcome<Path> {
        let types = &self.types;
        let (mut id, mut steps, mut bits) = (types.plain(id), vec![0_u64], None);
        for name in text.split('.') {
            if types.kind(id) == Kind::Pointer {
                id = types.plain(types.target(id));
                steps.push(0);
            }
            let member = types.member(id, name).ok_or_else(|| MemoryError::NoMember {
                of: String::from_utf8_lossy(types.name(id)).into_owned(),
                path: text.to_owned(),
            })?;
            if let Some(last) = steps.last_mut() {
                *last += member.bit / 8;
            }
            bits = member.bits.map(|width| ((member.bit % 8) as u8, width));
            id = types.plain(member.id);
        }
        Ok(Path { steps, id, bits })
    }
}

impl<'k> Object<'k> {
    /// The member at the end of a path.
    pub fn get(&self, path: &'static str) -> Outcome<Self> {
        let Path { steps, id, bits } = self.kernel.path(self.id, path)?;
        let mut at = self.at;
        for (n, step) in steps.iter().enumerate() {
            if n > 0 {
                at = self.kernel.space.u64(at)?;
                if at == 0 {
                    return Err(MemoryError::Null(path));
                }
            }
            at = at.wrapping_add(*step);
        }
        Ok(Self { kernel: self.kernel, id, at, bits })
    }

    /// Does this kernel's type have such a member?
    pub fn has(&self, path: &'static str) -> bool {
        self.kernel.path(self.id, path).is_ok()
    }

    /// The first of several members that this kernel has: fields are renamed.
    pub fn either(&self, paths: &[&'static str]) -> Outcome<Self> {
        let known = paths.iter().find(|path| self.has(path)).or(paths.first());
        self.get(known.copied().unwrap_or_default())
    }

    /// Its value as a number: of up to eight bytes, or of its bits.
    pub fn value(&self) -> Outcome<u64> {
        let size = self.kernel.types.size(self.id).clamp(1, 8) as usize;
        let mut bytes = [0; 8];
        match self.bits {
            None => self.kernel.space.read(self.at, bytes.get_mut(..size).unwrap_or_default())?,
            Some((first, width)) => {
                let over = (usize::from(first) + usize::from(width)).div_ceil(8).clamp(1, 8);
                self.kernel.space.read(self.at, bytes.get_mut(..over).unwrap_or_default())?;
                let mask = u64::MAX.checked_shr(64_u32.saturating_sub(u32::from(width))).unwrap_or(u64::MAX);
                return Ok(u64::from_le_bytes(bytes) >> first & mask);
            }
        }
        Ok(u64::from_le_bytes(bytes))
    }

    /// The number at the end of a path.
    pub fn u64(&self, path: &'static str) -> Outcome<u64> {
        self.get(path)?.value()
    }

    /// The same, with the sign that its type gives it.
    pub fn i64(&self, path: &'static str) -> Outcome<i64> {
        let member = self.get(path)?;
        let value = member.value()?;
        let shift = 64 - 8 * member.kernel.types.size(member.id).clamp(1, 8) as u32;
        match member.kernel.types.kind(member.id) {
            Kind::Int { signed: true } | Kind::Enum { signed: true } => Ok((value << shift) as i64 >> shift),
            _ => Ok(value as i64),
        }
    }

    /// What the pointer at the end of a path points at; a null one is an error.
    pub fn follow(&self, path: &'static str) -> Outcome<Self> {
        let pointer = self.get(path)?;
        let at = pointer.value()?;
        if at == 0 {
            return Err(MemoryError::Null(path));
        }
        Ok(self.kernel.of_type(self.kernel.types.target(pointer.id), at))
    }

    /// The same, `None` for a null one.
    pub fn perhaps(&self, path: &'static str) -> Outcome<Option<Self>> {
        match self.follow(path) {
            Ok(found) => Ok(Some(found)),
            Err(MemoryError::Null(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The text of an array of characters, or of a pointer to some.
    pub fn text(&self, path: &'static str) -> Outcome<String> {
        let member = self.get(path)?;
        let (at, most) = match self.kernel.types.kind(member.id) {
            Kind::Array(len) => (member.at, (len as usize).min(TEXT)),
            Kind::Pointer => (member.value()?, TEXT),
            _ => (member.at, TEXT),
        };
        if at == 0 {
            return Err(MemoryError::Null(path));
        }
        Ok(String::from_utf8_lossy(&self.kernel.space.text(at, most)?).into_owned())
    }

    /// The same thing as another type.
    pub fn as_type(&self, name: &str) -> Outcome<Object<'k>> {
        self.kernel.object(name, self.at)
    }

    /// Element `n` of the array that it is. What a hostile `n` reaches is some other memory and nothing worse.
    #[must_use]
    pub fn element(&self, n: u64) -> Self {
        let types = &self.kernel.types;
        let inner = match types.kind(self.id) {
            Kind::Array(_) => types.plain(types.target(self.id)),
            _ => self.id,
        };
        let step = n.wrapping_mul(types.size(inner));
        Self { kernel: self.kernel, id: inner, at: self.at.wrapping_add(step), bits: None }
    }

    /// Elements of the array that it is.
    pub fn count(&self) -> u64 {
        match self.kernel.types.kind(self.id) {
            Kind::Array(count) => u64::from(count),
            _ => 0,
        }
    }

    /// The bytes of it, at most `most`.
    pub fn bytes(&self, most: usize) -> Outcome<Vec<u8>> {
        let len = (self.kernel.types.size(self.id) as usize).min(most);
        Ok(self.kernel.space.vec(self.at, len)?)
    }
}
