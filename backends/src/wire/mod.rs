//! Transports under the backends, and the log of everything said over them.

#[cfg(feature = "http")]
pub mod http;
#[cfg(feature = "qemu")]
pub mod nbd;
#[cfg(feature = "qemu")]
pub mod qmp;
#[cfg(any(feature = "http", feature = "ssh"))]
mod rate;
#[cfg(feature = "ssh")]
pub mod ssh;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Lower-case hexadecimal.
#[cfg(any(feature = "http", feature = "qemu", feature = "ssh"))]
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// One exchange with a hypervisor, as `wire.jsonl` keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WireEntry {
    /// When it was sent.
    pub sent: Timestamp,
    /// When the answer was complete, if one came.
    pub answered: Option<Timestamp>,
    /// What was said, as sent. Secrets never get here: types that hold them do not print them.
    pub said: String,
    /// Length of the answer in bytes.
    pub answer_len: u64,
    /// Digest of the answer: `sha256:…` for messages, `blake3:…` for streams of bulk data.
    pub answer_digest: String,
    /// The answer was an error, with these words.
    pub error: Option<String>,
    /// What HTTP says beside the answer itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpAnswer>,
}

impl WireEntry {
    /// One that is sent now, and has no answer yet.
    pub fn begun(said: String) -> Self {
        Self {
            sent: Timestamp::now(),
            answered: None,
            said,
            answer_len: 0,
            answer_digest: String::new(),
            error: None,
            http: None,
        }
    }
}

/// The head of an answer over HTTP, as far as it is evidence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpAnswer {
    /// Status code.
    pub status: u16,
    /// The provider's own name for this exchange, to be asked for in its logs.
    pub request_id: Option<String>,
}

/// Where exchanges are written down.
pub trait WireLog: Send + Sync {
    /// Writes one down. Must not fail: a log that cannot be kept is said at the end by whoever keeps it.
    fn entry(&self, entry: WireEntry);
}

/// A log that forgets: for verbs that seal nothing, and for tests.
#[derive(Debug, Default)]
pub struct NoLog;

impl WireLog for NoLog {
    fn entry(&self, _entry: WireEntry) {}
}
