//! Content of which only the front was ever written: the rest reads as zeros, not as what stood there before.

use std::sync::Arc;

use crate::image::{Extent, Kind, ReadAt, ReadError};

/// See the module.
pub(super) struct Written {
    pub(super) below: Arc<dyn ReadAt>,
    /// Bytes that were written.
    pub(super) valid: u64,
}

impl ReadAt for Written {
    fn len(&self) -> u64 {
        self.below.len()
    }

    fn read_at(&self, at: u64, into: &mut [u8]) -> Result<(), ReadError> {
        let front = crate::disk::us(self.valid.saturating_sub(at)).min(into.len());
        if at.checked_add(into.len() as u64).is_none_or(|end| end > self.len()) {
            return self.below.read_at(at, into);
        }
        let (front, rest) = into.split_at_mut(front);
        rest.fill(0);
        if front.is_empty() { Ok(()) } else { self.below.read_at(at, front) }
    }

    fn extent(&self, at: u64) -> Result<Extent, ReadError> {
        if at >= self.valid && at < self.len() {
            return Ok(Extent { at, len: self.len() - at, kind: Kind::Zero });
        }
        let below = self.below.extent(at)?;
        Ok(Extent { len: below.len.min(self.valid.saturating_sub(at).max(1)), ..below })
    }
}
