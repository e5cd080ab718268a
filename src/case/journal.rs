//! The journals of a run: what it began on the hypervisor (`journal/RUN.jsonl`), and what was said
//! (`journal/RUN.wire.jsonl`).
//!
//! A run holds a lock on its journal while it lives. A journal that is not locked and not ended belongs to a killed run.

use std::collections::{BTreeMap, HashSet};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use impound_backends::{ActId, Journal, Undo, WireEntry, WireLog};
use jiff::Timestamp;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use super::custody::{Event, EventKind, Head, LINE_LIMIT, Lines, Log, NewEvent};
use super::disk::{Disk, open_plain};
use super::{Case, CaseError, digest, names, schema};
use crate::progress::Silent;

/// Which run, against what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunInfo {
    /// Short id: `[a-z0-9]{1,12}`.
    pub run: String,
    /// Address of the target.
    pub target: String,
    /// Who runs it.
    pub who: String,
}

/// One line of a journal.
#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum Line {
    Begun {
        schema: String,
        run: String,
        target: String,
        who: String,
        case: String,
        pid: u32,
        started: Timestamp,
    },
    Act {
        act: u64,
        at: Timestamp,
        #[serde(rename = "do")]
        what: String,
        undo: Undo,
    },
    Done {
        done: u64,
        at: Timestamp,
    },
    Ended {
        ended: Timestamp,
    },
}

/// The journal of a run that lives.
#[derive(Debug)]
pub struct RunJournal {
    case: Case,
    run: RunInfo,
    path: PathBuf,
    file: File,
    next: u64,
    open: HashSet<u64>,
}

impl RunJournal {
    pub(crate) fn begin(case: &Case, run: &RunInfo) -> Result<Self, CaseError> {
        let path = case.journals().join(format!("{}.jsonl", run.run));
        if !(1..=12).contains(&run.run.len()) || !run.run.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
        {
            return Err(CaseError::caller("begin a journal", path, "a run's id is [a-z0-9]{1,12}"));
        }
        if std::fs::symlink_metadata(&path).is_ok() {
            return Err(CaseError::caller("begin a journal", path, "a run of this id has one"));
        }
        // The event first: a journal that no event announces was put there by somebody else.
        let details = serde_json::json!({"target": run.target, "pid": std::process::id()});
        case.custody().append(&[NewEvent::new(EventKind::RunBegun, &run.who).to(&run.run).details(details)])?;
        let file = create(&path)?;
        flock(&file, FlockOperation::NonBlockingLockExclusive)
            .map_err(|errno| CaseError::io("lock the journal", &path)(errno.into()))?;
        let mut journal = Self { case: case.clone(), run: run.clone(), path, file, next: 0, open: HashSet::new() };
        journal.write(&Line::Begun {
            schema: schema::JOURNAL.to_owned(),
            run: run.run.clone(),
            target: run.target.clone(),
            who: run.who.clone(),
            case: case.info().number.clone(),
            pid: std::process::id(),
            started: Timestamp::now(),
        })?;
        case.disk.sync_dir(&case.journals())?;
        Ok(journal)
    }

    /// Acts that were begun and not undone.
    pub fn open_acts(&self) -> usize {
        self.open.len()
    }

    /// The run is over: nothing is left to undo. Its journal and wire log are kept, each with its digest in the log.
    pub fn end(mut self) -> Result<Head, CaseError> {
        self.write(&Line::Ended { ended: Timestamp::now() })?;
        close(&self.case, &self.run.run, &self.run.who, None)
    }

    fn write(&mut self, line: &Line) -> Result<(), CaseError> {
        let mut bytes =
            serde_json::to_vec(line).map_err(|e| CaseError::io("keep the journal", &self.path)(e.into()))?;
        bytes.push(b'\n');
        if bytes.len() > LINE_LIMIT {
            return Err(CaseError::caller(
                "keep the journal",
                &self.path,
                format!("a line is {} bytes long", bytes.len()),
            ));
        }
        self.case.disk.append(&mut self.file, &self.path, &bytes)
    }
}

impl Journal for RunJournal {
    fn about_to(&mut self, act: &str, undo: Undo) -> io::Result<ActId> {
        self.next = self.next.saturating_add(1);
        let line = Line::Act { act: self.next, at: Timestamp::now(), what: act.to_owned(), undo };
        self.write(&line).map_err(io::Error::other)?;
        self.open.insert(self.next);
        Ok(ActId(self.next))
    }

