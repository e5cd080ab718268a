//! Making a snapshot, knowing when it is there, finding what it wrote, and taking away that one and no other.
//!
//! `vim-cmd` ends before its task does, may say nothing of a failure, and a task that has ended is forgotten after a while. So
//! a snapshot is there when the list of snapshots has one of our name and no task is at it any more. Our names hold the id of
//! the run; whoever's name another one bears, it is never touched, and `snapshot.removeall` is never said.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::listing::{self, Snapshot, short, unambiguous};
use super::shell::{Shell, complaint};
use super::text::{self, Value};
use super::{VmId, command};
use crate::BackendError;

/// In front of every name that impound gives a snapshot. Recovery touches nothing else.
pub(super) const PREFIX: &str = "impound-";
/// The first pause between two looks; it doubles up to the last.
const LOOK: Duration = Duration::from_millis(100);
const LOOK_LAST: Duration = Duration::from_secs(3);
/// Looks without a task and without a snapshot after which a complaint is believed.
const LOOKS_ENOUGH: u32 = 3;
/// The same where the connection broke before an answer came: the host may be slow to begin.
const LOOKS_UNHEARD: u32 = 8;
/// Snapshots in a tree.
const MOST: usize = 4096;

/// The name of the snapshot of a run.
pub(super) fn name_of(run: &str) -> String {
    format!("{PREFIX}{run}")
}

/// Could impound have given this name?
pub(super) fn is_ours(name: &str) -> bool {
    name.strip_prefix(PREFIX).is_some_and(|run| {
        (1..=12).contains(&run.len()) && run.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
    })
}

/// Pauses that grow, up to a deadline.
pub(super) struct Looks {
    pause: Duration,
    until: Instant,
}

impl Looks {
    pub(super) fn within(time: Duration) -> Self {
        Self { pause: LOOK, until: Instant::now() + time }
    }

    /// Waits a little; false once it has been long enough.
    pub(super) async fn again(&mut self) -> bool {
        if Instant::now() >= self.until {
            return false;
        }
        sleep(self.pause).await;
        self.pause = (self.pause * 2).min(LOOK_LAST);
        true
    }
}

/// The snapshots of a VM, by the list that has ids and no doubt, or by the tree where a host has no such list.
pub(super) async fn list(shell: &Shell, vm: VmId) -> Result<Vec<Snapshot>, BackendError> {
    let answer = shell.ask(&command::snapshot_info(vm)).await?;
    if let Ok(read) = text::parse(&answer.text())
        && read.fault().is_none()
    {
        return from_info(&read).map_err(|why| shell.unread(&command::snapshot_info(vm), &why));
    }
    let command = command::snapshot_tree(vm);
    let answer = shell.ask(&command).await?;
    if let Some(why) = complaint(&answer).filter(|_| !answer.text().starts_with("Get Snapshot")) {
        return Err(shell.failed(&command, &why));
    }
    listing::snapshot_tree(&answer.text()).map_err(|why| shell.unread(&command, &why))
}

/// Reads `vim.vm.SnapshotInfo`.
pub(super) fn from_info(info: &Value) -> Result<Vec<Snapshot>, String> {
    let mut found = Vec::new();
    let mut counts = Vec::new();
    below(info.list("rootSnapshotList"), 0, &mut counts, &mut found)?;
    unambiguous(&found)?;
    Ok(found)
}

fn below(list: &[Value], level: usize, counts: &mut Vec<usize>, found: &mut Vec<Snapshot>) -> Result<(), String> {
    for one in list {
        if found.len() >= MOST {
            return Err(format!("expected at most {MOST} snapshots"));
        }
        let id = one.number("id").ok_or("expected an id of each snapshot")?;
        let text = |name: &str| one.text(name).unwrap_or_default().to_owned();
        if counts.len() <= level {
            counts.push(0);
        }
        let count = counts.get_mut(level).ok_or("expected a snapshot under its parent")?;
        let index = *count;
        *count += 1;
        found.push(Snapshot {
            id: Some(id),
            name: text("name"),
            about: text("description"),
            level,
            index,
            running: text("state") == "poweredOn",
        });
        below(one.list("childSnapshotList"), level + 1, counts, found)?;
    }
    Ok(())
}

/// What the tasks of a VM with this word in their names are at.
#[derive(Debug, Default)]
struct Tasks {
    busy: bool,
    /// Of one that failed since we looked first: its words.
    failed: Option<String>,
}

