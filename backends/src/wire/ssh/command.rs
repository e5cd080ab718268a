//! Commands for a shell on another machine, built so that no name can become part of them.
//!
//! A command is a program with arguments, or a fixed script whose arguments are its positional parameters. Each argument
//! is quoted for a POSIX shell (Shell Command Language, 2.2.2 "Single-Quotes"), which `ash` of busybox and ESX is too.

use std::fmt;

/// One command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    words: Vec<String>,
    /// Keeps its standard input open until the stream is dropped; else it is at its end from the start.
    pub(super) stdin: bool,
}

impl Command {
    /// A program that is found by the other machine's `PATH`.
    pub fn new(program: &'static str) -> Self {
        Self { words: vec![program.to_owned()], stdin: false }
    }

    /// A script for `sh`. Arguments that follow are `$1`, `$2` and so on: the text itself never changes.
    pub fn script(text: &'static str) -> Self {
        Self { words: ["sh", "-c", text, "impound"].map(str::to_owned).to_vec(), stdin: false }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, word: impl Into<String>) -> Self {
        self.words.push(word.into());
        self
    }

    /// Adds several.
    #[must_use]
    pub fn args<W: Into<String>>(mut self, words: impl IntoIterator<Item = W>) -> Self {
        self.words.extend(words.into_iter().map(Into::into));
        self
    }

    /// The command reads its standard input, and ends when that ends: when we go.
    #[must_use]
    pub fn with_stdin(mut self) -> Self {
        self.stdin = true;
        self
    }

    /// Does it read its standard input?
    #[cfg(feature = "xen")]
    pub(crate) fn wants_stdin(&self) -> bool {
        self.stdin
    }

    /// No C string carries a NUL; such a name would be cut.
    pub(super) fn has_nul(&self) -> bool {
        self.words.iter().any(|word| word.contains('\0'))
    }
}

/// As it is sent.
impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words: Vec<_> = self.words.iter().map(|word| quoted(word)).collect();
        f.write_str(&words.join(" "))
    }
}

/// A word as the shell takes it for itself.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:=,@%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) && !word.starts_with('=') {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shell_gets_each_word_as_it_was() {
        let words =
            ["a b", "it's", "$(id)", "`id`", "x;y", "*", "", "\n", "-n", "~root", "a\\", "\u{e9}", "!x", "#", "=ls"];
        for shell in [&["sh"][..], &["bash"], &["busybox", "sh"]] {
            let command = Command::new("printf").arg("%s\\0").args(words);
            let mut run = std::process::Command::new(shell[0]);
            let Ok(output) = run.args(&shell[1..]).arg("-c").arg(command.to_string()).output() else { continue };
            let found: Vec<_> = output.stdout.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
            assert_eq!(&found[..words.len()], words, "{shell:?}");
        }
    }

    #[test]
    fn a_script_is_never_changed_by_its_arguments() {
        let command = Command::script("printf %s \"$1\"").arg("'; touch /tmp/x; '");
        let output = std::process::Command::new("sh").arg("-c").arg(command.to_string()).output().unwrap();
        assert_eq!(output.stdout, b"'; touch /tmp/x; '");
    }
}
