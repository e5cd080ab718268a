//! What `vim-cmd` prints of an object: types in parentheses, fields, lists, quoted texts.
//!
//! ```text
//! (vim.vm.Summary) {
//!    vm = 'vim.VirtualMachine:5',
//!    config = (vim.vm.Summary.ConfigSummary) {
//!       name = "web01",
//!       annotation = "texts are not escaped
//! and may run over lines",
//!    },
//! }
//! ```
//!
//! Texts are printed as they are, and some are written by the guest (its host name) or by whoever owns the VM (notes). So
//! one could close its own quote and go on as if it were the host. Whoever does that leaves the same field twice in an
//! object or brackets that do not fit, and both are refused: an object is read whole and without a doubt, or not at all.

use std::fmt;

/// Objects inside each other.
const DEPTH: usize = 64;
/// Values in one answer.
const VALUES: usize = 1 << 20;

/// A value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    /// In quotes.
    Text(String),
    /// A number, a truth value, a reference: what stands there.
    Word(String),
    /// `<unset>`, or a null of some type.
    Absent,
    /// Its type and what is in it.
    List(String, Vec<Value>),
    /// Its type and its fields, each name once.
    Object(String, Vec<(String, Value)>),
}

/// Why an answer cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unread {
    /// Line, from 1.
    pub line: usize,
    /// What should stand there.
    pub expected: String,
    /// What does, shortened.
    pub found: String,
}

impl fmt::Display for Unread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at line {}: expected {}, found {}", self.line, self.expected, self.found)
    }
}

/// Reads the object in `text`; lines before it (`Listsummary:`) are no part of it, and nothing may follow it.
pub(super) fn parse(text: &str) -> Result<Value, Unread> {
    let lines: Vec<&str> = text.lines().collect();
    let first = lines.iter().position(|line| line.starts_with('(')).unwrap_or(lines.len());
    let mut reader = Reader { lines, at: first, left: VALUES };
    let line = reader.next("an object in parentheses")?;
    let value = reader.value(line, DEPTH)?;
    while let Some(line) = reader.lines.get(reader.at) {
        if !line.trim().is_empty() {
            return Err(reader.unread("nothing behind the object", line));
        }
        reader.at += 1;
    }
    Ok(value)
}

struct Reader<'a> {
    lines: Vec<&'a str>,
    at: usize,
    left: usize,
}

