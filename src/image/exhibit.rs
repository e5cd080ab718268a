//! An exhibit of a case as an image: the bytes that were captured, with the gaps that its `exhibit.json` names, so that
//! what was never read does not read as zeros.
//!
//! The folder of the bag or the file under its `data/` may be named. What the guest wrote is not probed for formats, since
//! `exhibit.json` says how it is stored. Nothing is verified here; that is `impound verify`.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use impound_backends::{ItemKind, Why};
use serde_json::Value;

use super::bytes::within;
use super::shelf;
use super::{Below, Carried, Content, Cpu, Extent, Image, Kind, Layer, Machine, Options, Place, ReadAt, ReadError};
use crate::case::record::{self, Gap, RECORD_LIMIT, Record, Stored};

/// Name of the record in the bag.
pub(super) const RECORD: &str = "exhibit.json";
/// The most gaps that are read; a list that is longer is refused.
const MOST_GAPS: usize = 8 << 20;
/// Longest line of a list of gaps, in bytes.
const LINE: u64 = 16 << 10;

/// The bag that `path` is, or whose main file it is.
pub(super) fn bag_of(path: &Path) -> Option<PathBuf> {
    if path.join(RECORD).is_file() {
        return Some(path.to_owned());
    }
    let data = path.parent().filter(|parent| parent.file_name().is_some_and(|name| name == "data"))?;
    let bag = data.parent().filter(|bag| bag.join(RECORD).is_file())?;
    let record = read_record(bag).ok()?;
    let main = main_file(&record)?;
    (main.path.file_name() == path.file_name()).then(|| bag.to_owned())
}

/// Opens the exhibit in the folder `bag`.
pub(super) fn open(bag: &Path, options: &Options) -> Result<Image, ReadError> {
    let record = read_record(bag)?;
    let main = main_file(&record).ok_or_else(|| no_file(bag, &record))?;
    if let Some(file) = &record.item.file {
        return shelf::open(bag, &record, file, options);
    }
    let content = match record.item.kind {
        ItemKind::Memory => Content::Memory,
        ItemKind::Disk => Content::Disk,
        ItemKind::Container => Content::Carrier,
        ItemKind::Config => {
            let why = "it is the configuration of the VM; read the file under data/";
            return Err(ReadError::caller(format!("open the exhibit {} as an image", bag.display()), why));
        }
    };
    let (_, place) = Place::open(&bag.join(RECORD), options.follow)?;
    let found = place.find(main.path.as_os_str().as_encoded_bytes())?;
    let options = Options { wrapping: None, ..options.clone() };
    let below = Below::found(found, options);
    let mut layers = vec![layer(&record, main, content, below.bytes.len())];
    if content == Content::Carrier {
        let inner = super::open_below(below)?;
        layers.extend(inner.layers.iter().cloned());
        return Ok(Image { layers, ..inner });
    }
    let (bytes, mut machine) = unwrap(bag, &record, below, &mut layers)?;
    if let Some(told) = registers(&record.instant) {
        machine = Some(told);
    }
    if let Some(last) = layers.last_mut() {
        last.content = content;
        last.len = bytes.len();
    }
    Ok(Image { bytes, layers, machine })
}

/// The bytes that were captured, with their gaps; and what they are stored in, told in `layers`.
pub(super) fn payload(
    bag: &Path,
    record: &Record,
    options: &Options,
    layers: &mut Vec<Layer>,
) -> Result<Arc<dyn ReadAt>, ReadError> {
    let main = main_file(record).ok_or_else(|| no_file(bag, record))?;
    let (_, place) = Place::open(&bag.join(RECORD), options.follow)?;
    let found = place.find(main.path.as_os_str().as_encoded_bytes())?;
    let below = Below::found(found, Options { wrapping: None, ..options.clone() });
    layers.push(layer(record, main, Content::Carrier, below.bytes.len()));
    unwrap(bag, record, below, layers).map(|(bytes, _)| bytes)
}

fn no_file(bag: &Path, record: &Record) -> ReadError {
    let why = record.outcome.why().map_or("it holds no file".to_owned(), |why| format!("it holds no file: {why}"));
    ReadError::caller(format!("open the exhibit {}", bag.display()), why)
}

