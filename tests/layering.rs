//! Imports run one way, as ARCHITECTURE.md says. The compiler keeps the border of the `impound-backends` crate; this reads
//! the sources and keeps the rest.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Each top-level module of `src/`, and what of ours it may name besides itself.
const MAY_NAME: &[(&str, &[&str])] = &[
    ("progress", &[]),
    ("report", &[]),
    ("case", &["impound_backends", "progress", "report"]),
    ("acquire", &["impound_backends", "progress", "report", "case"]),
    ("image", &["impound_backends", "progress", "report", "case"]),
    ("extract", &["impound_backends", "report", "image"]),
    ("export", &["impound_backends", "progress", "report", "case", "image"]),
    ("disk", &["impound_backends", "progress", "report", "image"]),
    ("memory", &["progress", "report", "image", "extract"]),
    ("analyzer", &["progress", "report", "image", "extract", "memory"]),
    (
        "cli",
        &[
            "impound_backends",
            "progress",
            "report",
            "case",
            "acquire",
            "image",
            "extract",
            "export",
            "disk",
            "memory",
            "analyzer",
        ],
    ),
    ("main", &["cli"]),
];
/// Crates for the program around the library, and where they may be named.
const FOR_THE_PROGRAM: &[&str] = &["anyhow", "clap", "clap_complete", "clap_mangen", "indicatif"];
/// Files of the backends crate that are the contract and no backend.
const CONTRACT: &[&str] =
    &["lib", "access", "capture", "cloud", "error", "journal", "live", "program", "target", "uri", "wire"];
/// Most lines of a file, its unit tests not counted.
const LINES_MAX: usize = 500;

/// A source file without comments, and without what stands in quotes.
struct Source {
    /// Path from the workspace's root, with `/`.
    path: String,
    code: String,
    /// Lines up to its unit tests.
    lines: usize,
}

impl Source {
    fn new(path: &str, text: &str) -> Self {
        let lines = text.lines().take_while(|line| *line != "#[cfg(test)]").count();
        Self { path: path.to_owned(), code: code_of(text), lines }
    }

    /// The top-level module that it belongs to: `case` for `src/case/verify/log.rs`.
    fn module(&self) -> &str {
        let below = self.path.split_once("src/").map_or("", |(_, below)| below);
        below.split('/').next().unwrap_or_default().trim_end_matches(".rs")
    }

    /// How many `super::` lead from the file's own level to the crate's root.
    fn depth(&self) -> usize {
        let below = self.path.split_once("src/").map_or("", |(_, below)| below);
        let folders = below.matches('/').count();
        folders + usize::from(!below.ends_with("/mod.rs"))
    }

    /// Every name that follows the crate's root, and every crate that is named.
    fn names(&self) -> BTreeSet<String> {
        let mut names = BTreeSet::new();
        // From the module of unit tests, one `super` more leads to the same place.
        let tests = self.code.find("#[cfg(test)]\nmod ");
        for (at, path) in paths(&self.code) {
            let supers = path.iter().take_while(|word| **word == "super").count();
            let depth = self.depth() + usize::from(tests.is_some_and(|tests| at > tests));
            let from_root = match path.first().copied() {
                Some("crate") => Some(1),
                Some("impound") => {
                    names.insert("impound".to_owned());
                    Some(1)
                }
                Some("super") if supers >= depth => Some(supers),
                _ => None,
            };
            match (from_root, path.first()) {
                (Some(skip), _) if path.len() > skip => names.extend(path.get(skip).map(|word| (*word).to_owned())),
                (Some(_), _) => names.extend(group(self.code.get(at..).unwrap_or_default())),
                (None, Some(first)) => names.extend([(*first).to_owned()]),
                (None, None) => {}
            }
        }
        names
    }

    /// Does this word stand in it?
    fn has(&self, word: &str) -> bool {
        words(&self.code).any(|(_, found)| found == word)
    }
}

