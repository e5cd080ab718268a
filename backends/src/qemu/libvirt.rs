//! QEMU behind libvirt: `libvirt+qemu:///system#web01`, and on another machine `libvirt+qemu+ssh://root@kvm1/system#web01`.
//!
//! libvirt is one more way to a QEMU monitor; everything behind it is the same. The library is linked into a small program of
//! its own, `impound-libvirt` (`libvirt/` in the sources), which this one starts: impound itself has to start where no
//! libvirt is. Over SSH it is our connection that carries libvirt's protocol, with the keys that we check, and the other
//! machine needs nothing but its daemon.
//!
//! No descriptor can be passed that way, so all comes by names (`machine`, `place`, `spool`).

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinHandle;

use super::dial::{Dial, Dialled};
use super::machine::{Machine, There};
use super::survey::DOMAIN_XML;
use super::target::QemuTarget;
use crate::wire::qmp::Qmp;
use crate::wire::ssh::{Destination, Ssh};
use crate::{Access, Backend, BackendError, Finding, Host, Kind, Target, TargetSummary, Uri, WireEntry};

/// The program beside this one, and the variable that names another.
const HELPER: &str = "impound-libvirt";
const HELPER_VARIABLE: &str = "IMPOUND_LIBVIRT";
/// Most domains listed, and the longest line of the helper.
const DOMAINS: usize = 1 << 16;

/// The `libvirt+…` backend.
#[derive(Debug)]
pub struct Libvirt;

/// A domain, as the helper tells it.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Domain {
    driver: String,
    pub(super) name: String,
    uuid: String,
    pub(super) state: String,
    reason: String,
    memory: u64,
    cpus: u32,
    #[serde(default)]
    pub(super) xml: String,
    #[serde(default)]
    pub(super) job: String,
}

/// A way to a libvirt daemon.
#[derive(Clone)]
pub(super) struct Daemon {
    /// For the library, without a machine in it.
    uri: String,
    /// The machine, if it is another.
    far: Option<(Destination, Access)>,
    access: Access,
}

/// A daemon as the helper reaches it.
pub(super) struct Reached {
    uri: String,
    machine: Machine,
    _relay: Option<Relay>,
}

impl Daemon {
    /// Reads `libvirt+DRIVER[+ssh]:REST`.
    fn read(uri: &Uri, access: &Access) -> Result<Self, BackendError> {
        let wrong = |why: &str| {
            BackendError::caller("read the address", uri.to_string(), why)
                .advise("it looks like libvirt+qemu:///system#web01 or libvirt+qemu+ssh://root@kvm1/system#web01")
        };
        let kind = uri
            .scheme
            .strip_prefix("libvirt+")
            .ok_or_else(|| wrong("`libvirt+` is followed by libvirt's own address"))?;
        match kind.split_once('+') {
            None => {
                if !uri.rest.starts_with("///") {
                    return Err(wrong("another machine is reached by +ssh alone"));
                }
                Ok(Self { uri: format!("{kind}:{}", uri.rest), far: None, access: access.clone() })
            }
            Some((driver, "ssh")) => {
                let (to, path) = Destination::parse(&uri.rest)?;
                if path.len() < 2 {
                    return Err(wrong("it names no daemon, as /system"));
                }
                let far = Some((to, access.clone()));
                Ok(Self { uri: format!("{driver}+unix://{path}"), far, access: access.clone() })
            }
            Some(_) => Err(wrong("another machine is reached by +ssh alone")),
        }
    }

    /// The address of the daemon on its own machine.
    pub(super) fn over_there(&self) -> String {
        self.uri.clone()
    }

