//! Arguments that only some questions look at: they are read once, and refused where nothing that is asked looks at them.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result};

use super::Args;
use crate::analyzer::{Analyzer, Takes};
use crate::cli::exit::UsageError;
use crate::memory::linux::{Output, Terms};

/// The longest list of texts or rules that is read, in bytes.
const MOST: u64 = 1 << 30;

/// See the module.
#[derive(Debug, Default, clap::Args)]
pub(super) struct TermArgs {
    /// Only this file of the guest, by its full path
    #[arg(long, value_name = "PATH")]
    path: Option<String>,
    /// Only the file with the inode at this address (hexadecimal), as linux.pagecache.Files tells it
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    inode: Option<u64>,
    /// Only the module of this name
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Pattern of bytes to look for; (?i), (?-u) and \xNN are understood
    #[arg(long, value_name = "PATTERN", value_parser = regex::bytes::Regex::new)]
    regex: Option<regex::bytes::Regex>,
    /// Lines of `place text`, as `strings -t x` (hexadecimal) prints them of the memory image in its raw form
    #[arg(long, value_name = "FILE")]
    strings: Option<PathBuf>,
    /// Rules of YARA
    #[arg(long, value_name = "FILE")]
    rules: Option<PathBuf>,
}

fn address(text: &str) -> Result<u64, String> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    u64::from_str_radix(digits, 16).map_err(|_| format!("`{text}` is no hexadecimal address"))
}

/// The terms, which some of the questions must look at; makes the folder for files.
pub(super) fn read(args: &Args, analyzers: &[&'static Analyzer]) -> Result<Terms> {
    let given = given(args);
    for what in &given {
        if !analyzers.iter().any(|analyzer| analyzer.takes.contains(what)) {
            let all = crate::analyzer::ALL.iter().filter(|analyzer| analyzer.takes.contains(what));
            let names: Vec<_> = all.map(|analyzer| analyzer.name).collect();
            let text = format!("nothing that was asked looks at {}; these do: {}", what.flag(), names.join(", "));
            return Err(UsageError(text).into());
        }
    }
    if let Some(analyzer) = analyzers.iter().find(|analyzer| !fits(analyzer, args)) {
        let flags: Vec<_> = analyzer.needs.iter().map(|what| what.flag()).collect();
        return Err(UsageError(format!("{} needs {}", analyzer.name, flags.join(" or "))).into());
    }
    let terms = &args.terms;
    let output = args.output.as_deref().map(|path| {
        Output::create(path).with_context(|| format!("could not make {}; it must not exist yet", path.display()))
    });
    Ok(Terms {
        path: terms.path.clone(),
        inode: terms.inode,
        name: terms.name.clone(),
        regex: terms.regex.clone(),
        strings: terms.strings.as_deref().map(strings).transpose()?.map(Arc::new),
        rules: terms.rules.as_deref().map(text).transpose()?.map(Arc::new),
        output: output.transpose()?,
    })
}

/// Was everything given that it cannot do without?
pub(super) fn fits(analyzer: &Analyzer, args: &Args) -> bool {
    let given = given(args);
    analyzer.needs.is_empty() || analyzer.needs.iter().any(|what| given.contains(what))
}

fn given(args: &Args) -> Vec<Takes> {
    let terms = &args.terms;
    let all = [
        (terms.path.is_some(), Takes::Path),
        (terms.inode.is_some(), Takes::Inode),
        (terms.name.is_some(), Takes::Name),
        (terms.regex.is_some(), Takes::Regex),
        (terms.strings.is_some(), Takes::Strings),
        (terms.rules.is_some(), Takes::Rules),
        (args.output.is_some(), Takes::Output),
    ];
    all.into_iter().filter(|(given, _)| *given).map(|(_, what)| what).collect()
}

fn text(path: &Path) -> Result<String> {
    let cannot = || format!("could not read {}", path.display());
    if fs::metadata(path).with_context(cannot)?.len() > MOST {
        return Err(UsageError(format!("{} is longer than 1 GiB", path.display())).into());
    }
    Ok(String::from_utf8_lossy(&fs::read(path).with_context(cannot)?).into_owned())
}

/// Places and texts, in the order of the file.
fn strings(path: &Path) -> Result<Vec<(u64, String)>> {
    let mut all = Vec::new();
    for (n, line) in text(path)?.lines().enumerate() {
        let line = line.trim_start();
        if line.is_empty() {
            continue;
        }
        let (place, text) = line.split_once(' ').unwrap_or((line, ""));
        let place =
            address(place).map_err(|error| UsageError(format!("{}, line {}: {error}", path.display(), n + 1)))?;
        all.push((place, text.to_owned()));
    }
    Ok(all)
}
