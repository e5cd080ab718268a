//! The custody log: who did what to the case, when, in an order that cannot be changed afterwards unseen.
//!
//! `custody.jsonl` has one event a line, each with the hash of the line before. `custody.head` holds the number of lines
//! and the hash of the last one, and `custody.head.sig` a signature over it, so that a cut tail is seen too. All three
//! are checked with `sha256sum`, `sed` and `ssh-keygen`: see `verify.sh`.

mod chain;
mod event;
mod head;
mod lines;
mod log;

pub use chain::{Break, check as check_chain};
pub use event::{Event, EventKind, NewEvent};
pub(crate) use head::HEAD_LIMIT;
pub use head::Head;
pub use lines::{Entry, Log, read as read_log};
pub(crate) use lines::{LINE_LIMIT, Lines};
pub use log::Custody;
