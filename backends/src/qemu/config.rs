//! Items that are no memory and no disk of the guest: its configuration, and the files that hold its disks.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::survey::Survey;
use crate::{BackendError, Capture, Item};

/// Everything QEMU answered, as one JSON document.
pub(super) fn capture(item: Item, survey: &Survey) -> Capture {
    let text = serde_json::to_vec_pretty(&Value::Object(survey.answers.clone())).unwrap_or_default();
    Capture::document(item, "query", Ok(text.into()), json!({ "format": "json" }))
}

/// The file that holds a disk, byte by byte: it keeps what the guest's view hides (clusters that were zeroed or unlinked).
pub(super) fn container(item: Item) -> Result<Capture, BackendError> {
    let path = PathBuf::from(&item.source);
    crate::file::capture_path(item, &path, 0)
}
