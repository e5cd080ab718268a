//! The one contract of this layer: bytes that can be read at any place, by many threads at once.

use std::sync::Arc;

use impound_backends::Why;

use super::ReadError;

/// Bytes at rest, whatever wraps them. Exact read or error: no short reads, no zeros for what is missing.
pub trait ReadAt: Send + Sync {
    /// Length of the address space in bytes.
    fn len(&self) -> u64;

    /// Is there nothing at all?
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Fills `into` from byte `at` on, or fails: [`ReadError::Caller`] behind the end, [`ReadError::Gap`] where the image
    /// says that it holds nothing.
    fn read_at(&self, at: u64, into: &mut [u8]) -> Result<(), ReadError>;

    /// What lies at `at`, and how far it goes on like that. The extent begins at `at`, is not empty, and ends inside
    /// [`len`](Self::len). Neighbours may be of the same kind: [`super::map`] merges them. `at` behind the end is
    /// [`ReadError::Caller`].
    fn extent(&self, at: u64) -> Result<Extent, ReadError> {
        within(self.len(), at, 1)?;
        Ok(Extent { at, len: self.len() - at, kind: Kind::Data })
    }

    /// Bytes that are decoded together: whoever reads all of it reads multiples of this, so that nothing is decoded twice.
    fn unit(&self) -> u64 {
        1
    }
}

/// A range of one kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extent {
    /// First byte.
    pub at: u64,
    /// Length in bytes.
    pub len: u64,
    /// What is there.
    pub kind: Kind,
}

/// What a range is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// Bytes that are stored.
    Data,
    /// Content that is zero by the format's own definition and takes no room. Reads as zeros.
    Zero,
    /// Not in the image. Does not read.
    Gap(Why),
}

impl Extent {
    /// The first byte behind it.
    pub fn end(&self) -> u64 {
        self.at.saturating_add(self.len)
    }
}

/// Fails unless `want` bytes at `at` lie inside `len`.
pub(super) fn within(len: u64, at: u64, want: u64) -> Result<(), ReadError> {
    inside("image", len, at, want)
}

/// The same for what is no image: `what` is it that ends.
pub(crate) fn inside(what: &str, len: u64, at: u64, want: u64) -> Result<(), ReadError> {
    if at.checked_add(want).is_some_and(|end| end <= len) {
        return Ok(());
    }
    Err(ReadError::caller(format!("read {want} bytes at {at:#x}"), format!("the {what} ends at {len:#x}")))
}

/// Bytes in memory: for tests, and for what a format keeps inside itself.
pub struct InMemory(pub Vec<u8>);

impl ReadAt for InMemory {
    fn len(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_at(&self, at: u64, into: &mut [u8]) -> Result<(), ReadError> {
        within(self.len(), at, into.len() as u64)?;
        let from = usize::try_from(at).unwrap_or(usize::MAX);
        if let Some(bytes) = self.0.get(from..from.saturating_add(into.len())) {
            into.copy_from_slice(bytes);
        }
        Ok(())
    }
}

/// `len` bytes at `at`, in a buffer of their own. `len` must have been bounded by the caller, not by the image alone.
pub fn read_vec(from: &dyn ReadAt, at: u64, len: usize) -> Result<Vec<u8>, ReadError> {
    within(from.len(), at, len as u64)?;
    let mut bytes = vec![0; len];
    from.read_at(at, &mut bytes)?;
    Ok(bytes)
}

/// A part of other bytes, from `from` on.
pub struct Part {
    below: Arc<dyn ReadAt>,
    from: u64,
    len: u64,
}

impl Part {
    /// `len` bytes of `below` from `from` on; fails if they are not inside.
    pub fn new(below: Arc<dyn ReadAt>, from: u64, len: u64) -> Result<Self, ReadError> {
        within(below.len(), from, len)?;
        Ok(Self { below, from, len })
    }
}

impl ReadAt for Part {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, at: u64, into: &mut [u8]) -> Result<(), ReadError> {
        within(self.len, at, into.len() as u64)?;
        self.below.read_at(self.from + at, into).map_err(|error| error.moved(self.from + at, at))
    }

    fn unit(&self) -> u64 {
        self.below.unit()
    }

    fn extent(&self, at: u64) -> Result<Extent, ReadError> {
        within(self.len, at, 1)?;
        let below = self.below.extent(self.from + at)?;
        Ok(Extent { at, len: below.len.min(self.len - at), kind: below.kind })
    }
}
