//! Progress for people (bars, or lines where there is no terminal) and for programs (JSON lines), all on stderr.

use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;

use crate::progress::{Progress, Task};
use crate::report::{human_bytes, printable};

/// Between two lines of one task.
const LINES_EVERY: Duration = Duration::from_secs(5);
/// Between two JSON objects of one task.
const JSON_EVERY: Duration = Duration::from_secs(1);

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub(super) enum Style {
    /// Bars on a terminal, lines otherwise
    #[default]
    Auto,
    /// Bars
    Bar,
    /// A line every few seconds
    Plain,
    /// JSON objects, one a line
    Json,
    /// Nothing
    Off,
}

/// Shows progress and lines, one above the other.
pub(super) struct Reporter {
    style: Style,
    bars: MultiProgress,
}

impl Reporter {
    pub(super) fn new(style: Style) -> Self {
        let style = match style {
            Style::Auto if std::io::stderr().is_terminal() => Style::Bar,
            Style::Auto => Style::Plain,
            said => said,
        };
        let target = if style == Style::Bar { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        Self { style, bars: MultiProgress::with_draw_target(target) }
    }

    /// One line for people, or one object for programs.
    pub(super) fn line(&self, text: &str) {
        match self.style {
            Style::Json => say(&json!({ "event": "message", "text": text }).to_string()),
            Style::Bar => self.bars.suspend(|| say(text)),
            _ => say(text),
        }
    }
}

/// A line on stderr. If stderr is gone there is nobody to tell.
fn say(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

impl Reporter {
    fn task(&self, what: &str, unit: Option<&'static str>, total: Option<u64>) -> Box<dyn Task> {
        let what = printable(what);
        match self.style {
            Style::Off => Box::new(crate::progress::Silent),
            Style::Bar => Box::new(Bar::new(&self.bars, &what, unit, total)),
            style => Box::new(Lines::new(style, what, unit, total)),
        }
    }
}

impl Progress for Reporter {
    fn begin(&self, what: &str, total: Option<u64>) -> Box<dyn Task> {
        self.task(what, None, total)
    }

    fn count(&self, what: &str, unit: &'static str, total: Option<u64>) -> Box<dyn Task> {
        self.task(what, Some(unit), total)
    }

    fn note(&self, text: &str) {
        self.line(&printable(text));
    }
}

struct Bar(ProgressBar);

impl Bar {
    fn new(bars: &MultiProgress, what: &str, unit: Option<&str>, total: Option<u64>) -> Self {
        let template = match (unit, total) {
            (None, Some(_)) => {
                "{prefix:16} {wide_bar} {bytes:>11} of {total_bytes:11} {binary_bytes_per_sec:>12}  {eta:>4} left  {msg}"
                    .to_owned()
            }
            (None, None) => "{prefix:16} {spinner} {bytes:>11} {binary_bytes_per_sec:>12}  {msg}".to_owned(),
            (Some(unit), Some(_)) => format!("{{prefix:16}} {{wide_bar}} {{human_pos}} of {{human_len}} {unit}  {{eta:>4}} left  {{msg}}"),
            (Some(unit), None) => format!("{{prefix:16}} {{spinner}} {{human_pos:>11}} {unit} {{per_sec:>16}}  {{msg}}"),
        };
        let bar = bars.add(total.map_or_else(ProgressBar::no_length, ProgressBar::new));
        // The templates are ours; a wrong one falls back to the plain bar.
        let style = ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar());
        bar.set_style(style);
        bar.set_prefix(what.to_owned());
        bar.enable_steady_tick(Duration::from_millis(250));
        Self(bar)
    }
}

impl Task for Bar {
    fn add(&self, more: u64) {
        self.0.inc(more);
    }

    fn phase(&self, name: &str) {
        self.0.set_message(name.to_owned());
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// Lines or JSON objects now and then.
struct Lines {
    style: Style,
    what: String,
    /// What is counted, if not bytes.
    unit: Option<&'static str>,
    total: Option<u64>,
    begun: Instant,
    done: AtomicU64,
    told: Arc<Mutex<(Instant, String)>>,
}

impl Lines {
    fn new(style: Style, what: String, unit: Option<&'static str>, total: Option<u64>) -> Self {
        let now = Instant::now();
        let told = Arc::new(Mutex::new((now, String::new())));
        let lines = Self { style, what, unit, total, begun: now, done: AtomicU64::new(0), told };
        if style == Style::Json {
            lines.tell("begun", "");
        }
        lines
    }

    fn tell(&self, event: &str, phase: &str) {
        let done = self.done.load(Ordering::Relaxed);
        let millis = self.begun.elapsed().as_millis().max(1);
        let rate = u64::try_from(u128::from(done).saturating_mul(1000) / millis).unwrap_or(u64::MAX);
        let left = self.total.and_then(|total| total.saturating_sub(done).checked_div(rate));
        if self.style == Style::Json {
            let (unit, every) = self.unit.map_or(("bytes".into(), "bytes_per_second".into()), |unit| {
                (unit.to_owned(), format!("{unit}_per_second"))
            });
            say(&json!({ "event": event, "task": self.what, "phase": phase, unit: done, "total": self.total,
                         every: rate, "seconds_left": left })
            .to_string());
            return;
        }
        let amount = |n: u64| self.unit.map_or_else(|| human_bytes(n), |unit| format!("{n} {unit}"));
        let of = self.total.map_or(String::new(), |total| format!(" of {}", amount(total)));
        let left = left.map_or(String::new(), |left| format!(", {left} s left"));
        let (done, rate) = (amount(done), amount(rate));
        match event {
            "ended" => say(&format!("{}: {done} in {}.{} s ({rate}/s)", self.what, millis / 1000, millis % 1000 / 100)),
            _ => say(&format!("{}: {phase} {done}{of}, {rate}/s{left}", self.what)),
        }
    }
}

impl Task for Lines {
    fn add(&self, more: u64) {
        self.done.fetch_add(more, Ordering::Relaxed);
        let every = if self.style == Style::Json { JSON_EVERY } else { LINES_EVERY };
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.0.elapsed() >= every {
            told.0 = Instant::now();
            let phase = told.1.clone();
            drop(told);
            self.tell("progress", &phase);
        }
    }

    fn phase(&self, name: &str) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        name.clone_into(&mut told.1);
        drop(told);
        if self.style == Style::Json {
            self.tell("phase", name);
        }
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        // Short work needs no line; programs get every end.
        if self.style == Style::Json || self.begun.elapsed() >= Duration::from_secs(1) {
            self.tell("ended", "");
        }
    }
}
