//! From a snapshot's export to pieces: which pages were written, those in spans by many requests at once, each checked by its MD5.
//!
//! After "Get Page Ranges" and "Get Blob" of the Blob service's REST API, and "Specifying the range header". Ranges are asked for
//! window by window and page by page; up to 4 MiB the service says the MD5 of what it sends. A page that is not listed was
//! never written, or was cleared, and reads as zeros.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use md5::{Digest, Md5};
use tokio::sync::Semaphore;

use super::api::{Api, Refused, SPAN, clip};
use super::sas::{Access, Ticket};
use super::snapshot;
use super::vhd::{self, FOOTER};
use crate::wire::http::spans::{self, Lost, Spans};
use crate::wire::http::xml::Element;
use crate::wire::http::{Answer, Call, Part, Request, Verdict, by_status};
use crate::{BackendError, GRAIN, Kind, PieceStream};

/// Spans under way, of all disks together: 96 MiB.
pub(super) const UNDER_WAY: usize = 24;
/// Ranges of so many bytes are asked for at once.
const WINDOW: u64 = 1 << 30;
/// Most pages of the ranges of one window.
const PAGES_MAX: usize = 256;
/// Pages that were not written and lie between others, so few that a request for each side would take longer. In bytes.
const NEAR: u64 = 64 << 10;
/// A page of a page blob, in bytes.
const PAGE: u64 = 512;
/// The version of the Blob service that is spoken.
const VERSION: &str = "2021-12-02";

/// A range that was written: its first byte, and the one behind its last.
type Written = (u64, u64);

/// What is read.
pub(super) struct Work {
    pub(super) api: Arc<Api>,
    pub(super) access: Access,
    /// Length of the disk in bytes, without the footer.
    pub(super) len: u64,
    /// Byte to begin with, a multiple of [`GRAIN`].
    pub(super) from: u64,
}

/// Begins; the snapshot need not be complete yet.
pub(super) fn start(work: Arc<Work>, room: &Arc<Semaphore>) -> PieceStream {
    // Nothing here depends on whether it was whole.
    spans::start(room, Arc::default(), |mut spans| async move {
        run(&work, &mut spans).await?;
        Ok(spans)
    })
}

async fn run(work: &Arc<Work>, spans: &mut Spans) -> Result<(), BackendError> {
    snapshot::until_complete(&work.api, &work.access.id).await?;
    let footer = read(Arc::clone(work), work.len, FOOTER).await.map_err(|lost| *lost.error)?;
    vhd::check(&footer, work.len).map_err(|found| {
        BackendError::corrupt("read the footer", &work.access.id, format!("byte {}", work.len), "a fixed VHD's", found)
    })?;
    let mut next = work.from;
    while next < work.len {
        let end = (next - next % WINDOW).saturating_add(WINDOW).min(work.len);
        for (at, to) in ranges(work, next, end).await? {
            spans.hole(next, at).await;
            spans.all(at, to, SPAN, |at, len| read(Arc::clone(work), at, len)).await?;
            next = to;
        }
        spans.hole(next, end).await;
        next = end;
    }
    Ok(())
}

/// A request to the blob. `check` finds what is wrong with a good answer.
async fn ask(
    work: &Work,
    request: Request,
    check: &(dyn Fn(&Answer) -> Result<(), String> + Sync),
) -> Result<Answer, Refused> {
    let judge = |answer: &Answer| match answer.status {
        // What is not allowed any more was most likely allowed until a moment ago.
        401 | 403 | 404 => Verdict::Renew,
        _ if answer.is_good() => check(answer).map_or_else(Verdict::Bad, |()| Verdict::Done),
        _ => by_status(answer),
    };
    let ticket = Ticket::new(&work.access);
    let call = Call { judge: &judge, gate: Some(&work.api.gate), ..Call::new(request.clone(), &ticket) };
    let answer = work.api.http.send(call).await?;
    if answer.is_good() {
        work.access.went_well();
        return Ok(answer);
    }
    let said = Element::parse(&answer.body).unwrap_or_default();
    let code = answer.header("x-ms-error-code").or_else(|| said.get("Code")).unwrap_or_default().to_owned();
    let error = answer.refused(&request, &clip(&code, 100), &clip(said.get("Message").unwrap_or_default(), 300));
    Err(Refused { error: Box::new(error), code })
}

