//! What of an image is there: its extents from the first byte to the last, neighbours of one kind joined.

use std::ops::Range;

use super::{Extent, Kind, ReadAt, ReadError};

/// Walks the extents of `image` that lie in `range`.
pub fn walk(image: &dyn ReadAt, range: Range<u64>) -> Walk<'_> {
    Walk { image, at: range.start, end: range.end.min(image.len()), waiting: None }
}

/// See [`walk`]. After an error it ends.
pub struct Walk<'a> {
    image: &'a dyn ReadAt,
    at: u64,
    end: u64,
    waiting: Option<Extent>,
}

impl Walk<'_> {
    fn next_part(&mut self) -> Option<Result<Extent, ReadError>> {
        if self.at >= self.end {
            return None;
        }
        let mut extent = match self.image.extent(self.at) {
            Ok(extent) => extent,
            Err(error) => {
                self.at = self.end;
                return Some(Err(error));
            }
        };
        // An extent that were empty would keep us here for ever.
        extent.len = extent.len.clamp(1, self.end - self.at);
        self.at += extent.len;
        Some(Ok(extent))
    }
}

impl Iterator for Walk<'_> {
    type Item = Result<Extent, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut whole = match self.waiting.take() {
            Some(extent) => extent,
            None => match self.next_part()? {
                Ok(extent) => extent,
                Err(error) => return Some(Err(error)),
            },
        };
        loop {
            match self.next_part() {
                Some(Ok(next)) if next.kind == whole.kind => whole.len += next.len,
                Some(Ok(next)) => {
                    self.waiting = Some(next);
                    return Some(Ok(whole));
                }
                // Told before the error: the error comes again, since nothing was moved on.
                Some(Err(error)) => return Some(Err(error)),
                None => return Some(Ok(whole)),
            }
        }
    }
}

/// Bytes of each kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Stored.
    pub data: u64,
    /// Zero by the format's own definition.
    pub zero: u64,
    /// Where no memory is.
    pub absent: u64,
    /// Should be there and is not.
    pub unreadable: u64,
}

impl Totals {
    /// Adds one extent.
    pub fn add(&mut self, extent: &Extent) {
        use impound_backends::Why;
        let sum = match &extent.kind {
            Kind::Data => &mut self.data,
            Kind::Zero => &mut self.zero,
            Kind::Gap(Why::NotRam | Why::Sparse) => &mut self.absent,
            Kind::Gap(Why::Unreadable(_)) => &mut self.unreadable,
        };
        *sum = sum.saturating_add(extent.len);
    }

    /// Of all of the image.
    pub fn of(image: &dyn ReadAt) -> Result<Self, ReadError> {
        let mut totals = Self::default();
        for extent in walk(image, 0..image.len()) {
            totals.add(&extent?);
        }
        Ok(totals)
    }
}
