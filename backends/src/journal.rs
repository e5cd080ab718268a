//! What a run has begun on the hypervisor and not ended, so that a killed run can be undone by the next one.

use std::io;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// How to take one act back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Undo {
    /// In words, for the responder: "resume the guest".
    pub say: String,
    /// The guest stands still until this is undone, so it is undone at once if the run dies.
    #[serde(default)]
    pub holds_guest: bool,
    /// In the backend's own terms; only the backend that wrote it reads it, and it reads it as hostile.
    pub how: Value,
}

/// The name of one act in a journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ActId(pub u64);

/// Every act that changes the hypervisor's or the guest's state goes through here first: durable before it is done.
pub trait Journal: Send {
    /// Writes down, durably, that `act` comes next and how to undo it.
    fn about_to(&mut self, act: &str, undo: Undo) -> io::Result<ActId>;
    /// Writes down that nothing is left to undo of `act`.
    fn done(&mut self, act: ActId) -> io::Result<()>;
}

/// A journal that forgets: for tests and for verbs that change nothing.
#[derive(Debug, Default)]
pub struct Forgetful {
    next: u64,
}

impl Journal for Forgetful {
    fn about_to(&mut self, _act: &str, _undo: Undo) -> io::Result<ActId> {
        self.next = self.next.saturating_add(1);
        Ok(ActId(self.next))
    }

    fn done(&mut self, _act: ActId) -> io::Result<()> {
        Ok(())
    }
}
