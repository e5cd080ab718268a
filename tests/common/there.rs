//! A guest on another machine, which is this one behind an SSH server.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::control::State;
use super::guest::{Guest, Spec, wait_until};
use super::killer::nothing_is_left;
use super::run::{Ran, impound};
use super::sshd::Sshd;

/// A guest, and a server through which it is reached.
pub struct There {
    pub guest: Guest,
    pub sshd: Sshd,
    /// For what is written on the hypervisor.
    pub scratch: PathBuf,
}

impl There {
    pub fn boot(spec: &Spec) -> Result<Self> {
        let guest = Guest::boot(spec)?;
        let scratch = guest.folder().join("scratch");
        fs::create_dir(&scratch)?;
        Ok(Self { guest, sshd: Sshd::start(""), scratch })
    }

    /// The same guest, behind a server with these settings.
    pub fn behind(self, server: &str) -> Self {
        Self { sshd: Sshd::start(server), ..self }
    }

    pub fn target(&self) -> String {
        format!("qmp+ssh://there{}", self.guest.qmp().display())
    }

    /// The program, with what it needs to reach the server.
    pub fn impound(&self, verb: &[&str]) -> Command {
        let mut command = impound();
        command.env("IMPOUND_SSH_CONFIG", self.sshd.config()).args(["--format", "json"]).args(verb);
        command
    }

    pub fn run(&self, verb: &[&str]) -> Result<Ran> {
        Ok(Ran::of(&self.impound(verb).output()?))
    }

    pub fn acquire(&self, case: &Path, more: &[&str]) -> Command {
        let mut command = self.impound(&["acquire", &self.target()]);
        command.arg("--scratch").arg(&self.scratch).arg("--case").arg(case).args(more);
        command
    }

    pub fn take(&self, case: &Path, more: &[&str]) -> Result<Ran> {
        Ok(Ran::of(&self.acquire(case, more).output()?))
    }

    pub fn case(&self, name: &str) -> PathBuf {
        self.guest.folder().join(name)
    }

    /// As it was found, over there too.
    pub fn is_as_found(&self, before: &State, what: &str) -> Result<()> {
        nothing_is_left(&self.guest, before, what)?;
        let left: Vec<_> = fs::read_dir(&self.scratch)?.flatten().map(|entry| entry.path()).collect();
        ensure!(left.is_empty(), "{what}: {left:?} is left on the hypervisor");
        Ok(())
    }

    /// After a cut the guest runs, whatever else is so.
    pub fn runs_again(&self, before: &State) -> Result<()> {
        let status = &before.status;
        wait_until(
            || self.guest.control().status().is_ok_and(|now| now == *status),
            Duration::from_secs(300),
            "the guest to run again",
        )
    }

    /// How often the guest booted.
    pub fn boots(&self) -> usize {
        self.guest.serial().matches("impound-guest ready").count()
    }
}