    async fn reach(&self) -> Result<Reached, BackendError> {
        let Some((to, access)) = &self.far else {
            return Ok(Reached { uri: self.uri.clone(), machine: Machine::Here, _relay: None });
        };
        let control = Ssh::connect(to, &Access { rate: None, ..access.clone() }).await?;
        // Memory and disks come at the same time, and by a connection each.
        let access = Access { rate: access.rate.map(|rate| rate / 2), ..access.clone() };
        let bulk = Ssh::connect(to, &access).await?;
        let (address, asked) = match self.uri.split_once("?socket=") {
            Some((address, socket)) => (address, Some(socket.to_owned())),
            None => (self.uri.as_str(), None),
        };
        let there = There { control, bulk, to: to.clone(), access };
        let machine = Machine::There(there.clone());
        let socket = if let Some(socket) = asked {
            socket
        } else {
            let which = if address.ends_with("/session") { "session" } else { "system" };
            machine.run("find libvirt's socket", SOCKET, &[which]).await?.trim().to_owned()
        };
        let relay = Relay::start(there.control, socket)?;
        let uri = format!("{address}?socket={}", relay.path().display());
        Ok(Reached { uri, machine, _relay: Some(relay) })
    }

    /// Starts the helper as one end of a conversation with something of a domain.
    fn converse(reached: &Reached, verb: &str, domain: &str) -> Result<(UnixStream, Child), BackendError> {
        let broke = |e: std::io::Error| BackendError::io("talk to impound-libvirt", domain, &e);
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().map_err(broke)?;
        let input: OwnedFd = theirs.try_clone().map_err(broke)?.into();
        let output: OwnedFd = theirs.into();
        let mut helper = Command::new(helper()?);
        helper.args([verb, &reached.uri, domain]).stdin(Stdio::from(input)).stdout(Stdio::from(output));
        helper.stderr(Stdio::piped());
        let child = helper.spawn().map_err(broke)?;
        ours.set_nonblocking(true).map_err(broke)?;
        Ok((UnixStream::from_std(ours).map_err(broke)?, child))
    }

    /// Connects to the guest's agent of a domain. What the helper says on stderr is lost: it answers with errors.
    pub(super) async fn agent(&self, domain: &str) -> Result<UnixStream, BackendError> {
        let reached = self.reach().await?;
        let (stream, child) = Self::converse(&reached, "agent", domain)?;
        outlive(child, reached);
        Ok(stream)
    }

    /// Connects to the monitor of a domain.
    pub(super) async fn monitor(&self, domain: &str) -> Result<Dialled, BackendError> {
        let reached = self.reach().await?;
        let broke = |e: std::io::Error| BackendError::io("talk to impound-libvirt", domain, &e);
        let (stream, child) = Self::converse(&reached, "monitor", domain)?;
        let name = format!("domain {domain} of {}", self.uri);
        match Qmp::over(stream, name, Arc::clone(&self.access.wire)).await {
            Ok(qmp) => {
                let machine = reached.machine.clone();
                outlive(child, reached);
                Ok(Dialled { qmp, machine: Some(machine) })
            }
            Err(error) => {
                let said = child.wait_with_output().map_err(broke)?;
                let words = String::from_utf8_lossy(&said.stderr).trim().to_owned();
                Err(if words.is_empty() { error } else { refused(domain, &words) })
            }
        }
    }

    /// What the helper prints when it has done something.
    async fn have_done(&self, words: &[&str]) -> Result<Vec<u8>, BackendError> {
        let reached = self.reach().await?;
        let mut helper = Command::new(helper()?);
        let (verb, rest) = words.split_first().map_or(("", &[][..]), |(verb, rest)| (*verb, rest));
        helper.args([verb, &reached.uri]).args(rest).stdin(Stdio::null());
        let broke = |e: std::io::Error| BackendError::io("talk to impound-libvirt", &self.uri, &e);
        let output = tokio::task::spawn_blocking(move || helper.output()).await;
        let output = output.map_err(|e| broke(std::io::Error::other(e)))?.map_err(broke)?;
        drop(reached);
        if output.status.success() {
            return Ok(output.stdout);
        }
        Err(refused(&self.uri, String::from_utf8_lossy(&output.stderr).trim()))
    }

