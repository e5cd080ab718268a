//! QEMU's guest agent, as far as it freezes and thaws file systems.
//!
//! It is a program inside the guest, so all that it says is the guest's: lines have a longest length, texts are cut and
//! escaped before anybody sees them, and no answer is waited for without an end. What an agent said to somebody before us may still lie
//! in its channel; `guest-sync-delimited` puts the byte 0xFF, which no JSON has, before its answer, and all that came before is passed
//! over.
//!
//! Source: QEMU documentation, "QEMU Guest Agent Protocol Reference" (qga/qapi-schema.json).

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::{BackendError, Kind, WireEntry, WireLog};

/// Longest line accepted, in bytes. `guest-info` of an agent with all its commands has 10 KiB.
const LINE_MAX: usize = 1 << 20;
/// Most characters of the agent's own words that are repeated.
const WORDS_MAX: usize = 200;
/// Before the answer to `guest-sync-delimited`, and before what is said to an agent that may have half a command of somebody else.
const DELIMITER: u8 = 0xff;
/// How long an agent may take for what costs it nothing.
pub(super) const ANSWERS: Duration = Duration::from_secs(10);
/// How long file systems may take to freeze: each writes out what it holds back.
const FREEZES: Duration = Duration::from_secs(30);
/// What whoever carries the words may add to the agent's own time.
const CARRIES: Duration = Duration::from_secs(5);

const FREEZE: &str = "guest-fsfreeze-freeze";
const THAW: &str = "guest-fsfreeze-thaw";
const STATUS: &str = "guest-fsfreeze-status";

/// What an agent says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct About {
    /// Its version: the guest's words, cut and escaped.
    pub(super) version: String,
}

/// A connection to an agent.
pub(super) struct Agent {
    stream: UnixStream,
    replies: Replies,
    name: String,
    wire: Arc<dyn WireLog>,
    /// Somebody between us and the agent keeps questions and answers together (libvirt), and wants to know how long to wait.
    carried: bool,
}

/// What was said, and when.
struct Said {
    text: String,
    at: Timestamp,
}

impl Agent {
    /// An agent behind a connection; `carried` by libvirt or not. `name` is for messages. Nothing is said yet.
    pub(super) fn over(stream: UnixStream, name: String, carried: bool, wire: Arc<dyn WireLog>) -> Self {
        Self { stream, replies: Replies::default(), name, wire, carried }
    }

    /// Is somebody there, able to freeze, and is nothing frozen? Asks alone.
    pub(super) async fn probe(&mut self) -> Result<About, BackendError> {
        if !self.carried {
            let (said, id) = self.say_sync().await?;
            self.hear_sync(said, id).await?;
        }
        // The state first: one that has frozen something says that it cannot freeze.
        let status = self.ask(STATUS, ANSWERS).await?;
        state(&status).map_err(|why| self.refused(why))?;
        let info = self.ask("guest-info", ANSWERS).await?;
        about(&info).map_err(|why| self.refused(why))
    }

    /// Freezes all that can be frozen. Answers how many file systems that were. After an error they may be frozen.
    pub(super) async fn freeze(&mut self) -> Result<u64, BackendError> {
        let answer = self.ask(FREEZE, FREEZES).await?;
        frozen(&answer).map_err(|why| self.refused(why))
    }

    /// Thaws them. Answers whether they had stayed frozen until then. All is said at once: an agent that hangs in its freeze finds it
    /// when it comes out of that, even if nobody waits for it any more.
    pub(super) async fn thaw(&mut self) -> Result<bool, BackendError> {
        let sync = if self.carried { None } else { Some(self.say_sync().await?) };
        let (status, thaw) = (self.say(STATUS, ANSWERS).await?, self.say(THAW, FREEZES).await?);
        if let Some((said, id)) = sync {
            self.hear_sync(said, id).await?;
        }
        let status = self.hear(status, ANSWERS, None).await;
        let thawed = self.hear(thaw, FREEZES, None).await;
        let status = status.ok().and_then(|status| status.as_str().map(ToOwned::to_owned));
        match (thawed, status.as_deref()) {
            (Err(error), Some("thawed")) if error.kind == Kind::Unsupported => Ok(false),
            (Err(error), _) => Err(error),
            (Ok(_), status) => Ok(status == Some("frozen")),
        }
    }

    async fn ask(&mut self, command: &str, time: Duration) -> Result<Value, BackendError> {
        let said = self.say(command, time).await?;
        self.hear(said, time, None).await
    }

    async fn say(&mut self, command: &str, time: Duration) -> Result<Said, BackendError> {
        let mut line = json!({ "execute": command });
        if let (Some(map), true) = (line.as_object_mut(), self.carried) {
            map.insert("seconds".to_owned(), json!(time.as_secs()));
        }
        self.send(line.to_string(), &[]).await
    }

