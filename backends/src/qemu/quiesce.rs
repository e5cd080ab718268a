//! The guest's file systems, held still by its own agent around the instant (`--quiesce`): what is taken of a disk then needs no replay
//! of a journal. It is the only thing that speaks to the guest, so it is done only when asked for.
//!
//! The agent listens on a port of a virtio serial device; QEMU tells which socket is at the port's other end (`query-chardev`), and that
//! is where we connect, here or over SSH. Behind libvirt the socket is libvirt's, and libvirt carries the words.
//!
//! File systems that stay frozen are the worst that can be left behind: so the inverse is in the journal before they freeze, a thaw is tried
//! again and again by new connections, and on another machine the watchman has it among its words.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::net::UnixStream;
use tokio::time::Instant;

use super::agent::{ANSWERS, Agent};
use super::dial::Dial;
use super::machine::Machine;
use crate::wire::qmp::Qmp;
use crate::{BackendError, Kind, Quiesced, WireLog};

/// The option that asks for it.
pub(super) const QUIESCE: &str = "quiesce";
/// The port that an agent listens on, by name.
const PORT: &str = "org.qemu.guest_agent.0";
/// How long a thaw is tried: a network may take that long to heal, and a server to let go of a connection that broke.
const LETS_GO: Duration = Duration::from_secs(60);
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(200);

/// A run's way to the agent, and what was done by it.
pub(super) struct Channel {
    dial: Dial,
    wire: std::sync::Arc<dyn WireLog>,
    agent: Option<Agent>,
    /// The socket at the end of the port, once it was looked for.
    socket: Option<String>,
    version: String,
    quiesced: Option<Quiesced>,
    /// They were thawed before we did so.
    lapsed: bool,
}

impl Channel {
    pub(super) fn new(dial: Dial, wire: std::sync::Arc<dyn WireLog>) -> Self {
        Self { dial, wire, agent: None, socket: None, version: String::new(), quiesced: None, lapsed: false }
    }

    /// Is there an agent that can freeze and has frozen nothing? Keeps the connection, so that nobody else can have it before us.
    pub(super) async fn probe(&mut self, qmp: &mut Qmp, machine: Option<&Machine>) -> Result<(), BackendError> {
        let mut agent = self.connect(qmp, machine).await.map_err(without)?;
        self.version = agent.probe().await.map_err(without)?.version;
        self.agent = Some(agent);
        Ok(())
    }

    /// The socket of a port that was probed.
    #[cfg(feature = "ssh")]
    pub(super) fn socket(&self) -> Option<&str> {
        self.socket.as_deref().filter(|_| self.agent.is_some())
    }

    /// Was it probed, and so wanted?
    pub(super) fn is_ready(&self) -> bool {
        self.agent.is_some()
    }

    /// Freezes. After an error they may be frozen, and have to be thawed.
    pub(super) async fn freeze(&mut self) -> Result<(), BackendError> {
        let Some(agent) = &mut self.agent else {
            return Err(BackendError::caller(
                "freeze the guest's file systems",
                "its agent",
                "it was not asked before",
            ));
        };
        let begun = Timestamp::now();
        let file_systems = agent.freeze().await.map_err(without)?;
        let frozen = Timestamp::now();
        self.quiesced = Some(Quiesced { begun, frozen, thawed: None, file_systems, agent: self.version.clone() });
        Ok(())
    }

    /// Thaws by the connection that is open, which is the fastest. False if that did not work.
    pub(super) async fn thaw_at_once(&mut self) -> bool {
        let Some(agent) = &mut self.agent else { return false };
        let outcome = agent.thaw().await;
        self.thawed(outcome).is_ok()
    }

