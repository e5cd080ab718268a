//! Bytes pieced together from several others: what a logical volume and a striped array are.
//!
//! A piece whose bytes are not at hand is a gap that says so; the rest reads all the same.

use std::sync::Arc;

use impound_backends::Why;

use crate::disk::us;
use crate::image::{Extent, Kind, ReadAt, ReadError, inside};

/// Something that pieces lie on.
pub(super) struct Source {
    /// Its name in words about a gap.
    pub(super) name: String,
    /// Its bytes, or why there are none.
    pub(super) bytes: Result<Arc<dyn ReadAt>, String>,
}

/// Where the bytes of a segment are.
pub(super) enum Place {
    /// On these sources (by index), each from a first byte on, in turns of `chunk` bytes.
    Striped { stripes: Vec<(usize, u64)>, chunk: u64 },
    /// Nowhere: all zero by definition.
    Zero,
    /// Not at hand.
    Lacking(String),
}

/// `len` bytes at `at`.
pub(super) struct Segment {
    pub(super) at: u64,
    pub(super) len: u64,
    pub(super) place: Place,
}

impl Segment {
    fn end(&self) -> u64 {
        self.at.saturating_add(self.len)
    }
}

/// See the module.
pub(super) struct Mapping {
    sources: Arc<Vec<Source>>,
    /// In order; each begins where the one before ends.
    segments: Vec<Segment>,
    len: u64,
}

/// What is found at an address.
enum Here<'a> {
    Stored(&'a Arc<dyn ReadAt>, u64),
    Zero,
    Gap(String),
}

impl Mapping {
    /// Fails unless the segments follow each other from the first byte on.
    pub(super) fn new(sources: Arc<Vec<Source>>, mut segments: Vec<Segment>) -> Result<Self, String> {
        segments.sort_by_key(|segment| segment.at);
        let mut len = 0_u64;
        for segment in &segments {
            if segment.at != len || segment.len == 0 {
                return Err(format!(
                    "its segments do not follow each other: one begins at {:#x}, not {len:#x}",
                    segment.at
                ));
            }
            len = len.checked_add(segment.len).ok_or("it is longer than anything can be")?;
            if let Place::Striped { stripes, chunk } = &segment.place
                && (stripes.is_empty() || *chunk == 0)
            {
                return Err(format!("its segment at {:#x} lies on nothing", segment.at));
            }
        }
        Ok(Self { sources, segments, len })
    }

    /// Why some of it cannot be read, if that is so.
    pub(super) fn lacks(&self) -> Option<String> {
        self.segments.iter().find_map(|segment| match &segment.place {
            Place::Lacking(why) => Some(why.clone()),
            Place::Zero => None,
            Place::Striped { stripes, .. } => stripes.iter().find_map(|(source, _)| match self.sources.get(*source) {
                Some(source) => source.bytes.as_ref().err().cloned(),
                None => Some("it lies on something that is not there".to_owned()),
            }),
        })
    }

    /// What is at `at`, and how far it goes.
    fn place(&self, at: u64) -> (Here<'_>, u64) {
        let index = self.segments.partition_point(|segment| segment.end() <= at);
        let Some(segment) = self.segments.get(index) else { return (Here::Gap("behind its end".to_owned()), 1) };
        let (inside, rest) = (at.saturating_sub(segment.at), segment.end().saturating_sub(at));
        match &segment.place {
            Place::Zero => (Here::Zero, rest),
            Place::Lacking(why) => (Here::Gap(why.clone()), rest),
            Place::Striped { stripes, chunk } => {
                let count = stripes.len() as u64;
                let (turn, offset) = (inside / chunk, inside % chunk);
                let (stripe, row) = (us(turn % count), turn / count);
                let along = row.saturating_mul(*chunk).saturating_add(offset);
                // What is not striped goes on to its end.
                let len = if count == 1 { rest } else { rest.min(chunk - offset) };
                let along = if count == 1 { inside } else { along };
                let (source, from) = stripes.get(stripe).copied().unwrap_or((usize::MAX, 0));
                self.on(source, from.saturating_add(along), len)
            }
        }
    }

