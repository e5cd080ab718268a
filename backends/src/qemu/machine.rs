//! The machine that QEMU runs on, where no descriptor can be passed to it: another one over SSH, or this one behind a
//! daemon. There, sockets, ports and files have names, and small scripts for `sh` do what needs doing.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Command as Process, Stdio};

use tokio::net::{TcpListener, UnixStream};

#[cfg(feature = "ssh")]
use crate::wire::ssh::{Command, Destination, Ssh, Waiting};
use crate::{BackendError, Kind};

/// Free bytes in the folder for overlays below which nothing is begun, and below which it is ended: a full overlay would
/// make QEMU fail the *guest's* writes. More than on this machine, since it is looked at less often.
pub(super) const RESERVE: u64 = 256 << 20;

/// See the module.
#[derive(Clone)]
pub(super) enum Machine {
    /// This one.
    Here,
    /// Another one.
    #[cfg(feature = "ssh")]
    There(There),
}

/// A machine over SSH.
#[cfg(feature = "ssh")]
#[derive(Clone)]
pub(super) struct There {
    /// For the monitor and what has to be answered quickly.
    pub(super) control: Ssh,
    /// For what is large.
    pub(super) bulk: Ssh,
    pub(super) to: Destination,
    pub(super) access: crate::Access,
}

/// A port on that machine's loopback that takes one connection.
pub(super) enum Port {
    Here(TcpListener),
    #[cfg(feature = "ssh")]
    There(Waiting),
}

impl Port {
    pub(super) fn number(&self) -> u16 {
        match self {
            Self::Here(listener) => listener.local_addr().map_or(0, |address| address.port()),
            #[cfg(feature = "ssh")]
            Self::There(waiting) => waiting.port,
        }
    }

    /// The first connection, as a descriptor that does not block.
    pub(super) async fn accept(self) -> Result<OwnedFd, BackendError> {
        let broke = |e: std::io::Error| BackendError::io("take QEMU's connection", "127.0.0.1", &e);
        match self {
            Self::Here(listener) => {
                let (stream, _) = listener.accept().await.map_err(broke)?;
                Ok(stream.into_std().map_err(broke)?.into())
            }
            #[cfg(feature = "ssh")]
            Self::There(waiting) => Ok(waiting.accept().await?.into_std().map_err(broke)?.into()),
        }
    }
}

impl Machine {
    /// What it is called in messages.
    pub(super) fn name(&self) -> &str {
        match self {
            Self::Here => "this machine",
            #[cfg(feature = "ssh")]
            Self::There(there) => there.control.name(),
        }
    }

    /// Connects to a unix socket of that machine, for much data.
    pub(super) async fn socket(&self, path: &str) -> Result<UnixStream, BackendError> {
        match self {
            Self::Here => {
                UnixStream::connect(path).await.map_err(|e| BackendError::io("connect to the socket", path, &e))
            }
            #[cfg(feature = "ssh")]
            Self::There(there) => there.bulk.socket(path).await,
        }
    }

    /// Opens a port on that machine's loopback.
    pub(super) async fn listen(&self) -> Result<Port, BackendError> {
        match self {
            Self::Here => {
                let listener = TcpListener::bind("127.0.0.1:0").await;
                listener.map(Port::Here).map_err(|e| BackendError::io("listen for QEMU", "127.0.0.1", &e))
            }
            // A connection of its own: what comes back is taken in whether or not somebody reads it.
            #[cfg(feature = "ssh")]
            Self::There(there) => Ok(Port::There(Ssh::connect(&there.to, &there.access).await?.listen().await?)),
        }
    }

    /// Runs a fixed script there; an error unless it ends well. `what` is what it is for, as "make a folder".
    pub(super) async fn run(&self, what: &str, text: &'static str, args: &[&str]) -> Result<String, BackendError> {
        match self {
            Self::Here => {
                let mut sh = Process::new("sh");
                sh.args(["-c", text, "impound"]).args(args).stdin(Stdio::null());
                let output = tokio::task::spawn_blocking(move || sh.output()).await;
                let broke = |e: std::io::Error| BackendError::io(what, "sh", &e);
                let output = output.map_err(|e| broke(std::io::Error::other(e)))?.map_err(broke)?;
                if output.status.success() {
                    return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
                }
                let words = String::from_utf8_lossy(&output.stderr);
                Err(BackendError::new(Kind::Io, what, self.name(), words.trim().escape_debug().to_string()))
            }
            #[cfg(feature = "ssh")]
            Self::There(there) => {
                let command = Command::script(text).args(args.iter().copied());
                let answer = there.control.run(&command).await?;
                if answer.ending.good() {
                    return Ok(answer.text());
                }
                Err(BackendError::new(Kind::Io, what, self.name(), answer.ending.told()))
            }
        }
    }

