//! Files that are no longer there, from the leaves of the past; subvolumes that were deleted among them.
//!
//! Whether content is still its own is asked of the extent tree: an extent that another transaction took later is another's,
//! one that is still held by a snapshot or a copy is not. Of what is free, blocks from all over the file are checked against
//! the checksums that leaves of the past have for them: what was written over or discarded since is found that way.

use std::sync::Arc;

use super::content::Content;
use super::extents::{Extent, Piece, What};
use super::history::History;
use super::old::{Old, Olds};
use super::pool::Pool;
use super::roots::Roots;
use super::tree::{Tree, has_files};
use super::usage::used;
use super::view::View;
use super::{EXTENT_TREE, FIRST_FREE, FS_TREE, ORPHANS, ROOT_TREE, Shared};
use crate::disk::fs::{Confidence, FileKind, Filesystem, Lost, Node, State};
use crate::disk::walk::join;
use crate::image::{ReadAt, ReadError};

const ORPHAN_ITEM: u8 = 48;

/// All of them: of this subvolume, and with the top those of subvolumes that are gone.
pub(super) fn all(view: &View) -> Result<Vec<Lost>, ReadError> {
    let shared = &view.shared;
    let history = shared.history();
    let mut lost = orphans(view)?;
    let own = Past { shared, now: Some(view.tree), prefix: Vec::new(), facts: Vec::new() };
    lost.extend(own.files(view.olds()));
    if view.tree.id == FS_TREE {
        let roots = old_roots(shared, history);
        for id in history.owners().filter(|id| has_files(*id)) {
            if shared.roots.all.get(&id).is_some_and(|root| root.refs > 0) {
                continue;
            }
            let path = join(b"", &roots.path(&shared.pool, id));
            let mut facts = vec![("deleted subvolume".to_owned(), id.to_string())];
            facts.extend(roots.all.get(&id).map(|root| roots.facts(&shared.pool, root)).unwrap_or_default());
            let past = Past { shared, now: None, prefix: path, facts };
            lost.extend(past.files(&Olds::read(history, id, None)));
        }
    }
    lost.sort_by_key(|lost| lost.node.inode);
    Ok(lost)
}

/// The root tree of now, and what leaves of the past tell of subvolumes that it does not know.
fn old_roots(shared: &Shared, history: &History) -> Roots {
    let mut roots = shared.roots.clone();
    for node in history.of(ROOT_TREE).iter().filter_map(|leaf| leaf.read(&history.pool).ok()) {
        for item in node.items() {
            let known = shared.roots.all.get(&item.key.id).is_some_and(|root| root.refs > 0);
            if has_files(item.key.id) && !known {
                // What cannot be understood tells nothing.
                let _ = roots.learn(&item);
            }
        }
    }
    roots
}

/// Files that were still open when their last name was taken away.
fn orphans(view: &View) -> Result<Vec<Lost>, ReadError> {
    let mut all = Vec::new();
    for item in view.shared.pool.of(view.tree, ORPHANS, ORPHAN_ITEM).flatten() {
        // The list also holds files that are being cut, which have names.
        let Ok(node) = view.node(item.key.offset) else { continue };
        if node.links > 0 || !node.allocated {
            continue;
        }
        let blocks = view.runs(node.inode)?.iter().fold(0_u64, |sum, run| sum.saturating_add(run.len));
        all.push(Lost {
            path: None,
            state: State::Orphan,
            source: "orphan item".to_owned(),
            confidence: Confidence::Whole,
            blocks,
            reused: 0,
            runs: view.runs(node.inode)?,
            content: view.content(node.inode).ok(),
            node,
        });
    }
    Ok(all)
}

/// The past of one subvolume.
struct Past<'a> {
    shared: &'a Arc<Shared>,
    now: Option<Tree>,
    prefix: Vec<u8>,
    facts: Vec<(String, String)>,
}

/// How much of a file is its own.
#[derive(Default)]
struct Books {
    blocks: u64,
    reused: u64,
    /// Blocks that were checked, and of these, those that fit.
    checked: u64,
    fit: u64,
}

