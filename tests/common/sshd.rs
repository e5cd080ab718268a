//! A real OpenSSH server on loopback with keys of its own, and a wire to it that can be cut or held.
//!
//! One `sshd -i` serves each connection; the port is a listener of the test, so no two tests can meet on one.

use std::collections::VecDeque;
use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use tempfile::TempDir;

/// The server. Dropping it ends every connection.
pub struct Sshd {
    folder: TempDir,
    port: u16,
    wire: Arc<Wire>,
}

/// What happens to bytes on their way.
struct Wire {
    over: AtomicBool,
    /// Nothing moves, and nobody is told.
    held: AtomicBool,
    /// Bytes to the client until the connection is cut; negative: never.
    left: AtomicI64,
    /// For the connections to come, one each: bytes to the client until it is cut.
    lives: Mutex<VecDeque<i64>>,
    children: Mutex<Vec<Child>>,
}

impl Sshd {
    /// A server that takes the key in `folder()/id`. `extra` are lines of its configuration, which come first.
    pub fn start(extra: &str) -> Self {
        let folder = TempDir::new().expect("no folder");
        keygen(&folder.path().join("host"), "");
        keygen(&folder.path().join("id"), "");
        let at = |name: &str| folder.path().join(name);
        fs::copy(at("id.pub"), at("authorized")).expect("no key");
        // A server that runs as root wants this folder.
        let _ = fs::create_dir_all("/run/sshd");
        let config = format!(
            "{extra}\nSetEnv HOME={}\nHostKey {}\nAuthorizedKeysFile {}\nStrictModes no\nUsePAM no\nPidFile none\nPermitRootLogin yes\n\
             PasswordAuthentication no\nKbdInteractiveAuthentication no\nMaxStartups 1000\nSubsystem sftp internal-sftp\n",
            // What the shell of whoever runs this test does first is no part of it.
            folder.path().display(),
            at("host").display(),
            at("authorized").display(),
        );
        fs::write(at("sshd_config"), config).expect("no configuration");
        let listener = TcpListener::bind("127.0.0.1:0").expect("no port");
        let port = listener.local_addr().expect("no address").port();
        let wire = Arc::new(Wire {
            over: AtomicBool::new(false),
            held: AtomicBool::new(false),
            left: AtomicI64::new(-1),
            lives: Mutex::default(),
            children: Mutex::new(Vec::new()),
        });
        let (shared, config) = (Arc::clone(&wire), at("sshd_config"));
        thread::spawn(move || serve(&listener, &shared, &config));
        let sshd = Self { folder, port, wire };
        fs::write(sshd.folder().join("known_hosts"), sshd.known_line()).expect("no known_hosts");
        fs::write(sshd.config(), sshd.client("")).expect("no configuration");
        sshd
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// A configuration of the client in which `there` is this server.
    pub fn config(&self) -> PathBuf {
        self.folder().join("ssh_config")
    }

    /// Its text; `extra` lines count before the rest.
    pub fn client(&self, extra: &str) -> String {
        format!(
            "Host there\n{extra}\nHostName 127.0.0.1\nPort {}\nIdentityFile {}\nUserKnownHostsFile {}\n\
             GlobalKnownHostsFile /dev/null\nIdentityAgent none\n",
            self.port,
            self.folder().join("id").display(),
            self.folder().join("known_hosts").display()
        )
    }

    /// What known_hosts has to say of it.
    pub fn known_line(&self) -> String {
        let key = fs::read_to_string(self.folder().join("host.pub")).expect("no host key");
        format!("[127.0.0.1]:{} {key}", self.port)
    }

    /// Cuts every connection once so many bytes more have come from the server.
    pub fn cut_after(&self, bytes: i64) {
        self.wire.left.store(bytes, Ordering::SeqCst);
    }

    /// Cuts each of the next connections once so many bytes have come from the server; those that follow live.
    pub fn cut_each(&self, lives: impl IntoIterator<Item = i64>) {
        self.wire.lives.lock().expect("poisoned").extend(lives);
    }

    /// Cuts none of the connections to come.
    pub fn forget_cuts(&self) {
        self.wire.lives.lock().expect("poisoned").clear();
    }

    /// Connections that are still to be cut.
    pub fn to_cut(&self) -> usize {
        self.wire.lives.lock().expect("poisoned").len()
    }

    /// How many of these bytes are left.
    pub fn left(&self) -> i64 {
        self.wire.left.load(Ordering::SeqCst)
    }

    /// The bytes are spent.
    pub fn is_cut(&self) -> bool {
        self.left() == 0
    }

    /// Lets connections live again.
    pub fn mend(&self) {
        self.wire.left.store(-1, Ordering::SeqCst);
    }

    /// Holds everything on the wire, in silence.
    pub fn hold(&self, held: bool) {
        self.wire.held.store(held, Ordering::SeqCst);
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        self.wire.over.store(true, Ordering::SeqCst);
        // The thread waits in accept.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
        for child in self.wire.children.lock().expect("poisoned").iter_mut() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A pair of keys at `path` and `path.pub`.
pub fn keygen(path: &Path, passphrase: &str) {
    let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", passphrase, "-f"]).arg(path).status();
    assert!(made.expect("openssh-client is needed").success());
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("no permissions");
}

fn serve(listener: &TcpListener, wire: &Arc<Wire>, config: &Path) {
    for client in listener.incoming().flatten() {
        if wire.over.load(Ordering::SeqCst) {
            return;
        }
        let (ours, theirs) = pair();
        // Small packets go at once, as they do without this wire between.
        for end in [&client, &ours, &theirs] {
            end.set_nodelay(true).expect("no wire");
        }
        let (stdin, stdout): (OwnedFd, OwnedFd) = (theirs.try_clone().expect("no descriptor").into(), theirs.into());
        let log =
            fs::File::options().create(true).append(true).open(config.with_file_name("sshd.log")).expect("no log");
        let mut sshd = Command::new("/usr/sbin/sshd");
        sshd.arg("-i")
            .arg("-e")
            .arg("-f")
            .arg(config)
            .stdin(Stdio::from(stdin))
            .stdout(Stdio::from(stdout))
            .stderr(log);
        let child = sshd.spawn().expect("openssh-server is needed");
        wire.children.lock().expect("poisoned").push(child);
        let (up, down) = ((client.try_clone(), ours.try_clone()), Arc::clone(wire));
        let (Ok(client_copy), Ok(ours_copy)) = up else { continue };
        let upward = Arc::clone(wire);
        let life = wire.lives.lock().expect("poisoned").pop_front();
        thread::spawn(move || carry(client_copy, ours_copy, &upward, None, false));
        thread::spawn(move || carry(ours, client, &down, life, true));
    }
}

/// Two ends of a connection; a socket pair of TCP, since sshd asks for the peer's address.
fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("no port");
    let ours = TcpStream::connect(listener.local_addr().expect("no address")).expect("no connection");
    (ours, listener.accept().expect("no connection").0)
}

fn carry(mut from: TcpStream, mut to: TcpStream, wire: &Wire, mut life: Option<i64>, counted: bool) {
    let mut bytes = vec![0; 64 << 10];
    while let Ok(len @ 1..) = from.read(&mut bytes) {
        while wire.held.load(Ordering::SeqCst) && !wire.over.load(Ordering::SeqCst) {
            thread::sleep(Duration::from_millis(5));
        }
        let mut len = len;
        let left = wire.left.load(Ordering::SeqCst);
        let dies = life.is_some_and(|life| i64::try_from(len).unwrap_or(i64::MAX) >= life);
        if let Some(life) = &mut life {
            len = len.min(usize::try_from(*life).unwrap_or(0));
            *life -= i64::try_from(len).unwrap_or(0);
        }
        let cut = dies || counted && left >= 0 && i64::try_from(len).unwrap_or(i64::MAX) >= left;
        if counted && left >= 0 {
            len = len.min(usize::try_from(left).unwrap_or(0));
            wire.left.fetch_sub(i64::try_from(len).unwrap_or(0), Ordering::SeqCst);
        }
        if to.write_all(&bytes[..len]).is_err() || cut {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}