/// A span, exactly, as the service itself hashed it.
async fn read(work: Arc<Work>, at: u64, len: u64) -> Result<Bytes, Lost> {
    let lost = |refused: Refused| {
        let for_all = !matches!(refused.error.kind, Kind::Io | Kind::Corrupt);
        Lost { error: refused.error, for_all }
    };
    let part = Part::new(at, len).ok_or_else(|| lost(not_there(&work, at).into()))?;
    let request = work.access.request("read a span of the snapshot").await.map_err(|error| lost(error.into()))?;
    let request = request.part(part).header("x-ms-version", VERSION).header("x-ms-range-get-content-md5", "true");
    let total = format!("/{}", work.len.saturating_add(FOOTER));
    let check = |answer: &Answer| {
        let range = answer.header("content-range");
        part.check(range, answer.body.len() as u64, 0)?;
        if !range.is_some_and(|range| range.trim().ends_with(&total)) {
            return Err(format!("another length in Content-Range than {total}"));
        }
        let md5 = answer.header("content-md5").ok_or("no Content-MD5")?;
        let found = STANDARD.encode(Md5::digest(&answer.body));
        if md5.trim() == found { Ok(()) } else { Err("its MD5 is not the one that the service says".to_owned()) }
    };
    ask(&work, request, &check).await.map(|answer| answer.body).map_err(lost)
}

fn not_there(work: &Work, at: u64) -> BackendError {
    BackendError::caller("read a span of the snapshot", &work.access.id, format!("nothing can be at byte {at}"))
}

/// What was written between `from` and `to`, ascending, apart, in whole [`GRAIN`]s.
async fn ranges(work: &Arc<Work>, from: u64, to: u64) -> Result<Vec<Written>, BackendError> {
    let part = Part::new(from, to.saturating_sub(from)).ok_or_else(|| not_there(work, from))?;
    let (mut found, mut marker) = (Vec::new(), None::<String>);
    for _ in 0..PAGES_MAX {
        let request = work.access.request("list the written pages").await?;
        // The header and not the part: the answer is a list, and may be longer.
        let mut request = request.query("comp", "pagelist").header("x-ms-version", VERSION);
        request = request.header("x-ms-range", part.to_string());
        if let Some(marker) = &marker {
            request = request.query("marker", marker.as_str());
        }
        let answer = ask(work, request, &|answer| page_of(answer, from, to).map(drop)).await?;
        let (pages, next) = page_of(&answer, from, to).map_err(|why| wrong_list(work, why))?;
        found.extend(pages);
        marker = next;
        if marker.is_none() {
            return together(&found, from, to).map_err(|why| wrong_list(work, why));
        }
    }
    Err(wrong_list(work, format!("more than {PAGES_MAX} pages")))
}

fn wrong_list(work: &Work, found: String) -> BackendError {
    BackendError::corrupt("list the written pages", &work.access.id, "the list", "ranges that ascend", found)
}

/// Ranges of a page with what is behind them, and the marker of the page after it.
fn page_of(answer: &Answer, from: u64, to: u64) -> Result<(Vec<Written>, Option<String>), String> {
    let document = Element::parse(&answer.body)?;
    if document.name != "PageList" {
        return Err(format!("<{}> in place of <PageList>", clip(&document.name, 40)));
    }
    let number = |range: &Element, name| range.get(name).and_then(|text| text.parse::<u64>().ok());
    let mut pages = Vec::new();
    for range in document.children.iter().filter(|child| child.name == "PageRange") {
        let (at, last) = number(range, "Start").zip(number(range, "End")).ok_or("a range that is none")?;
        let end = last.checked_add(1).ok_or("a range without an end")?;
        if at >= end || !at.is_multiple_of(PAGE) || !end.is_multiple_of(PAGE) || end <= from || at >= to {
            return Err(format!("a range from {at} up to {last}, asked for {from} up to {to}"));
        }
        pages.push((at, end));
    }
    Ok((pages, document.get("NextMarker").map(ToOwned::to_owned)))
}

/// Ranges in whole grains, inside, those that are near each other as one.
fn together(pages: &[Written], from: u64, to: u64) -> Result<Vec<Written>, String> {
    let mut found: Vec<Written> = Vec::new();
    let mut behind = 0;
    for (at, end) in pages {
        if *at < behind {
            return Err(format!("a range at {at} behind one that ends at {behind}"));
        }
        behind = *end;
        let (at, end) = ((at - at % GRAIN).max(from), end.next_multiple_of(GRAIN).min(to));
        match found.last_mut() {
            Some((_, before)) if at <= before.saturating_add(NEAR) => *before = end,
            _ => found.push((at, end)),
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_become_whole_grains_that_ascend() {
        let (from, to) = (8192, 1 << 20);
        let near = [(512, 8704), (9728, 10240), (12288, 12800)];
        assert_eq!(together(&near, from, to), Ok(vec![(8192, 16384)]));
        let far = [(8192, 8704), (500 << 10, (500 << 10) + 512), ((1 << 20) - 512, 2 << 20)];
        assert_eq!(
            together(&far, from, to),
            Ok(vec![(8192, 12288), (500 << 10, 504 << 10), ((1 << 20) - 4096, 1 << 20)])
        );
        assert_eq!(together(&[], from, to), Ok(vec![]));
        for bad in [[(16384, 16896), (8192, 8704)], [(8192, 9216), (8704, 16384)]] {
            assert!(together(&bad, from, to).is_err(), "{bad:?}");
        }
    }
}
