//! Questions asked of one kernel, all of them at once, and their answers printed in their order.

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;

use anyhow::Result;

use super::{Args, kernel, terms};
use crate::analyzer::{Analyzer, Run};
use crate::cli::Exit;
use crate::cli::context::{Context, Stdout, output};
use crate::cli::exit::UsageError;
use crate::memory::linux::settle::{Settled, settle};
use crate::memory::linux::{Ask, Kernel};
use crate::report::{Cell, Column, Format, Rows, printable};

/// How rows are written: with the question's name in front where there are several, and with what live memory has behind.
#[derive(Clone, Copy)]
struct Form {
    format: Format,
    together: bool,
    live: bool,
}

/// What one analyzer answered.
struct Answer {
    rows: Vec<u8>,
    failed: Option<anyhow::Error>,
    notes: Vec<String>,
    tries: u32,
}

/// Asks all of them of one kernel, and prints what they answer in their order.
pub(super) fn ask(analyzers: &[&'static Analyzer], args: &Args, context: &Context) -> Result<Exit> {
    let together = analyzers.len() > 1;
    if together && context.format() == Format::Csv {
        return Err(
            UsageError("several questions have several headers: ask them one by one, or as json".to_owned()).into()
        );
    }
    let (_, kernel) = kernel(args, context)?;
    if kernel.live && args.output.is_some() {
        let why = "files are written from a capture: what a running guest answers may have to be asked twice";
        return Err(UsageError(why.to_owned()).into());
    }
    let terms = terms::read(args, analyzers)?;
    let form = Form { format: context.format(), together, live: kernel.live };
    if together && analyzers.iter().any(|analyzer| analyzer.scans) {
        kernel.look_around();
    }
    let mut printer = Printer::new(form, context);
    let printed = at_once(
        analyzers,
        |analyzer| answer(analyzer, &kernel, &|| Ask::new(args.pids.clone(), args.threads).with(terms.clone()), form),
        |analyzer, answer| printer.print(analyzer, answer),
    );
    if let Some(why) = kernel.physical().broken() {
        printer.exit = Exit::Partial;
        context.say(&format!("{} could not be read everywhere: {}", args.image.display(), printable(why)));
    }
    printer.end(printed)
}

/// Asks with all cores, first things first, and hands over each answer in its turn: few have to wait for theirs in memory.
fn at_once(
    analyzers: &[&'static Analyzer],
    ask: impl Fn(&'static Analyzer) -> Answer + Sync,
    mut take: impl FnMut(&'static Analyzer, Answer) -> Result<()>,
) -> Result<()> {
    // One needs no others to wait for.
    if let [analyzer] = analyzers {
        return take(analyzer, ask(analyzer));
    }
    let (enough, (send, answers)) = (AtomicBool::new(false), mpsc::channel());
    let work = |send: &mpsc::Sender<(usize, Answer)>, n: usize, analyzer: &'static Analyzer| {
        if !enough.load(Ordering::Relaxed) {
            // Nobody listens any more if printing failed.
            let _ = send.send((n, ask(analyzer)));
        }
    };
    thread::scope(|threads| {
        let work = &work;
        threads.spawn(move || {
            rayon::scope_fifo(|pool| {
                for (n, &analyzer) in analyzers.iter().enumerate() {
                    let send = send.clone();
                    pool.spawn_fifo(move |_| work(&send, n, analyzer));
                }
            });
        });
        let taken = in_turn(analyzers, answers, take);
        enough.store(taken.is_err(), Ordering::Relaxed);
        taken
    })
}

/// Hands over each answer once all before it were.
fn in_turn(
    analyzers: &[&'static Analyzer],
    answers: mpsc::Receiver<(usize, Answer)>,
    mut take: impl FnMut(&'static Analyzer, Answer) -> Result<()>,
) -> Result<()> {
    let mut waiting: Vec<Option<Answer>> = analyzers.iter().map(|_| None).collect();
    let mut turns = analyzers.iter().copied().enumerate().peekable();
    for (n, answer) in answers {
        if let Some(place) = waiting.get_mut(n) {
            *place = Some(answer);
        }
        while let Some(&(n, analyzer)) = turns.peek()
            && let Some(answer) = waiting.get_mut(n).and_then(Option::take)
        {
            take(analyzer, answer)?;
            turns.next();
        }
    }
    Ok(())
}

/// Writes answers one behind the other.
struct Printer<'a> {
    out: io::BufWriter<Stdout>,
    form: Form,
    context: &'a Context,
    exit: Exit,
    /// Nothing was written yet.
    first: bool,
}

impl<'a> Printer<'a> {
    fn new(form: Form, context: &'a Context) -> Self {
        Self { out: output(), form, context, exit: Exit::Complete, first: true }
    }

    /// Several answers are one array.
    fn array(&self) -> bool {
        self.form.together && self.form.format == Format::Json
    }

    fn print(&mut self, analyzer: &Analyzer, answer: Answer) -> Result<()> {
        if self.array() {
            self.join(&answer.rows)?;
        } else {
            if self.form.together && self.form.format == Format::Text {
                writeln!(self.out, "{}{}", if self.first { "" } else { "\n" }, analyzer.name)?;
            }
            self.out.write_all(&answer.rows)?;
            self.first = false;
        }
        let say = |text: &str| self.context.say(&format!("{}: {}", analyzer.name, printable(text)));
        if answer.rows.is_empty() && answer.failed.is_none() && !self.form.together {
            say("there is nothing of that kind");
        }
        if answer.tries > 1 {
            say(&format!("asked {} times, since the guest changed what was read", answer.tries));
        }
        for note in &answer.notes {
            self.exit = Exit::Partial;
            say(note);
        }
        if let Some(error) = answer.failed {
            if !self.form.together {
                self.out.flush()?;
                return Err(error.context(analyzer.name));
            }
            self.exit = Exit::Partial;
            say(&crate::cli::chain(&error));
        }
        Ok(())
    }

    /// Lines of objects, as members of one array.
    fn join(&mut self, lines: &[u8]) -> io::Result<()> {
        for line in lines.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
            self.out.write_all(if std::mem::take(&mut self.first) { b"[\n " } else { b",\n " })?;
            self.out.write_all(line)?;
        }
        Ok(())
    }

    fn end(mut self, printed: Result<()>) -> Result<Exit> {
        printed?;
        if self.array() {
            writeln!(self.out, "{}", if self.first { "[]" } else { "\n]" })?;
        }
        self.out.flush()?;
        Ok(self.exit)
    }
}

fn answer(analyzer: &'static Analyzer, kernel: &Kernel, ask: &dyn Fn() -> Ask, form: Form) -> Answer {
    let mut rows = Vec::new();
    let named = form.together && form.format != Format::Text;
    let name = named.then_some(analyzer.name);
    let format = if named { Format::Jsonl } else { form.format };
    let columns = columns(analyzer.columns, named, form.live);
    let mut labelled = Labelled { name, live: form.live, rows: format.rows(columns, Box::new(&mut rows)) };
    let Run::Linux(run) = analyzer.run;
    let (failed, notes, tries) = if form.live {
        let Settled { rows, failed, notes, tries } = settle(kernel, ask, run);
        let written = labelled.rows(rows).err().map(anyhow::Error::from);
        (failed.map(anyhow::Error::from).or(written), notes, tries)
    } else {
        let ask = ask();
        let failed = run(kernel, &ask, &mut labelled).err().map(anyhow::Error::from);
        (failed, ask.notes(), 1)
    };
    let ended = labelled.end().err().map(anyhow::Error::from);
    drop(labelled);
    Answer { rows, failed: failed.or(ended), notes, tries }
}

/// The columns with the analyzer's name in front, and with how well the rows belong to one instant behind. Made once for each run of the
/// program and question, so they may stay.
pub(super) fn columns(own: &'static [Column], named: bool, live: bool) -> &'static [Column] {
    if !named && !live {
        return own;
    }
    let mut all = Vec::new();
    all.extend(named.then_some(Column("analyzer")));
    all.extend_from_slice(own);
    all.extend(live.then_some(Column("consistency")));
    Box::leak(all.into_boxed_slice())
}

/// Puts onto each row what [`columns`] has besides its own.
pub(super) struct Labelled<'a> {
    pub(super) name: Option<&'static str>,
    pub(super) live: bool,
    pub(super) rows: Box<dyn Rows + 'a>,
}

impl Rows for Labelled<'_> {
    fn row(&mut self, mut cells: Vec<Cell>) -> io::Result<()> {
        if let Some(name) = self.name {
            cells.insert(0, Cell::Word(name));
        }
        cells.extend(self.live.then_some(Cell::Word("live")));
        self.rows.row(cells)
    }

    fn end(&mut self) -> io::Result<()> {
        self.rows.end()
    }
}
