//! Expert Witness images: E01 and its kin (EWF-S01, segments E01 … ZZZ), and Ex01 (EWF2), as EnCase, FTK Imager, ewfacquire
//! and others write. After "Expert Witness Compression Format" 1 and 2 by J. Metz.
//!
//! Sections are listed while opening, tables of chunks are read when they are asked for, and every checksum on the way is
//! checked. Sectors that the acquirer could not read are gaps, since the container says so; its own digests count them as
//! zeros, so [`Layer::digests`] are compared with those. Logical images (L01) and encrypted ones are refused by name.

mod chunks;
mod e01;
mod ex01;
mod headers;
mod segments;

use std::sync::Arc;

use crate::image::{Below, Carried, Content, Layer, Opened, Opening, ReadError, Wrapping};
use chunks::Chunks;

/// See the module.
pub(super) static EWF: Wrapping = Wrapping {
    name: "ewf",
    about: "Expert Witness image: E01, S01, Ex01, with its segments",
    tested_against: "ewfacquire 20140813 (E01, S01); Ex01 against a writer of our own",
    probe,
    open,
};

/// First bytes of a segment of version 1.
const E01: [u8; 8] = *b"EVF\x09\x0d\x0a\xff\x00";
/// The same for logical images.
const L01: [u8; 8] = *b"LVF\x09\x0d\x0a\xff\x00";
/// First bytes of a segment of version 2.
const EX01: [u8; 8] = *b"EVF2\x0d\x0a\x81\x00";
/// The same for logical images.
const LEX01: [u8; 8] = *b"LEF2\x0d\x0a\x81\x00";
/// Longest chunk that is decoded, in bytes: EnCase goes up to 32768 sectors.
const MOST_CHUNK: u64 = 64 << 20;
/// Longest header that is inflated, in bytes.
const MOST_HEADER: usize = 1 << 20;

/// What the sections of all segments say.
#[derive(Default)]
struct Found {
    /// How the medium is cut up; `None` until a section told.
    geometry: Option<Geometry>,
    /// Sectors of a chunk, where another section than that of the medium says so (version 2).
    per_chunk: Option<u64>,
    /// Tables of chunks, ascending.
    tables: Vec<chunks::Table>,
    /// First sector and count of what the acquirer could not read.
    unread: Vec<(u64, u64)>,
    digests: Vec<Carried>,
    facts: Vec<(&'static str, String)>,
    odd: Vec<String>,
    /// The last segment says that it is the last.
    done: bool,
}

/// The medium: how many sectors, how long, how many of them in a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Geometry {
    /// Where it stands, for an error.
    at: u64,
    sectors: u64,
    /// Length of a sector in bytes.
    sector: u64,
    /// Sectors of a chunk.
    chunk: u64,
}

impl Geometry {
    /// Length of a chunk and of the medium, in bytes.
    fn lengths(&self) -> Result<(u64, u64), ReadError> {
        let corrupt =
            |expected: String, found: String| ReadError::corrupt("EWF volume section", self.at, expected, found);
        let chunk = self.chunk.checked_mul(self.sector).filter(|chunk| (1..=MOST_CHUNK).contains(chunk));
        let Some(chunk) = chunk else {
            let found = format!("{} sectors of {} bytes", self.chunk, self.sector);
            return Err(corrupt(format!("chunks of 1 to {MOST_CHUNK} bytes"), found));
        };
        let Some(len) = self.sectors.checked_mul(self.sector) else {
            let found = format!("{} sectors of {} bytes", self.sectors, self.sector);
            return Err(corrupt("a medium of less than 2^64 bytes".to_owned(), found));
        };
        Ok((chunk, len))
    }
}

impl Found {
    fn digest(&mut self, algorithm: &'static str, bytes: &[u8]) {
        let carried = Carried { algorithm, hex: crate::image::hex(bytes) };
        if bytes.iter().all(|&byte| byte == 0) || self.digests.contains(&carried) {
            return;
        }
        if let Some(other) = self.digests.iter().find(|digest| digest.algorithm == algorithm) {
            self.odd.push(format!("it carries two digests by {algorithm}: {} and {}", other.hex, carried.hex));
        }
        self.digests.push(carried);
    }

    fn fact(&mut self, name: &'static str, value: impl std::fmt::Display) {
        let value = value.to_string();
        if !value.is_empty() && !self.facts.iter().any(|(known, _)| *known == name) {
            self.facts.push((name, value));
        }
    }

    /// Takes the geometry of the medium; a second one that differs is damage.
    fn geometry(&mut self, told: Geometry) -> Result<(), ReadError> {
        told.lengths()?;
        let known = *self.geometry.get_or_insert(told);
        if (Geometry { at: told.at, ..known }) == told {
            return Ok(());
        }
        let words = |it: Geometry| format!("{} sectors of {} bytes, {} to a chunk", it.sectors, it.sector, it.chunk);
        Err(ReadError::corrupt("EWF volume section", told.at, words(known), words(told)))
    }
}

fn probe(below: &Below) -> bool {
    matches!(below.head::<8>(), E01 | L01 | EX01 | LEX01)
}

fn open(below: &Below) -> Opening {
    let advice = "logical evidence files hold files, not a medium; extract them with the tool that made them";
    let second = match below.head::<8>() {
        L01 | LEX01 => return Err(ReadError::unsupported("an EWF logical image (L01)", advice)),
        EX01 => true,
        E01 => false,
        _ => return Err(ReadError::corrupt("EWF signature", 0, "EVF or EVF2", crate::image::hex(&below.head::<8>()))),
    };
    let mut found = Found::default();
    let mut layer = Layer::new("ewf", Content::Disk);
    let mut files = Vec::new();
    let mut walk = segments::Segments::new(below);
    while let Some(segment) = walk.next_segment(found.done)? {
        let number = segment.number;
        let read = if second { ex01::read } else { e01::read };
        if number > 1 {
            layer.files.push(("segment", segment.name.clone()));
        }
        read(&segment, &mut found).map_err(ReadError::within(segment.name))?;
        files.push(segment.bytes);
    }
    let Some(geometry) = found.geometry else {
        return Err(ReadError::corrupt("EWF image", 0, "a volume section", "none in any segment"));
    };
    let (chunk, len) = geometry.lengths()?;
    found.fact("chunk size", chunk);
    found.fact("bytes per sector", geometry.sector);
    below.allow("an EWF image", len)?;
    if !found.done {
        found.odd.push(format!("the last of its {} segments does not say that it is the last", files.len()));
    }
    layer.facts.extend([("version", if second { "2 (Ex01)" } else { "1 (E01)" }.to_owned())]);
    layer.facts.extend([("segments", files.len().to_string())]);
    layer.facts.append(&mut found.facts);
    layer.digests.append(&mut found.digests);
    let bytes = |sectors: u64| sectors.saturating_mul(geometry.sector);
    let unread = found.unread.iter().map(|(first, count)| (bytes(*first), bytes(*count))).collect();
    let chunks = Chunks::new(files, chunk, len, found.tables, unread)?;
    layer.odd.append(&mut found.odd);
    layer.odd.extend(chunks.odd());
    Ok(Opened::new(Arc::new(chunks), layer))
}
