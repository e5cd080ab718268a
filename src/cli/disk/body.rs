//! Files and their times as The Sleuth Kit writes them: lines of a bodyfile, and those of mactime.

use std::fmt::Write as _;

use jiff::Timestamp;
use jiff::tz::Offset;

use super::time::File;
use crate::disk::fs::{FileKind, State};

/// A line of a bodyfile: `MD5|name|inode|mode|UID|GID|size|atime|mtime|ctime|crtime`.
pub(super) fn line(file: &File<'_>, to: &mut String) {
    let seconds = |at: Option<Timestamp>| at.map_or(0, Timestamp::as_second);
    let times = &file.times;
    // Writing to a string does not fail.
    let _ = writeln!(
        to,
        "0|{}|{}|{}|{}|{}|{}|{}|{}|{}|{}",
        name(file),
        file.inode,
        mode(file),
        file.uid,
        file.gid,
        file.size,
        seconds(times.accessed),
        seconds(times.modified),
        seconds(times.changed),
        seconds(times.born)
    );
}

/// A line of mactime: the time only where it differs from the line before.
pub(super) fn mactime(file: &File<'_>, at: Timestamp, letters: &str, first: bool, to: &mut String) {
    let at = Offset::UTC.to_datetime(at);
    let time = if first { at.strftime("%a %b %d %Y %H:%M:%S").to_string() } else { String::new() };
    let (size, mode, uid, gid, inode) = (file.size, mode(file), file.uid, file.gid, file.inode);
    let _ = writeln!(to, "{time:24} {size:>8} {letters} {mode} {uid:<8} {gid:<8} {inode:<8} {}", name(file));
}

/// The name with what The Sleuth Kit puts behind it.
fn name(file: &File<'_>) -> String {
    let deleted = if file.state == State::Deleted { " (deleted)" } else { "" };
    format!("{}{deleted}", escaped(file.path))
}

fn mode(file: &File<'_>) -> String {
    let kind = file.kind.map_or('-', FileKind::letter);
    format!("{kind}/{}", permissions(kind, file.mode))
}

/// Whatever would end a field or a line, or is no text, as `\xNN`.
pub(super) fn escaped(path: &[u8]) -> String {
    let mut text = String::with_capacity(path.len());
    for chunk in path.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c == '|' || c == '\\' || c.is_control() {
                let mut bytes = [0; 4];
                c.encode_utf8(&mut bytes).bytes().for_each(|byte| text.extend(hex(byte)));
            } else {
                text.push(c);
            }
        }
        chunk.invalid().iter().for_each(|byte| text.extend(hex(*byte)));
    }
    text
}

/// A byte that is not shown as it is.
fn hex(byte: u8) -> [char; 4] {
    let digit = |n: u8| char::from_digit(u32::from(n), 16).unwrap_or('?');
    ['\\', 'x', digit(byte >> 4), digit(byte & 15)]
}

fn permissions(kind: char, mode: u32) -> String {
    let mut text = String::from(kind);
    for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bit = |n: u32| mode >> shift & n != 0;
        text.push(if bit(4) { 'r' } else { '-' });
        text.push(if bit(2) { 'w' } else { '-' });
        text.push(match (bit(1), mode & special != 0) {
            (true, true) => letter,
            (false, true) => letter.to_ascii_uppercase(),
            (true, false) => 'x',
            (false, false) => '-',
        });
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_end_a_field_of_a_bodyfile() {
        assert_eq!(escaped(b"a|b\nc\\d\xff"), "a\\x7cb\\x0ac\\x5cd\\xff");
        assert_eq!(permissions('d', 0o1777), "drwxrwxrwt");
        assert_eq!(permissions('r', 0o4644), "rrwSr--r--");
    }
}
