//! From a snapshot to pieces: the list of blocks page by page, blocks in parallel, each checked, what was never written as holes.
//!
//! Memory is bounded by the blocks under way, whatever the size of the volume: pages are asked for as they are needed. A
//! block that cannot be had is a gap of the kind `unreadable`, with why; many in a row, or a refusal that holds for all,
//! end the stream, and the copy can be resumed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use tokio::sync::{Mutex, Semaphore};
use tokio::time::sleep;

use super::api::{Api, BLOCK, Refused};
use super::ebs::{List, Listed, PAGE, has_run_out};
use super::since::Earlier;
use crate::wire::http::spans::{self, Lost, Spans};
use crate::{BackendError, Kind, PieceStream, Secret};

/// Blocks under way, of all volumes together: 48 MiB.
pub(super) const UNDER_WAY: usize = 96;
/// How often a block's token, or a page's, is asked for anew.
const TOKENS_MAX: u32 = 5;
/// Most empty pages before the one with a block that was listed before.
const PAGES_MAX: u32 = 16;
/// How long to wait before the state of a snapshot is asked for again: at first, and at most.
const POLL: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(15));

/// What is read.
pub(super) struct Work {
    pub(super) api: Arc<Api>,
    pub(super) snapshot: String,
    /// Length of the volume in bytes.
    pub(super) len: u64,
    /// Byte to begin with, a multiple of [`BLOCK`].
    pub(super) from: u64,
    /// An earlier copy, from which comes what did not change since.
    pub(super) earlier: Option<Earlier>,
    /// Shared by all volumes.
    pub(super) under_way: Arc<Semaphore>,
    /// Set when the whole of it was sent.
    pub(super) whole: Arc<AtomicBool>,
    /// Tokens that were asked for anew, by the number of their block.
    tokens: Mutex<BTreeMap<u64, Secret>>,
}

impl Work {
    pub(super) fn new(api: &Arc<Api>, snapshot: String, len: u64, from: u64, under_way: &Arc<Semaphore>) -> Self {
        Self {
            api: Arc::clone(api),
            snapshot,
            len,
            from,
            earlier: None,
            under_way: Arc::clone(under_way),
            whole: Arc::default(),
            tokens: Mutex::default(),
        }
    }

    /// What is to be listed.
    fn list(&self) -> List<'_> {
        self.earlier.as_ref().map_or(List::Written, |earlier| List::ChangedSince(&earlier.snapshot))
    }

    /// Blocks that the list passes over: as they were, or never written.
    async fn unlisted(&self, spans: &Spans, from: u64, to: u64) -> Result<(), BackendError> {
        if let Some(earlier) = &self.earlier {
            return earlier.send(spans.out(), from * BLOCK, to * BLOCK).await;
        }
        spans.hole(from * BLOCK, to * BLOCK).await;
        Ok(())
    }
}

/// Begins; the snapshot need not be complete yet.
pub(super) fn start(work: Work) -> PieceStream {
    let (under_way, whole) = (Arc::clone(&work.under_way), Arc::clone(&work.whole));
    let work = Arc::new(work);
    spans::start(&under_way, whole, |mut spans| async move {
        run(&work, &mut spans).await?;
        Ok(spans)
    })
}

async fn run(work: &Arc<Work>, spans: &mut Spans) -> Result<(), Refused> {
    until_complete(&work.api, &work.snapshot).await?;
    let (mut next, mut token, mut refreshed) = (work.from / BLOCK, None::<String>, 0);
    loop {
        let page = work.api.list_blocks(&work.snapshot, work.list(), next, token.as_deref(), PAGE.0).await;
        let page = match page {
            // A page's token has run out: the list is begun anew where it stopped.
            Err(refused) if token.is_some() && has_run_out(&refused) && refreshed < TOKENS_MAX => {
                (token, refreshed) = (None, refreshed + 1);
                continue;
            }
            page => page?,
        };
        if page.volume_size.checked_mul(1 << 30) != Some(work.len) {
            let (expected, found) = (work.len, format!("{} GiB", page.volume_size));
            return Err(wrong_list(work, "VolumeSize", expected, found));
        }
        ascends(work, next, &page.blocks)?;
        for block in page.blocks {
            work.unlisted(spans, next, block.index).await?;
            next = block.index + 1;
            match block.token() {
                Some(token) => {
                    spans.read(block.index * BLOCK, BLOCK, read(Arc::clone(work), block.index, token)).await?;
                }
                // The earlier snapshot has it, and this one does not any more.
                None if work.earlier.is_some() => spans.hole(block.index * BLOCK, next * BLOCK).await,
                None => return Err(wrong_list(work, format!("block {}", block.index), "a token", "none")),
            }
        }
        token = page.next_token.filter(|token| !token.is_empty());
        if token.is_none() {
            break;
        }
    }
    Ok(work.unlisted(spans, next, work.len / BLOCK).await?)
}

