//! `extract` and `recover`: files into a new folder, with a manifest that maps safe names back to the ones in evidence.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use serde_json::json;

use super::super::Exit;
use super::super::context::Context;
use super::list::exit;
use super::open::{Disk, Mounted};
use crate::disk::fs::{FileKind, Filesystem, Lost, Node};
use crate::disk::owners::{Owners, Wanted};
use crate::disk::walk::How;
use crate::extract;
use crate::image::ReadAt;
use crate::report::{json_name, printable};

/// The arguments.
#[derive(Debug, clap::Args)]
pub(super) struct TakeArgs {
    /// Folder to make; it must not exist yet
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,
    /// Leave out files that are longer than this
    #[arg(long, value_name = "SIZE", value_parser = super::size)]
    max_file: Option<u64>,
}

/// Files that are named as those that took blocks of a lost one.
const TAKERS: usize = 32;

struct Tree {
    made: extract::Tree,
    most: u64,
    good: bool,
}

fn put(line: &mut serde_json::Value, key: &str, value: serde_json::Value) {
    if let Some(line) = line.as_object_mut() {
        line.insert(key.to_owned(), value);
    }
}

impl Tree {
    fn create(args: &TakeArgs) -> Result<Self> {
        let made = || format!("could not make {}; it must not exist yet", args.output.display());
        let tree = extract::Tree::create(&args.output).with_context(made)?;
        Ok(Self { made: tree, most: args.max_file.unwrap_or(u64::MAX), good: true })
    }

    /// Writes one file and its line. What cannot be written is said there, and does not stop the rest.
    fn file(
        &mut self,
        (path, own): (&[u8], &[u8]),
        node: &Node,
        content: Option<Arc<dyn ReadAt>>,
        more: &serde_json::Value,
    ) -> Result<()> {
        // A name from a hostile directory may hold a `/` itself.
        let cut = path.len().saturating_sub(own.len() + 1);
        let above = path.get(..cut).unwrap_or_default();
        let mut line = json!({
            "path": json_name(path), "inode": node.inode, "size": node.size, "mode": format!("{:04o}", node.mode & 0o7777),
            "kind": node.kind.map_or("unknown", FileKind::name), "uid": node.uid, "gid": node.gid,
            "modified": node.times.modified, "more": more,
        });
        let outcome = match content {
            None => json!("not written: nothing to write"),
            Some(content) if content.len() > self.most => json!("not written: longer than --max-file"),
            Some(content) => {
                let (full, outcome) = self.content(above, own, content.as_ref())?;
                put(&mut line, "file", json!(full));
                outcome
            }
        };
        put(&mut line, "outcome", outcome);
        Ok(self.made.line(&line)?)
    }

    /// Writes content under a safe name; gives that name and how it went.
    fn content(&mut self, above: &[u8], own: &[u8], content: &dyn ReadAt) -> Result<(String, serde_json::Value)> {
        let (full, written) = self.made.content(above, own, content)?;
        let outcome = match written {
            Ok(written) => written.outcome(),
            Err(error) => format!("failed: {error}"),
        };
        self.good &= outcome == "complete";
        Ok((full, json!(outcome)))
    }
}

/// What stands behind the last `/`.
fn last(path: &[u8]) -> &[u8] {
    path.rsplit(|byte| *byte == b'/').next().unwrap_or_default()
}

/// What is to be written of a file; a directory is made, a link is only told of.
fn content_of(fs: &dyn Filesystem, node: &Node) -> Option<Result<Arc<dyn ReadAt>, crate::image::ReadError>> {
    (node.kind == Some(FileKind::File)).then(|| fs.content(node.inode))
}