    /// Thaws, by as many connections as it takes.
    pub(super) async fn thaw(&mut self, qmp: &mut Qmp, machine: Option<&Machine>) -> Result<(), BackendError> {
        let deadline = Instant::now() + LETS_GO;
        loop {
            match self.try_to_thaw(qmp, machine).await {
                // Without a monitor there is no way to the agent either, and somebody else has to connect anew.
                Err(error) if Instant::now() < deadline && !(error.kind == Kind::Io && error.on == qmp.name()) => {
                    tokio::time::sleep(PAUSE).await;
                }
                other => return other,
            }
        }
    }

    async fn try_to_thaw(&mut self, qmp: &mut Qmp, machine: Option<&Machine>) -> Result<(), BackendError> {
        let mut agent = match self.agent.take() {
            Some(agent) => agent,
            None => self.connect(qmp, machine).await?,
        };
        let outcome = agent.thaw().await;
        self.agent = Some(agent);
        self.thawed(outcome)
    }

    /// Takes down what came of a thaw. A connection that failed is not used again.
    fn thawed(&mut self, outcome: Result<bool, BackendError>) -> Result<(), BackendError> {
        match outcome {
            Ok(until_now) => {
                if let Some(quiesced) = self.quiesced.as_mut().filter(|quiesced| quiesced.thawed.is_none()) {
                    quiesced.thawed = Some(Timestamp::now());
                    self.lapsed = !until_now;
                }
                Ok(())
            }
            Err(error) => {
                self.agent = None;
                Err(error)
            }
        }
    }

    /// Ends the connection, so that others can speak to the agent. Answers what was done, and what is to be said of it.
    pub(super) fn end(&mut self) -> (Option<Quiesced>, Option<String>) {
        self.agent = None;
        let lapsed = std::mem::take(&mut self.lapsed).then(|| {
            "the guest's file systems were thawed by the guest before it was told to: they may not have been quiet at the instant"
                .to_owned()
        });
        (self.quiesced.take(), lapsed)
    }

    async fn connect(&mut self, qmp: &mut Qmp, machine: Option<&Machine>) -> Result<Agent, BackendError> {
        #[cfg(feature = "ssh")]
        if let Dial::Libvirt { daemon, domain } = &self.dial {
            let stream = daemon.agent(domain).await?;
            return Ok(Agent::over(stream, format!("the agent of domain {domain}"), true, self.wire.clone()));
        }
        let path = socket(qmp).await?;
        let connected = match machine {
            // What this process may open itself needs no machine.
            None | Some(Machine::Here) => {
                let connected = UnixStream::connect(&path).await;
                connected.map_err(|e| BackendError::io("connect to the guest's agent", &path, &e))
            }
            #[cfg(feature = "ssh")]
            Some(Machine::There(there)) => there.control.socket(&path).await,
        };
        let agent =
            Agent::over(connected?, format!("the guest's agent at {}", path.escape_debug()), false, self.wire.clone());
        self.socket = Some(path);
        Ok(agent)
    }
}

/// Without an agent there is always the way of before.
fn without(error: BackendError) -> BackendError {
    if error.advice.is_some() {
        return error;
    }
    error.advise("leave --quiesce out: disks are then of one instant all the same, with journals to be replayed")
}

/// Does an agent listen in the guest, in words? Nothing is said to it.
pub(super) async fn presence(qmp: &mut Qmp) -> String {
    match listener(qmp).await {
        Ok(_) => "an agent listens in the guest, --quiesce may be asked for".to_owned(),
        Err(error) => format!("no --quiesce: {}", error.why),
    }
}

fn refuse(on: &str, why: String) -> BackendError {
    BackendError::unsupported("reach the guest's agent", on, why)
}

/// The socket at the other end of the agent's port, free to be connected to.
async fn socket(qmp: &mut Qmp) -> Result<String, BackendError> {
    let filename = listener(qmp).await?;
    path_of(&filename).map_err(|why| refuse(qmp.name(), why))
}

