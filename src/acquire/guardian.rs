//! A second process that lets the guest go if this one dies while the guest stands still.
//!
//! It is this program again, started just before the freeze and sent away after the thaw. It waits on a pipe: "done" sends
//! it away, and a pipe that closes without it means that nobody is left to thaw. Then it undoes, by the run's journal, what
//! holds the guest, and nothing else; the rest is for `impound case recover`.

use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use impound_backends::{Access, BackendError, Undo, Uri, for_uri};

use super::Request;
use crate::case::{Case, CaseError, open_runs};

/// What is said to send it away.
const DONE: &[u8] = b"done";
/// How long it tries, if the hypervisor does not answer at first.
const TRY_FOR: Duration = Duration::from_secs(300);
/// Between the first two tries; twice as long after each, to this.
const PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// The guardian of a run, seen from the run.
pub(super) struct Guardian(Child);

impl Guardian {
    /// Starts it. `program` is this program; in a process group of its own, so that what is sent to the run's group does
    /// not reach it.
    pub(super) fn start(program: &Path, request: &Request, run: &str) -> Result<Self, CaseError> {
        let child = Command::new(program)
            .arg("guardian")
            .args([request.case.dir(), Path::new(run)])
            .args(request.access.ssh_config.iter().flat_map(|file| [Path::new("--ssh-config"), file]))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .process_group(0)
            .spawn();
        child.map(Self).map_err(CaseError::io("start a guardian for the guest", program))
    }

    /// Sends it away: the guest runs again.
    pub(super) fn dismiss(mut self) {
        if let Some(mut to) = self.0.stdin.take() {
            // If it is gone already there is nobody to send away.
            let _ = to.write_all(DONE);
        }
        let _ = self.0.wait();
    }
}

/// The guardian's own work. Answers what it undid, a line each; nothing if it was sent away.
pub fn stand_guard(case: &Path, run: &str, access: &Access) -> Result<Vec<String>, super::AcquireError> {
    let mut said = Vec::new();
    // A broken pipe is a closed pipe.
    let _ = io::stdin().lock().take(64).read_to_end(&mut said);
    if said == DONE {
        return Ok(Vec::new());
    }
    let case = Case::open(case)?;
    let (begun, mut pause) = (Instant::now(), PAUSE);
    loop {
        let found = open_runs(&case)?.into_iter().find(|open| open.run == run);
        let Some(open) = found else { return Ok(Vec::new()) };
        let urgent: Vec<Undo> = open.undo.into_iter().filter(|undo| undo.holds_guest).collect();
        if urgent.is_empty() {
            return Ok(Vec::new());
        }
        if !open.alive {
            match undo(&open.target, &urgent, access) {
                Err(error) if begun.elapsed() > TRY_FOR => return Err(error.into()),
                Err(_) => pause = (pause * 2).min(LONGEST_PAUSE),
                Ok(did) => return Ok(did),
            }
        }
        std::thread::sleep(pause);
    }
}

fn undo(target: &str, urgent: &[Undo], access: &Access) -> Result<Vec<String>, BackendError> {
    let uri: Uri = target.parse()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|e| BackendError::io("start the async runtime", target, &e))?;
    runtime.block_on(async {
        let mut host = for_uri(&uri)?.connect(&uri, access).await?;
        host.open(uri.vm.as_deref()).await?.recover(urgent).await
    })
}
