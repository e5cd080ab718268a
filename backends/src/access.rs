//! How a backend reaches what is elsewhere: where exchanges are written down, who is asked for secrets, what is trusted.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use zeroize::Zeroizing;

use crate::{NoLog, WireLog};

/// A passphrase, a password, a token. It prints as nothing, and its memory is wiped when it goes.
#[derive(Clone)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Takes it in.
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// The secret itself, for the one call that needs it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// Somebody who knows secrets.
pub trait Ask: Send + Sync {
    /// Asks for one; none if nobody can be asked. `what` is what it is for: "passphrase of /root/.ssh/id_ed25519".
    fn secret(&self, what: &str) -> Option<Secret>;
}

/// Nobody to ask: automation, tests.
#[derive(Debug, Default)]
pub struct Nobody;

impl Ask for Nobody {
    fn secret(&self, _what: &str) -> Option<Secret> {
        None
    }
}

/// See the module.
#[derive(Clone)]
pub struct Access {
    /// Everything said goes in here.
    pub wire: Arc<dyn WireLog>,
    /// Who is asked for passphrases.
    pub ask: Arc<dyn Ask>,
    /// Write down the key of an SSH host that is met for the first time, and go on. One that changed is refused in any case.
    pub accept_new: bool,
    /// Read this instead of `~/.ssh/config` and `/etc/ssh/ssh_config`.
    pub ssh_config: Option<PathBuf>,
    /// The most bytes a second to take over the network.
    pub rate: Option<u64>,
}

impl Access {
    /// For what needs nothing but a log.
    pub fn logged(wire: Arc<dyn WireLog>) -> Self {
        Self { wire, ask: Arc::new(Nobody), accept_new: false, ssh_config: None, rate: None }
    }
}

impl Default for Access {
    fn default() -> Self {
        Self::logged(Arc::new(NoLog))
    }
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access").field("accept_new", &self.accept_new).field("rate", &self.rate).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_does_not_print() {
        let secret = Secret::new("hunter2".to_owned());
        assert_eq!(secret.reveal(), "hunter2");
        assert!(!format!("{secret:?}").contains("hunter2"));
    }
}
