//! dom0, from within or over SSH: the same commands, word for word.

use std::io;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command as Process};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::wire::ssh::{self, Command, Destination, Ssh};
use crate::{Access, BackendError, Kind, Uri, WireEntry};

/// How long a command may take that answers briefly. xl waits for a busy Xen for as long as that takes.
const TIME: Duration = Duration::from_secs(300);
/// Most of a command's output, and of its error output, that is kept, in bytes.
const OUTPUT: u64 = 32 << 20;
const WORDS: u64 = 64 << 10;

/// A way to run commands on dom0.
#[derive(Clone)]
pub(super) struct Reach {
    way: Way,
    access: Access,
}

#[derive(Clone)]
enum Way {
    Here,
    There(Destination, Ssh),
}

/// What a command that has ended said.
pub(super) struct Said {
    pub(super) output: Vec<u8>,
    pub(super) ending: ssh::Ending,
}

impl Said {
    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.output).into_owned()
    }
}

impl Reach {
    /// `xen:///` or `xen+ssh://root@dom0`.
    pub(super) async fn connect(uri: &Uri, access: &Access) -> Result<Self, BackendError> {
        let wrong = |why: &str| {
            BackendError::caller("read the address of a Xen host", uri.to_string(), why)
                .advise("on dom0 itself it is xen:///#vm, from elsewhere xen+ssh://root@dom0#vm")
        };
        let way = if uri.scheme == "xen" {
            if !matches!(uri.rest.as_str(), "/" | "//" | "///") {
                return Err(wrong("this scheme names no other host"));
            }
            Way::Here
        } else {
            let (destination, path) = Destination::parse(&uri.rest)?;
            if !matches!(path, "" | "/") {
                return Err(wrong("nothing follows the host but #vm"));
            }
            let ssh = Ssh::connect(&destination, access).await?;
            Way::There(destination, ssh)
        };
        Ok(Self { way, access: access.clone() })
    }

    /// Connects anew, for tidying up after the connection broke. On dom0 itself there is nothing to connect.
    pub(super) async fn again(&mut self) -> Result<(), BackendError> {
        if let Way::There(destination, ssh) = &mut self.way {
            *ssh = Ssh::connect(destination, &self.access).await?;
        }
        Ok(())
    }

    /// What it is called in messages.
    pub(super) fn name(&self) -> String {
        match &self.way {
            Way::Here => "this machine".to_owned(),
            Way::There(destination, _) => destination.to_string(),
        }
    }

    /// Runs a command to its end, whatever its status.
    pub(super) async fn run(&self, command: &Command) -> Result<Said, BackendError> {
        if let Way::There(_, ssh) = &self.way {
            let answer = ssh.run_within(command, TIME).await?;
            return Ok(Said { output: answer.stdout, ending: answer.ending });
        }
        let mut running = self.stream(command).await?;
        let late = |_| self.broke(command, &io::Error::other(format!("it did not end within {} s", TIME.as_secs())));
        timeout(TIME, async {
            let output = running.all(OUTPUT).await.map_err(|error| self.broke(command, &error))?;
            Ok(Said { output, ending: running.end().await? })
        })
        .await
        .map_err(late)?
    }

    /// Runs a command that has to succeed; `attempted` is what it is for.
    pub(super) async fn must(&self, attempted: &str, command: &Command) -> Result<Said, BackendError> {
        let said = self.run(command).await?;
        if said.ending.good() {
            return Ok(said);
        }
        Err(BackendError::new(Kind::Unsupported, attempted, self.name(), said.ending.told()))
    }

    /// Runs a command and hands out its output as it comes.
    pub(super) async fn stream(&self, command: &Command) -> Result<Running, BackendError> {
        match &self.way {
            Way::There(_, ssh) => Ok(Running::There(Box::new(ssh.stream(command).await?))),
            Way::Here => Local::start(command, &self.access)
                .map(|local| Running::Here(Box::new(local)))
                .map_err(|e| self.broke(command, &e)),
        }
    }

    fn broke(&self, command: &Command, error: &io::Error) -> BackendError {
        BackendError::io(format!("run `{}`", command.to_string().escape_debug()), self.name(), error)
    }
}

