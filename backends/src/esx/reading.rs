//! The files of a run, read one after the other, each with the host's own digest behind it.

use std::sync::Arc;
use std::time::Duration;

use super::browser::Browser;
use super::command::{self, BLOCK};
use super::fetch;
use super::files::FileAt;
use super::listing::{self, short};
use super::shell::Shell;
use super::stream::{self, Came, Out};
use crate::{BackendError, Item, ItemKind, Pause, Witness};

/// The slowest that a host's `sha256sum` is waited for, in bytes a second, and the least time it gets.
const SLOWEST: u64 = 4 << 20;
const LEAST: Duration = Duration::from_secs(120);

/// One item and its file; none for a part that this VM does not have.
pub(super) struct Reading {
    pub(super) item: Item,
    pub(super) file: Result<Option<FileAt>, String>,
}

/// What came of reading them.
#[derive(Debug, Default)]
pub(super) struct Read {
    pub(super) witnesses: Vec<Witness>,
    pub(super) problems: Vec<String>,
}

/// How they are reached.
pub(super) struct Ways {
    pub(super) shell: Arc<Shell>,
    /// Bytes come by HTTPS.
    pub(super) browser: Option<Arc<Browser>>,
    /// The host can take digests, and is called this.
    pub(super) digests: Option<String>,
}

/// Reads them all.
pub(super) async fn all(ways: Ways, queue: Vec<(Reading, Out)>) -> Read {
    let mut read = Read::default();
    for (reading, out) in queue {
        let file = match reading.file {
            Ok(Some(file)) => file,
            Ok(None) => continue,
            Err(why) => {
                // Whoever does not listen any more needs no reason.
                let _ = out.send(Err(BackendError::unsupported("take it", &reading.item.name, why))).await;
                continue;
            }
        };
        let came = match &ways.browser {
            Some(browser) => fetch::copy(browser, &file, &out).await,
            None => stream::copy(&ways.shell, &file, &out).await,
        };
        // Files of the configuration go on changing while the VM runs.
        let witness = ways.digests.as_ref().filter(|_| reading.item.kind != ItemKind::Config);
        match (came, witness) {
            (Ok(Came::Whole), Some(by)) => match digest(&ways.shell, &file).await {
                Ok(digest) => read.witnesses.push(Witness::sha256(&reading.item.name, by.clone(), digest)),
                Err(error) => read.problems.push(error.to_string()),
            },
            (Ok(_), _) => {}
            (Err(error), _) => {
                let _ = out.send(Err(error)).await;
            }
        }
    }
    read
}

/// SHA-256 by the host's tool.
async fn digest(shell: &Shell, file: &FileAt) -> Result<String, BackendError> {
    let command = command::sha256(&file.path);
    let limit = Duration::from_secs(file.len / SLOWEST).max(LEAST);
    let answer = shell.ask_within(&command, limit).await?;
    let text = answer.text();
    // GNU's puts a backslash before a digest whose file has an odd name.
    let hex = text.trim_start_matches('\\').split_whitespace().next().unwrap_or_default();
    if !answer.ending.good() || hex.len() != 64 || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
        let why = if answer.ending.good() { short(&text) } else { answer.ending.told() };
        return Err(shell.failed(&command, &why));
    }
    Ok(hex.to_ascii_lowercase())
}

/// The times for which the guest stood still since its log had this length. A log that cannot be read tells none.
pub(super) async fn pauses(shell: &Shell, log: &FileAt) -> Vec<Pause> {
    let (skip, lead) = (log.len / BLOCK, usize::try_from(log.len % BLOCK).unwrap_or(0));
    let Ok(answer) = shell.ask(&command::read(&log.path, skip, Some(8))).await else { return Vec::new() };
    let fresh = answer.stdout.get(lead..).unwrap_or_default();
    let pause = |(resumed, micros): (jiff::Timestamp, u64)| {
        let stopped = resumed.checked_sub(jiff::SignedDuration::from_micros(i64::try_from(micros).ok()?)).ok()?;
        Some(Pause { stopped, resumed: Some(resumed) })
    };
    listing::stuns(&String::from_utf8_lossy(fresh)).into_iter().filter_map(pause).collect()
}
