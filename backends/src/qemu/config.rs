//! Items that are no memory and no disk of the guest: its configuration, and the files that hold its disks.

use std::path::PathBuf;

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::survey::Survey;
use crate::{BackendError, Capture, Consistency, Item, Piece, Region};

/// Everything QEMU answered, as one JSON document.
pub(super) fn capture(item: Item, survey: &Survey) -> Capture {
    let text = serde_json::to_vec_pretty(&Value::Object(survey.answers.clone())).unwrap_or_default();
    let len = text.len() as u64;
    let (to, pieces) = mpsc::channel(1);
    // One piece fits into an empty channel of one.
    let _ = to.try_send(Ok(Piece::Data { at: 0, bytes: Bytes::from(text) }));
    Capture {
        item,
        method: "query",
        len,
        regions: vec![Region { at: 0, len, name: "config".to_owned() }],
        consistency: Consistency::Live,
        holds_guest: false,
        facts: json!({ "format": "json" }),
        pieces,
    }
}

/// The file that holds a disk, byte by byte: it keeps what the guest's view hides (clusters that were zeroed or unlinked).
pub(super) fn container(item: Item) -> Result<Capture, BackendError> {
    let path = PathBuf::from(&item.source);
    crate::file::capture_path(item, &path, 0)
}
