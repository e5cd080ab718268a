//! `impound memory IMAGE info|NAME…|all|isf`: what a guest's memory holds.

mod answer;
mod live;
mod terms;

use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use answer::Labelled;

use crate::analyzer::{self, Analyzer};
use crate::cli::Exit;
use crate::cli::access::AccessArgs;
use crate::cli::context::Context;
use crate::cli::exit::UsageError;
use crate::cli::image::OpenArgs;
use crate::image::Image;
use crate::memory::Physical;
use crate::memory::linux::{Kernel, info};
use crate::memory::symbols::isf::Isf;
use crate::report::Rows as _;

/// The arguments.
#[derive(Debug, clap::Args)]
#[command(after_help = after_help())]
pub(super) struct Args {
    /// An exhibit (its folder), any image of memory, or a running guest (qmp:/run/web01.qmp), which is read in place and not stopped
    image: PathBuf,
    /// What to ask: info, all, isf, or names from the list below
    #[arg(required = true, value_name = "QUESTION")]
    questions: Vec<String>,
    /// Only this process; may be given several times
    #[arg(long = "pid", value_name = "PID")]
    pids: Vec<i64>,
    /// Threads as well as processes
    #[arg(long)]
    threads: bool,
    /// File that isf writes, or folder that questions write files into; it must not exist yet
    #[arg(short, long, value_name = "FILE|DIR")]
    output: Option<PathBuf>,
    #[command(flatten)]
    terms: terms::TermArgs,
    /// Symbols and types from this file instead of the image: an ISF of Volatility 3, made for the guest's very kernel
    #[arg(long, value_name = "FILE")]
    symbols: Option<PathBuf>,
    #[command(flatten)]
    how: OpenArgs,
    #[command(flatten)]
    access: AccessArgs,
}

fn after_help() -> String {
    let width = analyzer::ALL.iter().map(|analyzer| analyzer.name.len()).max().unwrap_or(0);
    let list: Vec<_> = analyzer::ALL.iter().map(|a| format!("  {:<width$} {}", a.name, a.about)).collect();
    format!(
        "Questions:\n  {:<width$} the kernel that was found, and how\n  {:<width$} every question below; one that fails is told \
         and the rest go on (exit code 3)\n  {:<width$} a symbol file for Volatility 3, from the image alone\n{}\n\n\
         Symbols and types come from the image itself: no symbol file is needed. Columns are at least those of Volatility 3.",
        "info",
        "all",
        "isf",
        list.join("\n")
    )
}

pub(super) fn run(args: &Args, context: &Context) -> Result<Exit> {
    let asked: Vec<&str> = args.questions.iter().map(String::as_str).collect();
    match asked.as_slice() {
        ["info"] => print_info(args, context),
        ["isf"] => write_isf(args, context),
        ["all"] => {
            let all: Vec<_> = analyzer::ALL.iter().filter(|analyzer| terms::fits(analyzer, args)).collect();
            answer::ask(&all, args, context)
        }
        names => {
            let found: Result<Vec<_>> = names.iter().map(|name| find(name)).collect();
            answer::ask(&found?, args, context)
        }
    }
}

fn find(name: &str) -> Result<&'static Analyzer> {
    if matches!(name, "info" | "all" | "isf") {
        return Err(UsageError(format!("{name} is asked alone")).into());
    }
    let unknown = || UsageError(format!("no question is named `{name}`; impound memory --help lists them"));
    // Volatility's own names lead here, too, and those without the system in front.
    let bare = format!("linux.{}", name.strip_prefix("linux.malware.").unwrap_or(name));
    Ok(analyzer::by_name(name).or_else(|| analyzer::by_name(&bare)).ok_or_else(unknown)?)
}

fn kernel(args: &Args, context: &Context) -> Result<(Image, Kernel)> {
    let target = live::target(&args.image);
    let image = match &target {
        Some(uri) => live::open(uri, &args.access, context)?,
        None => args.how.open(&args.image)?,
    };
    let physical = Physical::new(image.bytes().clone()).with_machine(image.machine());
    let kernel = match &args.symbols {
        Some(file) => Kernel::find_with(physical, symbols(file)?),
        None => Kernel::find(physical),
    };
    let kernel = kernel.with_context(|| format!("could not find a kernel in {}", args.image.display()))?;
    Ok((image, if target.is_some() { kernel.running() } else { kernel }))
}

fn symbols(file: &Path) -> Result<Isf> {
    let cannot = || format!("could not read symbols from {}", file.display());
    let opened = std::fs::File::open(file).with_context(cannot)?;
    Isf::read(io::BufReader::new(opened)).map_err(anyhow::Error::msg).with_context(cannot)
}

fn print_info(args: &Args, context: &Context) -> Result<Exit> {
    let (image, kernel) = kernel(args, context)?;
    let rows = context.table(answer::columns(info::COLUMNS, false, kernel.live));
    let mut rows = Labelled { name: None, live: kernel.live, rows };
    for row in info::rows(&kernel, image.machine()) {
        rows.row(row)?;
    }
    rows.end()?;
    Ok(Exit::Complete)
}

fn write_isf(args: &Args, context: &Context) -> Result<Exit> {
    let output =
        args.output.as_ref().ok_or_else(|| UsageError("isf writes a file: name it with --output".to_owned()))?;
    let (_, kernel) = kernel(args, context)?;
    let isf = crate::memory::linux::isf::build(&kernel)?;
    crate::cli::context::write_new(output, &serde_json::to_vec(&isf)?)?;
    context.say(&format!("{} goes into the folder symbols/linux of Volatility 3", output.display()));
    Ok(Exit::Complete)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_has_its_full_name_and_a_short_one_and_that_of_volatility() {
        for (asked, name) in [
            ("linux.findings", "linux.findings"),
            ("findings", "linux.findings"),
            ("proc.maps", "linux.proc.maps"),
            ("linux.malware.malfind", "linux.malfind"),
        ] {
            assert_eq!(find(asked).map(|analyzer| analyzer.name).ok(), Some(name), "{asked}");
        }
        for wrong in ["all", "isf", "nothing", "linux.", ""] {
            assert!(find(wrong).is_err(), "{wrong}");
        }
    }
}
