//! Leaves that stand on the device, those of now and those that no tree leads to any more.
//!
//! btrfs never writes a node over itself: what was changed or deleted stays in the chunks of metadata until its place is
//! given out again. Every place is looked at; a leaf counts if it is one of this file system and its checksum fits. Chunks
//! that became empty were taken away by the kernel: old leaves of the chunk tree tell where they were, and what is still
//! there is looked at and read as well.

use std::collections::HashSet;
use std::sync::Arc;

use rayon::prelude::*;

use super::CHUNK_TREE;
use super::chunks::Chunk;
use super::pool::{CHUNK_ITEM, Pool};
use super::tree::Node;
use crate::disk::us;
use crate::image::{Kind, ReadError};

/// Bytes that are searched at a time.
const WINDOW: u64 = 1 << 20;
/// Chunks that lie about their length may lead to the same bytes many times: more than so many times the volume is not
/// searched.
const TIMES: u64 = 8;

/// A leaf, and where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Leaf {
    pub(super) owner: u64,
    pub(super) generation: u64,
    pub(super) at: u64,
    copy: usize,
}

/// See the module.
pub(super) struct History {
    /// The device with the chunks of now and those of the past.
    pub(super) pool: Arc<Pool>,
    /// By owner, and the oldest first.
    leaves: Vec<Leaf>,
}

impl History {
    pub(super) fn search(pool: &Pool) -> Self {
        let mut chunks = pool.chunks.clone();
        let mut system = leaves(pool, Chunk::has_chunk_tree);
        // The newest of those that lie over each other counts, and those of now are there already.
        system.sort_unstable_by_key(|leaf| std::cmp::Reverse(leaf.generation));
        for node in system.iter().filter(|leaf| leaf.owner == CHUNK_TREE).filter_map(|leaf| leaf.read(pool).ok()) {
            for item in node.items().filter(|item| item.key.kind == CHUNK_ITEM) {
                let _ = chunks.learn(item.key.offset, &item.fields("btrfs chunk"));
            }
        }
        let pool = Arc::new(pool.with(chunks));
        let mut leaves = leaves(&pool, Chunk::has_nodes);
        leaves.sort_unstable_by_key(|leaf| (leaf.owner, leaf.generation, leaf.at));
        Self { pool, leaves }
    }

    /// The trees that have leaves.
    pub(super) fn owners(&self) -> impl Iterator<Item = u64> + '_ {
        self.leaves.chunk_by(|one, next| one.owner == next.owner).filter_map(|same| same.first().map(|leaf| leaf.owner))
    }

    /// The leaves of a tree, the oldest first.
    pub(super) fn of(&self, owner: u64) -> &[Leaf] {
        let from = self.leaves.partition_point(|leaf| leaf.owner < owner);
        let to = self.leaves.partition_point(|leaf| leaf.owner <= owner);
        self.leaves.get(from..to).unwrap_or_default()
    }
}

/// All leaves in the chunks that are `wanted`, each once.
fn leaves(pool: &Pool, wanted: impl Fn(&Chunk) -> bool) -> Vec<Leaf> {
    let mut windows = Vec::new();
    let most = us((pool.volume.len() / WINDOW).saturating_add(16).saturating_mul(TIMES));
    for chunk in pool.chunks.all().iter().filter(|chunk| wanted(chunk)) {
        let copies = pool.copies(chunk.at).unwrap_or(0);
        let end = chunk.at.saturating_add(chunk.len);
        let starts = (chunk.at..end).step_by(us(WINDOW));
        let all = starts.flat_map(|at| (0..copies).map(move |copy| (at, end, copy)));
        windows.extend(all.take(most.saturating_sub(windows.len())));
    }
    let mut leaves: Vec<_> =
        windows.par_iter().flat_map_iter(|(at, end, copy)| window(pool, *at, *end, *copy)).collect();
    let mut seen = HashSet::new();
    leaves.retain(|leaf| seen.insert((leaf.at, leaf.generation, leaf.owner)));
    leaves
}

impl Leaf {
    pub(super) fn read(&self, pool: &Pool) -> Result<Node, ReadError> {
        pool.any_node(self.at, self.copy)
    }
}

/// The leaves that begin in one window.
fn window(pool: &Pool, at: u64, end: u64, copy: usize) -> Vec<Leaf> {
    let Ok((place, run)) = pool.chunks.on_device(at, copy) else { return Vec::new() };
    let below = pool.volume.extent(place);
    if below.is_ok_and(|extent| extent.kind != Kind::Data && extent.len >= WINDOW.min(run)) {
        return Vec::new();
    }
    let len = (end - at).min(WINDOW.saturating_add(pool.sb.node));
    let mut bytes = vec![0; us(len)];
    // What cannot be read at once may still be readable in parts.
    if pool.read_copy(at, copy, &mut bytes).is_err() {
        for (index, part) in bytes.chunks_mut(us(pool.sb.sector)).enumerate() {
            if pool.read_copy(at.saturating_add(index as u64 * pool.sb.sector), copy, part).is_err() {
                part.fill(0);
            }
        }
    }
    let mut leaves = Vec::new();
    for inside in (0..(end - at).min(WINDOW)).step_by(us(pool.sb.sector)) {
        let here = at.saturating_add(inside);
        let Some(part) = bytes.get(us(inside)..us(inside.saturating_add(pool.sb.node))) else { break };
        if part.get(0x30..0x38) != Some(&here.to_le_bytes()) {
            continue;
        }
        if let Ok(node) = pool.checked(here, part.to_vec())
            && node.level == 0
        {
            leaves.push(Leaf { owner: node.owner, generation: node.generation, at: here, copy });
        }
    }
    leaves
}
