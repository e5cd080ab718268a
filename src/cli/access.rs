//! How hosts elsewhere are reached: arguments that every verb with a target has, and the question for a passphrase.

use std::path::PathBuf;
use std::sync::Arc;

use impound_backends::{Access, Ask, NoLog, Secret};

use super::units;
use crate::report::printable;

/// For hosts that are reached by SSH.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct AccessArgs {
    /// Write down the key of an SSH host that is met for the first time, and go on; compare the fingerprint before
    #[arg(long, help_heading = "Over the network")]
    accept_new: bool,
    /// Configuration of SSH to read instead of ~/.ssh/config
    #[arg(long, value_name = "FILE", env = "IMPOUND_SSH_CONFIG", help_heading = "Over the network")]
    ssh_config: Option<PathBuf>,
    /// The most to take over the network in a second, as 20M
    #[arg(long, value_name = "SIZE", value_parser = units::bytes, help_heading = "Over the network")]
    rate: Option<u64>,
}

impl AccessArgs {
    /// What backends need of it. The log is put in by whoever keeps one.
    pub(super) fn access(&self) -> Access {
        Access {
            wire: Arc::new(NoLog),
            ask: Arc::new(Terminal),
            accept_new: self.accept_new,
            ssh_config: self.ssh_config.clone(),
            rate: self.rate,
        }
    }
}

/// Asks on the terminal, which is not stdin: that may be a pipe.
struct Terminal;

impl Ask for Terminal {
    fn secret(&self, what: &str) -> Option<Secret> {
        // Without a terminal there is nobody to ask.
        rpassword::prompt_password(format!("{}: ", printable(what))).ok().map(Secret::new)
    }
}
