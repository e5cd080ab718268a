//! $MFT: a record for each file. Records are read in chunks that are kept for a while, and a file once for all that is
//! asked of it in a row: nothing is read or taken apart twice when a volume is walked.
//!
//! $MFT maps itself. Its first record is where the boot sector says, or in $MFTMirr; parts of a map that does not fit there
//! are in records that the map so far leads to.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use super::attribute::{
    self, ATTRIBUTE_LIST, Attribute, DATA, FILE_NAME, INDEX_ALLOCATION, INDEX_ROOT, Mapping, Value,
};
use super::boot::Boot;
use super::index::I30;
use super::record::{Record, Reference};
use crate::disk::fs::content::Content;
use crate::disk::us;
use crate::image::cache::Cache;
use crate::image::fields::{Fields, read_structure};
use crate::image::{ReadAt, ReadError, read_vec};

/// Bytes of $MFT that are read at a time.
const CHUNK: u64 = 256 << 10;
/// Bytes of chunks that are kept.
const KEPT: usize = 32 << 20;
/// Files that are kept.
const FILES: usize = 64;
/// The longest list of attributes: what Windows allows.
const LIST: u64 = 256 << 10;
/// Times that the map of $MFT is read again because it has grown.
const ROUNDS: usize = 64;

/// A file: its record and all attributes, whatever records they are in.
pub(super) struct File {
    pub(super) record: Record,
    pub(super) attributes: Vec<Attribute>,
    /// What is not as it should be.
    pub(super) odd: Vec<String>,
}

impl File {
    /// The attribute of this kind and name.
    pub(super) fn get(&self, kind: u32, name: &[u8]) -> Option<&Attribute> {
        self.attributes.iter().find(|attribute| attribute.is(kind, name))
    }

    /// What the file is there for: its data, or the index of a directory.
    pub(super) fn main(&self) -> Option<&Attribute> {
        let index = || self.get(INDEX_ALLOCATION, I30).or_else(|| self.get(INDEX_ROOT, I30));
        self.get(DATA, b"").or_else(index)
    }

    /// The value of an attribute without a name that is always in a record.
    pub(super) fn value(&self, kind: u32) -> Option<Fields<'_>> {
        let bytes = self.get(kind, b"").and_then(Attribute::resident)?;
        Some(Fields::new("NTFS attribute value", self.record.at, bytes))
    }

    /// The names that it has.
    pub(super) fn names(&self) -> impl Iterator<Item = super::info::FileName> + '_ {
        let values = self.attributes.iter().filter(|attribute| attribute.kind == FILE_NAME);
        values.filter_map(Attribute::resident).filter_map(|value| super::info::FileName::parse(value).ok())
    }
}

/// See the module.
pub(super) struct Mft {
    volume: Arc<dyn ReadAt>,
    bytes: Arc<dyn ReadAt>,
    record: u64,
    cluster: u64,
    clusters: u64,
    chunks: Cache,
    recent: Vec<Mutex<Option<Arc<File>>>>,
}

impl Mft {
    /// Finds all of it; what was in the way goes to `odd`.
    pub(super) fn open(volume: &Arc<dyn ReadAt>, boot: &Boot, odd: &mut Vec<String>) -> Result<Self, ReadError> {
        let [first, copy] = boot.mft;
        let mut map = match Self::map(volume.as_ref(), boot, first) {
            Ok(map) => map,
            Err(error) => {
                let map = Self::map(volume.as_ref(), boot, copy).map_err(|_| error)?;
                odd.push("the first record of $MFT cannot be read; its copy in $MFTMirr was used".to_owned());
                map
            }
        };
        for _ in 0..ROUNDS {
            let mft = Self::new(volume, boot, &map);
            let Ok(file) = mft.file(0) else { return Ok(mft) };
            let grown = file.get(DATA, b"").and_then(|data| match &data.value {
                Value::Mapped(mapping) if mapping.to > map.to => Some(mapping.clone()),
                _ => None,
            });
            let Some(grown) = grown else {
                odd.extend(file.odd.iter().map(|line| format!("$MFT: {line}")));
                return Ok(mft);
            };
            map = grown;
        }
        odd.push(format!("the map of $MFT still grew after {ROUNDS} rounds"));
        Ok(Self::new(volume, boot, &map))
    }

    /// The map of $MFT in its first record, or in the copy of that, at `at` on the volume.
    fn map(volume: &dyn ReadAt, boot: &Boot, at: u64) -> Result<Mapping, ReadError> {
        const WHAT: &str = "NTFS FILE record of $MFT";
        let record = Record::parse(0, 0, read_structure(volume, WHAT, at, us(boot.record))?)?;
        let list = attribute::all(&record, boot.clusters(volume), &mut Vec::new());
        let data = list.into_iter().find(|attribute| attribute.is(DATA, b"")).map(|data| data.value);
        match data {
            Some(Value::Mapped(map)) if !map.runs.is_empty() => Ok(map),
            _ => Err(ReadError::corrupt(WHAT, at, "a map of $MFT", "none")),
        }
    }

    fn new(volume: &Arc<dyn ReadAt>, boot: &Boot, map: &Mapping) -> Self {
        // No more of it can be there than the map has clusters, nor than the volume has.
        let end = map.to.saturating_mul(boot.cluster).min(map.size).min(volume.len());
        let content = Content::new(Arc::clone(volume), map.runs.clone(), boot.cluster, end, map.damaged.clone());
        Self {
            volume: Arc::clone(volume),
            bytes: Arc::new(content),
            record: boot.record,
            cluster: boot.cluster,
            clusters: boot.clusters(volume.as_ref()),
            chunks: Cache::new(KEPT),
            recent: (0..FILES).map(|_| Mutex::default()).collect(),
        }
    }