    async fn say_sync(&mut self) -> Result<(Said, u64), BackendError> {
        let id = unheard_of();
        let line = json!({ "execute": "guest-sync-delimited", "arguments": { "id": id } });
        Ok((self.send(line.to_string(), &[DELIMITER]).await?, id))
    }

    async fn send(&mut self, text: String, first: &[u8]) -> Result<Said, BackendError> {
        let said = Said { text, at: Timestamp::now() };
        let bytes = [first, said.text.as_bytes(), b"\n"].concat();
        let sent = timeout(ANSWERS, self.stream.write_all(&bytes)).await;
        let sent = sent.unwrap_or_else(|_| Err(io::Error::other("nobody takes what is said to it")));
        sent.map_err(|e| BackendError::io("speak to the guest's agent", &self.name, &e))?;
        Ok(said)
    }

    async fn hear_sync(&mut self, said: Said, id: u64) -> Result<(), BackendError> {
        self.hear(said, ANSWERS, Some(id)).await.map(drop)
    }

    /// Waits for an answer; for that of a synchronisation if an id is given. The exchange is written down, whatever comes of it.
    async fn hear(&mut self, said: Said, time: Duration, sync: Option<u64>) -> Result<Value, BackendError> {
        let time = if self.carried { time.saturating_add(CARRIES) } else { time };
        let mut entry = WireEntry { sent: said.at, ..WireEntry::begun(said.text) };
        let outcome = match timeout(time, self.answer(sync, &mut entry)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(format!("no answer came within {} s", time.as_secs())),
        };
        entry.error = outcome.as_ref().err().cloned();
        let answered = entry.answered.is_some();
        self.wire.entry(entry);
        outcome.map_err(|why| {
            let kind = if answered { Kind::Unsupported } else { Kind::Io };
            BackendError::new(kind, "speak to the guest's agent", &self.name, why)
        })
    }

    async fn answer(&mut self, sync: Option<u64>, entry: &mut WireEntry) -> Result<Value, String> {
        loop {
            if let Some(line) = self.replies.next(sync.is_some())? {
                if sync.is_some_and(|id| !is_sync(&line, id)) {
                    continue;
                }
                entry.answered = Some(Timestamp::now());
                entry.answer_len = u64::try_from(line.len()).unwrap_or(u64::MAX);
                entry.answer_digest = format!("sha256:{}", crate::wire::hex(&Sha256::digest(&line)));
                return reply(&line);
            }
            match self.stream.read_buf(&mut self.replies.bytes).await {
                Ok(0) => return Err("its channel was closed".to_owned()),
                Ok(_) => {}
                Err(error) => return Err(format!("its channel broke: {error}")),
            }
        }
    }

    fn refused(&self, why: impl Into<String>) -> BackendError {
        BackendError::unsupported("freeze the guest's file systems", &self.name, why)
    }
}

/// A number that no earlier answer can hold by chance.
fn unheard_of() -> u64 {
    // What agents read as a number has to stay one for whoever reads numbers as floating point.
    RandomState::new().build_hasher().finish() >> 11
}

/// What has come and was not taken yet.
#[derive(Default)]
struct Replies {
    bytes: Vec<u8>,
}

impl Replies {
    /// The next whole line without its end, if it is there; the next behind a delimiter if that is asked for.
    fn next(&mut self, delimited: bool) -> Result<Option<Vec<u8>>, String> {
        loop {
            if delimited {
                let from = self.bytes.iter().position(|byte| *byte == DELIMITER).unwrap_or(self.bytes.len());
                self.bytes.drain(..from);
            }
            let Some(end) = self.bytes.iter().position(|byte| *byte == b'\n') else {
                let len = self.bytes.len();
                return if len > LINE_MAX {
                    Err(format!("a line of more than {LINE_MAX} bytes came"))
                } else {
                    Ok(None)
                };
            };
            let rest = self.bytes.split_off(end.saturating_add(1));
            let mut line = std::mem::replace(&mut self.bytes, rest);
            if delimited {
                // Of several only the last is before an answer.
                let from = line.iter().rposition(|byte| *byte == DELIMITER).map_or(0, |at| at.saturating_add(1));
                line.drain(..from);
            }
            let line = line.trim_ascii();
            if !line.is_empty() {
                return Ok(Some(line.to_vec()));
            }
        }
    }
}

#[derive(Deserialize)]
struct Reply {
    #[serde(rename = "return")]
    answer: Option<Value>,
    error: Option<Failure>,
}

#[derive(Deserialize)]
struct Failure {
    #[serde(default)]
    desc: String,
}

#[derive(Deserialize)]
struct Info {
    version: String,
    supported_commands: Vec<Supported>,
}

