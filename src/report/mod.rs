//! Tables: what every verb prints. One file per output format; nothing here knows what the rows mean.
//!
//! Evidence is hostile: names in it may hold control codes, direction marks or spreadsheet formulas. Text for eyes is
//! escaped ([`printable`]); JSON carries every string as it is.

mod csv;
mod escape;
mod json;
mod text;
mod time;

use std::fmt::Write as _;
use std::io::{self, Write};

use jiff::Timestamp;
use rayon::prelude::*;

pub use escape::printable;
pub use json::name as json_name;

/// Rows that are made into text together.
const PART: usize = 256;

/// A column: its name is the key in JSON and CSV, in `lower_snake_case`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Column(pub &'static str);

/// Why a cell holds nothing. Never 0, never an empty text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Absent {
    /// It is there and could not be read.
    Unreadable,
    /// It makes no sense for this row.
    NotApplicable,
    /// Nobody told.
    Unknown,
}

impl Absent {
    fn name(self) -> &'static str {
        match self {
            Self::Unreadable => "unreadable",
            Self::NotApplicable => "not-applicable",
            Self::Unknown => "unknown",
        }
    }
}

/// One value.
#[derive(Debug, Clone, PartialEq)]
pub enum Cell {
    /// Any text, as it came.
    Text(String),
    /// One of a few texts of our own.
    Word(&'static str),
    /// A number.
    Int(i64),
    /// A size in bytes: a number for machines, `1.5 GiB` for eyes.
    Bytes(u64),
    /// An address: `0x…` in full.
    Address(u64),
    /// An instant.
    Time(Timestamp),
    /// A day of which no time is known, by where it begins: `2026-11-24`.
    Day(Timestamp),
    /// Yes or no.
    Bool(bool),
    /// A name as it stands in evidence: bytes that need be no text. JSON loses none of them.
    Name(Vec<u8>),
    /// Nothing, and why.
    Absent(Absent),
}

impl Cell {
    /// A text.
    pub fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    /// A value that may be missing.
    pub fn or_absent<T>(value: Option<T>, absent: Absent, cell: impl FnOnce(T) -> Self) -> Self {
        value.map_or(Self::Absent(absent), cell)
    }