impl<'a> Reader<'a> {
    fn next(&mut self, expected: &str) -> Result<&'a str, Unread> {
        let Some(line) = self.lines.get(self.at).copied() else { return Err(self.unread(expected, "the end")) };
        self.at += 1;
        Ok(line)
    }

    /// `at` is already behind the line that this is of.
    fn unread(&self, expected: &str, found: &str) -> Unread {
        let found: String = found.trim().chars().take(60).collect();
        Unread { line: self.at.max(1), expected: expected.to_owned(), found: format!("\"{}\"", found.escape_debug()) }
    }

    /// The value that begins with `text` and may go on in the lines that follow.
    fn value(&mut self, text: &'a str, depth: usize) -> Result<Value, Unread> {
        self.left = self.left.checked_sub(1).ok_or_else(|| self.unread("fewer values", "more"))?;
        let text = text.trim_start();
        if let Some(rest) = text.strip_prefix('"') {
            return self.quoted(rest);
        }
        let plain = bare(text);
        if plain == "<unset>" {
            return Ok(Value::Absent);
        }
        let Some(rest) = plain.strip_prefix('(') else {
            let quoted = plain.strip_prefix('\'').and_then(|rest| rest.strip_suffix('\''));
            // Brackets or a field of its own would be an object whose type is missing.
            let word = quoted.or_else(|| Some(plain).filter(|plain| !plain.contains(['{', '}', '[', ']', '=', '\''])));
            return match word {
                Some(word) if !word.is_empty() => Ok(Value::Word(word.to_owned())),
                _ => Err(self.unread("a value", text)),
            };
        };
        let Some((kind, opens)) = rest.split_once(')') else { return Err(self.unread("a type in parentheses", text)) };
        let depth = depth.checked_sub(1).ok_or_else(|| self.unread("fewer objects inside each other", text))?;
        match opens.trim() {
            "null" => Ok(Value::Absent),
            "[]" => Ok(Value::List(kind.to_owned(), Vec::new())),
            "{}" => Ok(Value::Object(kind.to_owned(), Vec::new())),
            "[" => self.list(kind, depth),
            "{" => self.object(kind, depth),
            _ => Err(self.unread("{, [ or null behind the type", text)),
        }
    }

    /// A text ends with the first quote that ends its line.
    fn quoted(&mut self, rest: &'a str) -> Result<Value, Unread> {
        let mut text = String::new();
        let mut line = rest;
        loop {
            if let Some(last) = bare(line).strip_suffix('"') {
                text.push_str(last);
                return Ok(Value::Text(text));
            }
            text.push_str(line);
            text.push('\n');
            line = self.next("the end of a text")?;
        }
    }

    fn list(&mut self, kind: &str, depth: usize) -> Result<Value, Unread> {
        let mut items = Vec::new();
        loop {
            let line = self.next("a value or ]")?;
            match bare(line.trim_start()) {
                "]" => return Ok(Value::List(kind.to_owned(), items)),
                "" => {}
                _ => items.push(self.value(line, depth)?),
            }
        }
    }

    fn object(&mut self, kind: &str, depth: usize) -> Result<Value, Unread> {
        let mut fields: Vec<(String, Value)> = Vec::new();
        loop {
            let line = self.next("a field or }")?;
            match bare(line.trim_start()) {
                "}" => return Ok(Value::Object(kind.to_owned(), fields)),
                "" => continue,
                _ => {}
            }
            let field = line.split_once('=').map(|(name, value)| (name.trim(), value));
            let plain = |name: &str| !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
            let Some((name, value)) = field.filter(|(name, _)| plain(name)) else {
                return Err(self.unread("name = value", line));
            };
            if fields.iter().any(|(known, _)| known == name) {
                return Err(
                    self.unread("each field once; a text of the guest or of its owner may pretend to be one", line)
                );
            }
            let value = self.value(value, depth)?;
            fields.push((name.to_owned(), value));
        }
    }
}

/// Without the comma and the blanks at its end.
fn bare(line: &str) -> &str {
    let line = line.trim_end();
    line.strip_suffix(',').unwrap_or(line).trim_end()
}

impl Value {
    /// The field at the end of this path of names: `config.name`.
    pub(super) fn at(&self, path: &str) -> Option<&Self> {
        path.split('.').try_fold(self, |value, name| match value {
            Self::Object(_, fields) => fields.iter().find(|(known, _)| known == name).map(|(_, value)| value),
            _ => None,
        })
    }

    /// A text, in quotes or not; what is absent has none.
    pub(super) fn text(&self, path: &str) -> Option<&str> {
        match self.at(path)? {
            Self::Text(text) | Self::Word(text) => Some(text),
            _ => None,
        }
    }

    /// A number.
    pub(super) fn number(&self, path: &str) -> Option<u64> {
        self.text(path)?.parse().ok()
    }

    /// The values of a list.
    pub(super) fn list(&self, path: &str) -> &[Self] {
        match self.at(path) {
            Some(Self::List(_, items)) => items,
            _ => &[],
        }
    }

    /// The type of an object or list.
    pub(super) fn kind(&self) -> &str {
        match self {
            Self::List(kind, _) | Self::Object(kind, _) => kind,
            _ => "",
        }
    }

