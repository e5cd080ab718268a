//! From an address to a session that is logged in: the way there, the host's key, the user's keys. All of it blocks.
//!
//! Order of keys: those of the agent that the configuration names, the agent's others, key files with their certificates,
//! then a password if the host takes one and somebody can be asked.

use std::io;
use std::net::{TcpStream, ToSocketAddrs};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustix::net::sockopt;
use ssh2::{KeyboardInteractivePrompt, MethodType, Prompt, Session};

use super::config::Login;
use super::known_hosts::{self, Known, Verdict};
use crate::{Access, Ask, BackendError, Kind, Secret};

/// How long one step of the protocol may take, in milliseconds.
pub(super) const STEP: u32 = 60_000;
/// Most keys to try: a server counts, and hangs up.
const KEYS: usize = 16;
/// The longest key file, in bytes.
const KEY_FILE: u64 = 1 << 20;
/// Kinds of host keys, best first; what is known of a host comes before. SHA-1 signatures last: old ESX has no other.
const HOST_KEYS: [&str; 7] = [
    "ssh-ed25519",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "rsa-sha2-512",
    "rsa-sha2-256",
    "ssh-rsa",
];

/// What the bytes go over.
pub(super) enum Way {
    /// A connection of this machine.
    Tcp(TcpStream),
    /// A channel through a machine on the way.
    Through(UnixStream),
}

impl AsRawFd for Way {
    fn as_raw_fd(&self) -> RawFd {
        match self {
            Self::Tcp(stream) => stream.as_raw_fd(),
            Self::Through(stream) => stream.as_raw_fd(),
        }
    }
}

/// A connection to the first machine on the way.
pub(super) fn dial(login: &Login) -> Result<Way, BackendError> {
    let broke = |error: &io::Error| {
        let advice = "is the machine up, and does its firewall let this one through to the SSH port?";
        BackendError::io("connect by SSH", format!("{} port {}", login.host, login.port), error).advise(advice)
    };
    let addresses = (login.host.as_str(), login.port).to_socket_addrs().map_err(|error| {
        let advice = "check the spelling, or give the address; HostName of ssh_config is honoured";
        BackendError::io("find the address of a machine", &login.host, &error).advise(advice)
    })?;
    let mut last = io::Error::new(io::ErrorKind::NotFound, "it has no address");
    for address in addresses {
        match TcpStream::connect_timeout(&address, Duration::from_secs(login.timeout)) {
            Ok(stream) => {
                stream.set_nodelay(true).map_err(|error| broke(&error))?;
                watch(&stream, login).map_err(|error| broke(&error.into()))?;
                return Ok(Way::Tcp(stream));
            }
            Err(error) => last = error,
        }
    }
    Err(broke(&last))
}

/// Lets the kernel notice a link that is gone, also while nothing is read.
fn watch(stream: &TcpStream, login: &Login) -> Result<(), rustix::io::Errno> {
    let interval = Duration::from_secs(login.alive.into());
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, interval)?;
    sockopt::set_tcp_keepintvl(stream, interval)?;
    sockopt::set_tcp_keepcnt(stream, login.patience)?;
    let all = login.alive.saturating_mul(login.patience.saturating_add(1)).saturating_mul(1000);
    sockopt::set_tcp_user_timeout(stream, all)
}

/// A session that is logged in.
pub(super) fn open(login: &Login, way: Way, access: &Access) -> Result<Session, BackendError> {
    let mut session = Session::new().map_err(|error| failed("begin an SSH session", login, &error))?;
    session.set_timeout(STEP);
    let known = Known::read(&login.known, &known_name(login));
    prefer(&session, &known, login)?;
    session.set_tcp_stream(way);
    session.handshake().map_err(|error| failed("agree with the SSH server on keys", login, &error))?;
    check_host(&session, &known, login, access)?;
    authenticate(&session, login, access.ask.as_ref())?;
    Ok(session)
}

fn known_name(login: &Login) -> String {
    known_hosts::name(
        login.alias.as_deref().unwrap_or(&login.host),
        if login.alias.is_some() { 22 } else { login.port },
    )
}