pub(super) fn extract(disk: &Disk, args: &TakeArgs, context: &Context) -> Result<Exit> {
    let (mounted, inode, path) = disk.one(context)?;
    let node = mounted.fs.node(inode)?;
    let mut tree = Tree::create(args)?;
    let task = context.progress().count("extracting", "files", None);
    if node.kind != Some(FileKind::Directory) {
        let content = content_of(mounted.fs.as_ref(), &node).transpose()?;
        tree.file((&path, last(&path)), &node, content, &json!({}))?;
        return Ok(exit(tree.good));
    }
    let whole = disk.each(How { recursive: true, deleted: false }, context, &mut |mounted, found| {
        task.add(1);
        let Ok(node) = found.node else {
            tree.good = false;
            return Ok(());
        };
        if node.kind == Some(FileKind::Directory) {
            tree.made.folder(&found.path)?;
        }
        let mut more = json!({});
        if node.kind == Some(FileKind::Link) {
            put(&mut more, "target", mounted.fs.target(node.inode).map_or(json!(null), |target| json_name(&target)));
        }
        let content = content_of(mounted.fs.as_ref(), &node).transpose().unwrap_or_else(|error| {
            tree.good = false;
            put(&mut more, "error", json!(error.to_string()));
            None
        });
        tree.file((&found.path, &found.entry.name), &node, content, &more)
    })?;
    Ok(exit(whole && tree.good))
}

pub(super) fn recover(disk: &Disk, args: &TakeArgs, context: &Context) -> Result<Exit> {
    let (mounted, mut whole) = disk.mounted(context)?;
    let mut tree = Tree::create(args)?;
    let task = context.progress().count("recovering", "files", None);
    for Mounted { label, fs, .. } in mounted {
        let all = fs.lost()?;
        let mut odd = |line: String| {
            whole = false;
            context.say(&format!("{label}: {}", printable(&line)));
        };
        let owners = owners(fs.as_ref(), &all, &mut odd)?;
        for lost in all {
            task.add(1);
            let path = lost.path.clone().unwrap_or_else(|| format!("/#{}", lost.node.inode).into_bytes());
            let path = [b"/", label.as_bytes(), &path].concat();
            let more = json!({
                "source": lost.source, "state": lost.state.name(), "confidence": lost.confidence.name(),
                "blocks": lost.blocks, "reused": lost.reused, "taken_by": takers(&owners, &lost),
            });
            let content = lost.content.filter(|_| lost.node.kind == Some(FileKind::File));
            tree.file((&path, last(&path)), &lost.node, content, &more)?;
        }
    }
    Ok(exit(whole && tree.good))
}

/// Who has the blocks now that lost files had: asked only if there are such.
fn owners(fs: &dyn Filesystem, all: &[Lost], odd: &mut dyn FnMut(String)) -> Result<Owners> {
    let reused = all.iter().filter(|lost| lost.reused > 0).flat_map(|lost| &lost.runs);
    let wanted = Wanted::new(reused.map(|run| run.physical..run.physical.saturating_add(run.len)).collect());
    if wanted.ranges().is_empty() {
        return Ok(Owners::default());
    }
    Ok(Owners::find(fs, &wanted, odd)?)
}

/// The live files that have blocks of a lost one, and how many; not more than a reader wants to see.
fn takers(owners: &Owners, lost: &Lost) -> Vec<serde_json::Value> {
    let mut all: Vec<(u64, &Option<Vec<u8>>, u64)> = Vec::new();
    for run in lost.runs.iter().filter(|_| lost.reused > 0) {
        let blocks = run.physical..run.physical.saturating_add(run.len);
        for owner in owners.of(&blocks) {
            let count = owner.blocks.end.min(blocks.end) - owner.blocks.start.max(blocks.start);
            if let Some((.., sum)) = all.iter_mut().find(|(inode, ..)| *inode == owner.inode) {
                *sum += count;
            } else if all.len() < TAKERS {
                all.push((owner.inode, &owner.path, count));
            }
        }
    }
    let told = |(inode, path, blocks): (u64, &Option<Vec<u8>>, u64)| json!({ "inode": inode, "path": path.as_deref().map(json_name), "blocks": blocks });
    all.into_iter().map(told).collect()
}
