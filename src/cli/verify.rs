//! `impound verify CASE|EXHIBIT`: is all there, unchanged, and was nothing added?

use std::path::PathBuf;

use anyhow::Result;

use super::Exit;
use super::context::{Context, somebody};
use crate::case::custody::Head;
use crate::case::verify::{ExhibitReport, Finding, Options, Report, verify};
use crate::case::{Case, Outcome};
use crate::report::{Absent, Cell, Column, human_bytes, printable};

/// The arguments.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Folder of a case or of one exhibit
    path: PathBuf,
    /// Trust the keys of this list alone (allowed_signers, ssh-keygen(1)), and ask for a signature on everything
    #[arg(long, value_name = "FILE")]
    signers: Option<PathBuf>,
    /// A head of the log that was noted when the case was handed over: the log must still hold it
    #[arg(long, value_name = "COUNT:HASH", value_parser = head)]
    head: Option<Head>,
    /// Check every digest there is, not only the SHA-256 of record
    #[arg(long)]
    whole: bool,
    /// Write into the case's custody log that it was verified, and what came of it
    #[arg(long)]
    record: bool,
}

fn head(text: &str) -> Result<Head, String> {
    let form = || format!("`{text}` is no head; write COUNT:HASH as it was printed");
    let (count, hash) = text.split_once(':').ok_or_else(form)?;
    let hex = hash.len() == 64 && hash.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    let count = count.parse().map_err(|_| form())?;
    hex.then(|| Head { count, hash: hash.to_owned() }).ok_or_else(form)
}

const COLUMNS: &[Column] =
    &[Column("subject"), Column("result"), Column("outcome"), Column("bytes"), Column("signer"), Column("detail")];

pub(super) fn run(args: &Args, context: &Context) -> Result<Exit> {
    let options = Options { signers: args.signers.clone(), head: args.head.clone(), whole: args.whole };
    let report = verify(&args.path, &options, context.progress().as_ref())?;
    let mut rows = context.table(COLUMNS);
    for exhibit in &report.exhibits {
        rows.row(exhibit_row(exhibit))?;
    }
    for finding in &report.findings {
        rows.row(finding_row(finding))?;
    }
    rows.end()?;
    drop(rows);
    if args.record {
        Case::open(&args.path)?.note_verification(&report, &somebody())?;
    }
    context.say(&summary(&report));
    Ok(match report.exit_code() {
        0 => Exit::Complete,
        3 => Exit::Partial,
        _ => Exit::NotVerified,
    })
}

fn exhibit_row(exhibit: &ExhibitReport) -> Vec<Cell> {
    let outcome = exhibit.outcome.as_ref();
    vec![
        Cell::text(&exhibit.name),
        Cell::text(if exhibit.intact { "intact" } else { "NOT INTACT" }),
        Cell::or_absent(outcome, Absent::Unreadable, |outcome| Cell::text(outcome.name())),
        Cell::Bytes(exhibit.bytes),
        Cell::or_absent(exhibit.signer.clone(), Absent::NotApplicable, Cell::Text),
        Cell::or_absent(outcome.and_then(Outcome::why), Absent::NotApplicable, Cell::text),
    ]
}

fn finding_row(finding: &Finding) -> Vec<Cell> {
    let none = Cell::Absent(Absent::NotApplicable);
    let result = if finding.is_failure() { "FAILED" } else { "note" };
    vec![
        Cell::text(finding.name()),
        Cell::text(result),
        none.clone(),
        none.clone(),
        none,
        Cell::text(finding.to_string()),
    ]
}

fn summary(report: &Report) -> String {
    let failures = report.findings.iter().filter(|finding| finding.is_failure()).count();
    let hashed = human_bytes(report.bytes);
    let signed = if report.signers.is_empty() {
        "not signed".to_owned()
    } else {
        format!("signed by {}", printable(&report.signers.join(", ")))
    };
    match report.exit_code() {
        0 => format!("VERIFIED: {} exhibits, {hashed} hashed, {signed}", report.exhibits.len()),
        3 => format!(
            "INTACT, BUT NOT COMPLETE: {} exhibits, {hashed} hashed, {signed}; see above",
            report.exhibits.len()
        ),
        _ => format!("VERIFICATION FAILED: {failures} findings, {hashed} hashed, {signed}"),
    }
}