/// Asks for the kind of key that is known, so that a host with several is not taken for a stranger.
fn prefer(session: &Session, known: &Known, login: &Login) -> Result<(), BackendError> {
    let kinds = known.kinds();
    let fits =
        |name: &&str| kinds.iter().any(|kind| kind == name || (kind == "ssh-rsa" && name.starts_with("rsa-sha2")));
    let (first, rest): (Vec<&str>, Vec<&str>) = HOST_KEYS.iter().copied().partition(|name| fits(name));
    let list = [first, rest].concat().join(",");
    session.method_pref(MethodType::HostKey, &list).map_err(|error| failed("choose kinds of host keys", login, &error))
}

fn check_host(session: &Session, known: &Known, login: &Login, access: &Access) -> Result<(), BackendError> {
    let Some((key, _)) = session.host_key() else {
        return Err(BackendError::corrupt("check the host's key", &login.asked, "the handshake", "a key", "none"));
    };
    let name = known_name(login);
    let seen = format!("{} {}", known_hosts::kind(key).unwrap_or_default(), known_hosts::fingerprint(key));
    let refuse = |why: String, advice: String| {
        Err(BackendError::caller("trust the SSH server", &login.asked, why).advise(advice))
    };
    match known.judge(key) {
        Verdict::Known => Ok(()),
        Verdict::New if access.accept_new => {
            let file = login.known.first().cloned().unwrap_or_else(|| PathBuf::from("/etc/ssh/ssh_known_hosts"));
            known_hosts::add(&file, &name, key)
        }
        Verdict::New => refuse(
            format!("its key {seen} is not known"),
            "compare it with the fingerprint that its owner tells you, then run again with --accept-new".to_owned(),
        ),
        Verdict::Changed(place) => refuse(
            format!("it has the key {seen}, and {place} has another: somebody may be in between"),
            format!("ask its owner; only if the key was changed on purpose: ssh-keygen -R '{name}'"),
        ),
        Verdict::Revoked(place) => refuse(format!("its key {seen} was revoked ({place})"), "ask its owner".to_owned()),
    }
}

fn authenticate(session: &Session, login: &Login, ask: &dyn Ask) -> Result<(), BackendError> {
    // The question itself may succeed: some servers want nothing more.
    let offered = session.auth_methods(&login.user).unwrap_or_default().to_owned();
    if session.authenticated() {
        return Ok(());
    }
    let mut tried = Vec::new();
    if offered.contains("publickey") && (agent(session, login, &mut tried) || files(session, login, ask, &mut tried)) {
        return Ok(());
    }
    if offered.contains("password") || offered.contains("keyboard-interactive") {
        password(session, login, ask, &offered, &mut tried);
    }
    if session.authenticated() {
        return Ok(());
    }
    let tried = if tried.is_empty() { "there was no key to try".to_owned() } else { tried.join("; ") };
    let why =
        format!("the server takes {}; {tried}", if offered.is_empty() { "nothing that it tells" } else { &offered });
    Err(BackendError::caller("log in by SSH", format!("{}@{}", login.user, login.asked), why)
        .advise("add the key to the agent (ssh-add), or name it by IdentityFile in ~/.ssh/config"))
}

/// Keys of the agent: first those that the configuration names, then the rest, unless only those named count.
fn agent(session: &Session, login: &Login, tried: &mut Vec<String>) -> bool {
    let Some(path) = &login.agent else { return false };
    let Ok(mut agent) = session.agent() else { return false };
    if agent.set_identity_path(path).is_err() || agent.connect().is_err() || agent.list_identities().is_err() {
        tried.push(format!("the agent at {} does not answer", path.display()));
        return false;
    }
    let named: Vec<_> = login.keys.iter().chain(&login.certificates).filter_map(|path| public(path)).collect();
    let (first, rest): (Vec<_>, Vec<_>) = agent
        .identities()
        .unwrap_or_default()
        .into_iter()
        .partition(|key| named.iter().any(|named| named == key.blob()));
    let rest = if login.only { Vec::new() } else { rest };
    for key in first.iter().chain(&rest).take(KEYS) {
        match agent.userauth(&login.user, key) {
            Ok(()) => return true,
            Err(error) => {
                tried.push(format!("key {} of the agent: {}", known_hosts::fingerprint(key.blob()), error.message()));
            }
        }
    }
    false
}