async fn tasks(shell: &Shell, vm: VmId, word: &str, before: &[String]) -> Result<Tasks, BackendError> {
    let mut found = Tasks::default();
    for id in listing::tasks(&shell.ask(&command::tasks(vm)).await?.text()) {
        if !id.contains(word) {
            continue;
        }
        // One that is forgotten meanwhile has ended.
        let Ok(task) = text::parse(&shell.ask(&command::task(&id)).await?.text()) else { continue };
        match task.text("state") {
            Some("queued" | "running") => found.busy = true,
            Some("error") if !before.contains(&id) => {
                let error = task.at("error").unwrap_or(&Value::Absent);
                let words = error.text("msg").or(error.text("localizedMessage")).unwrap_or_default();
                found.failed = Some(format!("{} ({})", short(words), short(error.kind())));
            }
            _ => {}
        }
    }
    Ok(found)
}

/// The ids of all tasks that the host remembers of this VM.
pub(super) async fn known_tasks(shell: &Shell, vm: VmId) -> Result<Vec<String>, BackendError> {
    Ok(listing::tasks(&shell.ask(&command::tasks(vm)).await?.text()))
}

/// Fails if a snapshot is being made or removed right now, by whomever.
pub(super) async fn quiet(shell: &Shell, vm: VmId) -> Result<(), BackendError> {
    if tasks(shell, vm, "Snapshot", &[]).await?.busy {
        let why = "another task is at its snapshots right now";
        return Err(BackendError::unsupported("take a snapshot", shell.name(), why).advise("wait until it has ended"));
    }
    Ok(())
}

/// Is it being suspended right now?
pub(super) async fn suspending(shell: &Shell, vm: VmId) -> Result<bool, BackendError> {
    Ok(tasks(shell, vm, "suspend", &[]).await?.busy)
}

/// What the host says of a task with this word in its name that failed and is not among those of before.
pub(super) async fn failed(
    shell: &Shell,
    vm: VmId,
    word: &str,
    before: &[String],
) -> Result<Option<String>, BackendError> {
    Ok(tasks(shell, vm, word, before).await?.failed)
}

/// What is wanted of a snapshot.
pub(super) struct Wanted<'a> {
    pub(super) vm: VmId,
    pub(super) name: &'a str,
    pub(super) about: &'a str,
    pub(super) memory: bool,
    pub(super) patience: Duration,
}

/// Makes it and waits until it is there.
pub(super) async fn create(shell: &Shell, wanted: &Wanted<'_>) -> Result<Snapshot, BackendError> {
    let command = command::create_snapshot(wanted.vm, wanted.name, wanted.about, wanted.memory);
    let before = known_tasks(shell, wanted.vm).await?;
    let said = shell.tell(&command).await;
    let complains = match &said {
        Ok(answer) => complaint(answer).map(|why| (why, LOOKS_ENOUGH)),
        Err(error) => Some((error.to_string(), LOOKS_UNHEARD)),
    };
    let mut looks = Looks::within(wanted.patience);
    let mut idle = 0;
    loop {
        let tasks = tasks(shell, wanted.vm, "createSnapshot", &before).await?;
        let there = list(shell, wanted.vm).await?.into_iter().find(|snapshot| snapshot.name == wanted.name);
        match there {
            Some(there) if !tasks.busy => return Ok(there),
            None if !tasks.busy => {
                idle += 1;
                if let Some(why) = tasks.failed {
                    return Err(shell.failed(&command, &why));
                }
                if let Some((why, enough)) = &complains
                    && idle >= *enough
                {
                    return Err(shell.failed(&command, why));
                }
            }
            _ => idle = 0,
        }
        if !looks.again().await {
            let why = format!("the snapshot was not there after {} s", wanted.patience.as_secs());
            return Err(shell.failed(&command, &why).advise("a longer time: esx+ssh://…?patience=1800#vm"));
        }
    }
}