    fn done(&mut self, act: ActId) -> io::Result<()> {
        self.write(&Line::Done { done: act.0, at: Timestamp::now() }).map_err(io::Error::other)?;
        self.open.remove(&act.0);
        Ok(())
    }
}

/// A run that began and whose end the custody log does not know.
#[derive(Debug, Clone, PartialEq)]
pub struct OpenRun {
    /// Its id.
    pub run: String,
    /// Address of its target.
    pub target: String,
    /// Who ran it.
    pub who: String,
    /// Process that ran it, on the machine it ran on.
    pub pid: u32,
    /// When it began.
    pub started: Timestamp,
    /// A process still holds the journal.
    pub alive: bool,
    /// What it began and did not end, in the order of undoing: last first.
    pub undo: Vec<Undo>,
}

/// The runs that are not over, by the custody log. A line that was torn by a crash is left out: its act was not begun.
pub fn open_runs(case: &Case) -> Result<Vec<OpenRun>, CaseError> {
    let log = case.custody().read()?;
    unended(&log)
        .into_iter()
        .map(|event| {
            let run = event.subject.clone().unwrap_or_default();
            let path = case.journals().join(format!("{run}.jsonl"));
            let found = if names::is_safe(&run) && path.exists() { read(&path)? } else { None };
            // Killed before the first line of its journal: nothing was begun.
            Ok(found.unwrap_or_else(|| OpenRun {
                run,
                target: event.details.get("target").and_then(|t| t.as_str()).unwrap_or_default().to_owned(),
                who: event.who.clone(),
                pid: 0,
                started: event.time,
                alive: false,
                undo: Vec::new(),
            }))
        })
        .collect()
}

/// The events of runs that began and did not end.
pub(crate) fn unended(log: &Log) -> Vec<&Event> {
    let ended: HashSet<_> = log.events().filter(|e| e.event == EventKind::RunEnded).map(|e| &e.subject).collect();
    log.events().filter(|e| e.event == EventKind::RunBegun && !ended.contains(&e.subject)).collect()
}

/// Reads one journal; nothing if not even its first line was written.
fn read(path: &Path) -> Result<Option<OpenRun>, CaseError> {
    let file = open_plain(path).map_err(CaseError::io("read the journal", path))?;
    let alive = flock(&file, FlockOperation::NonBlockingLockShared).is_err();
    parse(&file).map(|run| run.map(|run| OpenRun { alive, ..run })).map_err(|why| CaseError::Corrupt {
        on: path.to_owned(),
        at: why.0,
        expected: schema::JOURNAL.to_owned(),
        found: why.1,
    })
}

/// Reads a journal from any source. The error says where and what.
pub fn parse(from: impl io::Read) -> Result<Option<OpenRun>, (String, String)> {
    let mut lines = Lines::new(from);
    let mut run = None;
    let mut open = BTreeMap::new();
    let mut number = 0u64;
    let at = |number: u64| format!("line {number}");
    while let Some((line, whole)) = lines.next().map_err(|error| (at(number), error.to_string()))? {
        number = number.saturating_add(1);
        let parsed = serde_json::from_slice(&line);
        match (parsed, &run) {
            (Ok(Line::Begun { schema, run: id, target, who, pid, started, .. }), None) => {
                if schema != schema::JOURNAL {
                    return Err((at(number), names::plain(&schema)));
                }
                run = Some(OpenRun { run: id, target, who, pid, started, alive: false, undo: Vec::new() });
            }
            (Ok(Line::Act { act, undo, .. }), Some(_)) => drop(open.insert(act, undo)),
            (Ok(Line::Done { done, .. }), Some(_)) => drop(open.remove(&done)),
            (Ok(Line::Ended { .. }), Some(_)) => open.clear(),
            (Err(_), _) if !whole => {}
            (Err(error), _) => return Err((at(number), names::plain(&error.to_string()))),
            _ => return Err((at(number), "a line out of place".to_owned())),
        }
    }
    Ok(run.map(|run| OpenRun { undo: open.into_values().rev().collect(), ..run }))
}