/// The text without comments and string literals. Character literals stay: none of ours holds a quote but `'"'`.
fn code_of(text: &str) -> String {
    let (mut code, mut rest) = (String::new(), text);
    while let Some(first) = rest.chars().next() {
        let skip = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("'\"'") || rest.starts_with("'\\\"'") {
            rest.get(1..).and_then(|rest| rest.find('\'')).map_or(1, |end| end + 2)
        } else if rest.starts_with("r#\"") {
            rest.get(3..).and_then(|rest| rest.find("\"#")).map_or(rest.len(), |end| end + 5)
        } else if first == '"' {
            quoted(rest)
        } else {
            code.push(first);
            first.len_utf8()
        };
        rest = rest.get(skip..).unwrap_or_default();
    }
    code
}

/// Length of the string literal that the text begins with.
fn quoted(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            '"' if !escaped => return at + 1,
            '\\' => escaped = !escaped,
            _ => escaped = false,
        }
    }
    text.len()
}

/// Words of the code, each with the place where it ends.
fn words(code: &str) -> impl Iterator<Item = (usize, &str)> {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(move |c: char| part(c))
        .filter(move |(at, _)| !code.get(..*at).is_some_and(|before| before.ends_with(part)))
        .map(move |(at, _)| {
            let rest = code.get(at..).unwrap_or_default();
            let len = rest.find(|c: char| !part(c)).unwrap_or(rest.len());
            (at + len, rest.get(..len).unwrap_or_default())
        })
}

/// All `a::b::c`, as words, with the place behind a closing `::`, where a group or a glob may stand.
fn paths(code: &str) -> Vec<(usize, Vec<&str>)> {
    let mut all = Vec::new();
    let mut end_of_last = None;
    for (end, word) in words(code) {
        let begin = end - word.len();
        let joined =
            end_of_last.is_some_and(|last| code.get(last..begin).is_some_and(|between| between.trim() == "::"));
        match all.last_mut() {
            Some((at, path)) if joined => {
                *at = end;
                Vec::push(path, word);
            }
            _ => all.push((end, vec![word])),
        }
        end_of_last = Some(end);
    }
    all.retain(|(at, path)| path.len() > 1 || code.get(*at..).is_some_and(|rest| rest.trim_start().starts_with("::")));
    for (at, _) in &mut all {
        let rest = code.get(*at..).unwrap_or_default();
        *at += rest.len() - rest.trim_start().trim_start_matches("::").len();
    }
    all
}

/// The first words of `{a::b, c, …}`, or `*`.
fn group(rest: &str) -> Vec<String> {
    if rest.trim_start().starts_with('*') {
        return vec!["*".to_owned()];
    }
    let Some(inside) = rest.trim_start().strip_prefix('{') else { return Vec::new() };
    let (mut depth, mut firsts, mut fresh) = (0u32, Vec::new(), true);
    for (at, c) in inside.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => fresh = true,
            c if fresh && !c.is_whitespace() => {
                let word = inside.get(at..).unwrap_or_default();
                let len = word.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(word.len());
                firsts.push(if len == 0 { c.to_string() } else { word.get(..len).unwrap_or_default().to_owned() });
                fresh = false;
            }
            _ => {}
        }
    }
    firsts
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn files(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, into);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            into.push(path);
        }
    }
}

fn sources(folder: &str) -> Vec<Source> {
    let mut found = Vec::new();
    files(&root().join(folder), &mut found);
    found.sort();
    let name = |path: &PathBuf| path.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
    found.iter().map(|path| Source::new(&name(path), &fs::read_to_string(path).unwrap())).collect()
}

/// What of ours a file names and may not.
fn wrong_way(source: &Source) -> Vec<String> {
    let module = source.module();
    if module == "lib" {
        return Vec::new();
    }
    let Some((_, may)) = MAY_NAME.iter().find(|(name, _)| *name == module) else {
        return vec![format!("{}: `{module}` has no row in MAY_NAME: say what it may import", source.path)];
    };
    let root = if module == "main" { "impound" } else { "crate" };
    let ours = MAY_NAME.iter().map(|(name, _)| *name).chain(["impound_backends", "impound", "*"]);
    let forbidden: Vec<_> = ours.filter(|name| *name != module && *name != root && !may.contains(name)).collect();
    let names = source.names();
    let found = forbidden.into_iter().filter(|name| names.contains(*name));
    found.map(|name| format!("{}: names `{name}`, which `{module}` must not", source.path)).collect()
}

