//! What a fake VM remembers: in a file that outlives the process, or in this process under its name.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::script::Script;
use crate::BackendError;

/// The longest state file read, in bytes.
const MOST: u64 = 16 << 20;

/// The state of a fake VM.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// `running` or `paused`.
    pub run: String,
    /// Who has it, if someone has.
    pub holder: Option<String>,
    /// Snapshots that are there.
    pub snapshots: Vec<String>,
    /// Every call ever made, in order.
    pub calls: Vec<String>,
}

impl State {
    /// Records a call, and tells how many of its name there were.
    pub(super) fn record(&mut self, name: &str) -> usize {
        self.calls.push(name.to_owned());
        self.count(name)
    }

    /// How often `name` was called.
    pub fn count(&self, name: &str) -> usize {
        self.calls.iter().filter(|call| *call == name).count()
    }

    fn new(script: &Script) -> Self {
        Self { run: script.run.clone(), ..Self::default() }
    }
}

/// VMs without a state file, by name.
static HERE: Mutex<BTreeMap<String, State>> = Mutex::new(BTreeMap::new());

/// The state of the VM called `name` in this process, if it was ever reached without a state file. For tests.
pub fn state(name: &str) -> Option<State> {
    HERE.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
}

/// The state now.
pub(super) fn read(script: &Script) -> Result<State, BackendError> {
    change(script, |state| state.clone())
}

/// Changes the state. One process at a time: a state file has no lock.
pub(super) fn change<T>(script: &Script, change: impl FnOnce(&mut State) -> T) -> Result<T, BackendError> {
    let mut here = HERE.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(path) = &script.state else {
        return Ok(change(here.entry(script.name.clone()).or_insert_with(|| State::new(script))));
    };
    let on = path.display().to_string();
    let before = load(path).map_err(|error| BackendError::io("read the state of the fake VM", &on, &error))?;
    let mut state = before.clone().unwrap_or_else(|| State::new(script));
    let answer = change(&mut state);
    if before.as_ref() != Some(&state) {
        save(path, &state).map_err(|error| BackendError::io("write the state of the fake VM", &on, &error))?;
    }
    Ok(answer)
}

fn load(path: &Path) -> io::Result<Option<State>> {
    let file = match fs::File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        result => result?,
    };
    let mut text = String::new();
    file.take(MOST).read_to_string(&mut text)?;
    serde_json::from_str(&text).map(Some).map_err(io::Error::from)
}

/// Replaces the file as a whole, so that a kill leaves the old or the new.
fn save(path: &Path, state: &State) -> io::Result<()> {
    let mut file = tempfile::NamedTempFile::new_in(path.parent().unwrap_or(Path::new("/")))?;
    file.write_all(&serde_json::to_vec_pretty(state)?)?;
    file.persist(path)?;
    Ok(())
}
