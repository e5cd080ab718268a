//! Questions asked of one kernel, all of them at once, and their answers printed.

use std::io::{self, Write};

use anyhow::Result;
use rayon::prelude::*;

use super::{Args, kernel};
use crate::analyzer::{Analyzer, Run};
use crate::cli::Exit;
use crate::cli::context::Context;
use crate::cli::exit::UsageError;
use crate::memory::linux::{Ask, Kernel};
use crate::report::{Column, Format, printable};

/// What one analyzer answered.
struct Answer {
    rows: Vec<u8>,
    failed: Option<anyhow::Error>,
    notes: Vec<String>,
}

/// Asks all of them of one kernel, and prints what they answer in their order.
pub(super) fn ask(analyzers: &[&'static Analyzer], args: &Args, context: &Context) -> Result<Exit> {
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
                context.say(&format!("{}: {}", analyzer.name, printable(&crate::cli::chain(&error))));
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
