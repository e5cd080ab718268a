//! `NAME.export.json`: what was made of what, with the digests of both. Schema `impound-export/1`.

use std::path::Path;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::source::Passed;
use super::{ExportError, Format};
use crate::case::record::{Gap, Tool};
use crate::image::{Carried, Image};

/// Name and version of the document.
pub(super) const SCHEMA: &str = "impound-export/1";

/// See the module. Lengths in bytes, digests in lower-case hex.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// `impound-export/1`.
    pub schema: String,
    /// Program that made it.
    pub tool: Tool,
    /// When it began.
    pub began: Timestamp,
    /// When it was read back.
    pub ended: Timestamp,
    /// What was read.
    pub source: Side,
    /// What was written.
    pub output: Side,
    /// Digests of the content, the same on both sides; what is missing counts as zeros.
    pub content: Vec<Named>,
    /// Length of the content in bytes.
    pub content_len: u64,
    /// Zeros that were added at the end, to whole sectors.
    pub padding: u64,
    /// Bytes that should be there and are not.
    pub unreadable: u64,
    /// The ranges that the source does not hold, and why; at most 100,000.
    pub gaps: Vec<Gap>,
}

/// One side of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Side {
    /// Name of the file, without its folder.
    pub name: String,
    /// Its format; for the source all wrappings, from the file inwards.
    pub format: String,
    /// Length of the file in bytes, if it is one.
    pub len: u64,
    /// Digests: those that the source carries, that of the file that was written.
    pub digests: Vec<Named>,
}

/// A digest by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named {
    /// `sha256`, `sha1`, `md5`.
    pub algorithm: String,
    /// In lower-case hex.
    pub hex: String,
}

impl From<&Carried> for Named {
    fn from(carried: &Carried) -> Self {
        Self { algorithm: carried.algorithm.to_owned(), hex: carried.hex.clone() }
    }
}

impl Report {
    pub(super) fn new(
        image: &Image,
        from: &Path,
        format: &Format,
        to: &Path,
        len: u64,
        passed: Passed,
        file: &[Carried],
    ) -> Self {
        let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let layers = image.layers();
        let wrappings: Vec<_> = layers.iter().map(|layer| layer.wrapping).collect();
        Self {
            schema: SCHEMA.to_owned(),
            // How it was built is the program's to know, not the library's.
            tool: Tool::this(""),
            began: passed.began,
            ended: Timestamp::now(),
            source: Side {
                name: name(from),
                format: wrappings.join("/"),
                len: layers.first().map_or(0, |layer| layer.stored),
                digests: layers.iter().flat_map(|layer| &layer.digests).map(Named::from).collect(),
            },
            output: Side {
                name: name(to),
                format: format.name.to_owned(),
                len,
                digests: file.iter().map(Named::from).collect(),
            },
            content: passed.digests.iter().map(Named::from).collect(),
            content_len: image.bytes().len(),
            padding: passed.padding,
            unreadable: passed.unreadable,
            gaps: passed.gaps,
        }
    }

    /// Nothing is missing that should be there.
    pub fn is_whole(&self) -> bool {
        self.unreadable == 0
    }

    /// SHA-256 of the file that was written.
    pub fn sha256(&self) -> &str {
        self.output.digests.iter().find(|digest| digest.algorithm == "sha256").map_or("", |digest| &digest.hex)
    }

    pub(super) fn bytes(&self) -> Result<Vec<u8>, ExportError> {
        let failed =
            |error: serde_json::Error| ExportError::write("write the report as JSON", &self.output.name)(error.into());
        let mut bytes = serde_json::to_vec_pretty(self).map_err(failed)?;
        bytes.push(b'\n');
        Ok(bytes)
    }
}