/// What is at the other end of the agent's port, as QEMU tells it, if somebody in the guest has opened the port.
async fn listener(qmp: &mut Qmp) -> Result<String, BackendError> {
    let on = qmp.name().to_owned();
    let refuse = |why: String| refuse(&on, why);
    let label = label(qmp).await?.ok_or_else(|| refuse(format!("the VM has no port named {PORT}")))?;
    let devices = qmp.ask("query-chardev", Value::Null).await?;
    let text = |device: &Value, key: &str| device.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let mut devices = devices.as_array().into_iter().flatten();
    let device = devices.find(|device| text(device, "label") == label);
    let device = device.ok_or_else(|| refuse(format!("nothing is at the other end of {PORT}")))?;
    if device.get("frontend-open") == Some(&Value::Bool(false)) {
        return Err(refuse(format!("no agent runs in the guest: nobody there listens on {PORT}")));
    }
    Ok(text(device, "filename"))
}

/// Which character device the port leads to.
async fn label(qmp: &mut Qmp) -> Result<Option<String>, BackendError> {
    for folder in ["/machine/peripheral", "/machine/peripheral-anon"] {
        let list = qmp.ask("qom-list", json!({ "path": folder })).await?;
        for entry in list.as_array().into_iter().flatten() {
            if entry.get("type").and_then(Value::as_str) != Some("child<virtserialport>") {
                continue;
            }
            let Some(name) = entry.get("name").and_then(Value::as_str) else { continue };
            let path = format!("{folder}/{name}");
            if property(qmp, &path, "name").await?.as_str() == Some(PORT) {
                return Ok(property(qmp, &path, "chardev").await?.as_str().map(ToOwned::to_owned));
            }
        }
    }
    Ok(None)
}

async fn property(qmp: &mut Qmp, path: &str, name: &str) -> Result<Value, BackendError> {
    qmp.ask("qom-get", json!({ "path": path, "property": name })).await
}

/// `disconnected:unix:/run/agent.sock,server=on` as QEMU tells it: a socket that QEMU listens on and nobody has.
// Source: QEMU chardev/char-socket.c, qemu_chr_socket_address and qemu_chr_compute_filename.
fn path_of(filename: &str) -> Result<String, String> {
    let plain = filename.escape_debug();
    let (free, rest) = match filename.strip_prefix("disconnected:") {
        Some(rest) => (true, rest),
        None => (false, filename),
    };
    let path = rest.strip_prefix("unix:").and_then(|rest| {
        let (path, options) = rest.rsplit_once(",server").map_or((rest, None), |(path, options)| (path, Some(options)));
        options.filter(|options| ["", "=on"].contains(options)).map(|_| path)
    });
    let path = path.filter(|path| path.starts_with('/'));
    let path =
        path.ok_or_else(|| format!("its agent is at `{plain}`, which is no socket that could be connected to"))?;
    if free { Ok(path.to_owned()) } else { Err(format!("somebody else speaks to the agent ({plain})")) }
}

/// The commands, for a plan: around the stop.
pub(super) fn commands() -> [String; 2] {
    [
        format!(
            "guest-fsfreeze-freeze: through the guest's agent, asked within {} s whether it can",
            ANSWERS.as_secs()
        ),
        "guest-fsfreeze-thaw: the guest's file systems are let go".to_owned(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_socket_that_nobody_has_is_connected_to() {
        assert_eq!(path_of("disconnected:unix:/run/a.sock,server=on"), Ok("/run/a.sock".to_owned()));
        assert_eq!(path_of("disconnected:unix:/run/a,server.sock,server"), Ok("/run/a,server.sock".to_owned()));
        assert!(path_of("unix:/run/a.sock,server=on").unwrap_err().contains("somebody else"));
        for other in
            ["pty:/dev/pts/3", "disconnected:unix:/run/a.sock", "disconnected:tcp:127.0.0.1:7,server=on", "", "null"]
        {
            assert!(path_of(other).unwrap_err().contains("no socket"), "{other}");
        }
        assert!(path_of("disconnected:unix:relative,server=on").is_err());
    }
}
