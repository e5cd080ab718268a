//! Several targets in one command: where their addresses come from.

use std::io::Read;
use std::path::Path;

use anyhow::{Context as _, Result};
use impound_backends::Uri;

use super::context;
use super::exit::UsageError;

/// The longest file of addresses, in bytes.
const LONGEST: u64 = 1 << 20;

/// The addresses of the command line, then those of a file. One that is there twice is meant once.
pub(super) fn addresses(words: &[String], file: Option<&Path>) -> Result<Vec<Uri>> {
    let mut all = Vec::new();
    let text = file.map(read).transpose()?.unwrap_or_default();
    let lines = text.lines().enumerate().filter_map(|(number, line)| Some((number + 1, address(line)?)));
    let named = words.iter().map(|word| (None, word.as_str()));
    for (line, text) in named.chain(lines.map(|(number, line)| (Some(number), line))) {
        let uri = context::uri(text).map_err(|error| match (line, file) {
            (Some(line), Some(file)) => UsageError(format!("line {line} of {}: {error}", file.display())).into(),
            _ => error,
        })?;
        if !all.contains(&uri) {
            all.push(uri);
        }
    }
    if all.is_empty() {
        return Err(UsageError("there is no address in that file".to_owned()).into());
    }
    Ok(all)
}

/// What stands on a line before a comment. A `#` within an address names a VM.
fn address(line: &str) -> Option<&str> {
    let line = line.trim();
    let line = line.split_once(" #").map_or(line, |(before, _)| before.trim_end());
    (!line.is_empty() && !line.starts_with('#')).then_some(line)
}

fn read(file: &Path) -> Result<String> {
    let mut text = String::new();
    let opened = std::fs::File::open(file).with_context(|| format!("could not open {}", file.display()))?;
    opened.take(LONGEST).read_to_string(&mut text).with_context(|| format!("could not read {}", file.display()))?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_hosts_has_comments_and_names_its_bad_lines() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text = "# rack 3\n\nfake:one\n  fake:two   # the second\nqmp:/run/a.qmp#web01\nfake:one\n";
        std::fs::write(file.path(), text).unwrap();
        let found = addresses(&["fake:zero".to_owned()], Some(file.path())).unwrap();
        let found: Vec<_> = found.iter().map(Uri::to_string).collect();
        assert_eq!(found, ["fake:zero", "fake:one", "fake:two", "qmp:/run/a.qmp#web01"]);
        std::fs::write(file.path(), "fake:one\nnonsense\n").unwrap();
        let error = addresses(&[], Some(file.path())).unwrap_err().to_string();
        assert!(error.contains("line 2"), "{error}");
        std::fs::write(file.path(), "# nobody\n").unwrap();
        assert!(addresses(&[], Some(file.path())).is_err());
    }
}
