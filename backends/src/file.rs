//! Placeholder, replaced on the way to the first release.

use std::sync::Arc;

use async_trait::async_trait;

use crate::{Backend, BackendError, Finding, Host, Uri, WireLog};

/// The `file` backend.
#[derive(Debug)]
pub struct File;

#[async_trait]
impl Backend for File {
    fn scheme(&self) -> &'static str {
        "file"
    }
    fn about(&self) -> &'static str {
        ""
    }
    fn tested_against(&self) -> &'static str {
        ""
    }
    async fn connect(&self, uri: &Uri, _wire: Arc<dyn WireLog>) -> Result<Box<dyn Host>, BackendError> {
        Err(BackendError::unsupported("connect", uri.to_string(), "not built yet"))
    }
    async fn checkup(&self, _uri: Option<&Uri>) -> Vec<Finding> {
        Vec::new()
    }
}

pub(crate) fn capture_path(
    item: crate::Item,
    _path: &std::path::Path,
    _from: u64,
) -> Result<crate::Capture, BackendError> {
    Err(BackendError::unsupported("copy", item.source, "not built yet"))
}