    /// Asks the helper something that it answers with lines of JSON.
    async fn ask(&self, words: &[&str]) -> Result<Vec<Domain>, BackendError> {
        let output = self.have_done(words).await?;
        let lines = output.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).take(DOMAINS);
        let read = |line| {
            serde_json::from_slice(line)
                .map_err(|e| BackendError::corrupt("read what libvirt says", &self.uri, "a line", "a domain", e))
        };
        lines.map(read).collect()
    }

    /// Has libvirt dump the memory of a domain into a file of its machine (`virDomainCoreDumpWithFormat`). QEMU's own command does the
    /// same, but a libvirtd that did not give it breaks when QEMU says that the dump has ended (seen with 9.0). And one that broke
    /// in the middle of this lets the guest run on when it is back.
    pub(super) async fn dump(&self, domain: &str, path: &str) -> Result<(), BackendError> {
        let mut entry = WireEntry::begun(format!("virDomainCoreDumpWithFormat {domain} {path}"));
        let outcome = self.have_done(&["dump", domain, path]).await;
        entry.answered = Some(Timestamp::now());
        entry.error = outcome.as_ref().err().map(|error| error.why.clone());
        self.access.wire.entry(entry);
        outcome.map(drop)
    }

    /// One domain, with its XML.
    pub(super) async fn domain(&self, name: &str) -> Result<Domain, BackendError> {
        let found = self.ask(&["domain", name]).await?;
        found.into_iter().next().ok_or_else(|| refused(name, "nothing was said of it"))
    }
}

/// The helper ends when its input does; until then the relay has to stay.
fn outlive(mut child: Child, reached: Reached) {
    std::thread::spawn(move || {
        let _ = child.wait();
        drop(reached);
    });
}

fn refused(on: &str, words: &str) -> BackendError {
    BackendError::new(Kind::Unsupported, "reach the VM by libvirt", on, words)
}

/// Beside this program, or where the variable says.
fn helper() -> Result<PathBuf, BackendError> {
    let beside = || Some(std::env::current_exe().ok()?.with_file_name(HELPER)).filter(|path| path.is_file());
    let named = std::env::var_os(HELPER_VARIABLE).map(PathBuf::from);
    named.or_else(beside).ok_or_else(|| {
        BackendError::unsupported("reach libvirt", HELPER, "this program is not beside impound").advise(
            "build it where libvirt's library is (cargo build --release in libvirt/) and put it there, or name it by IMPOUND_LIBVIRT",
        )
    })
}

/// Carries connections to a socket of this machine to one of another.
pub(super) struct Relay {
    folder: TempDir,
    task: JoinHandle<()>,
}

impl Relay {
    fn start(ssh: Ssh, socket: String) -> Result<Self, BackendError> {
        let broke = |e: std::io::Error| BackendError::io("carry libvirt's protocol", "a temporary folder", &e);
        let folder = tempfile::Builder::new().prefix("impound-").tempdir().map_err(broke)?;
        let listener = UnixListener::bind(folder.path().join("libvirt")).map_err(broke)?;
        let task = tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                // One that cannot be carried is closed, and the library says so.
                let Ok(mut far) = ssh.socket(&socket).await else { continue };
                tokio::spawn(async move { tokio::io::copy_bidirectional(&mut near, &mut far).await });
            }
        });
        Ok(Self { folder, task })
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("libvirt")
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

const SOCKET: &str = r#"
case $1 in session) dir=${XDG_RUNTIME_DIR:-$HOME/.cache}/libvirt ;; *) dir=/run/libvirt ;; esac
for name in libvirt-sock virtqemud-sock; do [ -S "$dir/$name" ] && echo "$dir/$name" && exit 0; done
echo "no socket of libvirt is in $dir" >&2
exit 1
"#;

