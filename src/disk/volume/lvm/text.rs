//! The text that LVM keeps its metadata in: `name = value`, `section { … }`, lists, strings, numbers, comments.
//!
//! Grammar: LVM2's `lib/config/config.c` (`lvm.conf(5)`, "SYNTAX"). Floating-point numbers do not occur in metadata and are kept as text.

use std::collections::BTreeMap;

/// Sections within sections; LVM itself writes four.
const DEPTH: usize = 8;

/// A value of the text.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Number(i64),
    Text(String),
    List(Vec<Value>),
    Section(Section),
}

/// Names and their values. Metadata gives each name once; of two the last one counts, as in LVM.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Section(BTreeMap<String, Value>);

impl Section {
    pub(super) fn sections(&self) -> impl Iterator<Item = (&str, &Section)> {
        self.0.iter().filter_map(|(name, value)| match value {
            Value::Section(section) => Some((name.as_str(), section)),
            _ => None,
        })
    }

    pub(super) fn section(&self, name: &str) -> Result<&Section, String> {
        match self.0.get(name) {
            Some(Value::Section(section)) => Ok(section),
            _ => Err(format!("there is no section {name}")),
        }
    }

    pub(super) fn text(&self, name: &str) -> Result<&str, String> {
        match self.0.get(name) {
            Some(Value::Text(text)) => Ok(text),
            _ => Err(format!("there is no text {name}")),
        }
    }

    pub(super) fn number(&self, name: &str) -> Result<u64, String> {
        match self.0.get(name) {
            Some(Value::Number(number)) => u64::try_from(*number).map_err(|_| format!("{name} is {number}")),
            _ => Err(format!("there is no number {name}")),
        }
    }

    pub(super) fn list(&self, name: &str) -> Result<&[Value], String> {
        match self.0.get(name) {
            Some(Value::List(list)) => Ok(list),
            _ => Err(format!("there is no list {name}")),
        }
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// Does the list `name` hold this text?
    pub(super) fn flag(&self, name: &str, flag: &str) -> bool {
        self.list(name).is_ok_and(|list| list.iter().any(|one| matches!(one, Value::Text(text) if text == flag)))
    }
}

/// Reads a text. The error says where it stopped to make sense.
pub(super) fn parse(text: &[u8]) -> Result<Section, String> {
    let mut reader = Reader { text, at: 0 };
    reader.section(0)
}

struct Reader<'a> {
    text: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn odd<T>(&self, what: &str) -> Result<T, String> {
        Err(format!("{what} at byte {} of the text", self.at))
    }

    fn take_while(&mut self, keep: impl Fn(u8) -> bool) -> String {
        let rest = self.text.get(self.at..).unwrap_or_default();
        let len = rest.iter().position(|byte| !keep(*byte)).unwrap_or(rest.len());
        self.at += len;
        String::from_utf8_lossy(rest.get(..len).unwrap_or_default()).into_owned()
    }

    fn space(&mut self) {
        loop {
            self.take_while(|byte| byte.is_ascii_whitespace() || byte == 0);
            if self.peek() != Some(b'#') {
                return;
            }
            self.take_while(|byte| byte != b'\n');
        }
    }

    /// Up to the brace that closes it, or to the end of the text if it is the outermost.
    fn section(&mut self, depth: usize) -> Result<Section, String> {
        if depth > DEPTH {
            return self.odd("sections nested too deep");
        }
        let mut all = Section::default();
        loop {
            self.space();
            match self.peek() {
                None if depth == 0 => return Ok(all),
                Some(b'}') if depth > 0 => {
                    self.at += 1;
                    return Ok(all);
                }
                None => return self.odd("a section without an end"),
                Some(_) => {}
            }
            let name = self.take_while(|byte| byte.is_ascii_alphanumeric() || b"_-+./@".contains(&byte));
            if name.is_empty() {
                return self.odd("something that is no name");
            }
            self.space();
            let value = match self.peek() {
                Some(b'{') => {
                    self.at += 1;
                    Value::Section(self.section(depth + 1)?)
                }
                Some(b'=') => {
                    self.at += 1;
                    self.value(true)?
                }
                _ => return self.odd("a name without a value"),
            };
            all.0.insert(name, value);
        }
    }

    fn value(&mut self, list: bool) -> Result<Value, String> {
        self.space();
        match self.peek() {
            Some(b'"') => self.string().map(Value::Text),
            Some(b'[') if list => self.list(),
            Some(byte) if byte.is_ascii_digit() || byte == b'-' => {
                let word = self.take_while(|byte| byte.is_ascii_digit() || b"-.".contains(&byte));
                Ok(word.parse().map_or(Value::Text(word), Value::Number))
            }
            _ => self.odd("something that is no value"),
        }
    }

    fn list(&mut self) -> Result<Value, String> {
        self.at += 1;
        let mut all = Vec::new();
        loop {
            self.space();
            match self.peek() {
                Some(b']') => {
                    self.at += 1;
                    return Ok(Value::List(all));
                }
                Some(b',') => self.at += 1,
                _ => all.push(self.value(false)?),
            }
        }
    }

    fn string(&mut self) -> Result<String, String> {
        self.at += 1;
        let mut bytes = Vec::new();
        loop {
            let byte = self.peek();
            self.at += 1;
            match byte {
                Some(b'"') => return Ok(String::from_utf8_lossy(&bytes).into_owned()),
                Some(b'\\') => {
                    bytes.extend(self.peek());
                    self.at += 1;
                }
                Some(byte) => bytes.push(byte),
                None => return self.odd("a text without an end"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str =
        "vg0 { # a comment }\n id = \"a\\\"b\"\nflags = []\nn=3\nsub { list = [\"x\", 5,\n \"y\"] } }\nversion = 1\n";

    #[test]
    fn the_text_of_a_group_is_read() {
        let all = parse(TEXT.as_bytes()).unwrap();
        let group = all.section("vg0").unwrap();
        assert_eq!((group.text("id").unwrap(), group.number("n").unwrap()), ("a\"b", 3));
        assert_eq!((group.list("flags").unwrap().len(), all.number("version").unwrap()), (0, 1));
        let sub = group.section("sub").unwrap();
        assert!(sub.flag("list", "y") && !sub.flag("list", "z"));
        assert_eq!(sub.list("list").unwrap()[1], Value::Number(5));
    }

    #[test]
    fn what_makes_no_sense_is_refused_and_ends() {
        for bad in ["a", "a {", "a = ", "a = \"x", "a = [1, [2]]", "a = [", "}", "= 1", "a = [\"x\\"] {
            assert!(parse(bad.as_bytes()).is_err(), "{bad}");
        }
        assert!(parse("a{".repeat(100_000).as_bytes()).unwrap_err().contains("too deep"));
        for at in 0..TEXT.len() {
            for flip in [1, 0x20, 0x80] {
                let mut damaged = TEXT.as_bytes().to_vec();
                damaged[at] ^= flip;
                let _ = (parse(&damaged), parse(&damaged[..at]));
            }
        }
    }
}
