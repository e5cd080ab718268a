//! A table for eyes. The only format that may be shortened, and the only one that is escaped.

use std::io::{self, Write};

use comfy_table::{ContentArrangement, Table, presets};

use super::{Cell, Column, Rows, human_bytes, printable};

pub(super) struct Text<'a> {
    table: Table,
    rows: usize,
    to: Box<dyn Write + 'a>,
}

impl<'a> Text<'a> {
    pub(super) fn new(columns: &'static [Column], to: Box<dyn Write + 'a>) -> Self {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        table.set_content_arrangement(ContentArrangement::Dynamic);
        table.set_header(columns.iter().map(|column| column.0.to_uppercase().replace('_', " ")));
        Self { table, rows: 0, to }
    }
}

impl Rows for Text<'_> {
    fn row(&mut self, cells: Vec<Cell>) -> io::Result<()> {
        self.table.add_row(cells.iter().map(shown));
        self.rows += 1;
        Ok(())
    }

    fn end(&mut self) -> io::Result<()> {
        if self.rows > 0 {
            for line in self.table.lines() {
                writeln!(self.to, "{}", line.trim_end())?;
            }
        }
        self.to.flush()
    }
}

fn shown(cell: &Cell) -> String {
    match cell {
        Cell::Bytes(n) => human_bytes(*n),
        Cell::Bool(yes) => if *yes { "yes" } else { "no" }.to_owned(),
        Cell::Absent(_) => "-".to_owned(),
        other => printable(&other.plain()),
    }
}
