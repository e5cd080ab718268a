//! `--lock MODE:DAYS`: a snapshot that nobody can delete for a time (`LockSnapshot`), from the moment it exists.

use std::fmt;

use super::api::Api;
use super::ec2::{Snapshot, param};
use crate::{BackendError, How};

/// Its name among the options.
pub(super) const OPTION: &str = "lock";

/// How long, and how hard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Lock {
    /// `governance`, which those with the permission can undo, or `compliance`, which nobody can.
    mode: &'static str,
    /// 1 to 36500.
    days: u32,
}

impl fmt::Display for Lock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} mode, {} days", self.mode, self.days)
    }
}

impl Lock {
    /// What is asked for, if anything.
    pub(super) fn of(how: &How) -> Result<Option<Self>, BackendError> {
        let Some(text) = how.options.get(OPTION) else { return Ok(None) };
        let (mode, days) = text.split_once(':').unwrap_or((text, ""));
        let mode = ["governance", "compliance"].into_iter().find(|known| *known == mode);
        let days = days.parse().ok().filter(|days| (1..=36_500).contains(days));
        let wrong = || {
            BackendError::caller("lock the snapshots", text, "this is no mode and number of days")
                .advise("write --lock governance:30 (1 to 36500 days), or compliance:30, which nobody can undo")
        };
        Ok(Some(Self { mode: mode.ok_or_else(wrong)?, days: days.ok_or_else(wrong)? }))
    }
}

/// Locks all of them. What cannot be locked is a problem, and no reason to lose the capture.
pub(super) async fn all(api: &Api, lock: &Lock, made: &[Snapshot], problems: &mut Vec<String>) {
    for snapshot in made {
        let params = [
            param("SnapshotId", snapshot.id.as_str()),
            param("LockMode", lock.mode),
            param("LockDuration", lock.days.to_string()),
        ];
        if let Err(refused) = api.ec2("lock the snapshot", "LockSnapshot", &params, false).await {
            problems.push(format!("{} is not locked: {}", snapshot.id, refused.error));
        }
    }
}
