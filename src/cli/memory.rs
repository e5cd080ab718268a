//! `impound memory IMAGE info|NAME…|all|isf`: what a guest's memory holds.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rayon::prelude::*;

use super::Exit;
use super::context::Context;
use super::exit::UsageError;
use super::image::OpenArgs;
use crate::analyzer::{self, Analyzer, Run};
use crate::image::Image;
use crate::memory::Physical;
use crate::memory::linux::{Ask, Kernel, info};
use crate::memory::symbols::isf::Isf;
use crate::report::{Column, Format, printable};

/// The arguments.
#[derive(Debug, clap::Args)]
#[command(after_help = after_help())]
pub(super) struct Args {
    /// An exhibit (its folder), or any image of memory
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
    /// File that isf writes; it must not exist yet
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Symbols and types from this file instead of the image: an ISF of Volatility 3, made for the guest's very kernel
    #[arg(long, value_name = "FILE")]
    symbols: Option<PathBuf>,
    #[command(flatten)]
    how: OpenArgs,
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
        ["all"] => ask(&analyzer::ALL.iter().collect::<Vec<_>>(), args, context),
        names => {
            let found: Result<Vec<_>> = names.iter().map(|name| find(name)).collect();
            ask(&found?, args, context)
        }
    }
}

fn find(name: &str) -> Result<&'static Analyzer> {
    if matches!(name, "info" | "all" | "isf") {
        return Err(UsageError(format!("{name} is asked alone")).into());
    }
    let unknown = || UsageError(format!("no question is named `{name}`; impound memory --help lists them"));
    // Volatility's own names lead here, too.
    let bare = name.strip_prefix("linux.malware.").map(|rest| format!("linux.{rest}"));
    Ok(analyzer::by_name(name).or_else(|| analyzer::by_name(&bare?)).ok_or_else(unknown)?)
}

fn kernel(args: &Args) -> Result<(Image, Kernel)> {
    let image = args.how.open(&args.image)?;
    let physical = Physical::new(image.bytes().clone()).with_machine(image.machine());
    let kernel = match &args.symbols {
        Some(file) => Kernel::find_with(physical, symbols(file)?),
        None => Kernel::find(physical),
    };
    let kernel = kernel.with_context(|| format!("could not find a kernel in {}", args.image.display()))?;
    Ok((image, kernel))
}

fn symbols(file: &Path) -> Result<Isf> {
    let cannot = || format!("could not read symbols from {}", file.display());
    let opened = std::fs::File::open(file).with_context(cannot)?;
    Isf::read(io::BufReader::new(opened)).map_err(anyhow::Error::msg).with_context(cannot)
}

fn print_info(args: &Args, context: &Context) -> Result<Exit> {
    let (image, kernel) = kernel(args)?;
    let mut rows = context.table(info::COLUMNS);
    for row in info::rows(&kernel, image.machine()) {
        rows.row(row)?;
    }
    rows.end()?;
    Ok(Exit::Complete)
}

fn write_isf(args: &Args, context: &Context) -> Result<Exit> {
    let output =
        args.output.as_ref().ok_or_else(|| UsageError("isf writes a file: name it with --output".to_owned()))?;
    let (_, kernel) = kernel(args)?;
    let isf = crate::memory::linux::isf::build(&kernel)?;
    super::context::write_new(output, &serde_json::to_vec(&isf)?)?;
    context.say(&format!("{} goes into the folder symbols/linux of Volatility 3", output.display()));
    Ok(Exit::Complete)
}

/// What one analyzer answered.
struct Answer {
    rows: Vec<u8>,
    failed: Option<anyhow::Error>,
    notes: Vec<String>,
}

fn ask(analyzers: &[&'static Analyzer], args: &Args, context: &Context) -> Result<Exit> {
    let together = analyzers.len() > 1;
    let format = context.format();
    if together && format == Format::Csv {
        return Err(
            UsageError("several questions have several headers: ask them one by one, or as json".to_owned()).into()
        );
    }
    let (_, kernel) = kernel(args)?;
    let answers: Vec<Answer> = analyzers.par_iter().map(|a| answer(a, &kernel, args, format, together)).collect();
    let (mut out, mut exit, mut first) = (io::BufWriter::new(io::stdout().lock()), Exit::Complete, true);
    let array = together && format == Format::Json;
    for (analyzer, answer) in analyzers.iter().zip(answers) {
        match (together, array) {
            (true, true) => join(&mut out, &answer.rows, &mut first)?,
            (true, false) if format == Format::Text => {
                writeln!(out, "{}{}", if first { "" } else { "\n" }, analyzer.name)?;
                out.write_all(&answer.rows)?;
                first = false;
            }
            _ => out.write_all(&answer.rows)?,
        }
        for note in &answer.notes {
            exit = Exit::Partial;
            context.say(&format!("{}: {}", analyzer.name, printable(note)));
        }
        match answer.failed {
            Some(error) if !together => {
                out.flush()?;
                return Err(error.context(analyzer.name));
            }
            Some(error) => {
                exit = Exit::Partial;
                context.say(&format!("{}: {}", analyzer.name, printable(&super::chain(&error))));
            }
            None => {}
        }
    }
    if let Some(why) = kernel.physical().broken() {
        exit = Exit::Partial;
        context.say(&format!("{} could not be read everywhere: {}", args.image.display(), printable(why)));
    }
    if array {
        writeln!(out, "{}", if first { "[]" } else { "\n]" })?;
    }
    out.flush()?;
    Ok(exit)
}

/// Lines of objects, as members of one array.
fn join(out: &mut impl Write, lines: &[u8], first: &mut bool) -> io::Result<()> {
    for line in lines.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
        out.write_all(if std::mem::take(first) { b"[\n " } else { b",\n " })?;
        out.write_all(line)?;
    }
    Ok(())
}

fn answer(analyzer: &'static Analyzer, kernel: &Kernel, args: &Args, format: Format, together: bool) -> Answer {
    let ask = Ask::new(args.pids.clone(), args.threads);
    let mut rows = Vec::new();
    let named = together && format != Format::Text;
    let (columns, format) =
        if named { (with_name(analyzer.columns), Format::Jsonl) } else { (analyzer.columns, format) };
    let mut table = format.rows(columns, Box::new(&mut rows));
    let mut named_rows = Named { name: named.then_some(analyzer.name), rows: table.as_mut() };
    let Run::Linux(run) = analyzer.run;
    let failed = run(kernel, &ask, &mut named_rows).err().map(anyhow::Error::from);
    let ended = table.end().err().map(anyhow::Error::from);
    drop(table);
    Answer { rows, failed: failed.or(ended), notes: ask.notes() }
}

/// The columns with the analyzer's name in front. Made once for each run of the program, so it may stay.
fn with_name(columns: &'static [Column]) -> &'static [Column] {
    let mut all = vec![Column("analyzer")];
    all.extend_from_slice(columns);
    Box::leak(all.into_boxed_slice())
}

/// Puts the analyzer's name in front of each row.
struct Named<'a> {
    name: Option<&'static str>,
    rows: &'a mut dyn crate::report::Rows,
}

impl crate::report::Rows for Named<'_> {
    fn row(&mut self, mut cells: Vec<crate::report::Cell>) -> io::Result<()> {
        if let Some(name) = self.name {
            cells.insert(0, crate::report::Cell::text(name));
        }
        self.rows.row(cells)
    }

    fn end(&mut self) -> io::Result<()> {
        self.rows.end()
    }
}
