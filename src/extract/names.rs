//! Names from evidence as names of files here: no way out of the folder, nothing that acts on a terminal, not too long.

use std::collections::HashSet;

/// The longest name that is written, in bytes; Linux allows 255.
const LONGEST: usize = 200;

/// A name that is safe, by itself: `.`, `..`, an empty one, `/`, NUL, control characters, and bytes that are no text are
/// written as `%NN`. Two names may become one; [`Taken`] keeps them apart.
pub fn safe(name: &[u8]) -> String {
    let mut text = String::new();
    for chunk in name.utf8_chunks() {
        for c in chunk.valid().chars() {
            let plain = crate::report::printable(c.encode_utf8(&mut [0; 4])).chars().count() == 1;
            if plain && !matches!(c, '/' | '\\' | '%' | ':') {
                text.push(c);
            } else {
                let mut bytes = [0; 4];
                c.encode_utf8(&mut bytes).bytes().for_each(|byte| text.extend(hex(byte)));
            }
        }
        chunk.invalid().iter().for_each(|byte| text.extend(hex(*byte)));
    }
    if text.is_empty() || text.chars().all(|c| c == '.') {
        text = text.replace('.', "%2e");
        text.insert(0, '_');
    }
    while text.len() > LONGEST {
        text.pop();
    }
    text
}

/// A byte that is not shown as it is.
fn hex(byte: u8) -> [char; 3] {
    let digit = |n: u8| char::from_digit(u32::from(n), 16).unwrap_or('?');
    ['%', digit(byte >> 4), digit(byte & 15)]
}

/// Names that are in use in one folder, compared without case: a case-blind file system must hold them too.
#[derive(Debug, Default)]
pub struct Taken(HashSet<String>);

impl Taken {
    /// The safe form of a name, with a number if another has it.
    pub fn take(&mut self, name: &[u8]) -> String {
        let base = safe(name);
        let mut text = base.clone();
        for number in 2_u64.. {
            if self.0.insert(text.to_lowercase()) {
                break;
            }
            text = format!("{base}~{number}");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_leads_out_or_acts() {
        for (name, want) in [
            (&b".."[..], "_%2e%2e"),
            (b".", "_%2e"),
            (b"", "_"),
            (b"/etc/passwd", "%2fetc%2fpasswd"),
            (b"a\0b", "a%00b"),
            (b"\x1b[31m", "%1b[31m"),
            (b"\xff", "%ff"),
            (b"..\\x", "..%5cx"),
            (b".bashrc", ".bashrc"),
            ("gnp\u{202e}.exe".as_bytes(), "gnp%e2%80%ae.exe"),
        ] {
            assert_eq!(safe(name), want);
        }
        assert!(safe(&[b'x'; 5000]).len() <= LONGEST);
        let mut taken = Taken::default();
        assert_eq!([taken.take(b"A"), taken.take(b"a"), taken.take(b"a")], ["A", "a~2", "a~3"]);
    }
}