    /// A folder for sockets and overlays that QEMU, whose process or thread is `tid`, can write to and nobody else but root.
    pub(super) async fn make_folder(&self, folder: &str, tid: i32) -> Result<(), BackendError> {
        let what = format!("make the folder {}", folder.escape_debug());
        self.run(&what, MAKE_FOLDER, &[folder, &tid.to_string()]).await.map(drop)
    }

    /// Takes such a folder away, with the names that were made in it. One that is gone is fine.
    pub(super) async fn remove_folder(&self, folder: &str) -> Result<(), BackendError> {
        let what = format!("take the folder {} away", folder.escape_debug());
        self.run(&what, REMOVE_FOLDER, &[folder]).await.map(drop)
    }

    /// Opens a file in such a folder, takes both names away, and hands the bytes out as they come. What is short is so without
    /// an error: the reader knows how much there is.
    pub(super) async fn take_file(&self, path: &str, folder: &str) -> Result<OwnedFd, BackendError> {
        let broke = |e: std::io::Error| BackendError::io("read a file", path, &e);
        match self {
            Self::Here => {
                let file = std::fs::File::open(path).map_err(broke)?;
                self.remove_folder(folder).await?;
                Ok(file.into())
            }
            #[cfg(feature = "ssh")]
            Self::There(there) => {
                let mut running = there.bulk.stream(&Command::script(TAKE_FILE).args([path, folder])).await?;
                let (ours, theirs) = std::os::unix::net::UnixStream::pair().map_err(broke)?;
                theirs.set_nonblocking(true).and_then(|()| ours.set_nonblocking(true)).map_err(broke)?;
                let mut to = UnixStream::from_std(theirs).map_err(broke)?;
                tokio::spawn(async move {
                    if tokio::io::copy(&mut running, &mut to).await.is_ok() {
                        let _ = running.end().await;
                    }
                });
                Ok(ours.into())
            }
        }
    }

    /// Free bytes where a folder is.
    pub(super) async fn free(&self, folder: &str) -> Result<u64, BackendError> {
        let what = format!("look for free space in {}", folder.escape_debug());
        let text = self.run(&what, FREE, &[folder]).await?;
        let kib = text.trim().parse::<u64>();
        let kib = kib.map_err(|_| BackendError::corrupt(what, self.name(), "what df says", "a number", text.trim()))?;
        Ok(kib.saturating_mul(1024))
    }

    /// Is QEMU the one that connected to a port? Any local user of that machine could have been first.
    pub(super) async fn connected_by(&self, port: u16, tid: i32) -> Result<Whose, BackendError> {
        let args = [port.to_string(), tid.to_string()];
        let text = self.run("see who connected to the port", WHOSE, &[&args[0], &args[1]]).await?;
        Ok(match text.trim() {
            "qemu" => Whose::Qemu,
            "other" => Whose::Other,
            _ => Whose::Unknown,
        })
    }
}

/// Who connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whose {
    Qemu,
    Other,
    /// It cannot be seen: another user's process, or the connection is over.
    Unknown,
}

/// Where overlays go on that machine unless said: on a disk, which `/tmp` may not be.
pub(super) fn scratch(asked: Option<&PathBuf>) -> String {
    asked.map_or_else(|| "/var/tmp".to_owned(), |folder| folder.display().to_string())
}

// `mkdir` makes no folder where something has the name already, so nobody can have prepared it.
const MAKE_FOLDER: &str = r#"
mkdir -m 700 -- "$1" || exit 1
while read -r key _ uid _; do [ "$key" = Uid: ] && break; done <"/proc/$2/status"
[ "$uid" = "$(id -u)" ] || chown -- "$uid" "$1" || { rmdir -- "$1"; exit 1; }
"#;

const REMOVE_FOLDER: &str = r#"
[ -d "$1" ] && [ ! -L "$1" ] || exit 0
rm -f -- "$1"/nbd.sock "$1"/overlay[0-9]* "$1"/memory.elf && rmdir -- "$1"
"#;

const TAKE_FILE: &str = r#"exec 3<"$1" && rm -f -- "$1" && rmdir -- "$2" && exec cat <&3"#;

const FREE: &str = r#"df -kP -- "$1" | while read -r _ _ _ free _; do echo "$free"; done | tail -n 1"#;

