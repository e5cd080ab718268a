//! Pages of a process that hold a guest's memory: which of them exist, and what is in them.
//!
//! `/proc/PID/pagemap` (`Documentation/admin-guide/mm/pagemap.rst`) tells for each page whether the process has it, in memory or in swap. Of a
//! page of a file (memfd, a file behind `memory-backend-file`) that it does not have mapped, the file tells, by `SEEK_DATA`. What neither has
//! was never written, and is left so: it is absent, not zero. Between the question and the reading a page may go away (a balloon); then the
//! kernel answers with zeros and maps its one page of zeros there.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use rustix::fs::SeekFrom;
use rustix::io::Errno;

use super::Process;
use crate::{LiveError, LiveMemory, LiveSpan, Why};

/// In memory, or in swap: bits 63 and 62 of an entry.
const EXISTS: u64 = 3 << 62;
/// Most entries that are read at once.
const ENTRIES: u64 = 4096;

/// A stretch of guest memory in one mapping.
pub(super) struct Place {
    /// Guest-physical address.
    pub(super) at: u64,
    /// Length in bytes.
    pub(super) len: u64,
    /// Address in the process.
    pub(super) host: u64,
    /// Its file, and where in it the stretch begins.
    pub(super) file: Option<(Arc<File>, u64)>,
}

/// See the module.
pub(super) struct Pages {
    process: Process,
    /// Ascending and apart.
    places: Vec<Place>,
    len: u64,
    source: String,
    page: u64,
}

impl Pages {
    pub(super) fn new(process: Process, mut places: Vec<Place>, len: u64) -> io::Result<Self> {
        places.sort_by_key(|place| place.at);
        let source = format!("QEMU, process {}", process.pid);
        Ok(Self { process, places, len, source, page: page_size()? })
    }

    /// The stretch at `at`; if there is none, where the next begins.
    fn place(&self, at: u64) -> Result<&Place, u64> {
        let next = self.places.partition_point(|place| place.at.saturating_add(place.len) <= at);
        match self.places.get(next) {
            Some(place) if place.at <= at => Ok(place),
            Some(place) => Err(place.at),
            None => Err(self.len),
        }
    }

    /// Does the page at `at` exist, and for how many bytes, at most `most`, is it the same from there on?
    fn run(&self, place: &Place, at: u64, most: u64) -> io::Result<(bool, u64)> {
        let within = at - place.at;
        let host = place.host + within;
        let end = host.saturating_add(most.min(place.len - within));
        let (first, last) = (host / self.page, end.div_ceil(self.page));
        let count = (last - first).min(ENTRIES);
        let mut entries = vec![0; usize::try_from(count * 8).unwrap_or(0)];
        self.process.pagemap.read_exact_at(&mut entries, first * 8)?;
        let mut stored = Stored { file: place.file.as_ref(), known: None };
        let (mut number, mut begun) = (first, None);
        for entry in entries.chunks_exact(8) {
            let entry = entry.try_into().map_or(0, u64::from_ne_bytes);
            let exists = entry & EXISTS != 0 || stored.holds((number * self.page).max(place.host) - place.host)?;
            if *begun.get_or_insert(exists) != exists {
                break;
            }
            number += 1;
        }
        let upto = (number * self.page).min(end);
        Ok((begun.unwrap_or(false), upto.saturating_sub(host).max(1)))
    }
}

/// Bytes of one entry's page: `AT_PAGESZ` of what the kernel told this process (`include/uapi/linux/auxvec.h`).
fn page_size() -> io::Result<u64> {
    let told = std::fs::read("/proc/self/auxv")?;
    let word = |bytes: &[u8]| bytes.try_into().map_or(0, u64::from_ne_bytes);
    let pair = |pair: &[u8]| pair.split_at_checked(8).map(|(key, value)| (word(key), word(value)));
    let size = told.chunks_exact(16).filter_map(pair).find(|(key, _)| *key == 6).map(|(_, size)| size);
    size.filter(|size| size.is_power_of_two()).ok_or_else(|| io::Error::other("the kernel tells no size of pages"))
}

impl LiveMemory for Pages {
    fn len(&self) -> u64 {
        self.len
    }

    fn source(&self) -> &str {
        &self.source
    }

