//! JSON: one array of objects, or one object a line; keys in the order of the columns.

use std::io::{self, Write};

use serde_json::{Value, json};

use super::{Cell, Column, Rows, lines};

#[derive(PartialEq, Eq)]
pub(super) enum Frame {
    Array,
    Lines,
}

pub(super) struct Json<'a> {
    /// `{"name":` for the first column, `,"name":` for the others.
    keys: Vec<String>,
    to: Box<dyn Write + 'a>,
    frame: Frame,
    begun: bool,
}

impl<'a> Json<'a> {
    pub(super) fn new(columns: &'static [Column], to: Box<dyn Write + 'a>, frame: Frame) -> Self {
        let key = |(index, column): (usize, &Column)| {
            let before = if index == 0 { '{' } else { ',' };
            format!("{before}{}:", json!(column.0))
        };
        Self { keys: columns.iter().enumerate().map(key).collect(), to, frame, begun: false }
    }
}

impl Rows for Json<'_> {
    fn row(&mut self, cells: Vec<Cell>) -> io::Result<()> {
        self.rows(vec![cells])
    }

    fn rows(&mut self, rows: Vec<Vec<Cell>>) -> io::Result<()> {
        let (keys, array) = (&self.keys, self.frame == Frame::Array);
        let parts = lines(&rows, |cells, to| {
            to.push_str(if array { ",\n " } else { "" });
            for (key, cell) in keys.iter().zip(cells) {
                to.push_str(key);
                value(cell, to);
            }
            to.push_str(if array { "}" } else { "}\n" });
        });
        for part in parts {
            // The first object has no comma before it.
            let first = array && !std::mem::replace(&mut self.begun, true);
            let text = if first { part.strip_prefix(',').unwrap_or(&part) } else { &part };
            self.to.write_all(if first { b"[" } else { b"" })?;
            self.to.write_all(text.as_bytes())?;
        }
        Ok(())
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

fn value(cell: &Cell, to: &mut String) {
    match cell {
        Cell::Text(text) => string(text, to),
        Cell::Word(text) => string(text, to),
        Cell::Int(_) | Cell::Bytes(_) | Cell::Bool(_) => cell.push(to),
        Cell::Address(_) | Cell::Time(_) | Cell::Day(_) => {
            to.push('"');
            cell.push(to);
            to.push('"');
        }
        Cell::Name(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => string(text, to),
            Err(_) => to.push_str(&name(bytes).to_string()),
        },
        Cell::Absent(why) => to.push_str(&json!({ "absent": why.name() }).to_string()),
    }
}

/// A string; most need no escape.
fn string(text: &str, to: &mut String) {
    if text.bytes().any(|byte| byte < b' ' || byte == b'"' || byte == b'\\') {
        to.push_str(&json!(text).to_string());
        return;
    }
    to.push('"');
    to.push_str(text);
    to.push('"');
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