    fn on(&self, source: usize, from: u64, len: u64) -> (Here<'_>, u64) {
        let Some(source) = self.sources.get(source) else { return (Here::Gap("of nothing".to_owned()), len) };
        match &source.bytes {
            Err(why) => (Here::Gap(why.clone()), len),
            Ok(bytes) => match bytes.len().saturating_sub(from).min(len) {
                0 => (Here::Gap(format!("{} ends before byte {from:#x}", source.name)), len),
                there => (Here::Stored(bytes, from), there),
            },
        }
    }
}

impl ReadAt for Mapping {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, mut at: u64, mut into: &mut [u8]) -> Result<(), ReadError> {
        inside("volume", self.len, at, into.len() as u64)?;
        while !into.is_empty() {
            let (here, len) = self.place(at);
            let (now, rest) = into.split_at_mut(us(len).clamp(1, into.len()));
            match here {
                Here::Zero => now.fill(0),
                Here::Stored(bytes, from) => bytes.read_at(from, now).map_err(|error| error.moved(from, at))?,
                Here::Gap(why) => return Err(ReadError::Gap { at, len, why: Why::Unreadable(why) }),
            }
            at = at.saturating_add(now.len() as u64);
            into = rest;
        }
        Ok(())
    }

    fn extent(&self, at: u64) -> Result<Extent, ReadError> {
        inside("volume", self.len, at, 1)?;
        let (here, len) = self.place(at);
        Ok(match here {
            Here::Zero => Extent { at, len, kind: Kind::Zero },
            Here::Gap(why) => Extent { at, len, kind: Kind::Gap(Why::Unreadable(why)) },
            Here::Stored(bytes, from) => {
                let below = bytes.extent(from)?;
                Extent { at, len: below.len.min(len), kind: below.kind }
            }
        })
    }

    fn unit(&self) -> u64 {
        self.sources.iter().filter_map(|source| source.bytes.as_ref().ok()).map(|bytes| bytes.unit()).max().unwrap_or(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::{InMemory, read_vec};

    #[test]
    fn stripes_take_turns_and_what_is_not_here_is_a_gap() {
        let source = |from: u8| Source {
            name: format!("pv{from}"),
            bytes: Ok(Arc::new(InMemory((from..from + 16).collect())) as Arc<dyn ReadAt>),
        };
        let gone = Source { name: "pv2".to_owned(), bytes: Err("pv2 is not here".to_owned()) };
        let sources = Arc::new(vec![source(0), source(100), gone]);
        let striped = |stripes: &[(usize, u64)], chunk| Place::Striped { stripes: stripes.to_vec(), chunk };
        let segments = vec![
            Segment { at: 0, len: 8, place: striped(&[(0, 4), (1, 0)], 2) },
            Segment { at: 8, len: 4, place: striped(&[(1, 12)], 1) },
            Segment { at: 12, len: 4, place: Place::Zero },
            Segment { at: 16, len: 8, place: striped(&[(2, 0)], 8) },
            Segment { at: 24, len: 8, place: striped(&[(0, 12)], 8) },
        ];
        let all = Mapping::new(Arc::clone(&sources), segments).unwrap();
        assert_eq!(all.lacks().as_deref(), Some("pv2 is not here"));
        let want = [4, 5, 100, 101, 6, 7, 102, 103, 112, 113, 114, 115, 0, 0, 0, 0];
        assert_eq!(read_vec(&all, 0, 16).unwrap(), want);
        assert_eq!(read_vec(&all, 3, 6).unwrap(), want[3..9]);
        assert!(matches!(read_vec(&all, 15, 2), Err(ReadError::Gap { at: 16, len: 8, .. })));
        assert!(matches!(read_vec(&all, 26, 4), Err(ReadError::Gap { at: 28, .. })), "behind the end of pv0");
        let hole = vec![Segment { at: 4, len: 8, place: Place::Zero }];
        assert!(Mapping::new(sources, hole).is_err());
    }
}
