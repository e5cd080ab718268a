//! RFC 4180. A text that a spreadsheet would run as a formula gets an apostrophe in front, as OWASP advises ("CSV
//! Injection"); whoever needs the exact text takes JSON.

use std::io::{self, Write};

use super::{Cell, Column, Rows, lines};

pub(super) struct Csv<'a> {
    columns: &'static [Column],
    to: Box<dyn Write + 'a>,
    begun: bool,
}

impl<'a> Csv<'a> {
    pub(super) fn new(columns: &'static [Column], to: Box<dyn Write + 'a>) -> Self {
        Self { columns, to, begun: false }
    }

    fn header(&mut self) -> io::Result<()> {
        if self.begun {
            return Ok(());
        }
        self.begun = true;
        let names: Vec<_> = self.columns.iter().map(|column| column.0).collect();
        writeln!(self.to, "{}", names.join(","))
    }
}

impl Rows for Csv<'_> {
    fn row(&mut self, cells: Vec<Cell>) -> io::Result<()> {
        self.rows(vec![cells])
    }

    fn rows(&mut self, rows: Vec<Vec<Cell>>) -> io::Result<()> {
        self.header()?;
        lines(&rows, line).iter().try_for_each(|part| self.to.write_all(part.as_bytes()))
    }

    fn end(&mut self) -> io::Result<()> {
        self.header()?;
        self.to.flush()
    }
}

fn line(cells: &[Cell], to: &mut String) {
    for (index, cell) in cells.iter().enumerate() {
        if index > 0 {
            to.push(',');
        }
        field(cell, to);
    }
    to.push('\n');
}

fn field(cell: &Cell, to: &mut String) {
    if !matches!(cell, Cell::Text(_) | Cell::Word(_) | Cell::Name(_)) {
        cell.push(to);
        return;
    }
    let from = to.len();
    cell.push(to);
    if to.get(from..).is_some_and(|text| text.starts_with(['=', '+', '-', '@', '\t', '\r'])) {
        to.insert(from, '\'');
    }
    let text = to.get(from..).unwrap_or_default();
    if text.contains([',', '"', '\n', '\r']) {
        let quoted = text.replace('"', "\"\"");
        to.truncate(from);
        to.push('"');
        to.push_str(&quoted);
        to.push('"');
    }
}