#[derive(Deserialize)]
struct Supported {
    name: String,
    enabled: bool,
}

fn reply(line: &[u8]) -> Result<Value, String> {
    let reply: Reply = serde_json::from_slice(line).map_err(|e| format!("what it says is no answer: {e}"))?;
    match (reply.answer, reply.error) {
        (_, Some(failure)) => Err(format!("it says: {}", words(&failure.desc))),
        (Some(answer), None) => Ok(answer),
        (None, None) => Err("what it says is neither an answer nor an error".to_owned()),
    }
}

fn is_sync(line: &[u8], id: u64) -> bool {
    reply(line).is_ok_and(|answer| answer.as_u64() == Some(id))
}

/// Is nothing frozen?
fn state(status: &Value) -> Result<(), String> {
    match status.as_str() {
        Some("thawed") => Ok(()),
        Some("frozen") => Err("they are frozen already, by somebody else".to_owned()),
        _ => Err(format!("it tells no state of them: {}", words(&status.to_string()))),
    }
}

/// Can it freeze, and who is it?
fn about(info: &Value) -> Result<About, String> {
    let info = Info::deserialize(info).map_err(|e| format!("what it says of itself is not as it should be: {e}"))?;
    for command in [STATUS, FREEZE, THAW] {
        match info.supported_commands.iter().find(|supported| supported.name == command) {
            Some(Supported { enabled: true, .. }) => {}
            Some(_) => return Err(format!("{command} is switched off in the guest")),
            None => return Err(format!("it does not know {command}")),
        }
    }
    Ok(About { version: words(&info.version) })
}

/// How many file systems it froze.
fn frozen(answer: &Value) -> Result<u64, String> {
    match answer.as_u64() {
        Some(0) => Err("it found no file system that can be frozen".to_owned()),
        Some(number) => Ok(number),
        None => Err(format!("it does not say how many it froze: {}", words(&answer.to_string()))),
    }
}

/// The guest's words as they may be repeated: cut, and without anything that a terminal obeys.
fn words(text: &str) -> String {
    text.chars().take(WORDS_MAX).collect::<String>().escape_debug().to_string()
}

/// Reads all that an agent says from its first word to the thaw, as the answer to synchronisation 7. Public for the fuzzer.
pub fn parse(bytes: &[u8]) -> Result<(), String> {
    let mut replies = Replies { bytes: bytes.to_vec() };
    let mut next = |delimited| replies.next(delimited)?.ok_or_else(|| "an answer has no end".to_owned());
    while !is_sync(&next(true)?, 7) {}
    state(&reply(&next(false)?)?)?;
    about(&reply(&next(false)?)?)?;
    frozen(&reply(&next(false)?)?)?;
    reply(&next(false)?).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_said_to_others_is_passed_over() {
        let mut replies =
            Replies { bytes: b"{\"return\": 1}\nhalf a li\xff\xff{\"return\": 7}\n{\"return\": 2}\n".to_vec() };
        let line = replies.next(true).unwrap().unwrap();
        assert!(is_sync(&line, 7) && !is_sync(&line, 8));
        assert_eq!(replies.next(false).unwrap().unwrap(), b"{\"return\": 2}");
        assert_eq!(replies.next(false), Ok(None));
    }

    #[test]
    fn an_agent_that_never_ends_its_line_is_cut_off() {
        let mut replies = Replies { bytes: vec![b'x'; LINE_MAX + 1] };
        assert!(replies.next(false).is_err());
        // Before a delimiter nothing is kept.
        assert_eq!(replies.next(true), Ok(None));
        assert!(replies.bytes.is_empty());
    }

    #[test]
    fn the_guests_words_are_cut_and_cannot_move_a_cursor() {
        let told = words(&format!("\u{1b}[2J\n\u{202e}{}", "long".repeat(1000)));
        assert!(told.len() < 1000 && !told.chars().any(|c| c.is_control() || c == '\u{202e}'), "{told}");
    }

    #[test]
    fn whoever_cannot_freeze_is_refused_by_name() {
        let info = |name: &str, enabled: bool| {
            let all = [STATUS, FREEZE, THAW].map(|known| json!({ "name": known, "enabled": known != name || enabled }));
            json!({ "version": "7.2", "supported_commands": all })
        };
        assert_eq!(about(&info(FREEZE, true)), Ok(About { version: "7.2".to_owned() }));
        assert!(about(&info(THAW, false)).unwrap_err().contains("guest-fsfreeze-thaw is switched off"));
        assert!(about(&json!({ "version": "0.1", "supported_commands": [] })).unwrap_err().contains("does not know"));
        assert!(frozen(&json!(0)).unwrap_err().contains("no file system"));
    }
}
