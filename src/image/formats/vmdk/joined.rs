//! Extents one behind the other, and those that have no file.

use std::sync::Arc;

use crate::image::bytes::within;
use crate::image::{Extent, Kind, ReadAt, ReadError};

/// Extents in the order of the descriptor.
pub(super) struct Joined {
    /// Each with its end on the disk.
    parts: Vec<(u64, Arc<dyn ReadAt>)>,
}

impl Joined {
    /// `None` if together they are too long to have a length.
    pub(super) fn new(extents: Vec<Arc<dyn ReadAt>>) -> Option<Self> {
        let (mut end, mut parts) = (0_u64, Vec::with_capacity(extents.len()));
        for extent in extents.into_iter().filter(|extent| !extent.is_empty()) {
            end = end.checked_add(extent.len())?;
            parts.push((end, extent));
        }
        Some(Self { parts })
    }

    /// The extent that holds `at`: its first byte, and itself.
    fn find(&self, at: u64) -> Option<(u64, &Arc<dyn ReadAt>)> {
        let (end, extent) = self.parts.get(self.parts.partition_point(|(end, _)| *end <= at))?;
        Some((end - extent.len(), extent))
    }
}

impl ReadAt for Joined {
    fn len(&self) -> u64 {
        self.parts.last().map_or(0, |(end, _)| *end)
    }

    fn unit(&self) -> u64 {
        self.parts.iter().map(|(_, extent)| extent.unit()).max().unwrap_or(1)
    }

    fn read_at(&self, mut at: u64, mut into: &mut [u8]) -> Result<(), ReadError> {
        within(self.len(), at, into.len() as u64)?;
        while !into.is_empty() {
            let Some((begin, extent)) = self.find(at) else { break };
            let rest = extent.len().saturating_sub(at - begin);
            let here = usize::try_from(rest).unwrap_or(usize::MAX).min(into.len());
            let (part, behind) = into.split_at_mut(here);
            extent.read_at(at - begin, part).map_err(|error| match error {
                ReadError::Gap { at, len, why } => ReadError::Gap { at: at.saturating_add(begin), len, why },
                other => other,
            })?;
            at += here as u64;
            into = behind;
        }
        Ok(())
    }

    fn extent(&self, at: u64) -> Result<Extent, ReadError> {
        within(self.len(), at, 1)?;
        let none = || ReadError::caller("look at the extents", "there are none");
        let (begin, extent) = self.find(at).ok_or_else(none)?;
        let found = extent.extent(at - begin)?;
        Ok(Extent { at, ..found })
    }
}

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
