//! A sealed exhibit of a whole disk, as the ground to stand on for a later capture.

use std::path::{Path, PathBuf};

use super::disk::read_bounded;
use super::record::{self, RECORD_LIMIT, Record};
use super::{CaseError, digest, names};
use crate::progress::Task;

/// The record of a complete exhibit in `dir`, and its image: raw, and hashed again just now.
///
/// # Errors
/// `Caller` if it is not complete or not raw, `Corrupt` if its image is not what it says.
pub fn reread(dir: &Path, task: &dyn Task) -> Result<(Record, PathBuf), CaseError> {
    let path = dir.join("exhibit.json");
    let bytes = read_bounded(&path, RECORD_LIMIT).map_err(CaseError::io("read the exhibit", &path))?;
    let record = record::read(&bytes).map_err(|refused| refused.of(&path))?;
    let refuse = |why: &str| CaseError::caller("take an exhibit as ground", dir, why);
    let raw = record.content.format == "raw" && record.content.compression.is_none();
    if !record.outcome.is_complete() || !raw {
        return Err(refuse("it is no complete, raw, uncompressed image"));
    }
    let image = record.stored.first().filter(|stored| {
        let name = stored.path.strip_prefix("data").ok().and_then(Path::to_str);
        name.is_some_and(names::is_safe)
    });
    let image = image.ok_or_else(|| refuse("it stores no image"))?;
    let file = dir.join(&image.path);
    task.phase("hashing");
    let (_, found) = digest::file::<sha2::Sha256>(&file, task).map_err(CaseError::io("hash the image", &file))?;
    if found != image.digests.sha256 {
        let expected = format!("SHA-256 {}", image.digests.sha256);
        return Err(CaseError::Corrupt { on: file, at: "all of it".to_owned(), expected, found });
    }
    Ok((record, file))
}
