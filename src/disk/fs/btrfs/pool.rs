//! The device: nodes and sectors by their addresses, from whichever copy is good.

use std::sync::Arc;

use super::checksum::LONGEST;
use super::chunks::Chunks;
use super::sums::Sums;
use super::superblock::Superblock;
use super::tree::{Key, Node, Pointer, Tree};
use super::{CHUNK_TREE, FIRST_CHUNK};
use crate::disk::us;
use crate::image::cache::Cache;
use crate::image::{ReadAt, ReadError};

/// Bytes of nodes that are kept.
const CACHE: usize = 32 << 20;
pub(super) const CHUNK_ITEM: u8 = 228;

/// See the module.
pub(super) struct Pool {
    pub(super) volume: Arc<dyn ReadAt>,
    pub(super) sb: Superblock,
    pub(super) chunks: Chunks,
    cache: Cache,
}

impl Pool {
    /// Reads the chunk tree; what of it cannot be read goes to `odd`.
    pub(super) fn open(volume: Arc<dyn ReadAt>, sb: Superblock, odd: &mut Vec<String>) -> Result<Self, ReadError> {
        let chunks = Chunks::system(&sb.system_chunks, sb.device)?;
        let mut this = Self { volume, sb, chunks, cache: Cache::new(CACHE) };
        let now = this.sb.chunk_root;
        let older = this.sb.backups.iter().map(|backup| backup.chunk).filter(|chunk| chunk.at != 0);
        let roots: Vec<_> = std::iter::once(now).chain(older).collect();
        let tree = |root: &Pointer| Tree { root: *root, id: CHUNK_TREE };
        // An older chunk tree is better than none.
        let root = roots.iter().find(|root| this.node(**root, tree(root)).is_ok()).unwrap_or(&now);
        if *root != now {
            odd.push(format!("the chunk tree cannot be read; the one of generation {} is used", root.generation));
        }
        let mut found = Vec::new();
        let (from, to) = (Key::new(FIRST_CHUNK, CHUNK_ITEM, 0), Key::new(FIRST_CHUNK, CHUNK_ITEM, u64::MAX));
        for item in this.range(tree(root), from, to) {
            match item {
                Ok(item) => found.push(item),
                Err(error) => odd.push(error.to_string()),
            }
        }
        for item in found {
            let learned = this.chunks.learn(item.key.offset, &item.fields("btrfs chunk"));
            odd.extend(learned.err().map(|error| error.to_string()));
        }
        Ok(this)
    }

    /// The same device with other chunks.
    pub(super) fn with(&self, chunks: Chunks) -> Self {
        Self { volume: Arc::clone(&self.volume), sb: self.sb.clone(), chunks, cache: Cache::new(CACHE) }
    }

    /// More nodes than this a volume cannot hold.
    pub(super) fn most_nodes(&self) -> u64 {
        self.volume.len() / self.sb.node + 8
    }

    /// The node of `tree` that `want` points to: checksum, address, generation, level and owner must fit.
    pub(super) fn node(&self, want: Pointer, tree: Tree) -> Result<Node, ReadError> {
        // An address may hold different nodes in different copies; which one it is, is looked at below.
        let key = (want.at / self.sb.sector) ^ want.generation.rotate_left(32);
        let bytes = self.cache.get(key, || self.copy_of(want).map(|node| node.bytes.to_vec()))?;
        let cached = Node::parse(want.at, bytes).ok().filter(|node| node.generation == want.generation);
        let node = match cached {
            Some(node) if node.level == want.level => node,
            _ => self.copy_of(want)?,
        };
        if !tree.takes(node.owner) {
            let expected = format!("a node of tree {}", tree.id.cast_signed());
            return Err(ReadError::corrupt(
                "btrfs node",
                want.at,
                expected,
                format!("one of {}", node.owner.cast_signed()),
            ));
        }
        Ok(node)
    }

