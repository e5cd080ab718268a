//! Running the program as a user does, and looking at what it made.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// The program under test.
pub fn impound() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_impound"));
    for name in ["IMPOUND_CASE", "IMPOUND_KEY", "IMPOUND_EXAMINER", "IMPOUND_FORMAT"] {
        command.env_remove(name);
    }
    command.stdin(Stdio::null());
    command
}

/// What a run of the program came to.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    pub fn of(output: &Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self { code: output.status.code(), stdout: text(&output.stdout), stderr: text(&output.stderr) }
    }

    /// Fails, with all that was said, unless the run ended with this code.
    pub fn expect(self, code: i32) -> Result<Self> {
        ensure!(self.code == Some(code), "ended with {:?}, not {code}:\n{}\n{}", self.code, self.stdout, self.stderr);
        Ok(self)
    }

    /// Fails unless stderr holds these words.
    pub fn says(self, words: &str) -> Result<Self> {
        ensure!(self.stderr.contains(words), "`{words}` is not in:\n{}", self.stderr);
        Ok(self)
    }

    /// The rows on stdout.
    pub fn rows(&self) -> Result<Vec<Value>> {
        serde_json::from_str(&self.stdout)
            .with_context(|| format!("no JSON on stdout: {}\n{}", self.stdout, self.stderr))
    }
}

/// Does this command change something in QEMU?
pub fn changes(command: &str) -> bool {
    let asks = ["human-monitor-command", "qom-get", "qom-list", "qmp_capabilities"];
    !command.starts_with("query-") && !asks.contains(&command)
}

/// Runs the program with `--format json`.
pub fn run(arguments: &[&str]) -> Result<Ran> {
    let output = impound().args(["--format", "json"]).args(arguments).output().context("start impound")?;
    Ok(Ran::of(&output))
}

/// An exhibit, found in a case by its item.
#[derive(Debug)]
pub struct Exhibit {
    pub dir: PathBuf,
    pub record: Value,
}

impl Exhibit {
    /// The newest sealed exhibit of an item.
    pub fn find(case: &Path, item: &str) -> Result<Self> {
        let mut found = Vec::new();
        for entry in fs::read_dir(case.join("exhibits"))? {
            let dir = entry?.path();
            let Ok(text) = fs::read(dir.join("exhibit.json")) else { continue };
            let record: Value = serde_json::from_slice(&text)?;
            if record["item"]["name"] == item {
                found.push(Self { dir, record });
            }
        }
        found.sort_by_key(|exhibit| exhibit.record["window"]["end"].as_str().unwrap_or_default().to_owned());
        found.pop().with_context(|| format!("no exhibit of {item} in {}", case.display()))
    }

    /// Its image.
    pub fn image(&self) -> PathBuf {
        self.dir.join(self.record["stored"][0]["path"].as_str().unwrap_or_default())
    }

    /// SHA-256 of its image, as the exhibit tells.
    pub fn sha256(&self) -> &str {
        self.record["stored"][0]["sha256"].as_str().unwrap_or_default()
    }

    pub fn outcome(&self) -> &str {
        self.record["outcome"]["state"].as_str().unwrap_or_default()
    }

    /// The commands of the run that changed something, in order.
    pub fn commands(&self) -> Result<Vec<String>> {
        let log = fs::read_to_string(self.dir.join("wire.jsonl"))?;
        let mut names = Vec::new();
        for line in log.lines() {
            let entry: Value = serde_json::from_str(line)?;
            let Ok(said) = serde_json::from_str::<Value>(entry["said"].as_str().unwrap_or_default()) else { continue };
            let name = said["execute"].as_str().unwrap_or_default().to_owned();
            if changes(&name) {
                names.push(name);
            }
        }
        Ok(names)
    }
}

/// Does the file hold these bytes anywhere?
pub fn holds(file: &Path, needle: &[u8]) -> Result<bool> {
    use std::io::Read;
    let mut from = fs::File::open(file)?;
    let (mut window, mut chunk) = (Vec::new(), vec![0; 1 << 20]);
    loop {
        let got = from.read(&mut chunk)?;
        if got == 0 {
            return Ok(false);
        }
        window.extend_from_slice(&chunk[..got]);
        if window.windows(needle.len()).any(|part| part == needle) {
            return Ok(true);
        }
        window.drain(..window.len().saturating_sub(needle.len()));
    }
}

/// SHA-256 by the system's own tool.
pub fn sha256sum(file: &Path) -> Result<String> {
    let output = Command::new("sha256sum").arg(file).output().context("run sha256sum")?;
    ensure!(output.status.success(), "sha256sum {}: {}", file.display(), String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).split_whitespace().next().unwrap_or_default().to_owned())
}

/// Runs a case's own script under a shell.
pub fn verify_sh(shell: &[&str], case: &Path) -> Result<Ran> {
    let (program, arguments) = shell.split_first().context("a shell")?;
    let output = Command::new(program).args(arguments).arg(case.join("verify.sh")).current_dir(case).output();
    Ok(Ran::of(&output.with_context(|| format!("start {program}"))?))
}
