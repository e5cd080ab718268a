//! Earlier exhibits of the same disks, for backends that can tell what changed since.

use std::collections::BTreeMap;
use std::sync::Arc;

use impound_backends::{Item, Since};

use super::Request;
use crate::case::{CaseError, reread};
use crate::progress::Progress;

/// Finds for each exhibit that was named the item that it is an earlier copy of. Each is hashed before it is believed.
pub(super) fn find(
    request: &Request,
    items: &[Item],
    progress: &Arc<dyn Progress>,
) -> Result<BTreeMap<String, Since>, CaseError> {
    let mut found = BTreeMap::new();
    for dir in &request.since {
        let refuse = |why: &str| CaseError::caller("go on from an earlier exhibit", dir, why.to_owned());
        let task = progress.begin("the earlier copy", None);
        let (record, image) = reread(dir, task.as_ref())?;
        let item = items.iter().find(|item| item.name == record.item.name && item.source == record.item.source);
        let item = item.ok_or_else(|| refuse("it is of no disk that is to be taken now"))?;
        let from = record.instant.get("snapshot").and_then(serde_json::Value::as_str);
        let from = from.ok_or_else(|| refuse("it does not say which snapshot it was taken from"))?.to_owned();
        found.insert(item.name.clone(), Since { from, image, exhibit: record.name });
    }
    Ok(found)
}