/// Takes away the snapshot of this name and waits until it is gone; one that is still being made is waited for. Answers
/// whether there was one.
pub(super) async fn remove(shell: &Shell, vm: VmId, name: &str, patience: Duration) -> Result<bool, BackendError> {
    let mut looks = Looks::within(patience);
    let (ours, others) = loop {
        let (ours, others) = with_others(shell, vm, name).await?;
        match ours {
            Some(ours) => break (ours, others),
            // Whoever comes late still comes: only without a task at it is it sure that none will.
            None if !tasks(shell, vm, "createSnapshot", &[]).await?.busy => match with_others(shell, vm, name).await? {
                (Some(ours), others) => break (ours, others),
                (None, _) => return Ok(false),
            },
            None if looks.again().await => {}
            None => {
                let why = format!("it was still being made after {} s", patience.as_secs());
                return Err(BackendError::unsupported(format!("remove the snapshot {name}"), shell.name(), why)
                    .advise("run `impound case recover` once the host has made it"));
            }
        }
    };
    let command = removal(shell, vm, &ours).await?;
    let before = known_tasks(shell, vm).await?;
    let complains = match shell.tell(&command).await {
        Ok(answer) => complaint(&answer).map(|why| (why, LOOKS_ENOUGH)),
        Err(error) => Some((error.to_string(), LOOKS_UNHEARD)),
    };
    gone(shell, (vm, name), &command, &before, complains, patience).await?;
    still_there(shell, vm, &others).await?;
    Ok(true)
}

async fn with_others(shell: &Shell, vm: VmId, name: &str) -> Result<(Option<Snapshot>, Vec<Snapshot>), BackendError> {
    let (mut ours, others): (Vec<_>, Vec<_>) = list(shell, vm).await?.into_iter().partition(|one| one.name == name);
    if ours.len() > 1 {
        let why = format!("{} snapshots are called {name}", ours.len());
        return Err(BackendError::unsupported("remove the snapshot", shell.name(), why)
            .advise("look which one is to go: vim-cmd vmsvc/snapshot.get VMID"));
    }
    Ok((ours.pop(), others))
}

/// How this host wants to be told which one.
async fn removal(shell: &Shell, vm: VmId, ours: &Snapshot) -> Result<crate::wire::ssh::Command, BackendError> {
    let usage = shell.ask(&command::remove_usage()).await?;
    let words = format!("{}{}", usage.text(), String::from_utf8_lossy(&usage.ending.words));
    if words.contains("snapshotId") {
        if let Some(id) = ours.id {
            return Ok(command::remove_snapshot(vm, id));
        }
    } else if words.contains("snapshotLevel") {
        return Ok(command::remove_snapshot_at(vm, ours.level, ours.index));
    }
    let why = "this host does not say how it wants to be told which snapshot";
    Err(BackendError::unsupported(format!("remove the snapshot {}", ours.name), shell.name(), why)
        .advise("remove it by hand: vim-cmd vmsvc/snapshot.remove"))
}

async fn gone(
    shell: &Shell,
    (vm, name): (VmId, &str),
    command: &crate::wire::ssh::Command,
    before: &[String],
    complains: Option<(String, u32)>,
    patience: Duration,
) -> Result<(), BackendError> {
    let mut looks = Looks::within(patience);
    let mut idle = 0;
    loop {
        let tasks = tasks(shell, vm, "removeSnapshot", before).await?;
        let there = list(shell, vm).await?.iter().any(|snapshot| snapshot.name == name);
        if !there && !tasks.busy {
            return Ok(());
        }
        idle = if tasks.busy { 0 } else { idle + 1 };
        if let Some(why) = tasks.failed.filter(|_| !tasks.busy) {
            return Err(shell.failed(command, &why));
        }
        if let Some((why, enough)) = &complains
            && idle >= *enough
        {
            return Err(shell.failed(command, why));
        }
        if !looks.again().await {
            return Err(shell.failed(command, &format!("it was still there after {} s", patience.as_secs())));
        }
    }
}

/// The snapshots of others are where they were.
async fn still_there(shell: &Shell, vm: VmId, others: &[Snapshot]) -> Result<(), BackendError> {
    let now = list(shell, vm).await?;
    let same = |one: &&Snapshot| now.iter().any(|other| other.id == one.id && other.name == one.name);
    match others.iter().find(|one| !same(one)) {
        None => Ok(()),
        Some(lost) => {
            let why = format!("the snapshot \"{}\", which is not ours, is gone", short(&lost.name));
            Err(BackendError::unsupported("remove our snapshot and no other", shell.name(), why)
                .advise("somebody else may have removed it meanwhile: see the host's tasks"))
        }
    }
}

/// The two files of saved memory, in the host's words.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Saved {
    /// `.vmsn` or `.vmss`.
    pub state: Option<String>,
    /// `.vmem`, if memory is a file of its own.
    pub memory: Option<String>,
}

/// What wrote the memory that is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Writer {
    /// A snapshot, with its number where the host gives one.
    Snapshot(Option<u64>),
    /// Suspending.
    Suspending,
}

