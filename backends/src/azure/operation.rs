//! Acts that ARM ends in its own time ("Track asynchronous Azure operations"): asked again where the answer says, as often as it says,
//! and not for ever.

use std::time::Duration;

use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::api::{Api, Refused, clip, text};
use crate::wire::http::{Answer, Request};
use crate::{BackendError, Kind};

/// How long to wait before it is asked again, where ARM does not say: at first, and at most.
const POLL: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(15));
/// The longest wait that ARM may ask for.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// How long an act may take.
const LONGEST_ACT: Duration = Duration::from_secs(3600);

impl Api {
    /// Does something and waits for its end.
    pub(super) async fn act(&self, request: Request) -> Result<(), Refused> {
        self.follow(request, false).await.map(drop)
    }

    /// The same, for the sake of what comes of it, which is a secret.
    pub(super) async fn secret(&self, request: Request) -> Result<Value, Refused> {
        self.follow(request, true).await
    }

    async fn follow(&self, mut request: Request, wanted: bool) -> Result<Value, Refused> {
        request.answer_is_secret = wanted;
        let mut answer = self.ask(request.clone()).await?;
        let status = answer.header("azure-asyncoperation").map(ToOwned::to_owned);
        let location = answer.header("location").map(ToOwned::to_owned);
        let (begun, mut wait) = (Instant::now(), POLL.0);
        // The first answer tells of the resource; how the act goes stands where it says, if it says so.
        let mut ended = status.is_none() && answer.status != 202;
        while !ended {
            if begun.elapsed() > LONGEST_ACT {
                let why = format!("it did not end within {} minutes", LONGEST_ACT.as_secs() / 60);
                return Err(BackendError::new(Kind::Io, request.purpose, request.place(), why).into());
            }
            sleep(asked(&answer).unwrap_or(wait)).await;
            wait = (wait * 2).min(POLL.1);
            answer = self.look(&request, status.as_deref().or(location.as_deref())).await?;
            ended = if status.is_some() { has_ended(&request, &answer)? } else { answer.status != 202 };
        }
        if !wanted {
            return Ok(Value::Null);
        }
        let body: Value = serde_json::from_slice(&answer.body).unwrap_or(Value::Null);
        match (body.pointer("/properties/output"), status.and(location)) {
            (Some(output), _) => Ok(output.clone()),
            // What came of it stands in another place than how it goes.
            (None, Some(location)) => {
                let answer = self.look(&request, Some(&location)).await?;
                Ok(serde_json::from_slice(&answer.body).unwrap_or(Value::Null))
            }
            (None, None) => Ok(body),
        }
    }

    /// Asks at an address that the answer to `request` gave.
    async fn look(&self, request: &Request, link: Option<&str>) -> Result<Answer, Refused> {
        let nowhere =
            || BackendError::corrupt(request.purpose, request.place(), "the answer", "where to ask again", "nothing");
        let mut there = self.own(request.purpose, link.ok_or_else(nowhere)?)?;
        there.answer_is_secret = request.answer_is_secret;
        self.ask(there).await
    }
}

/// Reads how it goes. An act that failed is an error, with ARM's words.
fn has_ended(request: &Request, answer: &Answer) -> Result<bool, Refused> {
    let body: Value = answer.json(request.purpose, &request.place())?;
    match text(&body, "/status") {
        "Succeeded" => Ok(true),
        status @ ("Failed" | "Canceled") => {
            let code = clip(text(&body, "/error/code"), 100);
            let id = answer.request_id().map_or(String::new(), |id| format!(" (request {id})"));
            let why = format!("it {}: {code}: {}{id}", status.to_lowercase(), clip(text(&body, "/error/message"), 600));
            Err(Refused { error: Box::new(BackendError::unsupported(request.purpose, request.place(), why)), code })
        }
        _ => Ok(false),
    }
}

/// The wait that ARM asks for, in seconds, within reason.
fn asked(answer: &Answer) -> Option<Duration> {
    let seconds = answer.header("retry-after")?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds).clamp(POLL.0, LONGEST_WAIT))
}
