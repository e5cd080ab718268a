//! RFC 4180. A text that a spreadsheet would run as a formula gets an apostrophe in front, as OWASP advises ("CSV
//! Injection"); whoever needs the exact text takes JSON.

use std::io::{self, Write};

use super::{Cell, Column, Rows};

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
        self.header()?;
        let cells: Vec<_> = cells.iter().map(field).collect();
        writeln!(self.to, "{}", cells.join(","))
    }

    fn end(&mut self) -> io::Result<()> {
        self.header()?;
        self.to.flush()
    }
}

fn field(cell: &Cell) -> String {
    let mut text = cell.plain();
    if matches!(cell, Cell::Text(_) | Cell::Name(_)) && text.starts_with(['=', '+', '-', '@', '\t', '\r']) {
        text.insert(0, '\'');
    }
    if text.contains([',', '"', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text }
}