/// Takes off what `exhibit.json` says the content is stored in. In a form of ours the gaps are those of the item within; a
/// file in the hypervisor's own is the item itself, and its gaps are places in that file.
fn unwrap(
    bag: &Path,
    record: &Record,
    mut below: Below,
    layers: &mut Vec<Layer>,
) -> Result<(Arc<dyn ReadAt>, Option<Machine>), ReadError> {
    let format = Some(record.content.format.as_str()).filter(|format| !matches!(*format, "raw" | ""));
    let (mut machine, mut gaps) = (None, Some(gaps(bag, record)?));
    let own = format.is_some_and(|format| !matches!(format, "lime" | "elf"));
    for name in record.content.compression.as_deref().into_iter().chain(format) {
        if own && Some(name) == format {
            below.bytes = gapped(record, below.bytes, &mut gaps);
        }
        let stored = below.bytes.len();
        let opened = (super::by_name(name)?.open)(&below)?;
        layers.push(Layer { len: opened.bytes.len(), stored, ..opened.layer });
        machine = opened.machine.or(machine);
        below.bytes = opened.bytes;
    }
    Ok((gapped(record, below.bytes, &mut gaps), machine))
}

/// The bytes without those that were never captured, once.
fn gapped(record: &Record, bytes: Arc<dyn ReadAt>, gaps: &mut Option<Vec<Gap>>) -> Arc<dyn ReadAt> {
    match gaps.take() {
        Some(gaps) => Arc::new(Gapped::new(bytes, record.content.len, gaps)),
        None => bytes,
    }
}

pub(super) fn read_record(bag: &Path) -> Result<Record, ReadError> {
    let path = bag.join(RECORD);
    let mut bytes = Vec::new();
    let file = File::open(&path).map_err(ReadError::io("open", &path))?;
    file.take(RECORD_LIMIT + 1).read_to_end(&mut bytes).map_err(ReadError::io("read", &path))?;
    if bytes.len() as u64 > RECORD_LIMIT {
        return Err(ReadError::corrupt(RECORD, 0, format_args!("at most {RECORD_LIMIT} bytes"), "more"));
    }
    record::read(&bytes).map_err(|refused| ReadError::unsupported(path.display().to_string(), refused.to_string()))
}

/// The file that holds the item: the one with a block map, or the first.
fn main_file(record: &Record) -> Option<&Stored> {
    record.stored.iter().find(|file| file.blocks.is_some()).or(record.stored.first())
}

fn layer(record: &Record, main: &Stored, content: Content, stored: u64) -> Layer {
    let mut layer = Layer { len: stored, stored, ..Layer::new("exhibit", content) };
    layer.fact("exhibit", &record.name).fact("target", &record.target.uri).fact("item", &record.item.name);
    layer.fact("method", &record.method).fact("instant", record.window.begin);
    // Digests of a file with headers of its own say nothing of the memory in it; `impound verify` checks those.
    let raw = matches!(record.content.format.as_str(), "raw" | "");
    let digests = record.content.digests.as_ref().unwrap_or(&main.digests);
    let all = [("sha256", Some(&digests.sha256)), ("sha1", digests.sha1.as_ref()), ("md5", digests.md5.as_ref())];
    let carried = all.into_iter().filter_map(|(algorithm, hex)| Some(Carried { algorithm, hex: hex?.clone() }));
    layer.digests.extend(carried.filter(|digest| raw && !digest.hex.is_empty()));
    if !record.outcome.is_complete() {
        let why = record.outcome.why().unwrap_or("no reason is given");
        layer.odd(format!("the capture is {}: {why}", record.outcome.name()));
    }
    for finding in &record.findings {
        layer.odd(finding);
    }
    layer
}

/// The CPUs' registers at the instant, as the capture wrote them down.
fn registers(instant: &Value) -> Option<Machine> {
    let hex = |cpu: &Value, name: &str| u64::from_str_radix(cpu.get(name)?.as_str()?.strip_prefix("0x")?, 16).ok();
    let cpus = instant.get("registers")?.get("cpus")?.as_array()?;
    let cpu = |cpu: &Value| Cpu {
        cr0: hex(cpu, "cr0"),
        cr3: hex(cpu, "cr3"),
        cr4: hex(cpu, "cr4"),
        rip: hex(cpu, "rip"),
        idt: hex(cpu, "idtr_base"),
    };
    Some(Machine { cpus: cpus.iter().take(4096).map(cpu).collect(), frames: None })
}

/// All gaps: those in the record, or the longer list beside it.
fn gaps(bag: &Path, record: &Record) -> Result<Vec<Gap>, ReadError> {
    if record.gaps.all_in.is_none() {
        return Ok(record.gaps.listed.clone());
    }
    // The name is fixed by the format; what the record says is only that there is one.
    let path = bag.join("gaps.jsonl");
    let mut lines = BufReader::new(File::open(&path).map_err(ReadError::io("open", &path))?);
    let (mut list, mut at) = (Vec::new(), 0_u64);
    loop {
        let mut line = Vec::new();
        let read = (&mut lines).take(LINE).read_until(b'\n', &mut line).map_err(ReadError::io("read", &path))?;
        if read == 0 {
            return Ok(list);
        }
        let gap =
            serde_json::from_slice(&line).map_err(|error| ReadError::corrupt("gaps.jsonl", at, "a gap", error))?;
        if list.len() >= MOST_GAPS {
            return Err(ReadError::corrupt("gaps.jsonl", at, format_args!("at most {MOST_GAPS} gaps"), "more"));
        }
        list.push(gap);
        at += read as u64;
    }
}

