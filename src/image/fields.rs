//! Reading the fields of on-disk structures: every access is checked, and a structure that is cut short is named.

use super::{ReadAt, ReadError};

/// The bytes of one structure, what it is, and where it came from.
#[derive(Debug, Clone, Copy)]
pub struct Fields<'a> {
    what: &'static str,
    at: u64,
    bytes: &'a [u8],
}

macro_rules! number {
    ($(#[$doc:meta])* $le:ident, $be:ident, $type:ty) => {
        $(#[$doc])*
        pub fn $le(&self, at: usize) -> Result<$type, ReadError> {
            Ok(<$type>::from_le_bytes(self.array(at)?))
        }

        /// The same, big-endian.
        pub fn $be(&self, at: usize) -> Result<$type, ReadError> {
            Ok(<$type>::from_be_bytes(self.array(at)?))
        }
    };
}

impl<'a> Fields<'a> {
    /// `bytes` are a `what`, found at byte `at` of its file.
    pub fn new(what: &'static str, at: u64, bytes: &'a [u8]) -> Self {
        Self { what, at, bytes }
    }

    /// All of it.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// One byte.
    pub fn u8(&self, at: usize) -> Result<u8, ReadError> {
        Ok(u8::from_le_bytes(self.array(at)?))
    }

    number!(/** Two bytes, little-endian. */ u16, be16, u16);
    number!(/** Four bytes, little-endian. */ u32, be32, u32);
    number!(/** Eight bytes, little-endian. */ u64, be64, u64);

    /// `len` bytes.
    pub fn slice(&self, at: usize, len: usize) -> Result<&'a [u8], ReadError> {
        let end = at.checked_add(len);
        end.and_then(|end| self.bytes.get(at..end)).ok_or_else(|| self.short(at, len))
    }

    /// `N` bytes.
    pub fn array<const N: usize>(&self, at: usize) -> Result<[u8; N], ReadError> {
        let bytes = self.slice(at, N)?;
        bytes.try_into().map_err(|_| self.short(at, N))
    }

    /// Text that ends with a NUL or with its field.
    pub fn text(&self, at: usize, len: usize) -> Result<String, ReadError> {
        let bytes = self.slice(at, len)?;
        let end = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
        Ok(String::from_utf8_lossy(bytes.get(..end).unwrap_or_default()).into_owned())
    }

    /// Damage in this structure, `at` bytes into it.
    pub fn corrupt(&self, at: usize, expected: impl std::fmt::Display, found: impl std::fmt::Display) -> ReadError {
        ReadError::corrupt(self.what, self.at.saturating_add(at as u64), expected, found)
    }

    fn short(&self, at: usize, len: usize) -> ReadError {
        self.corrupt(at, format_args!("{len} more bytes"), format_args!("an end at {} bytes", self.bytes.len()))
    }
}

/// Reads the structure `what` of `len` bytes at `at`. If the image ends before, that is damage, and said so.
pub fn read_structure(from: &dyn ReadAt, what: &'static str, at: u64, len: usize) -> Result<Vec<u8>, ReadError> {
    let end = from.len();
    if at.checked_add(len as u64).is_none_or(|want| want > end) {
        let found = format_args!("the end of the file at {end:#x}");
        return Err(ReadError::corrupt(what, at, format_args!("{len} bytes"), found));
    }
    super::read_vec(from, at, len)
}