    /// All objects of this type, wherever they are, outermost first.
    pub(super) fn all<'a>(&'a self, kind: &str, into: &mut Vec<&'a Self>) {
        match self {
            Self::Object(found, fields) => {
                if found == kind {
                    into.push(self);
                    return;
                }
                for (_, value) in fields {
                    value.all(kind, into);
                }
            }
            Self::List(_, items) => items.iter().for_each(|value| value.all(kind, into)),
            _ => {}
        }
    }

    /// What is wrong, if this is a fault: its type and its words.
    pub(super) fn fault(&self) -> Option<String> {
        let kind = self.kind();
        if !(kind.starts_with("vim.fault.") || kind.starts_with("vmodl.fault.")) {
            return None;
        }
        let words = self.text("msg").unwrap_or_default();
        Some(format!("{} ({})", words.escape_debug(), kind.escape_debug()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SUMMARY: &str = "Listsummary:\n\n(vim.vm.Summary) {\n   vm = 'vim.VirtualMachine:5', \n   runtime = (vim.vm.RuntimeInfo) \
        {\n      suspendTime = <unset>, \n      question = (vim.vm.QuestionInfo) null, \n      maxMemoryUsage = 4096, \n   }, \n   \
        config = (vim.vm.Summary.ConfigSummary) {\n      name = \"it is \"quoted\" (prod)\", \n      annotation = \"one\n\n   }, \
        \nname = two\", \n   }, \n   keys = (int) [\n      4, \n      5\n   ], \n   none = (int) [], \n}\n";

    #[test]
    fn fields_texts_and_lists_are_read_as_they_stand() {
        let read = parse(SUMMARY).unwrap();
        assert_eq!(read.text("config.name"), Some("it is \"quoted\" (prod)"));
        assert_eq!(read.text("config.annotation"), Some("one\n\n   }, \nname = two"));
        assert_eq!(read.text("vm"), Some("vim.VirtualMachine:5"));
        assert_eq!(read.number("runtime.maxMemoryUsage"), Some(4096));
        assert_eq!(read.at("runtime.suspendTime"), Some(&Value::Absent));
        assert_eq!(read.at("runtime.question"), Some(&Value::Absent));
        assert_eq!(read.list("keys"), [Value::Word("4".into()), Value::Word("5".into())]);
        assert_eq!((read.kind(), read.list("none").len(), read.fault()), ("vim.vm.Summary", 0, None));
        let mut found = Vec::new();
        read.all("vim.vm.RuntimeInfo", &mut found);
        assert_eq!(found.len(), 1);
    }

    /// A host name of the guest that closes its quote and goes on as another VM's configuration.
    #[test]
    fn a_text_that_pretends_to_be_the_host_is_refused() {
        let guest = |name: &str| {
            format!(
                "(vim.vm.Summary) {{\n   guest = (G) {{\n      hostName = \"{name}\", \n      tools = 1, \n   }}, \n   \
                 config = (C) {{\n      name = \"web01\", \n   }}, \n}}\n"
            )
        };
        assert_eq!(parse(&guest("web01.example")).unwrap().text("config.name"), Some("web01"));
        for forged in [
            "x\", \n   }, \n   config = (C) {\n      name = \"bank\", \n   }, \n   rest = (R) {\n      y = \"",
            "x\", \n   }, \n   config = (C) {\n      name = \"bank\", \n      z = \"",
            "x\", \n   }, \n   config = (C) {\n      name = \"bank\", \n   }, \n   r = (R) {\n      s = (S) {\n      y = \"",
            "x\", \n   }, \n   config = (C) {\n      name = \"bank\", \n   }, \n}\n\"",
        ] {
            let read = parse(&guest(forged));
            assert!(read.is_err(), "{read:?}");
        }
    }

    #[test]
    fn damage_is_named_with_its_line_and_nothing_grows_without_bound() {
        let deep = "(a) [\n".repeat(100);
        for (bad, line) in [
            ("", 1),
            ("Listsummary:\n", 1),
            ("(a) {\n   b = (c) {\n", 2),
            ("(a) {\n   b\n}\n", 2),
            ("(a) {\n   b = 1, \n   b = 2, \n}\n", 3),
            ("(a) {\n   b = \"open\n}\n", 3),
            ("(a) {\n   b = (c\n}\n", 2),
            ("(a) {\n   b = (c) x\n}\n", 2),
            ("(a) {\n}\n(b) {\n}\n", 2),
            ("(a) {\n   b = , \n}\n", 2),
            (deep.as_str(), 65),
        ] {
            let error = parse(bad).unwrap_err();
            assert_eq!(error.line, line, "{bad:?}: {error}");
        }
        let fault =
            parse("x\n(vim.fault.NotFound) {\n   faultCause = (vmodl.MethodFault) null, \n   msg = \"no\", \n}\n")
                .unwrap();
        assert_eq!(fault.fault().unwrap(), "no (vim.fault.NotFound)");
    }
}
