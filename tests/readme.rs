//! What README.md claims is what the program says of itself.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use impound::cli::Exit;

const BEGIN: &str = "<!-- backends: begin -->\n";
const END: &str = "<!-- backends: end -->\n";

fn path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")
}

fn readme() -> String {
    fs::read_to_string(path()).unwrap()
}

/// The table as the registry has it.
fn support() -> String {
    let mut table = "| scheme | what it reaches | tested against |\n|---|---|---|\n".to_owned();
    for backend in impound_backends::ALL {
        writeln!(table, "| `{}` | {} | {} |", backend.scheme(), backend.about(), backend.tested_against()).unwrap();
    }
    table
}

/// `IMPOUND_UPDATE=1 cargo test --test readme` writes the table.
#[test]
fn the_support_table_is_that_of_the_registry() {
    let text = readme();
    let (before, rest) = text.split_once(BEGIN).expect("README.md has no line that begins the table");
    let (table, after) = rest.split_once(END).expect("README.md has no line that ends the table");
    if std::env::var_os("IMPOUND_UPDATE").is_some() {
        fs::write(path(), format!("{before}{BEGIN}{}{END}{after}", support())).unwrap();
        return;
    }
    assert_eq!(table, support(), "README.md drifted: IMPOUND_UPDATE=1 cargo test --test readme");
}

#[test]
fn every_backend_says_what_it_was_tested_against() {
    for backend in impound_backends::ALL {
        let scheme = backend.scheme();
        assert!(!backend.about().is_empty(), "{scheme} does not say what it reaches");
        assert!(!backend.tested_against().is_empty(), "{scheme} does not say what it was tested against");
    }
}

#[test]
fn every_exit_code_is_told() {
    let text = readme();
    let all = [
        Exit::Complete,
        Exit::Error,
        Exit::Usage,
        Exit::Partial,
        Exit::GuestUnsure,
        Exit::NotVerified,
        Exit::Interrupted,
    ];
    for exit in all {
        let row = format!("\n| {} |", exit.code());
        assert!(text.contains(&row), "README.md does not tell of exit code {}", exit.code());
    }
}

/// Each `impound …` in a console block names a command and options that exist.
#[test]
fn every_command_it_shows_exists() {
    let text = readme();
    let consoles = text.split("```console\n").skip(1).filter_map(|rest| rest.split_once("```"));
    let shown: Vec<Vec<&str>> = consoles
        .flat_map(|(console, _)| console.lines())
        .filter_map(|line| line.strip_prefix("impound "))
        .map(|line| line.split(" #").next().unwrap_or_default().split_whitespace().collect())
        .collect();
    assert!(shown.len() > 5, "README.md shows no commands");
    for words in shown {
        let verbs = if words.first() == Some(&"case") { 2 } else { 1 };
        let help = Command::new(env!("CARGO_BIN_EXE_impound")).args(&words[..verbs]).arg("--help").output().unwrap();
        assert!(help.status.success(), "no such command: impound {}", words.join(" "));
        let help = String::from_utf8_lossy(&help.stdout);
        for option in words.iter().filter(|word| word.starts_with("--")) {
            let known = help.split_whitespace().any(|word| word.trim_end_matches(',') == *option);
            assert!(known, "`impound {}` has no {option}", words[..verbs].join(" "));
        }
    }
}