/// Writes into the custody log that a run is over, with the digests of its files. `recovered` says what was undone.
pub(crate) fn close(case: &Case, run: &str, who: &str, recovered: Option<&[String]>) -> Result<Head, CaseError> {
    let mut events = Vec::new();
    for name in [format!("{run}.jsonl"), format!("{run}.wire.jsonl")] {
        let path = case.journals().join(&name);
        if std::fs::symlink_metadata(&path).is_ok() {
            case.disk.settle(&path)?;
            let (_, hash) = digest::file::<sha2::Sha256>(&path, &Silent).map_err(CaseError::io("hash it", &path))?;
            events.push(NewEvent::new(EventKind::Kept, who).to(format!("journal/{name}")).digest(hash));
        }
    }
    let details = recovered.map_or(serde_json::Value::Null, |undone| serde_json::json!({ "recovered": undone }));
    events.push(NewEvent::new(EventKind::RunEnded, who).to(run).details(details));
    case.custody().append(&events)
}

/// The log of everything a run says to the hypervisor. Each line is handed to the system at once; sealing and the end of
/// the run make it durable.
#[derive(Debug)]
pub struct WireFile {
    path: PathBuf,
    state: Mutex<WireState>,
}

#[derive(Debug)]
struct WireState {
    file: File,
    disk: Disk,
    failed: Option<io::Error>,
}

impl WireFile {
    pub(crate) fn begin(case: &Case, run: &RunInfo) -> Result<Self, CaseError> {
        let path = case.journals().join(format!("{}.wire.jsonl", names::safe(&run.run)));
        let file = create(&path)?;
        Ok(Self { path, state: Mutex::new(WireState { file, disk: case.disk.clone(), failed: None }) })
    }

    /// The file, to be copied into a bag.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Was everything written? The first failure is the answer; nothing after it was written.
    pub fn check(&self) -> Result<(), CaseError> {
        let state = self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match &state.failed {
            Some(error) => {
                Err(CaseError::io("keep the wire log", &self.path)(io::Error::new(error.kind(), error.to_string())))
            }
            None => state.file.sync_data().map_err(CaseError::io("make the wire log durable", &self.path)),
        }
    }
}

impl WireLog for WireFile {
    fn entry(&self, entry: WireEntry) {
        let mut state = self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let state = &mut *state;
        if state.failed.is_some() {
            return;
        }
        let written = serde_json::to_vec(&entry).map_err(io::Error::from).and_then(|mut line| {
            line.push(b'\n');
            state.disk.write_all(&mut state.file, &self.path, &line).and_then(|()| state.file.flush())
        });
        state.failed = written.err();
    }
}

fn create(path: &Path) -> Result<File, CaseError> {
    OpenOptions::new()
        .read(true)
        .append(true)
        .create_new(true)
        .mode(0o644)
        .open(path)
        .map_err(CaseError::io("begin the log", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEGUN: &str = r#"{"schema":"impound-journal/1","run":"r1","target":"qmp:/x","who":"Ada","case":"C","pid":7,"started":"2026-11-24T10:30:00Z"}"#;

    fn act(n: u64) -> String {
        format!(r#"{{"act":{n},"at":"2026-11-24T10:30:00Z","do":"a{n}","undo":{{"say":"u{n}","how":null}}}}"#)
    }

    #[test]
    fn what_was_not_ended_is_undone_last_first() {
        let done = r#"{"done":2,"at":"2026-11-24T10:30:00Z"}"#;
        let text = format!("{BEGUN}\n{}\n{}\n{}\n{done}\n{}", act(1), act(2), act(3), r#"{"act":4,"at":"20"#);
        let run = parse(text.as_bytes()).unwrap().unwrap();
        assert_eq!(run.undo.iter().map(|undo| undo.say.as_str()).collect::<Vec<_>>(), ["u3", "u1"]);
    }

    #[test]
    fn damage_before_the_last_line_is_named() {
        for (text, line) in [
            (format!("{BEGUN}\n{{}}\n{}\n", act(1)), "line 2"),
            (format!("{}\n", act(1)), "line 1"),
            (format!("{BEGUN}\n{BEGUN}\n"), "line 2"),
            (BEGUN.replace("journal/1", "journal/9"), "line 1"),
        ] {
            assert_eq!(parse(text.as_bytes()).unwrap_err().0, line, "{text}");
        }
        assert_eq!(parse(&b"{\"sch"[..]).unwrap(), None);
    }
}