    /// The first copy that is what `want` says.
    fn copy_of(&self, want: Pointer) -> Result<Node, ReadError> {
        let mut first = None;
        for copy in 0..self.copies(want.at)? {
            let read = self.any_node(want.at, copy).and_then(|node| {
                let (generation, level) = (node.generation, node.level);
                if (generation, level) == (want.generation, want.level) {
                    return Ok(node);
                }
                let words = |generation: u64, level: u8| format!("generation {generation}, level {level}");
                let expected = words(want.generation, want.level);
                Err(ReadError::corrupt("btrfs node", want.at, expected, words(generation, level)))
            });
            match read {
                Ok(node) => return Ok(node),
                Err(error) => first = first.or(Some(error)),
            }
        }
        Err(first.unwrap_or_else(|| ReadError::corrupt("btrfs chunk", want.at, "a copy", "none")))
    }

    /// Whatever node stands there, if it is one of this file system and its checksum fits.
    pub(super) fn any_node(&self, at: u64, copy: usize) -> Result<Node, ReadError> {
        let mut bytes = vec![0; us(self.sb.node)];
        self.read_copy(at, copy, &mut bytes)?;
        self.checked(at, bytes)
    }

    /// Bytes that were read at `at` as a node.
    pub(super) fn checked(&self, at: u64, bytes: Vec<u8>) -> Result<Node, ReadError> {
        let corrupt = |expected: &str, found: &str| Err(ReadError::corrupt("btrfs node", at, expected, found));
        if bytes.get(LONGEST..LONGEST + 16) != Some(&self.sb.node_uuid) {
            return corrupt("the UUID of the file system", "something else");
        }
        if !self.sb.checksum.fits(bytes.get(LONGEST..).unwrap_or_default(), &bytes) {
            return corrupt("a checksum that fits", "one that does not");
        }
        Node::parse(at, Arc::new(bytes))
    }

    /// How often an address is stored.
    pub(super) fn copies(&self, at: u64) -> Result<usize, ReadError> {
        Ok(self.chunks.place(at)?.copies.len())
    }

    /// Reads one copy.
    pub(super) fn read_copy(&self, mut at: u64, copy: usize, mut into: &mut [u8]) -> Result<(), ReadError> {
        while !into.is_empty() {
            let (from, len) = self.chunks.on_device(at, copy)?;
            let (now, rest) = into.split_at_mut(us(len).min(into.len()));
            let there = self.volume.len().saturating_sub(from);
            if there < now.len() as u64 {
                return Err(ReadError::corrupt("btrfs chunk", from, "a place on the device", "its end"));
            }
            self.volume.read_at(from, now).map_err(|error| error.moved(from, at))?;
            at = at.saturating_add(now.len() as u64);
            into = rest;
        }
        Ok(())
    }

    /// Reads whole sectors, and checks them if there are checksums. The result says of each whether it is good;
    /// what is not good is zero.
    pub(super) fn sectors(&self, at: u64, into: &mut [u8], sums: &Sums) -> Vec<bool> {
        let size = us(self.sb.sector);
        let fits = |at: u64, bytes: &[u8]| sums.get(at).is_none_or(|sum| self.sb.checksum.fits(bytes, sum));
        let place = |index: usize| at.saturating_add((index * size) as u64);
        if self.read_copy(at, 0, into).is_ok() {
            let good: Vec<_> =
                into.chunks(size).enumerate().map(|(index, sector)| fits(place(index), sector)).collect();
            if good.iter().all(|good| *good) {
                return good;
            }
        }
        let copies = self.copies(at).unwrap_or(0);
        let mut all = Vec::new();
        for (index, sector) in into.chunks_mut(size).enumerate() {
            let at = place(index);
            let good = (0..copies).any(|copy| self.read_copy(at, copy, sector).is_ok() && fits(at, sector));
            if !good {
                sector.fill(0);
            }
            all.push(good);
        }
        all
    }

    /// Why a sector is not good.
    pub(super) fn why(&self, at: u64) -> String {
        let mut sector = vec![0; us(self.sb.sector)];
        match self.read_copy(at, 0, &mut sector) {
            Ok(()) => format!("the block at address {at:#x} does not fit its {} checksum", self.sb.checksum.name()),
            Err(ReadError::Gap { why, .. }) => crate::image::reason(&why),
            Err(error) => error.to_string(),
        }
    }
}
