//! What README.md claims is what the program says of itself.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use impound::cli::Exit;

fn path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")
}

fn readme() -> String {
    fs::read_to_string(path()).unwrap()
}

/// The tables as the registries have them, each with its name in README.md.
fn tables() -> [(&'static str, String); 4] {
    let mut backends = "| scheme | what it reaches | tested against |\n|---|---|---|\n".to_owned();
    for backend in impound_backends::ALL {
        writeln!(backends, "| `{}` | {} | {} |", backend.scheme(), backend.about(), backend.tested_against()).unwrap();
    }
    let mut images = "| format | what it is | tested against |\n|---|---|---|\n".to_owned();
    for wrapping in impound::image::ALL {
        writeln!(images, "| `{}` | {} | {} |", wrapping.name, wrapping.about, wrapping.tested_against).unwrap();
    }
    let mut exports = "| format | what it is | checked with |\n|---|---|---|\n".to_owned();
    for format in impound::export::ALL {
        writeln!(exports, "| `{}` | {} | {} |", format.name, format.about, format.tested_against).unwrap();
    }
    let mut analyzers = "| name | what it answers |\n|---|---|\n".to_owned();
    for analyzer in impound::analyzer::ALL {
        writeln!(analyzers, "| `{}` | {} |", analyzer.name, analyzer.about).unwrap();
    }
    [("backends", backends), ("images", images), ("exports", exports), ("analyzers", analyzers)]
}

/// `IMPOUND_UPDATE=1 cargo test --test cli readme` writes the tables.
#[test]
fn the_support_tables_are_those_of_the_registries() {
    let mut text = readme();
    for (name, table) in tables() {
        let (begin, end) = (format!("<!-- {name}: begin -->\n"), format!("<!-- {name}: end -->\n"));
        let (before, rest) = text.split_once(&begin).expect("README.md has no line that begins the table");
        let (_, after) = rest.split_once(&end).expect("README.md has no line that ends the table");
        text = format!("{before}{begin}{table}{end}{after}");
    }
    if std::env::var_os("IMPOUND_UPDATE").is_some() {
        fs::write(path(), text).unwrap();
        return;
    }
    assert!(text == readme(), "README.md drifted: IMPOUND_UPDATE=1 cargo test --test cli readme");
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
        let two =
            words.first() == Some(&"case") || words.get(1).is_some_and(|verb| matches!(*verb, "map" | "hash" | "cat"));
        let verbs = if two { 2 } else { 1 };
        let help = Command::new(env!("CARGO_BIN_EXE_impound")).args(&words[..verbs]).arg("--help").output().unwrap();
        assert!(help.status.success(), "no such command: impound {}", words.join(" "));
        let help = String::from_utf8_lossy(&help.stdout);
        for option in words.iter().filter(|word| word.starts_with("--")) {
            let known = help.split_whitespace().any(|word| word.trim_end_matches(',') == *option);
            assert!(known, "`impound {}` has no {option}", words[..verbs].join(" "));
        }
    }
}
