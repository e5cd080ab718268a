//! An address space pieced together from ranges of other bytes: what most formats for memory are.

use std::sync::Arc;

use impound_backends::Why;

use super::bytes::within;
use super::{Extent, Kind, ReadAt, ReadError};

/// `len` bytes at address `at` are the bytes `from…` below.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// First address.
    pub at: u64,
    /// Length in bytes.
    pub len: u64,
    /// Offset of the first byte below; `None`: all zero, and not stored.
    pub from: Option<u64>,
}

impl Span {
    fn end(&self) -> u64 {
        self.at.saturating_add(self.len)
    }
}

/// Ranges of bytes below, each at its address; nothing between them.
pub struct Spans {
    below: Arc<dyn ReadAt>,
    /// Ascending and apart.
    ranges: Vec<Span>,
    len: u64,
}

impl Spans {
    /// Puts them in order, joins those that go on in the file as in the address space, and checks them: none may be
    /// empty, reach behind the end of `below`, or lie over another. `what` names the format in the error; the address
    /// space ends with the last of them.
    pub fn new(below: Arc<dyn ReadAt>, what: &str, mut spans: Vec<Span>) -> Result<Self, ReadError> {
        let stored = below.len();
        spans.sort_unstable_by_key(|span| span.at);
        let mut joined: Vec<Span> = Vec::with_capacity(spans.len().min(1024));
        for span in spans {
            let from = span.from.unwrap_or(0);
            let fits = span.at.checked_add(span.len).is_some();
            let inside = span.from.is_none() || from.checked_add(span.len).is_some_and(|end| end <= stored);
            if span.len == 0 || !fits || !inside {
                let expected = format!("a range inside the {stored:#x} bytes of the file");
                let found = format!("{:#x} bytes for address {:#x}", span.len, span.at);
                return Err(ReadError::corrupt(format!("{what} range"), from, expected, found));
            }
            match joined.last_mut() {
                Some(last) if last.end() > span.at => {
                    let expected = format!("ranges apart, the next behind {:#x}", last.end());
                    return Err(ReadError::corrupt(format!("{what} range"), from, expected, format!("{:#x}", span.at)));
                }
                Some(last) if last.end() == span.at && last.from.map(|from| from + last.len) == span.from => {
                    last.len += span.len;
                }
                _ => joined.push(span),
            }
        }
        let len = joined.last().map_or(0, Span::end);
        Ok(Self { below, ranges: joined, len })
    }

    /// The ranges.
    pub fn spans(&self) -> &[Span] {
        &self.ranges
    }

    /// The span that holds `at`, or where the next one begins.
    fn find(&self, at: u64) -> Result<Span, u64> {
        let next = self.ranges.partition_point(|span| span.end() <= at);
        match self.ranges.get(next) {
            Some(span) if span.at <= at => Ok(*span),
            Some(span) => Err(span.at),
            None => Err(self.len),
        }
    }
}

impl ReadAt for Spans {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, mut at: u64, mut into: &mut [u8]) -> Result<(), ReadError> {
        within(self.len, at, into.len() as u64)?;
        while !into.is_empty() {
            let span = self.find(at).map_err(|next| ReadError::Gap { at, len: next - at, why: Why::NotRam })?;
            let here = usize::try_from(span.end() - at).unwrap_or(usize::MAX).min(into.len());
            let (part, rest) = into.split_at_mut(here);
            match span.from {
                Some(from) => {
                    let below = from + (at - span.at);
                    self.below.read_at(below, part).map_err(|error| error.moved(below, at))?;
                }
                None => part.fill(0),
            }
            at += here as u64;
            into = rest;
        }
        Ok(())
    }

    fn unit(&self) -> u64 {
        self.below.unit()
    }

    fn extent(&self, at: u64) -> Result<Extent, ReadError> {
        within(self.len, at, 1)?;
        match self.find(at) {
            Err(next) => Ok(Extent { at, len: next - at, kind: Kind::Gap(Why::NotRam) }),
            Ok(span) => {
                let rest = span.end() - at;
                let Some(from) = span.from else { return Ok(Extent { at, len: rest, kind: Kind::Zero }) };
                let below = self.below.extent(from + (at - span.at))?;
                Ok(Extent { at, len: below.len.min(rest), kind: below.kind })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::InMemory;
    use super::*;

    fn spans(list: &[(u64, u64, Option<u64>)]) -> Result<Spans, ReadError> {
        let below: Arc<dyn ReadAt> = Arc::new(InMemory((0..=255).collect()));
        Spans::new(below, "test", list.iter().map(|&(at, len, from)| Span { at, len, from }).collect())
    }

    #[test]
    fn ranges_are_read_across_their_borders_and_never_across_a_gap() {
        let image = spans(&[(100, 10, Some(0)), (110, 5, None), (0, 4, Some(200)), (4, 4, Some(204))]).unwrap();
        assert_eq!((image.len(), image.spans().len()), (115, 3));
        let mut bytes = [1; 8];
        image.read_at(105, &mut bytes).unwrap();
        assert_eq!(bytes, [5, 6, 7, 8, 9, 0, 0, 0]);
        image.read_at(0, &mut bytes).unwrap();
        assert_eq!(bytes, [200, 201, 202, 203, 204, 205, 206, 207]);
        let gap = image.read_at(4, &mut bytes).unwrap_err();
        assert!(matches!(gap, ReadError::Gap { at: 8, len: 92, why: Why::NotRam }), "{gap}");
        assert_eq!(image.extent(50).unwrap(), Extent { at: 50, len: 50, kind: Kind::Gap(Why::NotRam) });
        assert_eq!(image.extent(112).unwrap(), Extent { at: 112, len: 3, kind: Kind::Zero });
        assert!(matches!(image.read_at(110, &mut bytes).unwrap_err(), ReadError::Caller { .. }));
    }

    #[test]
    fn a_gap_below_is_told_at_the_address_where_it_is_missed() {
        let lower: Arc<dyn ReadAt> = Arc::new(spans(&[(0, 10, Some(0)), (20, 10, Some(10))]).unwrap());
        let missed = |image: &dyn ReadAt, at| match image.read_at(at, &mut [0; 10]) {
            Err(ReadError::Gap { at, len, .. }) => (at, len),
            other => panic!("{other:?}"),
        };
        let part = super::super::Part::new(Arc::clone(&lower), 5, 20).unwrap();
        assert_eq!(missed(&part, 0), (5, 10));
        let above = Spans::new(Arc::clone(&lower), "test", vec![Span { at: 1000, len: 30, from: Some(0) }]).unwrap();
        assert_eq!(missed(&above, 1005), (1010, 10));
        let joined =
            super::super::joined::Joined::new([Arc::new(InMemory(vec![1; 100])) as Arc<dyn ReadAt>, lower]).unwrap();
        assert_eq!(missed(&joined, 105), (110, 10));
    }

    #[test]
    fn ranges_that_make_no_sense_are_damage() {
        for bad in [
            &[(0, 0, Some(0))][..],
            &[(0, 10, Some(250))],
            &[(u64::MAX, 10, Some(0))],
            &[(0, 10, Some(u64::MAX))],
            &[(0, 10, Some(0)), (9, 1, Some(0))],
        ] {
            assert!(matches!(spans(bad), Err(ReadError::Corrupt { .. })), "{bad:?}");
        }
    }
}
