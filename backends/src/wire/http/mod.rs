//! HTTP, as clouds and some hypervisors speak it: one client with time-outs, retries, and a log of every try.
//!
//! A [`Request`] says of each of its parts whether it is secret, so that what must not be seen never reaches the log, an
//! error or `Debug`: by its type, not by a search for patterns. Each try is one entry of the wire log, with the provider's
//! request id. Redirects are not followed, since what was signed for one host is nothing for another. An answer is read up to the length
//! that the caller allows, and one that breaks off is no answer.
//!
//! What failed is tried again after a random part of a time that doubles (full jitter). Being throttled is no failure: it
//! is waited out for as long as [`Rules::patience`] lasts, and a [`Gate`] narrows until the provider is content.
//!
//! TLS is rustls with the system's roots, or with one certificate that is pinned ([`Trust`]); the environment's proxies are used
//! unless [`Rules::direct`] says otherwise.

mod answer;
mod flow;
mod gate;
mod origin;
mod range;
mod request;
mod retry;
pub mod spans;
#[cfg(test)]
mod tests;
mod trust;
pub mod xml;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use sha2::{Digest, Sha256};
use tokio::time::{Instant, sleep, timeout};

pub use answer::{Answer, Verdict, by_status};
pub use gate::{Gate, Inside};
pub use origin::{ip, origin};
pub use range::Part;
pub use request::{Method, Request, Text, encode};
pub use retry::Rules;
pub use trust::{Fingerprint, Refusal, Trust};

use crate::wire::rate::Rate;
use crate::{BackendError, HttpAnswer, Kind, WireEntry, WireLog};

/// Who signs requests, or puts a token on them. Asked anew for each try, since signatures carry a time and tokens run out.
#[async_trait]
pub trait Sign: Send + Sync {
    /// Puts on `request` what proves who asks.
    async fn sign(&self, request: &mut Request) -> Result<(), BackendError>;
    /// What was used last was refused: get another.
    async fn renew(&self) -> Result<(), BackendError> {
        Ok(())
    }
}

/// Nobody signs.
#[derive(Debug, Clone, Copy)]
pub struct Unsigned;

#[async_trait]
impl Sign for Unsigned {
    async fn sign(&self, _request: &mut Request) -> Result<(), BackendError> {
        Ok(())
    }
}

/// One exchange as the caller wants it.
pub struct Call<'a> {
    /// What is asked.
    pub request: Request,
    /// Who signs it.
    pub sign: &'a dyn Sign,
    /// What to make of an answer.
    pub judge: &'a (dyn Fn(&Answer) -> Verdict + Sync),
    /// How many at once.
    pub gate: Option<&'a Gate>,
    /// It must not happen twice: tried again only where the server said that it did nothing.
    pub once: bool,
}

impl<'a> Call<'a> {
    /// A call that may be repeated, judged by its status.
    pub fn new(request: Request, sign: &'a dyn Sign) -> Self {
        Self { request, sign, judge: &by_status, gate: None, once: false }
    }
}

/// The client. Cheap to clone.
#[derive(Clone)]
pub struct Http {
    client: reqwest::Client,
    wire: Arc<dyn WireLog>,
    rules: Rules,
    rate: Option<Arc<Mutex<Rate>>>,
}

impl std::fmt::Debug for Http {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Http").field("rules", &self.rules).finish_non_exhaustive()
    }
}

/// What came of one try.
enum Tried {
    Answer(Answer),
    /// No whole answer came, and why.
    Broke(String),
}

impl Tried {
    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Answer(answer) => answer.retry_after(),
            Self::Broke(_) => None,
        }
    }
}

impl Http {
    /// A client that writes down what it says. `roots` are certificates (PEM) to trust besides the system's.
    pub fn new(wire: Arc<dyn WireLog>, rules: Rules, roots: &[u8]) -> Result<Self, BackendError> {
        // The second one to install it finds it there, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut builder = builder(&rules);
        if !roots.is_empty() {
            let roots = reqwest::Certificate::from_pem_bundle(roots).map_err(unmade)?;
            builder = roots.into_iter().fold(builder, reqwest::ClientBuilder::add_root_certificate);
        }
        Ok(Self { client: builder.build().map_err(unmade)?, wire, rules, rate: None })
    }

    /// A client for one server, whose certificate `trust` decides about.
    pub fn trusting(wire: Arc<dyn WireLog>, rules: Rules, trust: &Trust) -> Result<Self, BackendError> {
        let builder = builder(&rules).tls_backend_preconfigured(trust.config()?).https_only(true);
        Ok(Self { client: builder.build().map_err(unmade)?, wire, rules, rate: None })
    }

    /// Takes no more than so many bytes a second, over all that runs at once.
    #[must_use]
    pub fn at_most(mut self, per_second: Option<u64>) -> Self {
        self.rate = per_second.map(|rate| Arc::new(Mutex::new(Rate::new(rate))));
        self
    }

    /// Bytes came; nothing more is read before they were due.
    async fn took(&self, bytes: usize) {
        let Some(rate) = &self.rate else { return };
        let wait = {
            let mut rate = rate.lock().unwrap_or_else(PoisonError::into_inner);
            rate.took(bytes);
            rate.wait()
        };
        if let Some(wait) = wait {
            sleep(wait).await;
        }
    }

