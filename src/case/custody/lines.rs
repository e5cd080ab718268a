//! Reads a log of lines that somebody else may have written: a line that is too long or torn is named, never swallowed.

use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use super::Event;
use crate::case::CaseError;
use crate::case::digest::sha256;
use crate::case::disk::open_plain;

/// Longest line of any log of a case, in bytes.
pub(crate) const LINE_LIMIT: usize = 64 << 10;
/// Longest custody log that is read, in bytes: hundreds of thousands of events.
const LOG_LIMIT: u64 = 256 << 20;

/// The lines of a file, without their newlines, each at most [`LINE_LIMIT`] long.
pub(crate) struct Lines<R> {
    from: BufReader<R>,
}

impl<R: Read> Lines<R> {
    pub(crate) fn new(from: R) -> Self {
        Self { from: BufReader::new(from) }
    }

    /// The next line and whether its newline is there. What is longer than a line may be is cut there and goes on as the
    /// next "line", which no parser takes.
    pub(crate) fn next(&mut self) -> io::Result<Option<(Vec<u8>, bool)>> {
        let mut line = Vec::new();
        (&mut self.from).take(LINE_LIMIT as u64).read_until(b'\n', &mut line)?;
        if line.is_empty() {
            return Ok(None);
        }
        let whole = line.last() == Some(&b'\n');
        if whole {
            line.pop();
        }
        Ok(Some((line, whole)))
    }
}

/// A custody log as it lies there, good or bad.
#[derive(Debug, Default)]
pub struct Log {
    /// Its lines in the order of the file.
    pub entries: Vec<Entry>,
    /// What follows the last newline: a line that was cut while it was written.
    pub torn: Option<Vec<u8>>,
}

/// One line of the file.
#[derive(Debug)]
pub struct Entry {
    /// SHA-256 of the line without its newline, in hex.
    pub hash: String,
    /// What it says, or why it says nothing.
    pub event: Result<Event, String>,
}

impl Log {
    /// The events that could be read.
    pub fn events(&self) -> impl Iterator<Item = &Event> {
        self.entries.iter().filter_map(|entry| entry.event.as_ref().ok())
    }
}

/// Reads a custody log from any source.
pub fn read(from: impl Read) -> io::Result<Log> {
    let mut lines = Lines::new(from.take(LOG_LIMIT));
    let mut log = Log::default();
    while let Some((line, whole)) = lines.next()? {
        if whole || line.len() >= LINE_LIMIT {
            log.entries.push(Entry { hash: sha256(&line), event: Event::parse(&line) });
        } else {
            log.torn = Some(line);
        }
    }
    Ok(log)
}

/// Reads the file.
pub(super) fn read_file(path: &Path) -> Result<Log, CaseError> {
    open_plain(path).and_then(read).map_err(CaseError::io("read the custody log", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn torn_and_endless_lines_are_named() {
        let log = read(&b"x\n{\"n\":1"[..]).unwrap();
        assert!(log.entries[0].event.is_err());
        assert_eq!(log.torn.as_deref(), Some(&b"{\"n\":1"[..]));
        let endless = read(io::repeat(b'a').take(3 * LINE_LIMIT as u64)).unwrap();
        assert_eq!(endless.entries.len(), 3);
        assert!(endless.entries.iter().all(|entry| entry.event.is_err()));
    }
}
