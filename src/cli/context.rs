//! What every verb shares: output, progress, the runtime, who is at the keyboard.

use std::env;
use std::future::Future;
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use impound_backends::Uri;

use super::aside::Aside;
use super::exit::UsageError;
use super::progress::{Reporter, Style};
use crate::case::{Case, open_runs};
use crate::progress::{Progress, Silent, Task};
use crate::report::{Cell, Column, Format, Rows, printable};

/// See the module.
pub(super) struct Context {
    format: Format,
    reporter: Arc<Reporter>,
    verbose: bool,
}

impl Context {
    pub(super) fn new(format: Format, style: Style, verbose: bool) -> Self {
        Self { format, reporter: Arc::new(Reporter::new(style)), verbose }
    }

    /// A table on stdout.
    pub(super) fn table(&self, columns: &'static [Column]) -> Box<dyn Rows> {
        self.format.rows(columns, Box::new(output()))
    }

    /// A large table on stdout, written while its rows are found.
    pub(super) fn table_aside(&self, columns: &'static [Column]) -> Aside<Vec<Vec<Cell>>> {
        let format = self.format;
        Aside::new(move || format.rows(columns, Box::new(output())))
    }

    /// The format of tables.
    pub(super) fn format(&self) -> Format {
        self.format
    }

    /// Output is for eyes.
    pub(super) fn for_eyes(&self) -> bool {
        self.format == Format::Text
    }

    /// A line on stderr, above the bars. The caller escapes what is hostile.
    pub(super) fn say(&self, text: &str) {
        self.reporter.line(text);
    }

    /// A line for those who want to know more.
    pub(super) fn detail(&self, text: &str) {
        if self.verbose {
            self.say(text);
        }
    }

    pub(super) fn progress(&self) -> Arc<dyn Progress> {
        Arc::clone(&self.reporter) as Arc<dyn Progress>
    }

    /// Progress of work whose rows go to stdout as they come; none where they show up on the same terminal.
    pub(super) fn counting(&self, what: &str, unit: &'static str) -> Box<dyn Task> {
        if io::stdout().is_terminal() { Box::new(Silent) } else { self.reporter.count(what, unit, None) }
    }

    /// Opens a case and says what an earlier run left undone.
    pub(super) fn open_case(&self, dir: &Path) -> Result<Case> {
        let case = Case::open(dir)?;
        self.warn_of_open_runs(&case)?;
        Ok(case)
    }

    pub(super) fn warn_of_open_runs(&self, case: &Case) -> Result<()> {
        for run in open_runs(case)?.into_iter().filter(|run| !run.alive) {
            self.say(&format!(
                "warning: run {} on {} (pid {}, {:.0}) never ended and left {} acts to undo; run: impound case recover {}",
                printable(&run.run),
                printable(&run.target),
                run.pid,
                run.started,
                run.undo.len(),
                case.dir().display()
            ));
            run.undo.iter().for_each(|undo| self.say(&format!("  still to do: {}", printable(&undo.say))));
        }
        Ok(())
    }
}

/// Runs async work to its end.
pub(super) fn block_on<T>(work: impl Future<Output = T>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    Ok(runtime.context("could not start the async runtime")?.block_on(work))
}

/// Reads a target's address; a bad one is a usage error.
pub(super) fn uri(text: &str) -> Result<Uri> {
    let uri: Uri = text.parse().map_err(|error: impound_backends::BackendError| UsageError(error.to_string()))?;
    impound_backends::for_uri(&uri).map_err(|error| UsageError(error.to_string()))?;
    Ok(uri)
}

/// Who is at the keyboard, unless said otherwise: `user@host`.
pub(super) fn somebody() -> String {
    let user = env::var("SUDO_USER").or_else(|_| env::var("USER")).or_else(|_| env::var("LOGNAME"));
    let user = user.unwrap_or_else(|_| format!("uid {}", rustix::process::getuid().as_raw()));
    format!("{user}@{}", rustix::system::uname().nodename().to_string_lossy())
}

/// How this program was built.
pub(super) fn build() -> String {
    let profile = if cfg!(debug_assertions) { "debug" } else { "release" };
    let commit = option_env!("IMPOUND_COMMIT").unwrap_or("commit unknown");
    format!("{profile}, {}-{}, {commit}", env::consts::ARCH, env::consts::OS)
}

/// Writes a file that must not be there yet.
pub(super) fn write_new(path: &Path, bytes: &[u8]) -> Result<()> {
    let file = std::fs::OpenOptions::new().write(true).create_new(true).open(path);
    let mut file = file.with_context(|| format!("could not create {}; nothing is ever overwritten", path.display()))?;
    file.write_all(bytes).with_context(|| format!("could not write {}", path.display()))
}

/// Stdout, held. Its errors say what could not be done.
pub(super) struct Stdout(io::StdoutLock<'static>);

impl Stdout {
    pub(super) fn lock() -> Self {
        Self(io::stdout().lock())
    }
}

impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes).map_err(|error| cut_off(&error))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush().map_err(|error| cut_off(&error))
    }
}

fn cut_off(error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("could not write the output: {error}; what came until then is not all"))
}

/// Stdout for rows and lines.
pub(super) fn output() -> io::BufWriter<Stdout> {
    io::BufWriter::new(Stdout::lock())
}

/// Stdout for what a guest wrote, which may steer a terminal: it must be a file or a pipe.
pub(super) fn raw_stdout() -> Result<Stdout> {
    let out = Stdout::lock();
    if out.0.is_terminal() {
        let what = "what a guest wrote does not go to a terminal: send it to a file or a program";
        return Err(UsageError(what.to_owned()).into());
    }
    Ok(out)
}

/// Writes `len` zeros.
pub(super) fn write_zeros(to: &mut impl Write, mut len: u64) -> io::Result<()> {
    let zeros = [0; 16 << 10];
    while len > 0 {
        let part = usize::try_from(len).unwrap_or(usize::MAX).min(zeros.len());
        to.write_all(zeros.get(..part).unwrap_or_default())?;
        len -= part as u64;
    }
    Ok(())
}
