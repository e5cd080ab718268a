//! `journal`: what a file system wrote down of its changes.

use anyhow::{Result, anyhow};
use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::Offset;

use super::super::Exit;
use super::super::context::Context;
use super::list::{exit, int};
use super::open::{Disk, Mounted};
use crate::disk::fs::Change;
use crate::image::ReadError;
use crate::report::{Absent, Cell, Column, Rows, printable};

/// Which entries.
#[derive(Debug, clap::Args)]
pub(super) struct JournalArgs {
    /// Only entries from this time on: 2026-11-24 or 2026-11-24T10:30:00Z; entries without a time are left out
    #[arg(long, value_name = "TIME", value_parser = instant)]
    since: Option<Timestamp>,
    /// Only entries before this time
    #[arg(long, value_name = "TIME", value_parser = instant)]
    until: Option<Timestamp>,
}

fn instant(text: &str) -> Result<Timestamp, String> {
    let day = || Offset::UTC.to_timestamp(text.parse::<Date>().ok()?.into()).ok();
    let wrong = || format!("`{text}` is no time; write it like 2026-11-24 or 2026-11-24T10:30:00Z");
    text.parse().ok().or_else(day).ok_or_else(wrong)
}

impl JournalArgs {
    fn wants(&self, change: &Change) -> bool {
        let inside =
            |at: Timestamp| self.since.is_none_or(|since| at >= since) && self.until.is_none_or(|until| at < until);
        change.time.map_or(self.since.is_none() && self.until.is_none(), inside)
    }
}

const CHANGES: &[Column] = &[
    Column("volume"),
    Column("at"),
    Column("sequence"),
    Column("time"),
    Column("kind"),
    Column("inode"),
    Column("name"),
    Column("block"),
    Column("note"),
];

pub(super) fn journal(disk: &Disk, args: &JournalArgs, context: &Context) -> Result<Exit> {
    let (mut all, mut whole) = disk.mounted(context)?;
    all.retain(|one| !one.inner);
    let mut rows = context.table(CHANGES);
    let (task, mut read, count) = (context.counting("reading", "entries"), 0, all.len());
    for Mounted { label, fs, .. } in all {
        let mut failed = None;
        let done = fs.changes(&mut |change| {
            task.add(1);
            if args.wants(&change)
                && let Err(error) = print(rows.as_mut(), &label, change)
            {
                failed = Some(error);
                return Err(ReadError::caller("go on", "the rows could not be written"));
            }
            Ok(())
        });
        if let Some(error) = failed {
            return Err(error);
        }
        match done {
            Ok(()) => read += 1,
            // One of several that keeps none is no fault.
            Err(error) => {
                whole &= matches!(error.root(), ReadError::Unsupported { .. }) && count > 1;
                context.say(&format!("{label}: {}", printable(&error.to_string())));
            }
        }
    }
    rows.end()?;
    if read == 0 {
        return Err(anyhow!("there is no journal that can be read"));
    }
    Ok(exit(whole))
}

fn print(rows: &mut dyn Rows, label: &str, change: Change) -> Result<()> {
    let absent = Absent::NotApplicable;
    rows.row(vec![
        Cell::text(label),
        Cell::Address(change.at),
        int(change.sequence),
        Cell::or_absent(change.time, Absent::Unknown, Cell::Time),
        Cell::text(change.kind),
        Cell::or_absent(change.inode, absent, int),
        Cell::or_absent(change.name, absent, Cell::Name),
        Cell::or_absent(change.block, absent, int),
        Cell::text(change.note),
    ])?;
    Ok(())
}