/// Bytes with the ranges that they do not hold.
struct Gapped {
    below: Arc<dyn ReadAt>,
    /// Ascending and apart.
    gaps: Vec<Gap>,
    len: u64,
}

impl Gapped {
    /// `len` bytes of which `gaps` are missing; so is what `below` has too few.
    fn new(below: Arc<dyn ReadAt>, len: u64, mut gaps: Vec<Gap>) -> Self {
        let there = below.len();
        if there < len {
            let why = Why::Unreadable("the stored file ends before".to_owned());
            gaps.push(Gap { at: there, len: len - there, why });
        }
        gaps.retain(|gap| gap.len > 0 && gap.at < len);
        gaps.sort_by_key(|gap| gap.at);
        // Where two lie over each other the first goes on to its end.
        let mut apart: Vec<Gap> = Vec::with_capacity(gaps.len());
        for mut gap in gaps {
            let end = gap.at.saturating_add(gap.len).min(len);
            let from = apart.last().map_or(0, |last| last.at + last.len).max(gap.at);
            if from < end {
                (gap.at, gap.len) = (from, end - from);
                apart.push(gap);
            }
        }
        Self { below, gaps: apart, len }
    }

    /// The first gap that ends behind `at`.
    fn next(&self, at: u64) -> Option<&Gap> {
        self.gaps.get(self.gaps.partition_point(|gap| gap.at + gap.len <= at))
    }
}

impl ReadAt for Gapped {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, mut at: u64, mut into: &mut [u8]) -> Result<(), ReadError> {
        within(self.len, at, into.len() as u64)?;
        while !into.is_empty() {
            let next = self.next(at).filter(|gap| gap.at - gap.at.min(at) < into.len() as u64);
            let Some(gap) = next else { return self.below.read_at(at, into) };
            let here = if gap.at > at { gap.at - at } else { gap.at + gap.len - at };
            let here = usize::try_from(here).unwrap_or(usize::MAX).min(into.len());
            let (part, rest) = into.split_at_mut(here);
            match &gap.why {
                _ if gap.at > at => self.below.read_at(at, part)?,
                Why::Sparse => part.fill(0),
                why => return Err(ReadError::Gap { at, len: gap.at + gap.len - at, why: why.clone() }),
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
        let next = self.next(at);
        if let Some(gap) = next.filter(|gap| gap.at <= at) {
            let kind = if gap.why == Why::Sparse { Kind::Zero } else { Kind::Gap(gap.why.clone()) };
            return Ok(Extent { at, len: gap.at + gap.len - at, kind });
        }
        let end = next.map_or(self.len, |gap| gap.at);
        let below = self.below.extent(at)?;
        Ok(Extent { at, len: below.len.min(end - at), kind: below.kind })
    }
}

#[cfg(test)]
mod tests {
    use super::super::{InMemory, map};
    use super::*;

    #[test]
    fn gaps_do_not_read_and_what_was_never_written_reads_as_zeros() {
        let gap = |at, len, why| Gap { at, len, why };
        let list = vec![
            gap(30, 10, Why::NotRam),
            gap(10, 10, Why::Sparse),
            gap(15, 10, Why::Unreadable("bad".to_owned())),
            gap(u64::MAX, 5, Why::NotRam),
        ];
        let image = Gapped::new(Arc::new(InMemory(vec![7; 50])), 60, list);
        let mut bytes = [1; 12];
        image.read_at(8, &mut bytes).unwrap();
        assert_eq!(bytes, [7, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert!(matches!(image.read_at(9, &mut bytes), Err(ReadError::Gap { at: 20, len: 5, .. })));
        image.read_at(25, &mut bytes[..5]).unwrap();
        assert!(image.read_at(25, &mut bytes[..6]).is_err());
        let kinds: Vec<_> = map::walk(&image, 0..60).map(|extent| extent.unwrap()).collect();
        let parts: Vec<_> = kinds.iter().map(|extent| (extent.at, extent.len)).collect();
        assert_eq!(parts, [(0, 10), (10, 10), (20, 5), (25, 5), (30, 10), (40, 10), (50, 10)]);
    }
}
