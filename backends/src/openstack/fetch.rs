//! The bytes of an image: by ranges, many at once, where its store can; else as one stream from the beginning.
//!
//! Glance passes a Range on to the store, and of those only some can (files and volumes of Cinder; not Ceph, Swift or S3): the others
//! make it refuse with 400, and some answer all of it with 200. What comes of a stream again is left out up to where it broke off; the
//! digest that Glance keeps of the whole tells if it was not the same.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::api::{self, Api, Ask, Refused, SPAN, Service};
use super::glance::Image;
use super::keystone::Bearer;
use crate::capture::split_zeros;
use crate::wire::http::spans::{Lost, Out, Spans};
use crate::wire::http::{Answer, Call, Part, Verdict};
use crate::{BackendError, GRAIN};

/// Spans under way, of all disks together: 64 MiB.
pub(super) const UNDER_WAY: usize = 16;
/// Bytes of a stream that make a piece, a multiple of [`GRAIN`].
const PIECE: usize = 1 << 20;
/// Chunks of a stream that wait.
const AHEAD: usize = 16;
/// How often a stream is begun again that brought nothing new.
const TRIES: u32 = 6;

/// Sends an image from byte `from` on.
pub(super) async fn image(api: &Arc<Api>, image: &Image, from: u64, spans: &mut Spans) -> Result<(), BackendError> {
    let size = image.size.unwrap_or_default();
    if from >= size {
        return Ok(());
    }
    if !gives_parts(api, image, from, size).await? {
        return stream(api, image, from, size, spans.out()).await;
    }
    let read = |at, len| {
        let (api, id) = (Arc::clone(api), image.id.clone());
        async move { part(&api, &id, at, len, size).await }
    };
    spans.all(from, size, SPAN, read).await
}

fn ask(id: &str) -> Ask {
    Ask::get(Service::Glance, "read the image", format!("/images/{id}/file"))
}

/// Asks for a part, and for the bytes of it if that is what comes.
async fn ask_part(api: &Api, id: &str, at: u64, len: u64, size: u64) -> Result<Answer, Refused> {
    let Some(part) = Part::new(at, len) else {
        return Err(BackendError::caller("read the image", id, "a part without bytes").into());
    };
    let mut request = api.request(ask(id)).await?.part(part);
    request.set_header("accept", "application/octet-stream");
    let bearer = Bearer::new(&api.keystone);
    let judge = |answer: &Answer| match api::judge(answer) {
        Verdict::Done if answer.status == 206 => {
            let given = part.check(answer.header("content-range"), answer.body.len() as u64, size);
            given.map_or_else(Verdict::Bad, |()| Verdict::Done)
        }
        other => other,
    };
    let call = Call { judge: &judge, gate: Some(&api.gate), ..Call::new(request.clone(), &bearer) };
    let answer = api.http.send(call).await?;
    match answer.status {
        200 | 206 => Ok(answer),
        _ => Err(api::refusal(&answer, &request, Service::Glance)),
    }
}

/// Does the store of this image give parts? Asked with the first grain, which is little to read in vain.
async fn gives_parts(api: &Api, image: &Image, from: u64, size: u64) -> Result<bool, Refused> {
    match ask_part(api, &image.id, from, GRAIN.min(size - from), size).await {
        Ok(answer) => Ok(answer.status == 206),
        Err(refused) if matches!(refused.status, 400 | 416 | 501) => Ok(false),
        Err(refused) => Err(refused),
    }
}

async fn part(api: &Api, id: &str, at: u64, len: u64, size: u64) -> Result<Bytes, Lost> {
    match ask_part(api, id, at, len, size).await {
        Ok(answer) if answer.status == 206 => Ok(answer.body),
        Ok(_) => {
            let why = "it gave parts of this image before, and now all of it";
            Err(Lost { error: Box::new(BackendError::unsupported("read the image", id, why)), for_all: true })
        }
        // The same would be said of every part.
        Err(refused) => Err(Lost { for_all: (400..500).contains(&refused.status), error: refused.error }),
    }
}

/// One stream after the other, each from the beginning, until all has come.
async fn stream(api: &Api, image: &Image, from: u64, size: u64, out: &Out) -> Result<(), BackendError> {
    let (mut next, mut failures) = (from, 0);
    loop {
        let (into, chunks) = mpsc::channel(AHEAD);
        let before = next;
        let (flowed, ()) = tokio::join!(flow(api, &image.id, size, into), hand_on(chunks, &mut next, size, out));
        let came = *flowed.as_ref().unwrap_or(&0);
        match flowed {
            Ok(_) if next >= size && came == size => return Ok(()),
            Ok(_) => {
                let at = format!("byte {came}");
                return Err(BackendError::corrupt(
                    "read the image",
                    &image.id,
                    at,
                    format!("{size} bytes"),
                    "another number",
                ));
            }
            Err(refused) if (400..500).contains(&refused.status) => return Err(refused.into()),
            Err(refused) => {
                failures = if next > before { 1 } else { failures + 1 };
                if failures >= TRIES {
                    return Err(refused.into());
                }
                sleep(Duration::from_millis(250 << failures)).await;
            }
        }
    }
}

/// One stream, chunk by chunk. Answers how many bytes came, if it came to its end.
async fn flow(api: &Api, id: &str, size: u64, into: mpsc::Sender<Bytes>) -> Result<u64, Refused> {
    let mut request = api.request(ask(id)).await?;
    request.limit = size;
    request.set_header("accept", "application/octet-stream");
    let bearer = Bearer::new(&api.keystone);
    let (answer, came) = api.http.flow(&request, &bearer, &api::judge, &into).await?;
    if answer.status == 200 { Ok(came) } else { Err(api::refusal(&answer, &request, Service::Glance)) }
}

/// Makes pieces of what comes behind `next`, and moves it on.
async fn hand_on(mut chunks: mpsc::Receiver<Bytes>, next: &mut u64, size: u64, out: &Out) {
    let (mut at, mut waiting) = (0_u64, BytesMut::new());
    while let Some(mut chunk) = chunks.recv().await {
        let known = next.saturating_sub(at).min(chunk.len() as u64);
        at = at.saturating_add(chunk.len() as u64);
        if at > size {
            // Whoever counts says so.
            return;
        }
        let _ = chunk.split_to(usize::try_from(known).unwrap_or(usize::MAX));
        waiting.extend_from_slice(&chunk);
        while waiting.len() >= PIECE || (at == size && !waiting.is_empty()) {
            let piece = waiting.split_to(waiting.len().min(PIECE));
            let len = piece.len() as u64;
            for piece in split_zeros(*next, piece) {
                let _ = out.send(Ok(piece)).await;
            }
            *next = next.saturating_add(len);
        }
    }
}
