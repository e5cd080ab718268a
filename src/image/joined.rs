//! Files that follow each other as one.

use std::sync::Arc;

use super::bytes::within;
use super::{Extent, ReadAt, ReadError};

/// Bytes of several files, one after the other.
pub struct Joined {
    /// Each with the address of its first byte; none is empty.
    parts: Vec<(u64, Arc<dyn ReadAt>)>,
    len: u64,
}

impl Joined {
    /// Puts them together in this order.
    pub fn new(parts: impl IntoIterator<Item = Arc<dyn ReadAt>>) -> Result<Self, ReadError> {
        let (mut list, mut len) = (Vec::new(), 0_u64);
        for part in parts.into_iter().filter(|part| !part.is_empty()) {
            let at = len;
            let too_long = || ReadError::caller("put the parts together", "they are longer than a file can be");
            len = len.checked_add(part.len()).ok_or_else(too_long)?;
            list.push((at, part));
        }
        Ok(Self { parts: list, len })
    }

    fn find(&self, at: u64) -> Option<&(u64, Arc<dyn ReadAt>)> {
        self.parts.partition_point(|(begin, _)| *begin <= at).checked_sub(1).and_then(|index| self.parts.get(index))
    }
}

impl ReadAt for Joined {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, mut at: u64, mut into: &mut [u8]) -> Result<(), ReadError> {
        within(self.len, at, into.len() as u64)?;
        while !into.is_empty() {
            let Some((begin, part)) = self.find(at) else { return within(self.len, at, u64::MAX) };
            let inside = at - begin;
            let here = usize::try_from(part.len() - inside).unwrap_or(usize::MAX).min(into.len());
            let (now, rest) = into.split_at_mut(here);
            part.read_at(inside, now).map_err(|error| error.moved(inside, at))?;
            at += here as u64;
            into = rest;
        }
        Ok(())
    }

    fn unit(&self) -> u64 {
        self.parts.iter().map(|(_, part)| part.unit()).max().unwrap_or(1)
    }

    fn extent(&self, at: u64) -> Result<Extent, ReadError> {
        within(self.len, at, 1)?;
        let Some((begin, part)) = self.find(at) else {
            return Err(ReadError::caller("read the parts", "there are none"));
        };
        let inside = part.extent(at - begin)?;
        Ok(Extent { at, ..inside })
    }
}