/// A command under way.
pub(super) enum Running {
    There(Box<ssh::Running>),
    Here(Box<Local>),
}

impl Running {
    /// Reads some of its output; nothing at its end.
    pub(super) async fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::There(running) => running.read(into).await,
            Self::Here(local) => local.read(into).await,
        }
    }

    /// Fills `into` as far as the output goes.
    pub(super) async fn fill(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while let Some(rest) = into.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.read(rest).await? {
                0 => break,
                some => filled += some,
            }
        }
        Ok(filled)
    }

    /// Writes to its input.
    pub(super) async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::There(running) => running.write_all(bytes).await,
            Self::Here(local) => match &mut local.child.stdin {
                Some(stdin) => stdin.write_all(bytes).await,
                None => Err(io::ErrorKind::BrokenPipe.into()),
            },
        }
    }

    async fn all(&mut self, most: u64) -> io::Result<Vec<u8>> {
        let (mut all, mut part) = (Vec::new(), vec![0; 64 << 10]);
        loop {
            let some = self.read(&mut part).await?;
            if some == 0 {
                return Ok(all);
            }
            all.extend_from_slice(part.get(..some).unwrap_or_default());
            if all.len() as u64 > most {
                return Err(io::Error::other("its output is too long"));
            }
        }
    }

    /// How it ended.
    pub(super) async fn end(self) -> Result<ssh::Ending, BackendError> {
        match self {
            Self::There(running) => running.end().await,
            Self::Here(local) => local.end().await,
        }
    }
}

/// A command on this machine: the text that would go over SSH, given to `sh`. In a process group of its own, so that what is
/// typed at our terminal does not reach it.
pub(super) struct Local {
    child: Child,
    words: Option<JoinHandle<Vec<u8>>>,
    said: String,
    sent: Timestamp,
    access: Access,
    len: u64,
    hasher: Sha256,
}

impl Local {
    fn start(command: &Command, access: &Access) -> io::Result<Self> {
        let said = command.to_string();
        let input = if command.wants_stdin() { Stdio::piped() } else { Stdio::null() };
        let mut process = Process::new("/bin/sh");
        process.arg("-c").arg(&said).stdin(input).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let mut child = process.spawn()?;
        let stderr = child.stderr.take();
        let words = tokio::spawn(async move {
            let mut words = Vec::new();
            if let Some(mut stderr) = stderr {
                // What is beyond that is read, so that the command does not wait, and forgotten.
                let _ = (&mut stderr).take(WORDS).read_to_end(&mut words).await;
                let _ = tokio::io::copy(&mut stderr, &mut tokio::io::sink()).await;
            }
            words
        });
        let (sent, hasher) = (Timestamp::now(), Sha256::new());
        Ok(Self { child, words: Some(words), said, sent, access: access.clone(), len: 0, hasher })
    }

    async fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let Some(stdout) = &mut self.child.stdout else { return Ok(0) };
        let some = stdout.read(into).await?;
        self.len += some as u64;
        self.hasher.update(into.get(..some).unwrap_or_default());
        Ok(some)
    }

    async fn end(mut self) -> Result<ssh::Ending, BackendError> {
        use std::os::unix::process::ExitStatusExt;
        let waited = self.child.wait().await;
        let status = waited.map_err(|error| BackendError::io("wait for a command", self.said.clone(), &error))?;
        let words = match self.words.take() {
            Some(words) => words.await.unwrap_or_default(),
            None => Vec::new(),
        };
        let ending = ssh::Ending { status: status.code(), signal: status.signal().map(|n| n.to_string()), words };
        let error = (!ending.good()).then(|| ending.told());
        let digest = format!("sha256:{}", crate::wire::hex(&self.hasher.finalize_reset()));
        Arc::clone(&self.access.wire).entry(WireEntry {
            sent: self.sent,
            answered: Some(Timestamp::now()),
            said: std::mem::take(&mut self.said),
            answer_len: self.len,
            answer_digest: digest,
            error,
            http: None,
        });
        Ok(ending)
    }
}
