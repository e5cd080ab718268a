//! `impound export EXHIBIT|FILE --to FORMAT --output PATH`: a copy in another format, proven to hold the same.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde_json::json;

use super::Exit;
use super::context::{Context, somebody};
use super::exit::UsageError;
use super::image::OpenArgs;
use crate::case::Case;
use crate::export::{self, Report};
use crate::report::{Cell, Column, human_bytes, printable};

/// The arguments.
#[derive(Debug, clap::Args)]
#[command(after_help = after_help())]
pub(super) struct Args {
    /// An exhibit (its folder), or any image
    source: PathBuf,
    /// Format to write
    #[arg(long, value_name = "FORMAT", value_parser = format)]
    to: &'static export::Format,
    /// File to write; it must not exist yet
    #[arg(short, long, value_name = "PATH")]
    output: PathBuf,
    /// Case in whose custody log it is written down; an exhibit's own case is found by itself
    #[arg(long, value_name = "DIR")]
    case: Option<PathBuf>,
    /// Name for the custody log
    #[arg(long, value_name = "NAME")]
    examiner: Option<String>,
    #[command(flatten)]
    how: OpenArgs,
}

fn after_help() -> String {
    let list: Vec<_> = export::ALL.iter().map(|format| format!("  {:<6} {}", format.name, format.about)).collect();
    format!(
        "Formats:\n{}\n\nThe file gets its name only after it was read back and held the same content. Beside it lies \
         PATH.export.json with the digests of both sides and what the source does not hold.",
        list.join("\n")
    )
}

fn format(name: &str) -> Result<&'static export::Format, String> {
    let known = || export::ALL.iter().map(|format| format.name).collect::<Vec<_>>().join(", ");
    export::by_name(name).ok_or_else(|| format!("`{name}` is not written; known are {}", known()))
}

const COLUMNS: &[Column] = &[
    Column("output"),
    Column("format"),
    Column("bytes"),
    Column("sha256"),
    Column("content_bytes"),
    Column("content_sha256"),
    Column("unreadable"),
];

pub(super) fn run(args: &Args, context: &Context) -> Result<Exit> {
    let case = case_of(args, context)?;
    let image = args.how.open(&args.source)?;
    let report = export::export(&image, &args.source, args.to, &args.output, context.progress().as_ref())?;
    let mut rows = context.table(COLUMNS);
    let content = report.content.iter().find(|digest| digest.algorithm == "sha256").map_or("", |digest| &digest.hex);
    rows.row(vec![
        Cell::text(args.output.display().to_string()),
        Cell::text(&report.output.format),
        Cell::Bytes(report.output.len),
        Cell::text(report.sha256()),
        Cell::Bytes(report.content_len),
        Cell::text(content),
        Cell::Bytes(report.unreadable),
    ])?;
    rows.end()?;
    drop(rows);
    if let Some(case) = case {
        note(&case, args, &report, content).with_context(|| {
            format!("{} was written and holds the same, but the custody log does not say so", args.output.display())
        })?;
    }
    if report.is_whole() {
        return Ok(Exit::Complete);
    }
    context.say(&format!(
        "{} of the source could not be read when it was captured and are zeros here; {} names them",
        human_bytes(report.unreadable),
        printable(&export::report_of(&args.output).display().to_string())
    ));
    Ok(Exit::Partial)
}

/// The case whose log is to say it: the one that was named, or the one the exhibit lies in.
fn case_of(args: &Args, context: &Context) -> Result<Option<Case>> {
    if let Some(dir) = &args.case {
        return context.open_case(dir).map(Some);
    }
    let source = args.source.canonicalize().with_context(|| format!("could not open {}", args.source.display()))?;
    let above = source.ancestors().take(5).find(|dir| dir.join("case.json").is_file() && dir.join("exhibits").is_dir());
    if args.output.file_name().is_none() {
        return Err(UsageError("--output must name a file".to_owned()).into());
    }
    above.map(|dir| context.open_case(dir)).transpose()
}

fn note(case: &Case, args: &Args, report: &Report, content: &str) -> Result<()> {
    let subject = exhibit_of(&args.source).unwrap_or_else(|| report.source.name.clone());
    let details = json!({
        "from": report.source.name, "from_format": report.source.format, "from_digests": report.source.digests,
        "to": report.output.name, "to_format": report.output.format, "bytes": report.output.len,
        "content_sha256": content, "content_bytes": report.content_len, "unreadable": report.unreadable,
    });
    let who = args.examiner.clone().unwrap_or_else(somebody);
    case.note_export(&crate::case::safe(&subject), report.sha256(), details, &who)?;
    Ok(())
}

/// Name of the exhibit that the source is, or is the file of.
fn exhibit_of(source: &Path) -> Option<String> {
    let source = source.canonicalize().ok()?;
    let bag = source.ancestors().take(3).find(|dir| dir.join("exhibit.json").is_file())?;
    Some(bag.file_name()?.to_string_lossy().into_owned())
}