    /// Asks until there is an answer that the caller's judge takes, or no sense in going on. An answer that is a refusal is an
    /// answer: the caller reads why.
    ///
    /// # Errors
    /// `Io` if no whole answer came, `Corrupt` if none was as it must be.
    pub async fn send(&self, call: Call<'_>) -> Result<Answer, BackendError> {
        let begun = Instant::now();
        let (mut failures, mut waits) = (0, 0);
        loop {
            let (tried, verdict) = self.attempt(&call).await?;
            failures += u32::from(!matches!(verdict, Verdict::Done | Verdict::Throttled));
            let again = match verdict {
                Verdict::Done => false,
                // The server said that it did nothing, so it may be asked again whatever it is.
                Verdict::Throttled => begun.elapsed() < self.rules.patience,
                Verdict::Renew => failures < self.rules.tries,
                Verdict::Again | Verdict::Bad(_) => failures < self.rules.tries && !call.once,
            };
            if !again {
                return end(&call.request, tried, verdict, failures);
            }
            if verdict == Verdict::Renew {
                call.sign.renew().await?;
            }
            sleep(self.rules.wait(waits, tried.retry_after())).await;
            waits += 1;
        }
    }

    /// One try at its place among all that run, and what to make of it.
    async fn attempt(&self, call: &Call<'_>) -> Result<(Tried, Verdict), BackendError> {
        let inside = match call.gate {
            Some(gate) => Some(gate.enter().await),
            None => None,
        };
        let mut request = call.request.clone();
        call.sign.sign(&mut request).await?;
        let sent = Instant::now();
        let tried = self.once(&request, call).await;
        let verdict = match &tried {
            Tried::Answer(answer) => (call.judge)(answer),
            Tried::Broke(_) => Verdict::Again,
        };
        match (&inside, call.gate, &verdict) {
            (Some(inside), _, Verdict::Done) => inside.went_well(),
            (_, Some(gate), Verdict::Throttled) => gate.throttled(sent),
            _ => {}
        }
        Ok((tried, verdict))
    }

    /// One exchange, written down whatever comes of it.
    async fn once(&self, request: &Request, call: &Call<'_>) -> Tried {
        let mut entry = WireEntry::begun(request.shown());
        let answered = match timeout(self.rules.within, self.exchange(request)).await {
            Ok(answered) => answered,
            Err(_) => Err(format!("no whole answer within {} s", self.rules.within.as_secs())),
        };
        let tried = match answered {
            Ok(answer) => {
                entry.answered = Some(Timestamp::now());
                entry.answer_len = answer.body.len() as u64;
                // Even the digest of a secret is nobody's business.
                entry.answer_digest = if request.answer_is_secret { String::new() } else { answer.digest() };
                entry.http = Some(HttpAnswer { status: answer.status, request_id: answer.request_id() });
                entry.error = match (call.judge)(&answer) {
                    Verdict::Bad(why) => Some(why),
                    _ if !answer.is_good() => Some(format!("HTTP status {}", answer.status)),
                    _ => None,
                };
                Tried::Answer(answer)
            }
            Err(why) => {
                entry.error = Some(why.clone());
                Tried::Broke(why)
            }
        };
        self.wire.entry(entry);
        tried
    }

    async fn exchange(&self, request: &Request) -> Result<Answer, String> {
        // Neither the address nor a header may get into an error: both can hold secrets.
        let told = |error: reqwest::Error| chain(&error.without_url());
        let mut response = self.client.execute(request.build()?).await.map_err(told)?;
        let mut answer = Answer::new(response.status().as_u16(), response.headers());
        // All of it was not asked for, and is not read.
        let unasked = request.part.is_some() && answer.status == 200;
        let most = if unasked { 0 } else { request.limit };
        if !unasked && response.content_length().is_some_and(|len| len > most) {
            return Err(format!("the answer announces more than {most} bytes"));
        }
        let announced = response.content_length().unwrap_or(0).min(most);
        let mut body = Vec::with_capacity(usize::try_from(announced).unwrap_or(0));
        let mut digest = Sha256::new();
        while !unasked && let Some(chunk) = response.chunk().await.map_err(told)? {
            if (body.len() as u64).saturating_add(chunk.len() as u64) > most {
                return Err(format!("the answer is longer than {most} bytes"));
            }
            digest.update(&chunk);
            body.extend_from_slice(&chunk);
            self.took(chunk.len()).await;
        }
        answer.sha256 = digest.finalize().into();
        answer.body = body.into();
        Ok(answer)
    }
}

/// What all clients have in common.
fn builder(rules: &Rules) -> reqwest::ClientBuilder {
    let builder = reqwest::Client::builder()
        .user_agent(concat!("impound/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(rules.connect_within)
        .read_timeout(rules.silence);
    if rules.direct { builder.no_proxy() } else { builder }
}

fn unmade(error: reqwest::Error) -> BackendError {
    BackendError::new(Kind::Io, "make an HTTP client", "TLS", chain(&error.without_url()))
}

fn end(request: &Request, tried: Tried, verdict: Verdict, failures: u32) -> Result<Answer, BackendError> {
    match (tried, verdict) {
        (Tried::Answer(answer), Verdict::Bad(why)) => {
            let at = answer.request_id().map_or("the answer".to_owned(), |id| format!("the answer {id}"));
            Err(BackendError::corrupt(request.purpose, request.place(), at, "an answer that is whole", why))
        }
        (Tried::Answer(answer), _) => Ok(answer),
        (Tried::Broke(why), _) => {
            let why = if failures > 1 { format!("{why} (tried {failures} times)") } else { why };
            Err(BackendError::new(Kind::Io, request.purpose, request.place(), why))
        }
    }
}

/// An error with its causes: what went wrong stands in the innermost.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        let cause = error.to_string();
        if !text.ends_with(&cause) {
            text = format!("{text}: {cause}");
        }
        next = error.source();
    }
    text
}
