//! `extract` and `recover`: files into a new folder, with a manifest that maps safe names back to the ones in evidence.

use std::path::PathBuf;

use anyhow::Result;
use serde_json::{Value, json};

use super::super::Exit;
use super::super::context::Context;
use super::list::exit;
use super::open::{Disk, Mounted};
use super::tree::{Content, Tree};
use crate::disk::fs::{Confidence, FileKind, Filesystem, Lost, Node};
use crate::disk::owners::{Owners, Wanted};
use crate::disk::walk::{Found, How};
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

impl TakeArgs {
    fn tree(&self) -> Result<Tree> {
        Tree::create(&self.output, self.max_file)
    }
}

/// Files that are named as those that took blocks of a lost one.
const TAKERS: usize = 32;
/// Blocks of one lost file of which it is told whether others have them.
const BLOCKS: u64 = 1 << 22;
/// Ranges of those that are listed.
const RANGES: usize = 1000;

/// What stands behind the last `/`.
fn last(path: &[u8]) -> &[u8] {
    path.rsplit(|byte| *byte == b'/').next().unwrap_or_default()
}

/// Writes a file and its streams.
fn put(tree: &mut Tree, fs: &dyn Filesystem, (path, own): (&[u8], &[u8]), node: &Node) -> Result<()> {
    let mut more = json!({});
    if node.kind == Some(FileKind::Link) {
        more = json!({ "target": fs.target(node.inode).map_or(Value::Null, |target| json_name(&target)) });
    }
    let bytes = (node.kind == Some(FileKind::File)).then(|| fs.content(node.inode));
    let content = match &bytes {
        None => Content::None,
        Some(Ok(bytes)) => Content::All(bytes.as_ref()),
        Some(Err(error)) => Content::Lost(error.to_string()),
    };
    tree.file((path, own), node, &content, &more)?;
    let streams = match fs.streams(node.inode) {
        Ok(streams) => streams,
        Err(error) => return tree.unread(path, node.inode, &error),
    };
    for stream in streams {
        let name = |name: &[u8]| [name, b":", &stream.name].concat();
        let of = Node { kind: Some(FileKind::File), size: stream.content.len(), ..node.clone() };
        tree.file((&name(path), &name(own)), &of, &Content::All(stream.content.as_ref()), &json!({ "stream": true }))?;
    }
    Ok(())
}

/// A path of one of several file systems begins with the name of its volume.
fn in_volume(label: &str, path: &[u8]) -> Vec<u8> {
    [b"/", label.as_bytes(), path].concat()
}

pub(super) fn extract(disk: &Disk, args: &TakeArgs, context: &Context) -> Result<Exit> {
    let (starts, opened) = disk.starts(context)?;
    let several = starts.len() > 1;
    let mut tree = args.tree()?;
    let task = context.progress().count("extracting", "files", None);
    let read = disk.each_of(starts, How { recursive: true, deleted: false }, context, &mut |mounted, found| {
        task.add(1);
        let Found { path, entry, node, .. } = found;
        let path = if several { in_volume(&mounted.label, &path) } else { path };
        let node = match node {
            Ok(node) => node,
            Err(error) => return tree.unread(&path, entry.inode, &error),
        };
        if node.kind == Some(FileKind::Directory) {
            tree.folder(&path)?;
        }
        put(&mut tree, mounted.fs.as_ref(), (&path, &entry.name), &node)
    })?;
    context.say(&tree.end()?);
    Ok(exit(opened && read && tree.counts.good()))
}

pub(super) fn recover(disk: &Disk, args: &TakeArgs, context: &Context) -> Result<Exit> {
    let (mounted, mut whole) = disk.mounted(context)?;
    let mut tree = args.tree()?;
    let task = context.progress().count("recovering", "files", None);
    for Mounted { label, fs, .. } in mounted {
        let mut odd = |line: String| {
            whole = false;
            context.say(&format!("{label}: {}", printable(&line)));
        };
        let all = match fs.lost() {
            Ok(all) => all,
            Err(error) => {
                odd(format!("what was deleted is not found: {error}"));
                continue;
            }
        };
        let owners = owners(fs.as_ref(), &all, &mut odd);
        for lost in all {
            task.add(1);
            let path = lost.path.clone().unwrap_or_else(|| format!("/#{}", lost.node.inode).into_bytes());
            let path = in_volume(&label, &path);
            let more = json!({
                "source": lost.source, "state": lost.state.name(), "confidence": lost.confidence.name(),
                "blocks": lost.blocks, "reused": lost.reused, "taken_by": takers(&owners, &lost),
            });
            tree.file((&path, last(&path)), &lost.node, &content_of(fs.as_ref(), &lost), &more)?;
        }
    }
    context.say(&tree.end()?);
    Ok(exit(whole && tree.counts.good()))
}

/// What is to be written of a lost file. What belongs to others altogether is not: it would be their content under its name.
fn content_of<'a>(fs: &dyn Filesystem, lost: &'a Lost) -> Content<'a> {
    if lost.node.kind.is_some_and(|kind| kind != FileKind::File) {
        return Content::None;
    }
    let Some(bytes) = lost.content.as_deref() else {
        return Content::Lost("nothing tells where its content was".to_owned());
    };
    let Lost { blocks, reused, .. } = lost;
    match lost.confidence {
        Confidence::Whole => Content::All(bytes),
        Confidence::Part if *reused == 0 => {
            let why = "its map is not whole or not sure".to_owned();
            Content::Part { bytes, why, foreign: json!([]) }
        }
        Confidence::Part => {
            let why = format!("{reused} of its {blocks} blocks belong to others now");
            Content::Part { bytes, why, foreign: foreign(fs, lost) }
        }
        Confidence::Reused => Content::Lost(format!("all of its {blocks} blocks belong to others now")),
        Confidence::NoMap => Content::Lost("nothing tells where its content was".to_owned()),
    }
}

/// The bytes of a lost file that are in blocks of others, as ranges of the file.
fn foreign(fs: &dyn Filesystem, lost: &Lost) -> Value {
    let (size, mut left) = (fs.block_size(), BLOCKS);
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    for run in &lost.runs {
        for index in 0..run.len.min(left) {
            let at = run.logical.saturating_add(index).saturating_mul(size);
            let inside = at < lost.node.size && fs.block_in_use(run.physical.saturating_add(index)).unwrap_or(true);
            if !inside {
                continue;
            }
            let full = ranges.len() >= RANGES;
            match ranges.last_mut() {
                Some((from, len)) if from.saturating_add(*len) == at => *len = len.saturating_add(size),
                _ if full => return Value::Null,
                _ => ranges.push((at, size)),
            }
        }
        left = left.saturating_sub(run.len);
    }
    // Nothing, if the file system does not say where they are.
    if left == 0 || ranges.is_empty() {
        return Value::Null;
    }
    let cut = |(at, len): (u64, u64)| json!({ "at": at, "len": len.min(lost.node.size - at) });
    Value::Array(ranges.into_iter().map(cut).collect())
}

/// Who has the blocks now that lost files had: asked only if there are such.
fn owners(fs: &dyn Filesystem, all: &[Lost], odd: &mut dyn FnMut(String)) -> Owners {
    let reused = all.iter().filter(|lost| lost.reused > 0).flat_map(|lost| &lost.runs);
    let wanted = Wanted::new(reused.map(|run| run.physical..run.physical.saturating_add(run.len)).collect());
    if wanted.ranges().is_empty() {
        return Owners::default();
    }
    Owners::find(fs, &wanted, odd).unwrap_or_else(|error| {
        odd(format!("who has the blocks of deleted files now is not known: {error}"));
        Owners::default()
    })
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
