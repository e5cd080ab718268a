//! The bytes of an exported file, by ranges, many at once, all of one generation.
//!
//! After `objects.get` with `alt=media` of the Cloud Storage JSON API v1 and "Request preconditions": `generation` pins what is read, and
//! each answer says which it is of. Of a range Cloud Storage keeps no digest; those of the whole are compared in the end. The CRC32C of
//! what came is also put together here, out of order, so that nothing is taken away from the bucket that did not come whole.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::sync::Semaphore;

use super::api::{self, Api, SPAN, Service};
use super::bucket::Object;
use crate::wire::hex;
use crate::wire::http::spans::{self, Lost};
use crate::wire::http::{Answer, Call, Method, Part, Verdict};
use crate::{BackendError, Kind, PieceStream};

/// Spans under way, of all files together: 64 MiB.
pub(super) const UNDER_WAY: usize = 16;
/// What it is for.
const READ: &str = "read the exported file";

/// A file that is copied.
pub(super) struct Copy {
    api: Arc<Api>,
    pub(super) object: Object,
    /// Byte to begin with.
    from: u64,
    /// All came, gaps included.
    whole: Arc<AtomicBool>,
    /// CRC32C and length of what came, by its place.
    sums: Mutex<BTreeMap<u64, (u32, u64)>>,
}

impl Copy {
    pub(super) fn new(api: &Arc<Api>, object: Object, from: u64) -> Arc<Self> {
        Arc::new(Self { api: Arc::clone(api), object, from, whole: Arc::default(), sums: Mutex::default() })
    }

    /// Begins.
    pub(super) fn start(self: &Arc<Self>, room: &Arc<Semaphore>) -> PieceStream {
        let copy = Arc::clone(self);
        spans::start(room, Arc::clone(&self.whole), move |mut spans| async move {
            let read = |at, len| span(Arc::clone(&copy), at, len);
            spans.all(copy.from, copy.object.size, SPAN, read).await?;
            Ok(spans)
        })
    }

    /// Did all of it come in this run, with the CRC32C that Cloud Storage says?
    pub(super) fn is_proved(&self) -> bool {
        let sums = self.sums.lock().unwrap_or_else(PoisonError::into_inner);
        let found = together(&sums, self.object.size).map(|sum| hex(&sum.to_be_bytes()));
        self.whole.load(Ordering::Acquire) && found.is_some() && found == self.object.crc32c
    }
}

/// The CRC32C of spans that lie side by side from the beginning up to `size`; none if they do not.
fn together(sums: &BTreeMap<u64, (u32, u64)>, size: u64) -> Option<u32> {
    let (mut whole, mut next) = (0, 0_u64);
    for (at, (sum, len)) in sums {
        if *at != next {
            return None;
        }
        whole = crc32c::crc32c_combine(whole, *sum, usize::try_from(*len).ok()?);
        next = next.checked_add(*len)?;
    }
    (next == size).then_some(whole)
}

/// A span, exactly, of the generation that is copied.
async fn span(copy: Arc<Copy>, at: u64, len: u64) -> Result<Bytes, Lost> {
    let object = &copy.object;
    let nothing = || BackendError::caller(READ, object.address(), format!("nothing can be at byte {at}"));
    let part = Part::new(at, len).ok_or_else(nothing)?;
    let path = format!("/b/{}/o/{}", object.bucket, object.name);
    let request = copy.api.request(READ, Method::Get, Service::Storage, &path).query("alt", "media");
    let request = request.query("generation", object.generation.to_string()).part(part);
    let judge = |answer: &Answer| match api::judge(answer) {
        Verdict::Done if answer.is_good() && is_of(answer, object) => {
            check(answer, part, object.size).map_or_else(Verdict::Bad, |()| Verdict::Done)
        }
        other => other,
    };
    let call = Call { judge: &judge, gate: Some(&copy.api.gate), ..Call::new(request.clone(), &copy.api.bearer) };
    let answer = copy.api.http.send(call).await?;
    if answer.is_good() && is_of(&answer, object) {
        let sum = crc32c::crc32c(&answer.body);
        copy.sums.lock().unwrap_or_else(PoisonError::into_inner).insert(at, (sum, len));
        return Ok(answer.body);
    }
    if answer.is_good() || matches!(answer.status, 404 | 412) {
        return Err(Lost { error: Box::new(replaced(object)), for_all: true });
    }
    let refused = api::refusal(&answer, &request);
    // What is forbidden is forbidden for every other part, too.
    Err(Lost { for_all: refused.error.kind != Kind::Io, error: refused.error })
}

/// Is it an answer of the generation that was asked for?
fn is_of(answer: &Answer, object: &Object) -> bool {
    answer.header("x-goog-generation").is_some_and(|found| found.trim() == object.generation.to_string())
}

fn check(answer: &Answer, part: Part, size: u64) -> Result<(), String> {
    if answer.status != 206 {
        return Err(format!("HTTP {} in place of a part", answer.status));
    }
    let range = answer.header("content-range");
    part.check(range, answer.body.len() as u64, size)?;
    let total = format!("/{size}");
    if range.is_some_and(|range| range.trim().ends_with(&total)) {
        Ok(())
    } else {
        Err(format!("another length than {size}"))
    }
}

fn replaced(object: &Object) -> BackendError {
    let why = format!(
        "generation {} of it is not there any more: it was deleted or replaced while it was read",
        object.generation
    );
    BackendError::unsupported(READ, object.address(), why)
        .advise("who writes into this bucket? take it again, without --resume")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_put_together_in_any_order_and_only_without_gaps() {
        let all: Vec<u8> = (0..10_000_u32).map(|n| u8::try_from(n % 251).unwrap()).collect();
        let sum = |at: usize, end: usize| (at as u64, (crc32c::crc32c(&all[at..end]), (end - at) as u64));
        let whole = crc32c::crc32c(&all);
        let size = all.len() as u64;
        let parts: BTreeMap<_, _> = [sum(4096, 8192), sum(0, 4096), sum(8192, 10_000)].into();
        assert_eq!(together(&parts, size), Some(whole));
        let gap: BTreeMap<_, _> = [sum(0, 4096), sum(8192, 10_000)].into();
        let short: BTreeMap<_, _> = [sum(0, 4096), sum(4096, 8192)].into();
        let late: BTreeMap<_, _> = [sum(4096, 10_000)].into();
        for bad in [gap, short, late, BTreeMap::new()] {
            assert_eq!(together(&bad, size), None, "{bad:?}");
        }
    }
}
