//! Questions to a memory image: by the program, as a user asks them, and in this process, to images that a test has changed.

#![allow(clippy::unwrap_used, reason = "this is test code: what is not there should fail the test")]

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result};
use impound::analyzer::{self, Run, Takes};
use impound::image::{Extent, ReadAt, ReadError};
use impound::memory::Physical;
use impound::memory::linux::{Ask, Kernel, Output, Terms};
use impound::report::{Cell, Rows};
use serde_json::Value;

use super::run::{Ran, run};

/// Questions to one image.
pub struct Memory<'a>(pub &'a Path);

impl Memory<'_> {
    pub fn ask(&self, question: &[&str]) -> Result<Ran> {
        let image = self.0.display().to_string();
        run(&[&["memory", image.as_str()], question].concat())
    }

    pub fn rows(&self, name: &str) -> Result<Vec<Value>> {
        self.ask(&[name])?.expect(0)?.rows()
    }
}

pub fn has(rows: &[Value], what: &[(&str, Value)]) -> bool {
    rows.iter().any(|row| what.iter().all(|(key, value)| row[*key] == *value))
}

pub fn texts<'r>(rows: &'r [Value], key: &str) -> Vec<&'r str> {
    rows.iter().filter_map(|row| row[key].as_str()).collect()
}

/// A file that a question wrote below `output`, by the end of the path that it had in the guest.
pub fn written(output: &Path, question: &str, path: &str) -> Result<(Value, Vec<u8>)> {
    let manifest = std::fs::read_to_string(output.join("manifest.jsonl"))?;
    let lines = manifest.lines().map(serde_json::from_str::<Value>).collect::<Result<Vec<_>, _>>()?;
    let fits =
        |line: &&Value| line["question"] == question && line["path"].as_str().is_some_and(|told| told.ends_with(path));
    let line = lines.iter().find(fits).with_context(|| format!("{question} wrote no {path}: {manifest}"))?;
    let file = line["file"].as_str().context("no file")?;
    Ok((line.clone(), std::fs::read(output.join(file))?))
}

pub fn pid_of(rows: &[Value], comm: &str) -> Result<i64> {
    let row = rows.iter().find(|row| row["comm"] == comm).with_context(|| format!("no process {comm}"))?;
    row["pid"].as_i64().context("no pid")
}

/// An image with some bytes changed, that notes which pages were looked at.
pub struct Changed {
    below: Arc<dyn ReadAt>,
    bytes: Vec<(u64, u8)>,
    pub seen: Mutex<BTreeSet<u64>>,
}

impl Changed {
    pub fn new(below: &Arc<dyn ReadAt>, mut bytes: Vec<(u64, u8)>) -> Self {
        bytes.sort_unstable();
        Self { below: Arc::clone(below), bytes, seen: Mutex::default() }
    }
}

impl ReadAt for Changed {
    fn len(&self) -> u64 {
        self.below.len()
    }

    fn read_at(&self, at: u64, into: &mut [u8]) -> Result<(), ReadError> {
        self.below.read_at(at, into)?;
        if into.len() == 4096 {
            self.seen.lock().unwrap().insert(at / 4096);
        }
        let end = at + into.len() as u64;
        let from = self.bytes.partition_point(|(place, _)| *place < at);
        for (place, byte) in self.bytes[from..].iter().take_while(|(place, _)| *place < end) {
            into[usize::try_from(place - at).unwrap()] = *byte;
        }
        Ok(())
    }

    fn extent(&self, at: u64) -> Result<Extent, ReadError> {
        self.below.extent(at)
    }
}

/// Rows that are only counted and kept as text.
#[derive(Default)]
pub struct Kept(pub Vec<String>);

impl Rows for Kept {
    fn row(&mut self, cells: Vec<Cell>) -> std::io::Result<()> {
        self.0.push(format!("{cells:?}"));
        Ok(())
    }

    fn end(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// What one question answers, asked with whatever it cannot do without.
pub fn answers(kernel: &Kernel, name: &str) -> Result<Vec<String>> {
    let analyzer = analyzer::by_name(name).context("no such analyzer")?;
    if analyzer.needs == [Takes::Rules] && !cfg!(feature = "yara") {
        return Ok(Vec::new());
    }
    let folder = tempfile::tempdir()?;
    let output =
        (analyzer.needs == [Takes::Output]).then(|| Output::create(&folder.path().join("files"))).transpose()?;
    let terms = Terms {
        path: analyzer.takes.contains(&Takes::Path).then(|| "/dev/shm/only-in-memory.txt".to_owned()),
        regex: Some(regex::bytes::Regex::new("marker-[a-z]+-[0-9a-f]{6}")?),
        rules: Some(Arc::new("rule planted { strings: $a = \"marker-arg-91c5e7\" condition: $a }".to_owned())),
        output,
        ..Terms::default()
    };
    let (Run::Linux(run), mut rows) = (analyzer.run, Kept::default());
    run(kernel, &Ask::default().with(terms), &mut rows)?;
    Ok(rows.0)
}

pub fn find(image: Arc<dyn ReadAt>) -> Result<Kernel> {
    Ok(Kernel::find(Physical::new(image))?)
}
