//! An answer whose body is handed on as it comes, for objects that a server gives only whole.

use bytes::Bytes;
use jiff::Timestamp;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

use super::{Answer, Http, Request, Sign, Verdict, chain};
use crate::{BackendError, HttpAnswer, Kind, WireEntry};

/// How often whoever signs is asked for something newer.
const RENEWALS_MAX: u32 = 3;
/// The longest refusal that is read, in bytes.
const WORDS: usize = 64 << 10;

impl Http {
    /// Asks once, and hands the body of a good answer on. Answers it with an empty body, and how many bytes were handed on; a refusal
    /// with its words. Only what is refused for its signature is asked again. No more than the request's limit is taken; there is no
    /// limit on the time, as long as something comes.
    ///
    /// # Errors
    /// `Io` if no whole answer came. What was handed on until then has come.
    pub async fn flow(
        &self,
        request: &Request,
        sign: &dyn Sign,
        judge: &(dyn Fn(&Answer) -> Verdict + Sync),
        into: &mpsc::Sender<Bytes>,
    ) -> Result<(Answer, u64), BackendError> {
        let mut renewals = 0;
        loop {
            let mut signed = request.clone();
            sign.sign(&mut signed).await?;
            let (answer, came) = self.flow_once(&signed, into).await?;
            if judge(&answer) != Verdict::Renew || renewals >= RENEWALS_MAX {
                return Ok((answer, came));
            }
            renewals += 1;
            sign.renew().await?;
        }
    }

    /// One exchange, written down whatever comes of it.
    async fn flow_once(&self, request: &Request, into: &mpsc::Sender<Bytes>) -> Result<(Answer, u64), BackendError> {
        let mut entry = WireEntry::begun(request.shown());
        let flowed = self.pour(request, into, &mut entry).await;
        match &flowed {
            Ok(answer) => {
                entry.answered = Some(Timestamp::now());
                entry.answer_digest = answer.digest();
                entry.error = (!answer.is_good()).then(|| format!("HTTP status {}", answer.status));
            }
            Err(why) => entry.error = Some(why.clone()),
        }
        let came = entry.answer_len;
        self.wire.entry(entry);
        match flowed {
            Ok(answer) => Ok((answer, came)),
            Err(why) => Err(BackendError::new(Kind::Io, request.purpose, request.place(), why)),
        }
    }

    async fn pour(
        &self,
        request: &Request,
        into: &mpsc::Sender<Bytes>,
        entry: &mut WireEntry,
    ) -> Result<Answer, String> {
        // Neither the address nor a header may get into an error: both can hold secrets.
        let told = |error: reqwest::Error| chain(&error.without_url());
        let mut response = self.client.execute(request.build()?).await.map_err(told)?;
        let mut answer = Answer::new(response.status().as_u16(), response.headers());
        entry.http = Some(HttpAnswer { status: answer.status, request_id: answer.request_id() });
        let (mut digest, mut words) = (Sha256::new(), Vec::new());
        while let Some(chunk) = response.chunk().await.map_err(told)? {
            entry.answer_len = entry.answer_len.saturating_add(chunk.len() as u64);
            if entry.answer_len > request.limit {
                return Err(format!("the answer is longer than {} bytes", request.limit));
            }
            digest.update(&chunk);
            self.took(chunk.len()).await;
            if answer.is_good() {
                into.send(chunk).await.map_err(|_| "nobody takes it any more".to_owned())?;
            } else if words.len() < WORDS {
                words.extend_from_slice(&chunk);
            }
        }
        answer.sha256 = digest.finalize().into();
        answer.body = words.into();
        Ok(answer)
    }
}