impl Past<'_> {
    fn files(&self, olds: &Olds) -> Vec<Lost> {
        olds.all.iter().filter_map(|(number, old)| self.file(olds, *number, old)).collect()
    }

    fn file(&self, olds: &Olds, number: u64, old: &Old) -> Option<Lost> {
        let pool = &self.shared.history().pool;
        let (generation, inode) = old.inode()?;
        let mut node = inode.node;
        node.facts.extend(self.facts.iter().cloned());
        let own = olds.path(pool, self.now, number);
        let path = own.map(|own| [&self.prefix[..], if number == FIRST_FREE { b"" } else { &own[..] }].concat());
        let books = self.books(old);
        let checked = match books.checked {
            0 => String::new(),
            checked => format!("; {} of {checked} blocks checked fit their old checksums", books.fit),
        };
        let source = format!("leaf of transaction {generation}{checked}");
        let confidence = confidence(&node, old, &books);
        let content = (has_content(&node) && confidence != Confidence::NoMap)
            .then(|| Arc::new(content(pool, old, node.size)) as Arc<dyn ReadAt>);
        let (blocks, reused) = (books.blocks, books.reused);
        Some(Lost { path, node, state: State::Deleted, source, confidence, blocks, reused, runs: Vec::new(), content })
    }

    fn books(&self, old: &Old) -> Books {
        let mut books = Books::default();
        let extents: Vec<_> = old.pieces.iter().filter_map(stored).collect();
        let sector = self.shared.pool.sb.sector;
        let total = extents.iter().fold(0_u64, |sum, (_, len)| sum.saturating_add(len / sector));
        let step = total.div_ceil(CHECKED).max(1);
        for (extent, len) in &extents {
            let blocks = len.div_ceil(sector);
            books.blocks = books.blocks.saturating_add(blocks);
            let taken = self.taken(extent, *len).min(blocks);
            let mut gone = taken;
            if taken == 0 {
                let (checked, fit) = self.shared.old_sums().check(&self.shared.history().pool, extent, *len, step);
                books.checked += checked;
                books.fit += fit;
                gone = (checked - fit).saturating_mul(step).min(blocks);
            }
            books.reused = books.reused.saturating_add(gone);
        }
        books
    }

    /// Blocks of an extent that others took later. What nobody can tell counts as taken.
    fn taken(&self, extent: &Extent, len: u64) -> u64 {
        let (pool, sector) = (&self.shared.pool, self.shared.pool.sb.sector);
        let Some(tree) = self.shared.roots.tree(EXTENT_TREE) else { return u64::MAX };
        if pool.chunks.place(extent.at).is_err() {
            return self.taken_below(tree, extent, len);
        }
        let end = extent.at.saturating_add(len);
        let Ok(all) = used(pool, tree, extent.at, len) else { return u64::MAX };
        let others = all.iter().filter(|used| used.generation > extent.generation);
        let parts = others.map(|used| used.at.saturating_add(used.len).min(end).saturating_sub(used.at.max(extent.at)));
        parts.fold(0, |sum, part| sum.saturating_add(part.div_ceil(sector)))
    }

    /// The same where the chunk is gone: the place on the device may be free, or in another chunk.
    fn taken_below(&self, tree: Tree, extent: &Extent, len: u64) -> u64 {
        let (now, past) = (&self.shared.pool, &self.shared.history().pool);
        let sector = now.sb.sector;
        let blocks = len.min(now.volume.len()).div_ceil(sector);
        let taken = (0..blocks).filter(|block| {
            let Ok((place, _)) = past.chunks.on_device(extent.at.saturating_add(block * sector), 0) else {
                return true;
            };
            let Some((address, _)) = now.chunks.address(place) else { return false };
            used(now, tree, address, sector).map_or(true, |all| !all.is_empty())
        });
        taken.count() as u64
    }
}

/// Blocks of a file that are checked against old checksums; of a longer one, every so many.
const CHECKED: u64 = 1024;

/// What a piece has on the disk: its extent from what is shown of it on, and how many bytes.
fn stored(piece: &Piece) -> Option<(Extent, u64)> {
    let What::Stored(extent) = &piece.what else { return None };
    if extent.packing.is_some() {
        return Some((*extent, extent.len));
    }
    Some((Extent { at: extent.at.saturating_add(extent.from), ..*extent }, piece.len))
}

/// What is now where the content of a file was. Nothing says what its checksums are: blocks may be another's by now.
pub(super) fn content(pool: &Arc<Pool>, old: &Old, size: u64) -> Content {
    Content::new(Arc::clone(pool), None, old.pieces.clone(), size, old.odd.clone())
}

fn has_content(node: &Node) -> bool {
    matches!(node.kind, Some(FileKind::File | FileKind::Link))
}

fn confidence(node: &Node, old: &Old, books: &Books) -> Confidence {
    let mapped = !old.pieces.is_empty() || node.size == 0;
    // Holes between extents are content only if no leaf with others is missing; the end at least must be reached.
    let to_the_end = old.pieces.last().is_none_or(|last| last.end() >= node.size);
    match () {
        () if !has_content(node) => Confidence::Whole,
        () if !mapped => Confidence::NoMap,
        () if books.blocks > 0 && books.reused >= books.blocks => Confidence::Reused,
        () if books.reused > 0 || old.odd.is_some() || !to_the_end => Confidence::Part,
        () => Confidence::Whole,
    }
}