/// Crates of the program that a file names and may not.
fn program_crates(source: &Source) -> Vec<String> {
    let code = match source.module() {
        "cli" => return Vec::new(),
        // The choice of a format is made on the command line.
        "report" => source.code.replace("clap::ValueEnum", ""),
        _ => source.code.clone(),
    };
    let rest = Source { path: source.path.clone(), code, lines: 0 };
    let found = FOR_THE_PROGRAM.iter().filter(|name| rest.has(name));
    found.map(|name| format!("{}: names `{name}`, which belongs to src/cli", rest.path)).collect()
}

/// Calls that hold the guest still or let it go. `freeze()` without a journal is that of a byte buffer.
fn holds_the_guest(source: &Source) -> Vec<String> {
    if source.module() == "acquire" {
        return Vec::new();
    }
    let freezes = source
        .code
        .match_indices(".freeze(")
        .any(|(at, call)| !source.code.get(at + call.len()..).is_some_and(|rest| rest.trim_start().starts_with(')')));
    let others = ["freezer", "thaw", "Freeze"].into_iter().filter(|word| source.has(word));
    let found = others.chain(freezes.then_some("freeze"));
    found.map(|word| format!("{}: `{word}`; only src/acquire knows that order", source.path)).collect()
}

fn all_of(folder: &str, check: fn(&Source) -> Vec<String>) {
    let found: Vec<_> = sources(folder).iter().flat_map(check).collect();
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
}

#[test]
fn imports_run_one_way() {
    all_of("src", wrong_way);
}

#[test]
fn backends_know_nothing_of_the_rest() {
    all_of("backends/src", |source| {
        let wrong = source.names().contains("impound");
        wrong.then(|| format!("{}: names `impound`", source.path)).into_iter().collect()
    });
    let manifest = fs::read_to_string(root().join("backends/Cargo.toml")).unwrap();
    assert!(!manifest.lines().any(|line| line.trim_start().starts_with("impound ")), "backends depends on impound");
}

#[test]
fn only_the_program_names_the_crates_of_a_program() {
    all_of("src", program_crates);
    all_of("backends/src", program_crates);
}

#[test]
fn only_acquire_holds_the_guest() {
    all_of("src", holds_the_guest);
}

#[test]
fn every_top_level_module_has_its_place() {
    let lib = fs::read_to_string(root().join("src/lib.rs")).unwrap();
    let declared = code_of(&lib);
    let declared: Vec<_> = declared.lines().filter_map(|line| line.split_once("mod ")?.1.strip_suffix(';')).collect();
    assert!(!declared.is_empty());
    for name in declared {
        assert!(MAY_NAME.iter().any(|(known, _)| *known == name), "`{name}` has no row in MAY_NAME");
    }
}

#[test]
fn every_backend_in_the_folder_has_its_row() {
    let lib = fs::read_to_string(root().join("backends/src/lib.rs")).unwrap();
    let lib = code_of(&lib);
    let list = lib.split_once("static ALL").and_then(|(_, rest)| rest.split_once(';')).map(|(list, _)| list).unwrap();
    let mut backends = 0;
    for entry in fs::read_dir(root().join("backends/src")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        if !CONTRACT.contains(&name.as_str()) {
            assert!(list.contains(&format!("&{name}::")), "backends/src/{name} has no row in ALL");
            backends += 1;
        }
    }
    // One folder may answer to several schemes: on this machine, and over SSH.
    assert!(impound_backends::ALL.len() >= backends);
}

#[test]
fn every_fuzz_target_is_one_of_its_own() {
    let manifest = fs::read_to_string(root().join("fuzz/Cargo.toml")).unwrap();
    let mut targets: Vec<_> = manifest
        .split("[[bin]]")
        .skip(1)
        .map(|bin| {
            let keys = bin.lines().filter(|line| line.contains('=')).count();
            let name = bin.lines().find_map(|line| line.strip_prefix("name = \"")?.strip_suffix('"')).unwrap();
            assert!(keys == 4 && bin.contains(&format!("path = \"fuzz_targets/{name}.rs\"")), "{bin}");
            name.to_owned()
        })
        .collect();
    targets.sort();
    let list = fs::read_dir(root().join("fuzz/fuzz_targets")).unwrap();
    let mut files: Vec<_> =
        list.map(|entry| entry.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned()).collect();
    files.sort();
    assert_eq!(targets, files);
}