/// What `get.filelayoutex` says that this one wrote.
pub(super) fn saved(layout: &Value, writer: Writer) -> Saved {
    let name = |key: Option<u64>| {
        let file = layout.list("file").iter().find(|file| key.is_some() && file.number("key") == key)?;
        file.text("name").map(str::to_owned)
    };
    let of_type = |kind: &str| layout.list("file").iter().find(|f| f.text("type") == Some(kind))?.number("key");
    let id = match writer {
        Writer::Snapshot(Some(id)) => id,
        Writer::Snapshot(None) => return Saved::default(),
        Writer::Suspending => return Saved { state: name(of_type("suspend")), memory: name(of_type("suspendMemory")) },
    };
    let ending = format!("-snapshot-{id}");
    let ours = |one: &&Value| one.text("key").is_some_and(|key| key.ends_with(&ending));
    let Some(ours) = layout.list("snapshot").iter().find(ours) else { return Saved::default() };
    Saved { state: name(ours.number("dataKey")), memory: name(ours.number("memoryKey")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_impound_gives_are_ours() {
        assert!(is_ours(&name_of("abc123")));
        for other in [
            "impound-",
            "impound-A",
            "impound-a b",
            "impound-x;y",
            "before patch",
            "impound-abcdefghijklm",
            "ximpound-a",
        ] {
            assert!(!is_ours(other), "{other}");
        }
    }

    #[test]
    fn snapshots_and_what_they_wrote_are_found_by_id() {
        let info = "Get Snapshot Info:\n(vim.vm.SnapshotInfo) {\n   currentSnapshot = 'vim.vm.Snapshot:5-snapshot-15', \n   rootSnapshotList = \
            (vim.vm.SnapshotTree) [\n      (vim.vm.SnapshotTree) {\n         name = \"owner's\", \n         description = \"a\nb\", \n         id = 14, \n\
            \x20        childSnapshotList = (vim.vm.SnapshotTree) [\n            (vim.vm.SnapshotTree) {\n               name = \"impound-x\", \n               \
            id = 15, \n               childSnapshotList = (vim.vm.SnapshotTree) [], \n            }\n         ], \n      }\n   ], \n}\n";
        let found = from_info(&text::parse(info).unwrap()).unwrap();
        let told: Vec<_> = found.iter().map(|s| (s.id, s.name.as_str(), s.about.as_str(), s.level)).collect();
        assert_eq!(told, [(Some(14), "owner's", "a\nb", 0), (Some(15), "impound-x", "", 1)]);
        assert_eq!(from_info(&text::parse("(vim.vm.SnapshotInfo) null\n").unwrap()).unwrap(), []);
        assert!(from_info(&text::parse(&info.replace("id = 15", "id = 14")).unwrap()).is_err());
        let file = |key: u64, name: &str, kind: &str| {
            format!(
                "      (vim.vm.FileLayoutEx.FileInfo) {{\n         key = {key}, \n         name = \"{name}\", \n         type = \"{kind}\", \n      }}, \n"
            )
        };
        let layout = format!(
            "Filelayoutex:\n(vim.vm.FileLayoutEx) {{\n   file = (vim.vm.FileLayoutEx.FileInfo) [\n{}{}{}   ], \n   snapshot = \
             (vim.vm.FileLayoutEx.SnapshotLayout) [\n      (vim.vm.FileLayoutEx.SnapshotLayout) {{\n         key = 'vim.vm.Snapshot:5-snapshot-15', \n         \
             dataKey = 7, \n         memoryKey = 8, \n      }}\n   ], \n}}\n",
            file(7, "[ds] w/w-Snapshot15.vmsn", "snapshotData"),
            file(8, "[ds] w/w-Snapshot15.vmem", "snapshotMemory"),
            file(9, "[ds] w/w-1.vmss", "suspend")
        );
        let layout = text::parse(&layout).unwrap();
        let found = saved(&layout, Writer::Snapshot(Some(15)));
        assert_eq!(found.memory.as_deref(), Some("[ds] w/w-Snapshot15.vmem"));
        assert_eq!(found.state.as_deref(), Some("[ds] w/w-Snapshot15.vmsn"));
        assert_eq!(saved(&layout, Writer::Snapshot(Some(5))), Saved::default());
        assert_eq!(saved(&layout, Writer::Snapshot(None)), Saved::default());
        assert_eq!(
            saved(&layout, Writer::Suspending),
            Saved { state: Some("[ds] w/w-1.vmss".to_owned()), memory: None }
        );
    }
}