    /// Records that it has room for.
    pub(super) fn len(&self) -> u64 {
        self.bytes.len() / self.record
    }

    /// The bytes of one record.
    fn raw(&self, number: u64) -> Result<Vec<u8>, ReadError> {
        if number >= self.len() {
            let why = format!("$MFT has {} records", self.len());
            return Err(ReadError::caller(format!("read record {number} of $MFT"), why));
        }
        let at = number * self.record;
        let chunk = at / CHUNK;
        let from = chunk * CHUNK;
        let read = || read_vec(self.bytes.as_ref(), from, us(CHUNK.min(self.bytes.len() - from)));
        match self.chunks.get(chunk, read) {
            Ok(bytes) => Ok(bytes.get(us(at - from)..us(at - from + self.record)).unwrap_or_default().to_vec()),
            // Something in the chunk cannot be read; perhaps not this record.
            Err(_) => read_vec(self.bytes.as_ref(), at, us(self.record)),
        }
    }

    /// One record.
    pub(super) fn record(&self, number: u64) -> Result<Record, ReadError> {
        Record::parse(number, number.saturating_mul(self.record), self.raw(number)?)
    }

    /// One record, unless it never was one.
    pub(super) fn used(&self, number: u64) -> Result<Option<Record>, ReadError> {
        let raw = self.raw(number)?;
        let was = matches!(raw.get(..4), Some(b"FILE" | b"BAAD"));
        was.then(|| Record::parse(number, number * self.record, raw)).transpose()
    }

    /// The file that record `number` begins.
    pub(super) fn file(&self, number: u64) -> Result<Arc<File>, ReadError> {
        let slot = self.recent.get(us(number % FILES as u64));
        // A panic elsewhere leaves a whole file or none.
        let lock = |slot: &'_ Mutex<Option<Arc<File>>>| slot.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(file) = slot.and_then(lock).filter(|file| file.record.number == number) {
            return Ok(file);
        }
        let file = Arc::new(self.gather(self.record(number)?));
        if let Some(slot) = slot {
            *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&file));
        }
        Ok(file)
    }

    /// A record and what belongs to it.
    pub(super) fn gather(&self, record: Record) -> File {
        let mut odd = Vec::new();
        let own = attribute::all(&record, self.clusters, &mut odd);
        let mut file = File { record, attributes: Vec::with_capacity(own.len()), odd };
        let list = own.iter().find(|attribute| attribute.kind == ATTRIBUTE_LIST).cloned();
        for attribute in own {
            file.add(attribute);
        }
        if let Some(list) = list {
            self.parts(&list, &mut file);
        }
        for attribute in &mut file.attributes {
            if let Value::Mapped(mapping) = &mut attribute.value {
                mapping.check(self.cluster);
                if let Some(why) = &mapping.damaged {
                    file.odd.push(format!("attribute {:#x}: {why}", attribute.kind));
                }
            }
        }
        file
    }

    /// Adds what is in other records: those that the list of attributes names, each once.
    fn parts(&self, list: &Attribute, file: &mut File) {
        let parts = match self.named(list, file.record.number) {
            Ok(parts) => parts,
            Err(error) => {
                file.odd.push(format!("its list of attributes: {error}"));
                return;
            }
        };
        let mut more = Vec::new();
        for part in parts {
            match self.record(part.number) {
                Ok(record) if record.base == file.record.reference() && record.reference() == part => {
                    more.extend(attribute::all(&record, self.clusters, &mut file.odd));
                }
                Ok(_) => file.odd.push(format!("record {part} of $MFT, a part of it, belongs to another file now")),
                Err(error) => file.odd.push(error.to_string()),
            }
        }
        more.sort_by_key(|attribute| match &attribute.value {
            Value::Mapped(mapping) => mapping.from,
            Value::Resident(_) => 0,
        });
        for attribute in more {
            file.add(attribute);
        }
    }

    /// The records that a list of attributes names, without the one it is in.
    fn named(&self, list: &Attribute, own: u64) -> Result<BTreeSet<Reference>, ReadError> {
        let bytes = match &list.value {
            Value::Resident(bytes) => bytes.clone(),
            Value::Mapped(mapping) if mapping.size <= LIST => {
                let (volume, runs) = (Arc::clone(&self.volume), mapping.runs.clone());
                let content = Content::new(volume, runs, self.cluster, mapping.size, mapping.damaged.clone());
                read_vec(&content, 0, us(mapping.size))?
            }
            Value::Mapped(mapping) => {
                return Err(ReadError::corrupt("NTFS attribute list", 0, "at most 256 KiB", mapping.size));
            }
        };
        let fields = Fields::new("NTFS attribute list", 0, &bytes);
        let (mut parts, mut at) = (BTreeSet::new(), 0);
        while at + 26 <= bytes.len() {
            let len = usize::from(fields.u16(at + 4)?);
            if len < 26 {
                return Err(fields.corrupt(at + 4, "a length of 26 or more", len));
            }
            let part = Reference::of(fields.u64(at + 16)?);
            if part.number != own {
                parts.insert(part);
            }
            at += len;
        }
        Ok(parts)
    }
}

impl File {
    /// Adds an attribute, or a further part of one that is there.
    fn add(&mut self, attribute: Attribute) {
        let one_of_many = attribute.kind == FILE_NAME;
        let same = self.attributes.iter_mut().find(|other| other.is(attribute.kind, &attribute.name));
        match (same.filter(|_| !one_of_many), attribute.value) {
            (None, value) => self.attributes.push(Attribute { value, ..attribute }),
            (Some(Attribute { value: Value::Mapped(map), .. }), Value::Mapped(next)) => map.append(next),
            (Some(_), _) => {
                self.odd.push(format!("attribute {:#x} is there twice; the first counts", attribute.kind));
            }
        }
    }
}
