//! A table for eyes. The only format that may be shortened, and the only one that is escaped.
//!
//! Columns are as wide as the first rows need; those that follow are written as they come, so that a table of a million
//! rows is not kept.

use std::io::{self, Write};

use comfy_table::{ContentArrangement, Table, presets};
use unicode_width::UnicodeWidthStr;

use super::{Cell, Column, Rows, human_bytes, lines, printable};

/// Rows that tell how wide the columns are.
const HEAD: usize = 1000;

pub(super) struct Text<'a> {
    table: Table,
    rows: usize,
    /// Widths of the columns, once the first rows are written.
    widths: Option<Vec<usize>>,
    to: Box<dyn Write + 'a>,
}

impl<'a> Text<'a> {
    pub(super) fn new(columns: &'static [Column], to: Box<dyn Write + 'a>) -> Self {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        table.set_content_arrangement(ContentArrangement::Dynamic);
        table.set_header(columns.iter().map(|column| column.0.to_uppercase().replace('_', " ")));
        Self { table, rows: 0, widths: None, to }
    }

    /// Writes what was kept.
    fn head(&mut self) -> io::Result<()> {
        if self.rows > 0 && self.widths.is_none() {
            for line in self.table.lines() {
                writeln!(self.to, "{}", line.trim_end())?;
            }
            self.widths = Some(self.table.column_max_content_widths().into_iter().map(usize::from).collect());
        }
        Ok(())
    }
}

impl Rows for Text<'_> {
    fn row(&mut self, cells: Vec<Cell>) -> io::Result<()> {
        self.rows(vec![cells])
    }

    fn rows(&mut self, rows: Vec<Vec<Cell>>) -> io::Result<()> {
        let mut rest = rows.as_slice();
        while let Some((cells, behind)) = rest.split_first().filter(|_| self.rows < HEAD) {
            self.table.add_row(cells.iter().map(shown));
            self.rows += 1;
            rest = behind;
        }
        if rest.is_empty() {
            return Ok(());
        }
        self.head()?;
        let widths = self.widths.as_deref().unwrap_or_default();
        lines(rest, |cells, to| line(cells, widths, to)).iter().try_for_each(|part| self.to.write_all(part.as_bytes()))
    }

    fn end(&mut self) -> io::Result<()> {
        self.head()?;
        self.to.flush()
    }
}

/// As the table writes it: a blank on each side of a cell.
fn line(cells: &[Cell], widths: &[usize], to: &mut String) {
    for (cell, width) in cells.iter().zip(widths) {
        to.push(' ');
        let from = to.len();
        push(cell, to);
        let text = to.get(from..).unwrap_or_default();
        let own = if text.is_ascii() { text.len() } else { text.width() };
        to.extend(std::iter::repeat_n(' ', width.saturating_sub(own) + 1));
    }
    to.truncate(to.trim_end_matches(' ').len());
    to.push('\n');
}

fn shown(cell: &Cell) -> String {
    let mut text = String::new();
    push(cell, &mut text);
    text
}

fn push(cell: &Cell, to: &mut String) {
    match cell {
        Cell::Bytes(n) => to.push_str(&human_bytes(*n)),
        Cell::Bool(yes) => to.push_str(if *yes { "yes" } else { "no" }),
        Cell::Absent(_) => to.push('-'),
        other => {
            let from = to.len();
            other.push(to);
            let text = to.get(from..).unwrap_or_default();
            if !text.bytes().all(|byte| (b' '..0x7f).contains(&byte)) {
                let safe = printable(text);
                to.truncate(from);
                to.push_str(&safe);
            }
        }
    }
}
