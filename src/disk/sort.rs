//! Sorting more than fits into memory: records are kept until a budget is used up, then written to a temporary file as a
//! sorted run, and the runs are merged at the end.
//!
//! A record may stand at several places of the order, and is kept once. Temporary files have no name: whatever ends the
//! program, nothing is left behind. Records with the same key stay in the order in which they came.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, Write};
use std::path::{Path, PathBuf};

use rayon::prelude::*;

/// Runs that are merged at once; each needs a buffer.
const RUNS: usize = 64;
/// Bytes of such a buffer.
const BUFFER: usize = 1 << 17;

/// Where in the order: seconds, then a part of them.
pub type Key = (i64, i32);

/// A place in the order, and what the caller wants to know of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    key: Key,
    /// Counts records, so that equal keys stay in order.
    number: u64,
    tag: u8,
    /// Of the record in `bytes`.
    from: usize,
    len: usize,
}

/// See the module.
pub struct Sorter {
    places: Vec<Place>,
    bytes: Vec<u8>,
    runs: Vec<File>,
    number: u64,
    budget: usize,
    folder: PathBuf,
}

impl Sorter {
    /// Keeps about `budget` bytes in memory, and puts the rest into `folder`.
    pub fn new(budget: usize, folder: &Path) -> Self {
        let folder = folder.to_owned();
        Self { places: Vec::new(), bytes: Vec::new(), runs: Vec::new(), number: 0, budget, folder }
    }

    /// A record, at each of `places`: its key, and a tag that comes back with it.
    pub fn add(&mut self, record: &[u8], places: impl IntoIterator<Item = (Key, u8)>) -> io::Result<()> {
        let used = self.bytes.len().saturating_add(self.places.len().saturating_mul(size_of::<Place>()));
        if used.saturating_add(record.len()) > self.budget {
            self.spill()?;
        }
        let (from, len, number) = (self.bytes.len(), record.len(), self.number);
        self.places.extend(places.into_iter().map(|(key, tag)| Place { key, number, tag, from, len }));
        self.bytes.extend_from_slice(record);
        self.number += 1;
        Ok(())
    }

    /// Writes what is in memory as a run.
    fn spill(&mut self) -> io::Result<()> {
        if self.places.is_empty() {
            return Ok(());
        }
        self.places.par_sort_unstable();
        let mut run = Run::create(&self.folder)?;
        for place in self.places.drain(..) {
            run.put(&place, self.bytes.get(place.from..place.from + place.len).unwrap_or_default())?;
        }
        self.bytes.clear();
        self.runs.push(run.end()?);
        if self.runs.len() >= RUNS {
            let mut all = Run::create(&self.folder)?;
            merge(std::mem::take(&mut self.runs), |place, record| all.put(place, record))?;
            self.runs.push(all.end()?);
        }
        Ok(())
    }

    /// Hands out all records in order, with their key and tag.
    pub fn finish<E: From<io::Error>>(
        mut self,
        mut each: impl FnMut(Key, u8, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        if self.runs.is_empty() {
            self.places.par_sort_unstable();
            return self.places.iter().try_for_each(|place| {
                let record = self.bytes.get(place.from..place.from + place.len).unwrap_or_default();
                each(place.key, place.tag, record)
            });
        }
        self.spill()?;
        (self.bytes, self.places) = (Vec::new(), Vec::new());
        merge(self.runs, |place, record| each(place.key, place.tag, record))
    }
}

/// A run that is being written.
struct Run(BufWriter<File>);

impl Run {
    fn create(folder: &Path) -> io::Result<Self> {
        let made = tempfile::tempfile_in(folder);
        let said = |error: io::Error| {
            io::Error::new(error.kind(), format!("could not make a temporary file in {}: {error}", folder.display()))
        };
        Ok(Self(BufWriter::with_capacity(BUFFER, made.map_err(said)?)))
    }

    fn put(&mut self, place: &Place, record: &[u8]) -> io::Result<()> {
        let len = u32::try_from(record.len()).map_err(|_| io::Error::other("a record of more than 4 GiB"))?;
        let mut head = [0; 25];
        let (seconds, part) = place.key;
        let fields = [
            &seconds.to_le_bytes()[..],
            &part.to_le_bytes(),
            &place.number.to_le_bytes(),
            &len.to_le_bytes(),
            &[place.tag],
        ];
        for (to, from) in head.iter_mut().zip(fields.into_iter().flatten()) {
            *to = *from;
        }
        self.0.write_all(&head)?;
        self.0.write_all(record)
    }

