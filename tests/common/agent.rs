//! The guest's agent as tests see it: asked past impound, and with somebody in between who holds back or spoils what it says.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::Value;

use super::guest::{Guest, wait_for, wait_until};

/// A busy machine has been seen to take twenty times as long as a quiet one.
const WITHIN: Duration = Duration::from_secs(60);

/// QEMU's arguments for a channel with its socket in `folder`.
pub fn channel(socket: &Path) -> Vec<String> {
    let chardev = format!("socket,id=agent0,path={},server=on,wait=off", socket.display());
    let port = "virtserialport,chardev=agent0,name=org.qemu.guest_agent.0";
    ["-device", "virtio-serial-pci", "-chardev", &chardev, "-device", port].map(str::to_owned).to_vec()
}

/// Asks the agent one thing, by a connection of the test's own.
pub fn ask(socket: &Path, command: &str) -> Result<Value> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(WITHIN))?;
    stream.write_all(b"\xff{\"execute\":\"guest-sync-delimited\",\"arguments\":{\"id\":1234567}}\n")?;
    let mut lines = BufReader::new(stream.try_clone()?);
    let mut line = Vec::new();
    while !line.ends_with(b"{\"return\": 1234567}\n") {
        line.clear();
        ensure!(lines.read_until(b'\n', &mut line)? > 0, "the channel was closed");
    }
    stream.write_all(format!("{{\"execute\":\"{command}\"}}\n").as_bytes())?;
    line.clear();
    lines.read_until(b'\n', &mut line)?;
    Ok(serde_json::from_slice(&line)?)
}

/// Waits until the guest's file systems are as said, by the agent's own words.
pub fn wait_for_state(socket: &Path, state: &str) -> Result<()> {
    // Whoever was before us on the channel may not be gone yet.
    let is = || ask(socket, "guest-fsfreeze-status").is_ok_and(|answer| answer["return"] == state);
    wait_until(is, WITHIN, &format!("file systems that are {state}"))
}

/// Writes to vda that ended so far.
pub fn written(guest: &Guest) -> usize {
    guest.serial().matches("impound-written").count()
}

/// The guest writes to its disk.
pub fn writes(guest: &Guest) -> Result<()> {
    let before = written(guest);
    wait_until(|| written(guest) > before + 2, WITHIN, "the guest to write")
}

/// The guest runs, and no write ends.
pub fn only_its_disk_stands_still(guest: &Guest) -> Result<()> {
    let hears = |number: u32| -> Result<()> {
        guest.type_in(format!("echo hears-$(({number} + 1000))\n").as_bytes())?;
        wait_until(|| guest.serial().contains(&format!("hears-{}", number + 1000)), WITHIN, "the guest to answer")
    };
    hears(0)?;
    let before = written(guest);
    for number in 1..30 {
        hears(number)?;
    }
    ensure!(written(guest) == before, "a write ended while file systems were frozen");
    Ok(())
}

/// What is done to the words of the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Does {
    Nothing,
    /// The answer to a freeze never comes on the connection that asked.
    Holds,
    /// It freezes and says that it could not.
    Fails,
    /// Nothing is answered at all.
    Silence,
}

/// Somebody who has the channel's name, while QEMU's own socket has another.
pub struct Between {
    named: PathBuf,
    real: PathBuf,
    shared: Arc<Shared>,
}

struct Shared {
    does: AtomicU8,
    frozen: AtomicBool,
    over: AtomicBool,
}

impl Between {
    /// Steps between the socket `named` and whoever connects to it.
    pub fn step(named: &Path, does: Does) -> Result<Self> {
        let real = named.with_extension("real");
        fs::rename(named, &real)?;
        let listener = UnixListener::bind(named)?;
        let (does, frozen, over) = (AtomicU8::new(does as u8), AtomicBool::new(false), AtomicBool::new(false));
        let shared = Arc::new(Shared { does, frozen, over });
        let (to, seen) = (real.clone(), Arc::clone(&shared));
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if seen.over.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(agent) = UnixStream::connect(&to) else { continue };
                carry(client, agent, &seen);
            }
        });
        Ok(Self { named: named.to_owned(), real, shared })
    }

    /// Does something else from the next connection on.
    pub fn now(&self, does: Does) {
        self.shared.does.store(does as u8, Ordering::SeqCst);
    }

    /// Waits until the agent has frozen everything, which only we have heard.
    pub fn wait_until_frozen(&self, mut ended: impl FnMut() -> bool) -> Result<()> {
        wait_for(WITHIN, "the freeze", || {
            ensure!(!ended(), "the run ended before the freeze");
            Ok(self.shared.frozen.load(Ordering::SeqCst).then_some(()))
        })
    }

    /// QEMU's own socket.
    pub fn real(&self) -> &Path {
        &self.real
    }
}

impl Drop for Between {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::SeqCst);
        let _ = UnixStream::connect(&self.named);
        let _ = fs::rename(&self.real, &self.named);
    }
}

fn carry(client: UnixStream, agent: UnixStream, shared: &Arc<Shared>) {
    let does = shared.does.load(Ordering::SeqCst);
    let is = move |other: Does| does == other as u8;
    let (Ok(client_end), Ok(agent_end)) = (client.try_clone(), agent.try_clone()) else { return };
    let asked = Arc::new(AtomicBool::new(false));
    let freezes = Arc::clone(&asked);
    thread::spawn(move || {
        let _ = lines(&client_end, agent_end, |line| {
            freezes.store(contains(line, b"fsfreeze-freeze"), Ordering::SeqCst);
            !is(Does::Silence)
        });
    });
    let shared = Arc::clone(shared);
    thread::spawn(move || {
        let _ = lines(&agent, client, |line| {
            if !asked.load(Ordering::SeqCst) {
                return true;
            }
            shared.frozen.store(true, Ordering::SeqCst);
            if is(Does::Fails) {
                *line = b"{\"error\": {\"class\": \"GenericError\", \"desc\": \"no\\u001b[2J way\"}}\n".to_vec();
            }
            !is(Does::Holds)
        });
    });
}

fn contains(line: &[u8], word: &[u8]) -> bool {
    line.windows(word.len()).any(|part| part == word)
}

/// Carries lines that `passes` lets pass. At the end both ends are closed.
fn lines(from: &UnixStream, mut to: UnixStream, mut passes: impl FnMut(&mut Vec<u8>) -> bool) -> Result<()> {
    let mut reader = BufReader::new(from.try_clone()?);
    let mut line = Vec::new();
    while matches!(reader.read_until(b'\n', &mut line), Ok(1..)) {
        if passes(&mut line) && to.write_all(&line).is_err() {
            break;
        }
        line.clear();
    }
    let _ = to.shutdown(std::net::Shutdown::Both);
    let _ = from.shutdown(std::net::Shutdown::Both);
    Ok(())
}