/// Rows of a list against the files beside it. Files that hold no row of their own are named.
fn rows(list: &str, folder: &str, without: &[&str]) -> usize {
    let text = code_of(&fs::read_to_string(root().join(list)).unwrap());
    let rows = text.split_once("static ALL").and_then(|(_, rest)| rest.split_once(';')).map(|(rows, _)| rows).unwrap();
    let mut found = 0;
    for entry in fs::read_dir(root().join(folder)).unwrap() {
        let name = entry.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned();
        if name != "mod" && !without.contains(&name.as_str()) {
            assert!(rows.contains(&format!("{name}::")), "{folder}/{name} has no row in ALL of {list}");
            found += 1;
        }
    }
    found
}

#[test]
fn every_format_in_the_folders_has_its_row() {
    rows("src/image/formats/mod.rs", "src/image/formats", &["shared"]);
    rows("src/export/mod.rs", "src/export", &["batch", "error", "output", "report", "source"]);
}

#[test]
fn files_are_short_enough_to_read() {
    let all = sources("src").into_iter().chain(sources("backends/src"));
    let long: Vec<_> = all.filter(|source| source.lines > LINES_MAX).collect();
    let long: Vec<_> = long.iter().map(|source| format!("{}: {} lines", source.path, source.lines)).collect();
    assert!(long.is_empty(), "longer than {LINES_MAX} lines without tests:\n{}", long.join("\n"));
}

/// The reader itself: each way to write a wrong import is seen, and what only looks like one is not.
#[test]
fn every_way_to_write_an_import_is_seen() {
    for (path, text) in [
        ("src/report/text.rs", "use crate::case::Case;"),
        ("src/report/text.rs", "use crate::{\n    progress::Task,\n};"),
        ("src/report/text.rs", "fn f() -> super::super::case::Case {}"),
        ("src/report/mod.rs", "use super::{acquire::{a, b}};"),
        ("src/progress.rs", "mod tests { use super::super::report; }"),
        ("src/report/mod.rs", "use super::*;"),
        ("src/progress.rs", "use impound_backends::Item;"),
        ("src/case/verify/log.rs", "use crate::{Inner, acquire};"),
        ("src/case/verify/log.rs", "fn f() { crate :: cli :: main() }"),
        ("src/case/verify/log.rs", "use crate::*;"),
        ("src/case/mod.rs", "use impound::cli;"),
        ("src/acquire/mod.rs", "/* x */ use crate::cli as c;"),
        ("src/main.rs", "use impound::case::Case;"),
        ("src/newcomer.rs", "fn f() {}"),
    ] {
        assert!(!wrong_way(&Source::new(path, text)).is_empty(), "{path}: {text}");
    }
    for (path, text) in [
        ("src/report/text.rs", "//! See [`crate::case`].\nuse super::Cell; let s = \"crate::case\";"),
        ("src/case/verify/log.rs", "use super::report; let quote = '\"'; use crate::report::x; // crate::cli"),
        ("src/cli/acquire.rs", "use super::case::CaseArgs; use crate::{acquire::{cli, x}, case};"),
        ("src/cli/mod.rs", "fn f() {}\n#[cfg(test)]\nmod tests {\n    use super::*;\n}"),
        ("src/main.rs", "fn main() { impound::cli::main() }"),
    ] {
        assert_eq!(wrong_way(&Source::new(path, text)), Vec::<String>::new(), "{text}");
    }
    let source = |path, text| Source::new(path, text);
    assert!(!program_crates(&source("src/case/mod.rs", "use anyhow::Result;")).is_empty());
    assert!(!program_crates(&source("src/report/mod.rs", "#[derive(clap::Args)]")).is_empty());
    assert!(program_crates(&source("src/report/mod.rs", "#[derive(Debug, clap::ValueEnum)]")).is_empty());
    assert!(!holds_the_guest(&source("src/cli/x.rs", "target.freezer()")).is_empty());
    assert!(!holds_the_guest(&source("src/cli/x.rs", "f.freeze(&mut journal)")).is_empty());
    assert!(holds_the_guest(&source("src/case/x.rs", "let bytes = buffer.freeze();")).is_empty());
}