    fn span(&self, at: u64) -> io::Result<LiveSpan> {
        match self.place(at) {
            Err(next) => Ok(LiveSpan { len: next.saturating_sub(at).max(1), absent: Some(Why::NotRam) }),
            Ok(place) => {
                let (exists, len) = self.run(place, at, u64::MAX)?;
                Ok(LiveSpan { len, absent: (!exists).then_some(Why::Sparse) })
            }
        }
    }

    fn read(&self, mut at: u64, mut into: &mut [u8]) -> Result<(), LiveError> {
        while !into.is_empty() {
            let place = self.place(at).map_err(|next| {
                let len = next.saturating_sub(at).max(1);
                LiveError::Absent { at, len, why: Why::NotRam }
            })?;
            let (exists, len) = self.run(place, at, into.len() as u64)?;
            if !exists {
                return Err(LiveError::Absent { at, len, why: Why::Sparse });
            }
            let here = usize::try_from(len).unwrap_or(usize::MAX).min(into.len());
            let (part, rest) = into.split_at_mut(here);
            self.process.mem.read_exact_at(part, place.host + (at - place.at))?;
            at = at.saturating_add(here as u64);
            into = rest;
        }
        Ok(())
    }
}

/// What the file of a stretch holds, asked once for each run of pages that are alike.
struct Stored<'a> {
    file: Option<&'a (Arc<File>, u64)>,
    /// Until which byte of the file it is known to hold something, or nothing.
    known: Option<(u64, bool)>,
}

impl Stored<'_> {
    /// Does the file hold what is `within` bytes behind the stretch's begin? Asked in ascending order.
    fn holds(&mut self, within: u64) -> io::Result<bool> {
        let Some((file, begin)) = self.file else { return Ok(false) };
        let at = begin.saturating_add(within);
        if let Some((until, holds)) = self.known.filter(|(until, _)| at < *until) {
            self.known = Some((until, holds));
            return Ok(holds);
        }
        let known = match rustix::fs::seek(&**file, SeekFrom::Data(at)) {
            Ok(data) if data > at => (data, false),
            Ok(_) => (rustix::fs::seek(&**file, SeekFrom::Hole(at))?, true),
            // Nothing follows, to the end.
            Err(Errno::NXIO) => (u64::MAX, false),
            Err(error) => return Err(error.into()),
        };
        self.known = Some(known);
        Ok(known.1)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn own() -> Process {
        Process::open(i32::try_from(std::process::id()).unwrap(), "itself").unwrap()
    }

    /// Pages that are mapped by nobody tell by their file what there is.
    #[test]
    fn what_the_file_lacks_is_absent() {
        let mut file = tempfile::tempfile().unwrap();
        file.set_len(1 << 20).unwrap();
        file.write_all(&[7; 8192]).unwrap();
        // At an address where this process has nothing.
        let place = Place { at: 0x1000, len: 1 << 20, host: 0x10_0000_0000, file: Some((Arc::new(file), 0)) };
        let pages = Pages::new(own(), vec![place], 0x20_0000).unwrap();
        let spans: Vec<_> = [0, 0x1000, 0x3000, 0x10_1000].map(|at| pages.span(at).unwrap()).into();
        let span = |len, absent| LiveSpan { len, absent };
        assert_eq!(spans[0], span(0x1000, Some(Why::NotRam)));
        assert_eq!(spans[1], span(0x2000, None));
        assert_eq!(spans[2], span((1 << 20) - 0x2000, Some(Why::Sparse)));
        assert_eq!(spans[3], span(0xf_f000, Some(Why::NotRam)));
        let mut some = [0; 16];
        let absent = pages.read(0x2ff8 + 0x10, &mut some).unwrap_err();
        assert!(matches!(absent, LiveError::Absent { why: Why::Sparse, .. }), "{absent:?}");
    }

    #[test]
    fn bytes_of_a_process_are_read_where_they_are() {
        let bytes: Vec<u8> = (0..100_000_u32).map(|n| (n % 251) as u8).collect();
        let host = bytes.as_ptr() as u64;
        let place = Place { at: 0, len: bytes.len() as u64, host, file: None };
        let pages = Pages::new(own(), vec![place], bytes.len() as u64).unwrap();
        let mut some = vec![0; 50_000];
        pages.read(12_345, &mut some).unwrap();
        assert_eq!(some, bytes[12_345..62_345]);
        assert!(pages.read(99_999, &mut some[..2]).is_err());
    }
}
