//! The image on its way out: its content in units of the size that a format wants, hashed as it goes by.

use impound_backends::Why;
use jiff::Timestamp;

use super::{ExportError, Format};
use crate::case::record::Gap;
use crate::image::{Carried, Extent, Kind, ReadAt, digest::Digests, map, stream};
use crate::progress::Task;

/// The most gaps that are listed; the sums count all.
const LISTED: usize = 100_000;

/// See the module.
pub struct Source<'a> {
    image: &'a dyn ReadAt,
    /// Length in bytes of what is exported.
    pub(super) len: u64,
    /// Name of the source, for formats that have a field for it.
    pub(super) name: String,
    /// When the export began.
    pub(super) began: Timestamp,
    digests: Digests,
    gaps: Vec<Gap>,
    unreadable: u64,
    hashed: u64,
    task: &'a dyn Task,
}

/// What went by.
pub(super) struct Passed {
    pub(super) digests: Vec<Carried>,
    pub(super) gaps: Vec<Gap>,
    /// Bytes that should be there and are not.
    pub(super) unreadable: u64,
    /// Zeros that were added at the end.
    pub(super) padding: u64,
    pub(super) began: Timestamp,
}

impl<'a> Source<'a> {
    pub(super) fn new(image: &'a dyn ReadAt, len: u64, name: String, wanted: &[&str], task: &'a dyn Task) -> Self {
        let began = Timestamp::now();
        Self {
            image,
            len,
            name,
            began,
            digests: Digests::new(wanted),
            gaps: Vec::new(),
            unreadable: 0,
            hashed: 0,
            task,
        }
    }

    /// Length in bytes, filled up to whole sectors of 512 bytes.
    pub(super) fn padded(&self) -> u64 {
        self.len.next_multiple_of(512)
    }

    /// The ranges that are there, in order, joined.
    pub(super) fn ranges(&self) -> Result<Vec<Extent>, ExportError> {
        let mut ranges: Vec<Extent> = Vec::new();
        for extent in map::walk(self.image, 0..self.len) {
            let extent = extent?;
            if matches!(extent.kind, Kind::Gap(_)) {
                continue;
            }
            match ranges.last_mut() {
                Some(last) if last.end() == extent.at => last.len += extent.len,
                _ => ranges.push(Extent { kind: Kind::Data, ..extent }),
            }
        }
        Ok(ranges)
    }

    /// Everything that is stored, in order, in pieces of any length.
    pub(super) fn data(
        &mut self,
        mut take: impl FnMut(u64, &[u8]) -> Result<(), ExportError>,
    ) -> Result<(), ExportError> {
        let (image, len) = (self.image, self.len);
        stream::in_order(image, 0..len, |chunk| match chunk {
            stream::Chunk::Data { at, bytes } => {
                self.digests.add(bytes);
                self.hashed += bytes.len() as u64;
                self.task.add(bytes.len() as u64);
                take(at, bytes)
            }
            stream::Chunk::Hole(extent) => {
                self.hole(extent);
                Ok(())
            }
        })
    }

    fn hole(&mut self, extent: Extent) {
        self.digests.add_zeros(extent.len);
        self.hashed += extent.len;
        self.task.add(extent.len);
        let Kind::Gap(why) = extent.kind else { return };
        if matches!(why, Why::Unreadable(_)) {
            self.unreadable = self.unreadable.saturating_add(extent.len);
        }
        if self.gaps.len() < LISTED {
            self.gaps.push(Gap { at: extent.at, len: extent.len, why });
        }
    }

    /// Units of `size` bytes that hold more than zeros, in order, by number; the last one is filled up with zeros.
    pub(super) fn units(
        &mut self,
        size: usize,
        mut take: impl FnMut(u64, &[u8]) -> Result<(), ExportError>,
    ) -> Result<(), ExportError> {
        let mut unit = vec![0; size];
        let mut open: Option<u64> = None;
        self.data(|mut at, mut bytes| {
            while !bytes.is_empty() {
                let (number, inside) = (at / size as u64, usize::try_from(at % size as u64).unwrap_or(0));
                if open.is_some_and(|open| open != number) {
                    close(&mut open, &mut unit, &mut take)?;
                }
                let (now, rest) = bytes.split_at(bytes.len().min(size - inside));
                if now.len() == size {
                    if !is_zero(now) {
                        take(number, now)?;
                    }
                } else if let Some(part) = unit.get_mut(inside..inside + now.len()) {
                    part.copy_from_slice(now);
                    open = Some(number);
                }
                at += now.len() as u64;
                bytes = rest;
            }
            Ok(())
        })?;
        close(&mut open, &mut unit, &mut take)
    }

    /// Gaps that went by and should be there, as ranges.
    pub(super) fn unread(&self) -> impl Iterator<Item = (u64, u64)> {
        self.gaps.iter().filter(|gap| matches!(gap.why, Why::Unreadable(_))).map(|gap| (gap.at, gap.len))
    }

    /// The digests of all that is exported, with so many zeros behind it.
    pub(super) fn digests_padded(&self, zeros: usize) -> Vec<Carried> {
        let mut digests = self.digests.clone();
        digests.add_zeros(zeros as u64);
        digests.finish()
    }

    /// All went by.
    pub(super) fn finish(self, format: &Format) -> Result<Passed, ExportError> {
        if self.hashed != self.len {
            let (expected, found) = (format!("{} bytes", self.len), format!("{} bytes", self.hashed));
            return Err(ExportError::Differs { what: "what went by", expected, found });
        }
        let padding = if format.sectors { self.padded() - self.len } else { 0 };
        let digests = self.digests.finish();
        Ok(Passed { digests, gaps: self.gaps, unreadable: self.unreadable, padding, began: self.began })
    }
}

/// Hands out the unit that was put together from parts.
fn close(
    open: &mut Option<u64>,
    unit: &mut [u8],
    take: &mut impl FnMut(u64, &[u8]) -> Result<(), ExportError>,
) -> Result<(), ExportError> {
    let Some(number) = open.take() else { return Ok(()) };
    if !is_zero(unit) {
        take(number, unit)?;
        unit.fill(0);
    }
    Ok(())
}

/// Is there nothing but zeros?
fn is_zero(bytes: &[u8]) -> bool {
    let (words, rest) = bytes.as_chunks::<64>();
    words.iter().all(|word| *word == [0; 64]) && rest.iter().all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::InMemory;
    use crate::progress::Silent;

    #[test]
    fn units_are_cut_and_those_of_zeros_are_left_out() {
        let mut bytes = vec![0; 10_000];
        bytes[100] = 1;
        bytes[8999] = 2;
        bytes[9999] = 3;
        let image = InMemory(bytes.clone());
        let mut source = Source::new(&image, 10_000, String::new(), &["sha256"], &Silent);
        let mut seen = Vec::new();
        source
            .units(1000, |number, unit| {
                assert_eq!(unit.len(), 1000);
                seen.push((number, unit.iter().position(|byte| *byte != 0).unwrap()));
                Ok(())
            })
            .unwrap();
        assert_eq!(seen, [(0, 100), (8, 999), (9, 999)]);
        let mut source = Source::new(&image, 9_500, String::new(), &["sha256"], &Silent);
        let mut last = None;
        source
            .units(4096, |number, unit| {
                last = Some((number, unit.to_vec()));
                Ok(())
            })
            .unwrap();
        let (number, unit) = last.unwrap();
        assert_eq!((number, unit.len(), unit[8999 - 8192]), (2, 4096, 2));
        assert!(unit[9_500 - 8192..].iter().all(|byte| *byte == 0));
    }
}