    fn end(self) -> io::Result<File> {
        let mut file = self.0.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.rewind()?;
        Ok(file)
    }
}

/// Reads the next record of a run.
fn next(run: &mut impl Read, record: &mut Vec<u8>) -> io::Result<Option<Place>> {
    let mut head = [0; 25];
    match run.read_exact(&mut head) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        done => done?,
    }
    let (first, rest) = head.split_at(8);
    let (second, rest) = rest.split_at(4);
    let (third, rest) = rest.split_at(8);
    let (fourth, tag) = rest.split_at(4);
    let wide = |bytes: &[u8]| bytes.iter().rev().fold(0_u64, |value, byte| value << 8 | u64::from(*byte));
    let part = i32::from_le_bytes(second.try_into().unwrap_or_default());
    let len = usize::try_from(wide(fourth)).unwrap_or(usize::MAX);
    record.resize(len, 0);
    run.read_exact(record)?;
    let tag = tag.first().copied().unwrap_or_default();
    Ok(Some(Place { key: (wide(first).cast_signed(), part), number: wide(third), tag, from: 0, len }))
}

fn merge<E: From<io::Error>>(runs: Vec<File>, mut each: impl FnMut(&Place, &[u8]) -> Result<(), E>) -> Result<(), E> {
    let mut runs: Vec<_> = runs.into_iter().map(|run| (BufReader::with_capacity(BUFFER, run), Vec::new())).collect();
    let mut heap = BinaryHeap::new();
    for (index, (run, record)) in runs.iter_mut().enumerate() {
        heap.extend(next(run, record)?.map(|place| Reverse((place, index))));
    }
    while let Some(Reverse((place, index))) = heap.pop() {
        let Some((run, record)) = runs.get_mut(index) else { break };
        each(&place, record)?;
        heap.extend(next(run, record)?.map(|place| Reverse((place, index))));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    type Places = Vec<(Key, u8)>;

    /// What comes out, with a budget so small that `RUNS` are exceeded, is what a sort in memory gives.
    #[test]
    fn runs_in_files_are_one_order() {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut noise = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        let folder = std::env::temp_dir();
        let records: Vec<(Vec<u8>, Places)> = (0..20_000_u32)
            .map(|n| {
                let keys = (0..noise() % 4).map(|tag| {
                    let seconds = i64::try_from(noise() % 1000).unwrap() - 500;
                    ((seconds, i32::try_from(noise() % 3).unwrap()), u8::try_from(tag).unwrap())
                });
                (format!("record {n}").into_bytes(), keys.collect())
            })
            .collect();
        let sorted = |budget: usize| {
            let mut sorter = Sorter::new(budget, &folder);
            for (record, keys) in &records {
                sorter.add(record, keys.iter().copied()).unwrap();
            }
            let runs = sorter.runs.len();
            let mut all = Vec::new();
            let mut take = |key: Key, tag: u8, record: &[u8]| {
                all.push((key, tag, record.to_vec()));
                io::Result::Ok(())
            };
            sorter.finish(&mut take).unwrap();
            (all, runs)
        };
        let (in_memory, none) = sorted(1 << 30);
        let (spilled, runs) = sorted(8 << 10);
        assert_eq!(none, 0);
        assert!(runs > 1, "{runs}");
        assert!(in_memory == spilled);
        let mut want = Vec::new();
        for (record, keys) in &records {
            want.extend(keys.iter().map(|(key, tag)| (*key, *tag, record.clone())));
        }
        want.sort_by_key(|(key, ..)| *key);
        let firsts = |all: &[(Key, u8, Vec<u8>)]| all.iter().map(|(key, ..)| *key).collect::<Vec<_>>();
        assert_eq!(firsts(&want), firsts(&in_memory));
        assert_eq!(want.len(), in_memory.len());
        assert!(want == in_memory, "records with the same key are not in the order in which they came");
        let gone = Sorter::new(0, Path::new("/does/not/exist")).add(b"x", [((0, 0), 0)]).and(Ok(()));
        assert!(gone.is_ok(), "nothing is written before there is something to write");
    }
}