// Source: Linux Documentation/networking/proc_net_tcp.rst. Addresses stand there as numbers of the machine's byte order.
const WHOSE: &str = r#"
port=$(printf %04X "$1")
connected() {
    while read -r _ _ to state _ _ _ _ _ inode _; do
        case "$to $state" in 0100007F:"$port 01"|7F000001:"$port 01") echo "$inode"; return; esac
    done </proc/net/tcp
}
ls "/proc/$2/fd" >/dev/null 2>&1 || { echo unknown; exit 0; }
socket=$(connected)
[ -n "$socket" ] || { echo unknown; exit 0; }
if ls -l "/proc/$2/fd" | grep -F "socket:[$socket]" >/dev/null; then echo qemu; exit 0; fi
# A short stream may have ended in between: somebody else's is still there.
if [ "$(connected)" = "$socket" ]; then echo other; else echo unknown; fi
"#;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn me() -> i32 {
        i32::try_from(std::process::id()).unwrap()
    }

    #[tokio::test]
    async fn a_folder_is_made_once_for_qemu_alone_and_goes_with_what_was_made_in_it() {
        let temp = tempfile::tempdir().unwrap();
        let folder = temp.path().join("impound-it's x").display().to_string();
        Machine::Here.make_folder(&folder, me()).await.unwrap();
        assert_eq!(fs::metadata(&folder).unwrap().permissions().mode() & 0o7777, 0o700);
        assert!(Machine::Here.make_folder(&folder, me()).await.unwrap_err().why.contains("exists"));
        fs::write(format!("{folder}/overlay0"), "x").unwrap();
        fs::write(format!("{folder}/not-ours"), "x").unwrap();
        assert!(Machine::Here.remove_folder(&folder).await.is_err(), "what is not ours stays");
        fs::remove_file(format!("{folder}/not-ours")).unwrap();
        Machine::Here.remove_folder(&folder).await.unwrap();
        assert!(!fs::exists(&folder).unwrap());
        Machine::Here.remove_folder(&folder).await.unwrap();
        // A link that somebody put there leads nowhere.
        fs::create_dir(temp.path().join("theirs")).unwrap();
        fs::write(temp.path().join("theirs/overlay0"), "x").unwrap();
        std::os::unix::fs::symlink(temp.path().join("theirs"), &folder).unwrap();
        Machine::Here.remove_folder(&folder).await.unwrap();
        assert!(fs::exists(temp.path().join("theirs/overlay0")).unwrap());
    }

    #[tokio::test]
    async fn free_space_is_what_the_file_system_says() {
        let free = Machine::Here.free("/proc/self").await.unwrap();
        assert_eq!(free, 0);
        let state = rustix::fs::statvfs("/").unwrap();
        let real = state.f_bavail * state.f_frsize;
        let told = Machine::Here.free("/").await.unwrap();
        assert!(told.abs_diff(real) < 4 << 30, "{told} and {real}");
        assert!(Machine::Here.free("/nowhere").await.is_err());
    }

    #[tokio::test]
    async fn whoever_connects_to_the_port_is_recognised() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        assert_eq!(Machine::Here.connected_by(port, me()).await.unwrap(), Whose::Unknown);
        let _mine = TcpStream::connect(("127.0.0.1", port)).unwrap();
        assert_eq!(Machine::Here.connected_by(port, me()).await.unwrap(), Whose::Qemu);
        let mut other = Process::new("sleep").arg("60").spawn().unwrap();
        let theirs = i32::try_from(other.id()).unwrap();
        assert_eq!(Machine::Here.connected_by(port, theirs).await.unwrap(), Whose::Other);
        other.kill().unwrap();
        other.wait().unwrap();
    }

    #[test]
    fn a_connection_that_ends_while_it_is_looked_at_is_nobody_elses() {
        let temp = tempfile::tempdir().unwrap();
        let [asked, answered] = ["asked", "answered"].map(|name| temp.path().join(name));
        assert!(Process::new("mkfifo").args([&asked, &answered]).status().unwrap().success());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let mine = TcpStream::connect(("127.0.0.1", port)).unwrap();
        // It ends after it was seen and before its owner is looked for.
        let (ask, answer) = (asked.display(), answered.display());
        let script = format!(
            "ls() {{ if [ $# -eq 2 ]; then echo >'{ask}'; read -r _ <'{answer}'; fi; command ls \"$@\"; }}\n{WHOSE}"
        );
        let look = Process::new("sh")
            .args(["-c", &script, "sh", &port.to_string(), &me().to_string()])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        fs::read(&asked).unwrap();
        drop(mine);
        fs::write(&answered, "\n").unwrap();
        assert_eq!(look.wait_with_output().unwrap().stdout, b"unknown\n");
    }
}