#[async_trait]
impl Backend for Libvirt {
    fn scheme(&self) -> &'static str {
        "libvirt"
    }

    fn answers_to(&self, scheme: &str) -> bool {
        scheme.starts_with("libvirt+")
    }

    fn about(&self) -> &'static str {
        "QEMU behind libvirt, here or over SSH: libvirt+qemu:///system#web01, libvirt+qemu+ssh://root@kvm1/system#web01"
    }

    fn tested_against(&self) -> &'static str {
        "libvirt 9.0 (libvirtd) with QEMU 10.0, the test driver for lists alone"
    }

    fn options(&self) -> &'static [&'static str] {
        &[super::quiesce::QUIESCE]
    }

    async fn connect(&self, uri: &Uri, access: &Access) -> Result<Box<dyn Host>, BackendError> {
        helper()?;
        Ok(Box::new(LibvirtHost { daemon: Daemon::read(uri, access)? }))
    }

    async fn checkup(&self, uri: Option<&Uri>, access: &Access) -> Vec<Finding> {
        let what = "impound-libvirt (for libvirt+… addresses)".to_owned();
        let mut findings = vec![match helper().map(|path| (Command::new(&path).arg("version").output(), path)) {
            Ok((Ok(output), path)) if output.status.success() => {
                let found = format!("{}: {}", path.display(), String::from_utf8_lossy(&output.stdout).trim());
                Finding { what, good: true, found, fix: None }
            }
            Ok((_, path)) => Finding {
                what,
                // Who has no libvirt here does not miss it.
                good: uri.is_none(),
                found: format!("{} does not start: libvirt's library is missing", path.display()),
                fix: Some("apt-get install libvirt0".to_owned()),
            },
            Err(error) => Finding { what, good: uri.is_none(), found: error.why, fix: error.advice },
        }];
        if let Some(uri) = uri {
            let listed = match Daemon::read(uri, access) {
                Ok(daemon) => daemon.ask(&["list"]).await,
                Err(error) => Err(error),
            };
            let found = listed.map(|list| format!("{} domains", list.len()));
            findings.push(super::finding(format!("libvirt at {uri}"), found));
        }
        findings
    }
}

struct LibvirtHost {
    daemon: Daemon,
}

#[async_trait]
impl Host for LibvirtHost {
    async fn targets(&mut self) -> Result<Vec<TargetSummary>, BackendError> {
        let summary = |domain: Domain| TargetSummary {
            name: domain.name,
            id: Some(domain.uuid),
            state: domain.state,
            memory: Some(domain.memory),
            cpus: Some(domain.cpus),
        };
        Ok(self.daemon.ask(&["list"]).await?.into_iter().map(summary).collect())
    }

    async fn open(&mut self, vm: Option<&str>) -> Result<Box<dyn Target>, BackendError> {
        let name = if let Some(name) = vm {
            name.to_owned()
        } else {
            let mut all = self.targets().await?;
            match (all.pop(), all.len()) {
                (Some(only), 0) => only.name,
                (_, more) => {
                    let why = format!("{} VMs are there, and none is named", more + 1);
                    return Err(BackendError::caller("open the VM", &self.daemon.uri, why)
                        .advise("add #NAME; `impound targets` lists them"));
                }
            }
        };
        let domain = self.daemon.domain(&name).await?;
        if domain.driver != "QEMU" {
            let why = format!("it is a VM of libvirt's {} driver, and only QEMU's can be captured", domain.driver);
            return Err(BackendError::unsupported("open the VM", name, why));
        }
        if !["running", "paused"].contains(&domain.state.as_str()) {
            let why = format!("it is {} ({})", domain.state, domain.reason);
            return Err(BackendError::unsupported("open the VM", name, why)
                .advise("its disks are files then: file:/path/disk.img"));
        }
        let wire = Arc::clone(&self.daemon.access.wire);
        let dial = Dial::Libvirt { daemon: self.daemon.clone(), domain: domain.uuid.clone() };
        Ok(Box::new(QemuTarget::open(dial.dial().await?, dial, wire).await?.behind(domain)))
    }
}

impl Domain {
    /// For the exhibit of the configuration.
    pub(super) fn told(&self) -> BTreeMap<&'static str, Value> {
        let state = json!({ "state": self.state, "reason": self.reason, "job": self.job });
        BTreeMap::from([(DOMAIN_XML, json!(self.xml)), ("libvirt-domain-state", state)])
    }
}