/// A whole page is looked at before any of it is believed: a hole that was told once is not taken back.
fn ascends(work: &Work, mut next: u64, blocks: &[Listed]) -> Result<(), Refused> {
    for block in blocks {
        if block.index < next || block.index >= work.len / BLOCK {
            let at = format!("block {}", block.index);
            return Err(wrong_list(work, at, "blocks that ascend inside the volume", "another"));
        }
        next = block.index + 1;
    }
    Ok(())
}

fn wrong_list(
    work: &Work,
    at: impl std::fmt::Display,
    expected: impl std::fmt::Display,
    found: impl std::fmt::Display,
) -> Refused {
    BackendError::corrupt("list the blocks of the snapshot", &work.snapshot, at, expected, found).into()
}

/// A block, with a new token if need be.
async fn read(work: Arc<Work>, index: u64, mut token: Secret) -> Result<bytes::Bytes, Lost> {
    for _ in 0..TOKENS_MAX {
        match work.api.block(&work.snapshot, index, token.clone()).await {
            Err(refused) if has_run_out(&refused) => token = renew(&work, index, &token).await.map_err(lost)?,
            other => return other.map_err(lost),
        }
    }
    work.api.block(&work.snapshot, index, token).await.map_err(lost)
}

/// What AWS refuses as such, it refuses for every block.
fn lost(refused: Refused) -> Lost {
    let for_all = !refused.code.is_empty() && !has_run_out(&refused) && refused.error.kind != Kind::Io;
    Lost { error: refused.error, for_all }
}

/// Another token for a block. Those after it are kept, since they have most likely run out too.
async fn renew(work: &Work, index: u64, old: &Secret) -> Result<Secret, Refused> {
    let mut tokens = work.tokens.lock().await;
    if let Some(token) = tokens.remove(&index).filter(|token| token.reveal() != old.reveal()) {
        return Ok(token);
    }
    // None is needed that is far behind.
    tokens.retain(|known, _| *known + u64::from(PAGE.0) > index && *known < index + u64::from(PAGE.0));
    let mut next = None::<String>;
    for _ in 0..PAGES_MAX {
        let page = work.api.list_blocks(&work.snapshot, work.list(), index, next.as_deref(), PAGE.1).await;
        let page = match page {
            Err(refused) if next.is_some() && has_run_out(&refused) => {
                next = None;
                continue;
            }
            page => page?,
        };
        tokens.extend(page.blocks.iter().filter_map(|listed| Some((listed.index, listed.token()?))));
        if let Some(token) = tokens.remove(&index) {
            return Ok(token);
        }
        // A page may be empty while another follows.
        next = page.next_token.filter(|token| page.blocks.is_empty() && !token.is_empty());
        if next.is_none() {
            break;
        }
    }
    Err(wrong_list(work, format!("block {index}"), "a block that was listed before", "nothing"))
}

/// Waits until a snapshot can be read.
async fn until_complete(api: &Api, id: &str) -> Result<(), Refused> {
    let mut wait = POLL.0;
    loop {
        let found = api.snapshots(&[id.to_owned()]).await?;
        let snapshot = found.iter().find(|snapshot| snapshot.id == id);
        match snapshot.map(|snapshot| snapshot.state.as_str()) {
            Some("completed") => return Ok(()),
            Some("pending") => {}
            other => {
                let said =
                    snapshot.and_then(|snapshot| snapshot.about.get("statusMessage")).unwrap_or("no reason given");
                let why = format!("it is {}: {said}", other.unwrap_or("gone"));
                return Err(BackendError::unsupported("wait for the snapshot", id, why).into());
            }
        }
        sleep(wait).await;
        wait = (wait * 2).min(POLL.1);
    }
}
