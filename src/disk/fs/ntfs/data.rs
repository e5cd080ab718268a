//! Values of attributes as bytes: in the record, in clusters, compressed; and what cannot be read here, by its name.

use std::sync::Arc;

use super::Ntfs;
use super::attribute::{Attribute, DATA, Mapping, Value};
use super::compressed::Compressed;
use super::info::{OFFLINE, RECALL, Standard};
use super::mft::File;
use super::reparse::Reparse;
use crate::disk::fs::content::Content;
use crate::image::{Extent, InMemory, Kind, ReadAt, ReadError};

/// Bytes of which those behind `written` were never written: they read as zeros, whatever the clusters hold.
struct Valid {
    below: Arc<dyn ReadAt>,
    written: u64,
    len: u64,
}

impl ReadAt for Valid {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, at: u64, into: &mut [u8]) -> Result<(), ReadError> {
        let want = into.len() as u64;
        if at.checked_add(want).is_none_or(|end| end > self.len) {
            let why = format!("the file ends at {:#x}", self.len);
            return Err(ReadError::caller(format!("read {want} bytes at {at:#x}"), why));
        }
        let stored = crate::disk::us(self.written.saturating_sub(at).min(want));
        let (stored, never) = into.split_at_mut(stored);
        never.fill(0);
        if stored.is_empty() { Ok(()) } else { self.below.read_at(at, stored) }
    }

    fn extent(&self, at: u64) -> Result<Extent, ReadError> {
        if (self.written..self.len).contains(&at) {
            return Ok(Extent { at, len: self.len - at, kind: Kind::Zero });
        }
        let below = self.below.extent(at)?;
        Ok(Extent { at, len: below.len.min(self.written.saturating_sub(at)).max(1), kind: below.kind })
    }

    fn unit(&self) -> u64 {
        self.below.unit()
    }
}

impl Ntfs {
    /// The bytes of an attribute.
    pub(super) fn bytes_of(&self, attribute: &Attribute) -> Result<Arc<dyn ReadAt>, ReadError> {
        let mapping = match &attribute.value {
            Value::Resident(bytes) => return Ok(Arc::new(InMemory(bytes.clone()))),
            Value::Mapped(mapping) => mapping,
        };
        if attribute.is_compressed() && mapping.unit == 0 {
            return Err(ReadError::unsupported("a compressed attribute", "it names no unit of compression"));
        }
        Ok(self.mapped(mapping))
    }

    /// The bytes of a value in clusters.
    pub(super) fn mapped(&self, mapping: &Mapping) -> Arc<dyn ReadAt> {
        let (volume, cluster) = (Arc::clone(&self.volume), self.boot.cluster);
        let valid = mapping.valid.min(mapping.size);
        let runs = mapping.runs.clone();
        let below: Arc<dyn ReadAt> = if mapping.unit > 0 {
            Arc::new(Compressed::new(volume, runs, cluster, mapping.unit, mapping.size, mapping.damaged.clone()))
        } else {
            Arc::new(Content::new(volume, runs, cluster, mapping.size, mapping.damaged.clone()))
        };
        if valid == mapping.size {
            return below;
        }
        Arc::new(Valid { below, written: valid, len: mapping.size })
    }

    /// Why the content of a file is not what stands on the volume, if it is not.
    fn elsewhere(file: &File, data: Option<&Attribute>) -> Option<ReadError> {
        let flags = file.value(super::attribute::STANDARD_INFORMATION).and_then(|value| Standard::parse(&value).ok());
        let flags = flags.map_or(0, |standard| standard.flags);
        let reparse = Reparse::of(file);
        let why = if data.is_some_and(Attribute::is_encrypted) {
            "it is encrypted by EFS, and the keys are not on the volume in the clear"
        } else if let Some(why) = reparse.as_ref().and_then(Reparse::holds_content) {
            why
        } else if flags & RECALL != 0 || (flags & OFFLINE != 0 && reparse.is_some()) {
            "it is a placeholder: what it holds is kept elsewhere (in a cloud, on tape)"
        } else {
            return None;
        };
        Some(ReadError::unsupported(format!("the content of file {}", file.record.number), why))
    }

    /// The content of a file: its data without a name. One without any is empty.
    pub(super) fn content_of(&self, file: &File) -> Result<Arc<dyn ReadAt>, ReadError> {
        let data = file.get(DATA, b"");
        if let Some(error) = Self::elsewhere(file, data) {
            return Err(error);
        }
        match data {
            Some(data) => self.bytes_of(data),
            // A file always has one, unless what tells of it could not be read.
            None if file.odd.is_empty() => Ok(Arc::new(InMemory(Vec::new()))),
            None => {
                let found = file.odd.first().cloned().unwrap_or_default();
                Err(ReadError::corrupt("NTFS file", file.record.at, "$DATA", found))
            }
        }
    }

    /// A stream of a file. One that cannot be read is as long as it should be, and all of it a gap that says why.
    pub(super) fn stream_of(&self, attribute: &Attribute) -> Arc<dyn ReadAt> {
        let why = if attribute.is_encrypted() {
            "it is encrypted by EFS".to_owned()
        } else {
            match self.bytes_of(attribute) {
                Ok(bytes) => return bytes,
                Err(error) => error.to_string(),
            }
        };
        let (volume, cluster) = (Arc::clone(&self.volume), self.boot.cluster);
        Arc::new(Content::new(volume, Vec::new(), cluster, attribute.size(), Some(why)))
    }
}
