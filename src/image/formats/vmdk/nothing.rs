//! Extents that have no file.

use crate::image::bytes::within;
use crate::image::{Extent, Kind, ReadAt, ReadError};

/// An extent without a file: all of one kind.
pub(super) struct Nothing {
    pub(super) len: u64,
    pub(super) kind: Kind,
}

impl ReadAt for Nothing {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, at: u64, into: &mut [u8]) -> Result<(), ReadError> {
        within(self.len, at, into.len() as u64)?;
        match &self.kind {
            Kind::Gap(why) => Err(ReadError::Gap { at, len: into.len() as u64, why: why.clone() }),
            Kind::Data | Kind::Zero => {
                into.fill(0);
                Ok(())
            }
        }
    }

    fn extent(&self, at: u64) -> Result<Extent, ReadError> {
        within(self.len, at, 1)?;
        Ok(Extent { at, len: self.len - at, kind: self.kind.clone() })
    }
}
