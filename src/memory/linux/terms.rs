//! What only some questions are asked with: a path, a pattern, a folder for files. One place for all of them; `src/analyzer.rs` says which
//! question takes which.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};

use super::super::cells::some_text;
use super::super::{MemoryError, Outcome};
use super::Ask;
use crate::extract::Tree;
use crate::image::ReadAt;
use crate::report::Cell;

/// See the module.
#[derive(Default, Clone)]
pub struct Terms {
    /// A file of the guest.
    pub path: Option<String>,
    /// The address of a file's `struct inode`.
    pub inode: Option<u64>,
    /// The name of a module.
    pub name: Option<String>,
    /// What is looked for in the memory of programs.
    pub regex: Option<regex::bytes::Regex>,
    /// Places in the image and what was found there: the lines of `strings -t x`.
    pub strings: Option<Arc<Vec<(u64, String)>>>,
    /// Rules of YARA, as text.
    pub rules: Option<Arc<String>>,
    /// Where files are written.
    pub output: Option<Output>,
}

/// A new folder for what analyzers write, shared by all that are asked together: each has a folder of its own in it.
#[derive(Clone)]
pub struct Output(Arc<Mutex<Tree>>);

impl Output {
    /// Makes the folder, which must not exist.
    pub fn create(path: &Path) -> std::io::Result<Self> {
        Ok(Self(Arc::new(Mutex::new(Tree::create(path)?))))
    }
}

impl Ask {
    /// Writes content below the folder of this question, if files are asked for; gives the cell that names the file. The manifest gets a
    /// line with `more` and what is missing.
    pub(super) fn write(&self, question: &str, path: &str, content: &dyn ReadAt, more: &Value) -> Outcome<Cell> {
        let Some(Output(tree)) = &self.terms.output else { return Ok(some_text(None)) };
        let mut tree = tree.lock().unwrap_or_else(PoisonError::into_inner);
        let (above, own) = path.rsplit_once('/').unwrap_or(("", path));
        let placed = tree.content(format!("{question}/{above}").as_bytes(), own.as_bytes(), content, None)?;
        let mut line = json!({ "question": question, "path": path, "size": content.len(), "more": more });
        if let (Some(line), Value::Object(told)) = (line.as_object_mut(), placed.told()) {
            line.extend(told);
        }
        tree.line(&line)?;
        tree.flush()?;
        if placed.lacks.is_some() {
            self.incomplete.fetch_add(1, Ordering::Relaxed);
        }
        Ok(Cell::text(placed.path))
    }

    /// Makes a folder below that of this question, if files are asked for.
    pub(super) fn folder(&self, question: &str, path: &str) -> Outcome<()> {
        let Some(Output(tree)) = &self.terms.output else { return Ok(()) };
        let mut tree = tree.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(tree.folder(format!("{question}/{path}").as_bytes())?)
    }

    /// Tells the manifest of something that is no file here.
    pub(super) fn line(&self, line: &Value) -> Outcome<()> {
        let Some(Output(tree)) = &self.terms.output else { return Ok(()) };
        let mut tree = tree.lock().unwrap_or_else(PoisonError::into_inner);
        tree.line(line)?;
        Ok(tree.flush()?)
    }

    /// Are files asked for?
    pub(super) fn writes(&self) -> bool {
        self.terms.output.is_some()
    }
}

/// What a question needs and was not given.
pub(super) fn needed<T>(term: Option<T>, what: &'static str) -> Outcome<T> {
    term.ok_or(MemoryError::Needs(what))
}
