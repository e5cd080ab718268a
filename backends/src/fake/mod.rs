//! `fake:NAME?OPTIONS`: a scripted VM without a hypervisor, for tests and for training.
//!
//! It has memory and disks whose bytes follow from their addresses ([`content`]), can be stopped and resumed, refuses a second
//! run, leaves snapshots behind until it is tidied up, and fails exactly where it is told to. Every call is recorded
//! in the VM's [`State`].
//!
//! ```console
//! $ impound acquire "fake:web01?memory=64M&disk=16M&state=$PWD/web01.json" --case demo --memory --disk all
//! ```
//!
//! Options, all optional, in any order, joined by `&`:
//!
//! - `memory=64M`, `hole=16M+4M`: size of memory (0: none), and a hole in its addresses.
//! - `disk=16M`: a disk; again for more: `vda`, `vdb`, …
//! - `piece=64K`, `order=ascending|descending|random`, `slow=MS`: how pieces come, and a pause before each.
//! - `run=running|paused`: how the guest is found, the first time. `freezer=no`: it cannot be stopped.
//! - `state=PATH`: the VM's state lives in this file and outlives the process; otherwise it lives as long as the process.
//! - `fail=CALL:N`: the Nth call of `CALL` (counted in the VM's state) fails before it has any effect; `late=CALL:N`: after
//!   it had; `hang=CALL:N`: never returns; `abort=CALL:N`: the process dies there, as by a kill. Calls: `connect`, `targets`,
//!   `open`, `describe`, `items`, `plan`, `prepare`, `begin`, `finish`, `recover`, `freeze`, `thaw`.
//! - `gap=ITEM:1M+64K`: a range that cannot be read. `double=ITEM:1M`: the piece there comes twice. `short=ITEM:1M`: the
//!   stream ends after so many bytes. `error=ITEM:1M`: it breaks after so many. `stuck=ITEM:1M`: nothing comes any more.
//!
//! Sizes take `K`, `M`, `G`.

pub mod content;
mod script;
mod state;
mod target;

use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;

use crate::{Access, Backend, BackendError, Finding, Host, Target, TargetSummary, Uri, WireEntry, WireLog};
use script::Script;
pub use state::{State, state};
use target::FakeTarget;

/// The `fake` backend.
#[derive(Debug)]
pub struct Fake;

#[async_trait]
impl Backend for Fake {
    fn scheme(&self) -> &'static str {
        "fake"
    }

    fn about(&self) -> &'static str {
        "a scripted VM for tests and training: fake:web01?memory=64M&disk=16M"
    }

    fn tested_against(&self) -> &'static str {
        "itself"
    }

    async fn connect(&self, uri: &Uri, access: &Access) -> Result<Box<dyn Host>, BackendError> {
        let vm = Vm { script: Arc::new(Script::parse(&uri.rest)?), wire: Arc::clone(&access.wire) };
        vm.call("connect").await?;
        vm.late("connect")?;
        Ok(Box::new(FakeHost(vm)))
    }

    async fn checkup(&self, uri: Option<&Uri>, _access: &Access) -> Vec<Finding> {
        let what = "read the script of the fake VM".to_owned();
        match uri.map(|uri| Script::parse(&uri.rest)) {
            None => Vec::new(),
            Some(Ok(script)) => vec![Finding { what, good: true, found: script.name, fix: None }],
            Some(Err(error)) => vec![Finding { what, good: false, found: error.why, fix: error.advice }],
        }
    }
}

/// A connection to the scripted VM; clones are the same VM.
#[derive(Clone)]
struct Vm {
    script: Arc<Script>,
    wire: Arc<dyn WireLog>,
}

impl Vm {
    /// Records a call, and does what the script says of it before it has any effect.
    async fn call(&self, name: &'static str) -> Result<(), BackendError> {
        let count = self.change(|state| state.record(name))?;
        let failed = self.script.is("fail", name, count);
        self.wire.entry(WireEntry {
            sent: Timestamp::now(),
            answered: Some(Timestamp::now()),
            said: format!("fake: {name}"),
            answer_len: 0,
            answer_digest: String::new(),
            error: failed.then(|| "the script says so".into()),
            http: None,
        });
        if self.script.is("abort", name, count) {
            std::process::abort();
        }
        if self.script.is("hang", name, count) {
            std::future::pending::<()>().await;
        }
        if failed { Err(self.broken(name, count)) } else { Ok(()) }
    }

    /// After a call had its effect: does the script say that it fails now?
    fn late(&self, name: &'static str) -> Result<(), BackendError> {
        let count = state::read(&self.script)?.count(name);
        if self.script.is("late", name, count) { Err(self.broken(name, count)) } else { Ok(()) }
    }

    fn broken(&self, name: &str, count: usize) -> BackendError {
        let why = std::io::Error::other(format!("the script says that call {count} fails"));
        BackendError::io(name, format!("fake VM {}", self.script.name), &why)
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> Result<T, BackendError> {
        state::change(&self.script, change)
    }
}

struct FakeHost(Vm);

#[async_trait]
impl Host for FakeHost {
    async fn targets(&mut self) -> Result<Vec<TargetSummary>, BackendError> {
        self.0.call("targets").await?;
        let script = &self.0.script;
        let summary = TargetSummary {
            name: script.name.clone(),
            id: None,
            state: state::read(script)?.run,
            memory: Some(script.memory),
            cpus: Some(1),
        };
        self.0.late("targets")?;
        Ok(vec![summary])
    }

    async fn open(&mut self, vm: Option<&str>) -> Result<Box<dyn Target>, BackendError> {
        self.0.call("open").await?;
        let name = &self.0.script.name;
        if let Some(other) = vm.filter(|vm| vm != name) {
            return Err(BackendError::caller("open a VM", other, format!("there is only `{name}`")));
        }
        self.0.late("open")?;
        Ok(Box::new(FakeTarget::new(self.0.clone())))
    }
}

#[cfg(test)]
mod tests;
