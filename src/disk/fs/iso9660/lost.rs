//! Files of earlier sessions that the last one no longer shows.
//!
//! A disc is never written over: each session has descriptors of its own and a tree of all that is to be seen from then on.
//! A file that was taken out, or replaced, is still there in the tree of the session before. Sessions are looked for where
//! they begin: at multiples of 16 blocks.

use std::collections::HashSet;
use std::sync::Arc;

use super::descriptor::{Disc, FIRST, SECTOR};
use super::record::Record;
use super::tree::each;
use super::{Iso, Tree, trees};
use crate::disk::fs::{Confidence, FileKind, Lost, State};

/// A file as it was: its path, and where it is.
type Key = (Vec<u8>, Vec<(u32, u32)>);

fn key(path: &[u8], record: &Record) -> Key {
    (path.to_vec(), record.parts.iter().map(|part| (part.block, part.len)).collect())
}

/// All of them, by number.
pub(super) fn all(iso: &Iso) -> Vec<Lost> {
    let (mut known, mut lost) = (HashSet::new(), Vec::new());
    each(&iso.tree, &mut |path, record| {
        known.insert(key(path, record));
    });
    // The newest first: a file counts as of the last session that had it.
    for session in sessions(iso).into_iter().rev() {
        let Ok(disc) = Disc::read(iso.tree.volume.as_ref(), session) else { continue };
        let (tree, _) = trees(&iso.tree.volume, &disc);
        each(&tree, &mut |path, record| {
            if record.kind() != FileKind::Directory && known.insert(key(path, record)) {
                lost.push(one(&tree, path, record, session));
            }
        });
    }
    lost.sort_by_key(|lost: &Lost| lost.node.inode);
    lost
}

/// Sectors where a session begins, in order; the one that is shown is among them or is a copy.
fn sessions(iso: &Iso) -> Vec<u64> {
    let volume = &iso.tree.volume;
    let begins = |session: &u64| {
        let mut head = [0; 7];
        let at = (session + FIRST).saturating_mul(SECTOR);
        volume.read_at(at, &mut head).is_ok() && head == *b"\x01CD001\x01"
    };
    (0..volume.len() / SECTOR).step_by(16).filter(begins).collect()
}

fn one(tree: &Tree, path: &[u8], record: &Record, session: u64) -> Lost {
    let mut node = Iso::node_of(tree, record);
    node.allocated = false;
    let content = tree.content(record).ok();
    let blocks = tree.runs(record).iter().map(|run| run.len).sum();
    // Nothing is written over, unless it lies behind the end of what was copied.
    let there = tree
        .runs(record)
        .iter()
        .all(|run| run.physical.saturating_add(run.len).saturating_mul(tree.block) <= tree.volume.len());
    Lost {
        path: Some(path.to_vec()),
        node,
        state: State::Deleted,
        source: format!("session at block {session}"),
        confidence: if there { Confidence::Whole } else { Confidence::Part },
        blocks,
        reused: 0,
        runs: tree.runs(record),
        content: content.map(|content| content as Arc<_>),
    }
}
