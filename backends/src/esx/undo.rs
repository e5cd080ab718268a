//! Every change that impound makes to a VM on a host has its inverse here; the end of a run and the recovery of a killed one
//! take the same way.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::shell::{Shell, complaint};
use super::snapshot::{self, Looks, is_ours};
use super::{VmId, command, listing};
use crate::{BackendError, Undo};

/// One thing to take back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "undo", rename_all = "kebab-case")]
pub(super) enum EsxUndo {
    /// Remove the snapshot of this name.
    Snapshot { name: String },
    /// Let the VM go on, if it is suspended.
    Suspended,
}

impl EsxUndo {
    /// As the journal keeps it.
    pub(super) fn for_journal(&self) -> Undo {
        let how = serde_json::to_value(self).unwrap_or(Value::Null);
        Undo { say: self.say(), holds_guest: matches!(self, Self::Suspended), how }
    }

    /// Reads what a journal kept. It may be forged: only a name that impound gives is taken.
    pub(super) fn from_journal(undo: &Undo) -> Result<Self, BackendError> {
        let refuse =
            |why: String| BackendError::corrupt("read the journal", &undo.say, "an act", "one of impound's", why);
        let read: Self = serde_json::from_value(undo.how.clone()).map_err(|error| refuse(error.to_string()))?;
        match &read {
            Self::Snapshot { name } if !is_ours(name) => Err(refuse(format!("the snapshot {name:?}"))),
            _ => Ok(read),
        }
    }

    /// In words.
    pub(super) fn say(&self) -> String {
        match self {
            Self::Snapshot { name } => format!("remove the snapshot {name}"),
            Self::Suspended => "let the suspended VM go on".to_owned(),
        }
    }

    /// Takes it back; what is gone already is fine. Answers whether there was something to do.
    pub(super) async fn apply(&self, shell: &Shell, vm: VmId, patience: Duration) -> Result<bool, BackendError> {
        match self {
            Self::Snapshot { name } => snapshot::remove(shell, vm, name, patience).await,
            Self::Suspended => go_on(shell, vm, patience).await,
        }
    }
}

/// The run state, in the host's words.
pub(super) async fn power_state(shell: &Shell, vm: VmId) -> Result<String, BackendError> {
    let command = command::power_state(vm);
    let text = shell.ask(&command).await?.text();
    listing::power_state(&text).map(str::to_owned).map_err(|why| shell.unread(&command, &why))
}

/// Lets it go on if it is suspended, or is just being suspended.
async fn go_on(shell: &Shell, vm: VmId, patience: Duration) -> Result<bool, BackendError> {
    let mut looks = Looks::within(patience);
    loop {
        // Asked first: what ends in between is seen as suspended.
        let suspending = snapshot::suspending(shell, vm).await?;
        if power_state(shell, vm).await? == "Suspended" {
            return resume(shell, vm, patience).await.map(|()| true);
        }
        if !suspending {
            return Ok(false);
        }
        if !looks.again().await {
            return Err(BackendError::unsupported("let the VM go on", shell.name(), "it is still being suspended"));
        }
    }
}

async fn resume(shell: &Shell, vm: VmId, patience: Duration) -> Result<(), BackendError> {
    change(shell, vm, &command::power_on(vm), ("Powered on", "powerOn"), patience).await
}

/// Says `command` and waits until the VM is in this state; the task that does it has this word in its name.
pub(super) async fn change(
    shell: &Shell,
    vm: VmId,
    command: &crate::wire::ssh::Command,
    (wanted, word): (&str, &str),
    patience: Duration,
) -> Result<(), BackendError> {
    let before = snapshot::known_tasks(shell, vm).await?;
    let complains = match shell.tell(command).await {
        Ok(answer) => complaint(&answer),
        Err(error) => Some(error.to_string()),
    };
    let (mut looks, mut idle) = (Looks::within(patience), 0);
    loop {
        if power_state(shell, vm).await? == wanted {
            return Ok(());
        }
        idle += 1;
        if let Some(why) = snapshot::failed(shell, vm, word, &before).await? {
            return Err(shell.failed(command, &why));
        }
        if let Some(why) = complains.as_ref().filter(|_| idle >= 8) {
            return Err(shell.failed(command, why));
        }
        if !looks.again().await {
            return Err(shell.failed(command, &format!("it was not {wanted} after {} s", patience.as_secs())));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forged_journal_cannot_name_the_snapshot_of_another() {
        let ours = EsxUndo::Snapshot { name: "impound-abc".into() };
        assert_eq!(EsxUndo::from_journal(&ours.for_journal()).unwrap(), ours);
        assert!(EsxUndo::Suspended.for_journal().holds_guest && !ours.for_journal().holds_guest);
        for name in ["before patch", "impound-", "impound-a' b"] {
            let forged = EsxUndo::Snapshot { name: name.into() }.for_journal();
            assert!(EsxUndo::from_journal(&forged).is_err(), "{name}");
        }
        let odd = Undo { say: "x".into(), holds_guest: false, how: serde_json::json!({ "undo": "removeall" }) };
        assert!(EsxUndo::from_journal(&odd).is_err());
    }
}
