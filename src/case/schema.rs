//! Versions of the formats we write: `impound-exhibit/1`. A reader refuses a name or a major number that it does not know
//! by name, instead of guessing.

use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::CaseError;

/// `case.json`.
pub const CASE: &str = "impound-case/1";
/// `exhibit.json`.
pub const EXHIBIT: &str = "impound-exhibit/1";
/// `custody.head`.
pub const HEAD: &str = "impound-head/1";
/// First line of `journal/RUN.jsonl`.
pub const JOURNAL: &str = "impound-journal/1";

/// Why a document was not read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It is of another kind or of a later version.
    #[error("its schema is `{}`, this program reads `{known}`", super::names::plain(found))]
    Schema {
        /// What it says it is.
        found: String,
        /// What was asked for.
        known: &'static str,
    },
    /// It is not what its schema says.
    #[error("it does not follow `{known}`: {why}")]
    Content {
        /// What was asked for.
        known: &'static str,
        /// In the words of the JSON reader, with line and column.
        why: String,
    },
}

impl Refused {
    /// As the error of reading one file.
    pub(crate) fn of(self, path: &Path) -> CaseError {
        match self {
            Self::Schema { .. } => CaseError::Unsupported {
                attempted: "read the document".to_owned(),
                on: path.to_owned(),
                why: format!("{self}; use the version of impound that wrote it, or a later one"),
            },
            Self::Content { known, why } => CaseError::Corrupt {
                on: path.to_owned(),
                at: "its JSON".to_owned(),
                expected: known.to_owned(),
                found: why,
            },
        }
    }
}

/// Reads a document of the given schema. The schema is looked at first, so that a later version is named as such and not
/// as damage.
pub(crate) fn read<T: DeserializeOwned>(bytes: &[u8], known: &'static str) -> Result<T, Refused> {
    #[derive(Deserialize)]
    struct Head {
        schema: String,
    }
    // The words are the JSON reader's own and may quote the document, which is hostile.
    let content = |error: serde_json::Error| Refused::Content { known, why: super::names::plain(&error.to_string()) };
    let head: Head = serde_json::from_slice(bytes).map_err(content)?;
    if head.schema != known {
        return Err(Refused::Schema { found: head.schema, known });
    }
    serde_json::from_slice(bytes).map_err(content)
}

/// Writes a document for people and programs: indented, with a newline at the end.
pub(crate) fn write<T: serde::Serialize>(document: &T, path: &Path) -> Result<Vec<u8>, CaseError> {
    let mut bytes = serde_json::to_vec_pretty(document)
        .map_err(|error| CaseError::io("write the document as JSON", path)(error.into()))?;
    bytes.push(b'\n');
    Ok(bytes)
}