/// The public half of a key, beside the private one.
fn public(path: &Path) -> Option<Vec<u8>> {
    let text = short(&suffixed(path, ".pub"))
        .or_else(|| short(path).filter(|text| text.starts_with("ssh-") || text.starts_with("ecdsa-")))?;
    STANDARD.decode(text.split_ascii_whitespace().nth(1)?).ok()
}

fn suffixed(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn short(path: &Path) -> Option<String> {
    std::fs::metadata(path)
        .is_ok_and(|about| about.len() <= KEY_FILE)
        .then(|| std::fs::read_to_string(path).ok())
        .flatten()
}

fn files(session: &Session, login: &Login, ask: &dyn Ask, tried: &mut Vec<String>) -> bool {
    for path in login.keys.iter().filter(|path| path.is_file()).take(KEYS) {
        let passphrase = if encrypted(path) {
            let Some(secret) = ask.secret(&format!("passphrase of {}", path.display())) else {
                tried.push(format!("{} has a passphrase, and nobody could be asked for it", path.display()));
                continue;
            };
            Some(secret)
        } else {
            None
        };
        let own = suffixed(path, "-cert.pub");
        let certificates = login.certificates.iter().chain([&own]).filter(|path| path.is_file());
        let ways = certificates.map(|path| Some(path.as_path())).chain([None]);
        for certificate in ways {
            let passphrase = passphrase.as_ref().map(Secret::reveal);
            match session.userauth_pubkey_file(&login.user, certificate, path, passphrase) {
                Ok(()) => return true,
                Err(error) => tried.push(format!("{}: {}", certificate.unwrap_or(path).display(), error.message())),
            }
        }
    }
    false
}

/// Does this key need a passphrase? The format of OpenSSH names its cipher behind 15 bytes of magic; PEM says it in words.
fn encrypted(path: &Path) -> bool {
    let Some(text) = short(path) else { return false };
    if text.contains("ENCRYPTED") {
        return true;
    }
    let body: String = text.lines().filter(|line| !line.starts_with("-----")).collect();
    let bytes = STANDARD.decode(body).unwrap_or_default();
    bytes.strip_prefix(b"openssh-key-v1\0").is_some_and(|rest| !rest.starts_with(b"\0\0\0\x04none"))
}

/// Answers each prompt of the server with the same password, once.
struct Answer<'a>(&'a Secret);

impl KeyboardInteractivePrompt for Answer<'_> {
    fn prompt(&mut self, _user: &str, _instructions: &str, prompts: &[Prompt<'_>]) -> Vec<String> {
        // What is echoed is no question for a password.
        prompts.iter().map(|prompt| if prompt.echo { String::new() } else { self.0.reveal().to_owned() }).collect()
    }
}

fn password(session: &Session, login: &Login, ask: &dyn Ask, offered: &str, tried: &mut Vec<String>) {
    let Some(secret) = ask.secret(&format!("password of {} on {}", login.user, login.asked)) else {
        tried.push("nobody could be asked for a password".to_owned());
        return;
    };
    let outcome = if offered.contains("keyboard-interactive") {
        session.userauth_keyboard_interactive(&login.user, &mut Answer(&secret))
    } else {
        session.userauth_password(&login.user, secret.reveal())
    };
    if let Err(error) = outcome {
        tried.push(format!("the password: {}", error.message()));
    }
}

/// An error of the library, on this machine.
pub(super) fn failed(attempted: &str, login: &Login, error: &ssh2::Error) -> BackendError {
    BackendError::new(Kind::Io, attempted, &login.asked, error.message())
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_key_with_a_passphrase_is_told_from_one_without() {
        let folder = tempfile::tempdir().unwrap();
        for (name, passphrase, format) in
            [("a", "", None), ("b", "pass-word", None), ("c", "", Some("PEM")), ("d", "pass-word", Some("PEM"))]
        {
            let path = folder.path().join(name);
            let mut keygen = Command::new("ssh-keygen");
            keygen.args(["-q", "-t", "ecdsa", "-N", passphrase]).args(format.map(|f| ["-m", f]).into_iter().flatten());
            assert!(keygen.arg("-f").arg(&path).status().unwrap().success());
            assert_eq!(encrypted(&path), !passphrase.is_empty(), "{name}");
            assert!(public(&path).is_some());
        }
    }
}