    /// Appends the value as text. Not escaped.
    fn push(&self, to: &mut String) {
        // Writing to a string does not fail.
        let mut number = |number: std::fmt::Arguments<'_>| to.write_fmt(number).unwrap_or_default();
        match self {
            Self::Int(n) => number(format_args!("{n}")),
            Self::Bytes(n) => number(format_args!("{n}")),
            Self::Address(n) => number(format_args!("{n:#018x}")),
            Self::Text(text) => to.push_str(text),
            Self::Word(text) => to.push_str(text),
            Self::Time(at) => time::push(*at, to),
            Self::Day(at) => number(format_args!("{}", at.strftime("%Y-%m-%d"))),
            Self::Bool(yes) => to.push_str(if *yes { "true" } else { "false" }),
            Self::Name(bytes) => match std::str::from_utf8(bytes) {
                Ok(text) => to.push_str(text),
                Err(_) => to.push_str(&readable(bytes)),
            },
            Self::Absent(_) => {}
        }
    }
}

/// Lines of a table, in order, made by all cores. Few rows are made here: waking the others costs more.
fn lines(rows: &[Vec<Cell>], line: impl Fn(&[Cell], &mut String) + Sync) -> Vec<String> {
    let part = |rows: &[Vec<Cell>]| {
        let mut text = String::with_capacity(rows.len().saturating_mul(192));
        for cells in rows {
            line(cells, &mut text);
        }
        text
    };
    if rows.len() <= PART { vec![part(rows)] } else { rows.par_chunks(PART).map(part).collect() }
}

/// Bytes as text; those that are none as `\\xNN`. Not escaped otherwise.
pub fn readable(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        for byte in chunk.invalid() {
            // Writing to a string does not fail.
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text
}

/// How tables are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Format {
    /// For eyes; may be shortened.
    #[default]
    Text,
    /// RFC 4180, with a header.
    Csv,
    /// One array of objects.
    Json,
    /// One object a line.
    Jsonl,
}

/// Somebody who takes rows.
pub trait Rows {
    /// Takes one row; as many cells as there are columns.
    fn row(&mut self, cells: Vec<Cell>) -> io::Result<()>;
    /// Takes many rows: faster than one by one.
    fn rows(&mut self, rows: Vec<Vec<Cell>>) -> io::Result<()> {
        rows.into_iter().try_for_each(|cells| self.row(cells))
    }
    /// No row follows.
    fn end(&mut self) -> io::Result<()>;
}

impl Format {
    /// A writer of rows in this format. Output goes to `to` as the rows come; text keeps the first ones, which tell
    /// how wide its columns are.
    pub fn rows<'a>(self, columns: &'static [Column], to: Box<dyn Write + 'a>) -> Box<dyn Rows + 'a> {
        match self {
            Self::Text => Box::new(text::Text::new(columns, to)),
            Self::Csv => Box::new(csv::Csv::new(columns, to)),
            Self::Json => Box::new(json::Json::new(columns, to, json::Frame::Array)),
            Self::Jsonl => Box::new(json::Json::new(columns, to, json::Frame::Lines)),
        }
    }
}

/// `1.5 GiB`: three digits at most, binary units.
pub fn human_bytes(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let (mut unit, mut scale) = (0usize, 1u64);
    while bytes / scale >= 1024 && unit < 6 {
        scale = scale.saturating_mul(1024);
        unit += 1;
    }
    let name = UNITS.get(unit).copied().unwrap_or("B");
    let tenths = (u128::from(bytes) * 10).div_ceil(u128::from(scale));
    if unit == 0 || tenths.is_multiple_of(10) || tenths >= 1000 {
        format!("{} {name}", tenths / 10)
    } else {
        format!("{}.{} {name}", tenths / 10, tenths % 10)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: &[Column] = &[Column("name"), Column("size"), Column("at")];

    fn printed(format: Format) -> String {
        let mut out = Vec::new();
        let mut rows = format.rows(COLUMNS, Box::new(&mut out));
        rows.row(vec![Cell::text("a,\"b\"\u{1b}[31m"), Cell::Bytes(1536), Cell::Address(0xffff_8000_0000_0000)])
            .unwrap();
        rows.row(vec![Cell::text("=1+2"), Cell::Absent(Absent::Unknown), Cell::Address(0)]).unwrap();
        rows.end().unwrap();
        drop(rows);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn json_keeps_numbers_and_hostile_text_and_names_what_is_absent() {
        let parsed: serde_json::Value = serde_json::from_str(&printed(Format::Json)).unwrap();
        assert_eq!(parsed[0]["name"], "a,\"b\"\u{1b}[31m");
        assert_eq!(parsed[0]["size"], 1536);
        assert_eq!(parsed[0]["at"], "0xffff800000000000");
        assert_eq!(parsed[1]["size"]["absent"], "unknown");
        let lines = printed(Format::Jsonl);
        assert_eq!(lines.lines().count(), 2);
        assert!(lines.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()));
    }

    #[test]
    fn a_name_that_is_no_text_is_kept_whole_in_json() {
        const NAME: &[Column] = &[Column("name")];
        let mut out = Vec::new();
        let mut rows = Format::Jsonl.rows(NAME, Box::new(&mut out));
        rows.row(vec![Cell::Name(b"plain\n|".to_vec())]).unwrap();
        rows.row(vec![Cell::Name(b"\xff\x1b\\a".to_vec())]).unwrap();
        drop(rows);
        let text = String::from_utf8(out).unwrap();
        let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines[0]["name"], "plain\n|");
        assert_eq!(lines[1]["name"]["hex"], "ff1b5c61");
        assert_eq!(lines[1]["name"]["text"], "\\xff\u{1b}\\a");
    }

    #[test]
    fn an_empty_table_is_still_an_array() {
        let mut out = Vec::new();
        Format::Json.rows(COLUMNS, Box::new(&mut out)).end().unwrap();
        assert_eq!(String::from_utf8(out).unwrap().trim(), "[]");
    }

    #[test]
    fn csv_quotes_and_disarms_formulas() {
        let csv = printed(Format::Csv);
        assert_eq!(csv.lines().next(), Some("name,size,at"));
        assert!(csv.contains("\"a,\"\"b\"\""), "{csv}");
        assert!(csv.contains("\n'=1+2,,0x0000000000000000"), "{csv}");
    }

    #[test]
    fn text_shows_no_control_codes() {
        let text = printed(Format::Text);
        assert!(!text.contains('\u{1b}'), "{text:?}");
        assert!(text.contains("1.5 KiB") && text.contains("\\u{1b}[31m"), "{text}");
    }

    #[test]
    fn many_rows_are_one_table_in_their_order() {
        for (format, head, tail) in
            [(Format::Csv, 1, 0), (Format::Jsonl, 0, 0), (Format::Text, 1, 0), (Format::Json, 1, 1)]
        {
            let made = |n: i64| vec![Cell::Word("n"), Cell::Int(n), Cell::Name(b"x\xff\x1b".to_vec())];
            let (mut one, mut many) = (Vec::new(), Vec::new());
            let mut rows = format.rows(COLUMNS, Box::new(&mut one));
            (0..3000).for_each(|n| rows.row(made(n)).unwrap());
            rows.end().unwrap();
            drop(rows);
            let mut rows = format.rows(COLUMNS, Box::new(&mut many));
            for part in [0..700, 700..3000] {
                rows.rows(part.map(made).collect()).unwrap();
            }
            rows.end().unwrap();
            drop(rows);
            assert!(one == many, "{format:?}");
            let text = String::from_utf8(one).unwrap();
            assert_eq!(text.lines().count(), 3000 + head + tail, "{format:?}");
            for (index, line) in text.lines().skip(head).take(3000).enumerate() {
                assert!(line.contains(&index.to_string()), "{format:?}: {line}");
            }
            if format == Format::Text {
                let ends: Vec<_> = text.lines().skip(1).map(|line| line.find("x\\xff").unwrap()).collect();
                assert!(ends.iter().all(|end| *end == ends[0]), "the columns do not stand below each other");
            }
            if format == Format::Json {
                assert_eq!(serde_json::from_str::<Vec<serde_json::Value>>(&text).unwrap().len(), 3000);
            }
        }
    }

    #[test]
    fn sizes_are_short() {
        for (bytes, text) in [(0, "0 B"), (1023, "1023 B"), (1024, "1 KiB"), (1536, "1.5 KiB"), (5 << 30, "5 GiB")] {
            assert_eq!(human_bytes(bytes), text);
        }
        assert_eq!(human_bytes(u64::MAX), "16 EiB");
    }
}
