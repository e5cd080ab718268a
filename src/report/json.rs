//! JSON: one array of objects, or one object a line.

use std::io::{self, Write};

use serde_json::{Map, Value, json};

use super::{Cell, Column, Rows};

pub(super) enum Frame {
    Array,
    Lines,
}

pub(super) struct Json<'a> {
    columns: &'static [Column],
    to: Box<dyn Write + 'a>,
    frame: Frame,
    begun: bool,
}

impl<'a> Json<'a> {
    pub(super) fn new(columns: &'static [Column], to: Box<dyn Write + 'a>, frame: Frame) -> Self {
        Self { columns, to, frame, begun: false }
    }

    fn object(&self, cells: Vec<Cell>) -> Value {
        let names = self.columns.iter().map(|column| column.0.to_owned());
        Value::Object(names.zip(cells.into_iter().map(value)).collect::<Map<_, _>>())
    }
}

impl Rows for Json<'_> {
    fn row(&mut self, cells: Vec<Cell>) -> io::Result<()> {
        let object = self.object(cells);
        match self.frame {
            Frame::Lines => writeln!(self.to, "{object}"),
            Frame::Array => {
                let before = if std::mem::replace(&mut self.begun, true) { ",\n " } else { "[\n " };
                write!(self.to, "{before}{object}")
            }
        }
    }

    fn end(&mut self) -> io::Result<()> {
        match (&self.frame, self.begun) {
            (Frame::Array, true) => writeln!(self.to, "\n]")?,
            (Frame::Array, false) => writeln!(self.to, "[]")?,
            (Frame::Lines, _) => {}
        }
        self.to.flush()
    }
}

fn value(cell: Cell) -> Value {
    match cell {
        Cell::Text(text) => Value::String(text),
        Cell::Int(n) => json!(n),
        Cell::Bytes(n) => json!(n),
        Cell::Bool(yes) => json!(yes),
        Cell::Address(_) | Cell::Time(_) => Value::String(cell.plain()),
        Cell::Name(bytes) => name(&bytes),
        Cell::Absent(why) => json!({ "absent": why.name() }),
    }
}

/// A name of evidence, whole: a string, or an object with its bytes in hex where it is no text.
pub fn name(bytes: &[u8]) -> Value {
    if let Ok(text) = std::str::from_utf8(bytes) {
        return json!(text);
    }
    let digit = |n: u8| char::from_digit(u32::from(n), 16).unwrap_or('?');
    let hex: String = bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect();
    json!({ "hex": hex, "text": super::readable(bytes) })
}
