//! The shell of one host: what is asked may be asked again when the connection broke, what changes something is said once.

use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::sleep;

use super::listing::short;
use super::text::{self, Value};
use crate::wire::ssh::{Answer, Command, Destination, Running, Ssh};
use crate::{Access, BackendError, Kind};

/// How often a connection is tried before it is given up, with a pause that doubles from this on: half a minute in all.
const TRIES: u32 = 8;
const FIRST_PAUSE: Duration = Duration::from_millis(125);

/// See the module.
pub(super) struct Shell {
    to: Destination,
    access: Access,
    ssh: Mutex<Option<Ssh>>,
}

impl Shell {
    pub(super) async fn connect(to: &Destination, access: &Access) -> Result<Self, BackendError> {
        let ssh = Ssh::connect(to, access).await?;
        Ok(Self { to: to.clone(), access: access.clone(), ssh: Mutex::new(Some(ssh)) })
    }

    /// The host, as it was written.
    pub(super) fn name(&self) -> String {
        self.to.to_string()
    }

    /// Where the host is, and how it is reached.
    pub(super) fn reached(&self) -> (&Destination, &Access) {
        (&self.to, &self.access)
    }

    /// The connection, made anew if it broke. A host that refuses us is not asked again.
    async fn connected(&self) -> Result<Ssh, BackendError> {
        let mut ssh = self.ssh.lock().await;
        if let Some(ssh) = &*ssh {
            return Ok(ssh.clone());
        }
        let mut pause = FIRST_PAUSE;
        let mut tries = 0;
        loop {
            match Ssh::connect(&self.to, &self.access).await {
                Ok(fresh) => return Ok(ssh.insert(fresh).clone()),
                Err(error) if error.kind == Kind::Io && tries < TRIES => {
                    tries += 1;
                    sleep(pause).await;
                    pause *= 2;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The connection is of no use any more.
    async fn broke(&self) {
        *self.ssh.lock().await = None;
    }

    /// Says something once. After an error nobody knows whether it was heard.
    pub(super) async fn tell(&self, command: &Command) -> Result<Answer, BackendError> {
        let answer = self.connected().await?.run(command).await;
        if answer.as_ref().is_err_and(|error| error.kind == Kind::Io) {
            self.broke().await;
        }
        answer
    }

    /// Asks something that changes nothing; again, if the connection broke.
    pub(super) async fn ask(&self, command: &Command) -> Result<Answer, BackendError> {
        self.ask_within(command, Duration::from_secs(120)).await
    }

    /// The same with another limit of time.
    pub(super) async fn ask_within(&self, command: &Command, limit: Duration) -> Result<Answer, BackendError> {
        let mut tries = 0;
        loop {
            match self.connected().await?.run_within(command, limit).await {
                Err(error) if error.kind == Kind::Io && tries < TRIES => {
                    tries += 1;
                    self.broke().await;
                }
                other => return other,
            }
        }
    }

    /// Begins a stream; of one that broke, the connection is dropped by [`Shell::stream_broke`].
    pub(super) async fn stream(&self, command: &Command) -> Result<Running, BackendError> {
        let running = self.connected().await?.stream(command).await;
        if running.as_ref().is_err_and(|error| error.kind == Kind::Io) {
            self.broke().await;
        }
        running
    }

    pub(super) async fn stream_broke(&self) {
        self.broke().await;
    }

    /// The text of an answer that is a table or the like; fails if the tool failed.
    pub(super) async fn text(&self, command: &Command) -> Result<String, BackendError> {
        let answer = self.ask(command).await?;
        if !answer.ending.good() {
            let said = answer.text();
            let why = if said.trim().is_empty() { answer.ending.told() } else { short(&said) };
            return Err(BackendError::unsupported(format!("run `{command}`"), self.name(), why));
        }
        Ok(answer.text())
    }

    /// The object that an answer holds. The exit status of `vim-cmd` says little; a fault says what is wrong.
    pub(super) async fn object(&self, command: &Command) -> Result<Value, BackendError> {
        let answer = self.ask(command).await?;
        let read = text::parse(&answer.text()).map_err(|unread| {
            if answer.ending.good() {
                self.unread(command, &unread)
            } else {
                self.failed(command, &answer.ending.told())
            }
        })?;
        match read.fault() {
            Some(fault) => Err(self.failed(command, &fault)),
            None => Ok(read),
        }
    }

    /// The host said what it must not say.
    pub(super) fn unread(&self, command: &Command, why: &dyn std::fmt::Display) -> BackendError {
        BackendError::new(Kind::Corrupt, format!("read what `{command}` says"), self.name(), why.to_string())
    }

    /// The host refused.
    pub(super) fn failed(&self, command: &Command, why: &str) -> BackendError {
        BackendError::unsupported(format!("run `{command}`"), self.name(), why)
    }
}

/// What an answer in words says went wrong. A tool of this host may fail and end as if all were well.
pub(super) fn complaint(answer: &Answer) -> Option<String> {
    let text = answer.text();
    let fault = |line: &str| line.starts_with("(vim.fault.") || line.starts_with("(vmodl.fault.");
    if let Some(line) = text.lines().find(|line| fault(line)) {
        let message = text.lines().find_map(|line| line.trim().strip_prefix("msg = "));
        return Some(format!("{} {}", short(line), message.map(short).unwrap_or_default()));
    }
    if let Some(line) = text.lines().find(|line| line.to_ascii_lowercase().contains("failed")) {
        return Some(short(line));
    }
    (!answer.ending.good()).then(|| answer.ending.told())
}
