//! Ranges that a dump tells of and does not hold: what elsewhere would be "no memory here" is "not readable" there.

use std::sync::Arc;

use impound_backends::Why;

use crate::image::bytes::within;
use crate::image::{Extent, Kind, ReadAt, ReadError};

/// Bytes of which some are known to lack.
pub(crate) struct Lacking {
    inside: Arc<dyn ReadAt>,
    /// Start and end, ascending and apart.
    ranges: Vec<(u64, u64)>,
    why: &'static str,
    len: u64,
}

impl Lacking {
    /// `inside`, where each gap within `ranges` (start, length) is one for the reason `why`.
    pub(crate) fn new(inside: Arc<dyn ReadAt>, ranges: Vec<(u64, u64)>, why: &'static str) -> Self {
        let mut ranges: Vec<_> = ranges.into_iter().map(|(at, len)| (at, at.saturating_add(len))).collect();
        ranges.retain(|(at, end)| at < end);
        ranges.sort_unstable();
        ranges.dedup_by(|next, last| {
            let joined = next.0 <= last.1;
            if joined {
                last.1 = last.1.max(next.1);
            }
            joined
        });
        let len = inside.len().max(ranges.last().map_or(0, |(_, end)| *end));
        Self { inside, ranges, why, len }
    }

    /// The gap from `at` to at most `end`, with its reason.
    fn gap(&self, at: u64, end: u64) -> (u64, Why) {
        let next = self.ranges.partition_point(|(_, end)| *end <= at);
        match self.ranges.get(next) {
            Some((from, to)) if *from <= at => (end.min(*to) - at, Why::Unreadable(self.why.to_owned())),
            Some((from, _)) => (end.min(*from) - at, Why::NotRam),
            None => (end - at, Why::NotRam),
        }
    }
}

impl ReadAt for Lacking {
    fn len(&self) -> u64 {
        self.len
    }

    fn unit(&self) -> u64 {
        self.inside.unit()
    }

    fn read_at(&self, at: u64, into: &mut [u8]) -> Result<(), ReadError> {
        let end = at.saturating_add(into.len() as u64);
        within(self.len, at, into.len() as u64)?;
        let known = usize::try_from(self.inside.len().saturating_sub(at)).unwrap_or(usize::MAX).min(into.len());
        if let Some(part) = into.get_mut(..known) {
            self.inside.read_at(at.min(self.inside.len()), part).map_err(|error| match error {
                ReadError::Gap { at, len, why: Why::NotRam } => {
                    let (len, why) = self.gap(at, at.saturating_add(len));
                    ReadError::Gap { at, len, why }
                }
                other => other,
            })?;
        }
        if known == into.len() {
            return Ok(());
        }
        let at = at.max(self.inside.len());
        let (len, why) = self.gap(at, end);
        Err(ReadError::Gap { at, len, why })
    }

    fn extent(&self, at: u64) -> Result<Extent, ReadError> {
        within(self.len, at, 1)?;
        let end = if at < self.inside.len() {
            let extent = self.inside.extent(at)?;
            if extent.kind != Kind::Gap(Why::NotRam) {
                return Ok(extent);
            }
            extent.end()
        } else {
            self.len
        };
        let (len, why) = self.gap(at, end);
        Ok(Extent { at, len, kind: Kind::Gap(why) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::{InMemory, Span, Spans, map};

    #[test]
    fn what_lacks_is_told_from_what_never_was() {
        let below: Arc<dyn ReadAt> = Arc::new(InMemory(vec![7; 64]));
        let spans = vec![Span { at: 16, len: 16, from: Some(0) }, Span { at: 64, len: 16, from: Some(16) }];
        let spans = Arc::new(Spans::new(below, "test", spans).unwrap());
        let image = Lacking::new(spans, vec![(24, 16), (36, 12), (80, 16)], "cut");
        assert_eq!(image.len(), 96);
        let found: Vec<_> = map::walk(&image, 0..96).map(|e| e.unwrap()).map(|e| (e.at, e.len, e.kind)).collect();
        let cut = || Kind::Gap(Why::Unreadable("cut".to_owned()));
        let none = || Kind::Gap(Why::NotRam);
        assert_eq!(
            found,
            [
                (0, 16, none()),
                (16, 16, Kind::Data),
                (32, 16, cut()),
                (48, 16, none()),
                (64, 16, Kind::Data),
                (80, 16, cut()),
            ]
        );
        for (at, len, want) in [(20, 20, 32), (70, 20, 80), (90, 2, 90), (50, 1, 50)] {
            match image.read_at(at, &mut vec![0; len]) {
                Err(ReadError::Gap { at, .. }) => assert_eq!(at, want),
                other => panic!("{other:?}"),
            }
        }
        assert!(image.read_at(64, &mut [0; 16]).is_ok());
        assert!(matches!(image.read_at(90, &mut [0; 7]), Err(ReadError::Caller { .. })));
    }
}
