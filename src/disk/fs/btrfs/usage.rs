//! Which addresses are in use, and since when: the extent tree. Kernel include/uapi/linux/btrfs_tree.h,
//! `struct btrfs_extent_item`.

use super::pool::Pool;
use super::tree::{Item, Key, Tree};
use crate::image::ReadError;
use crate::image::fields::Fields;

const EXTENT_ITEM: u8 = 168;
const METADATA_ITEM: u8 = 169;

/// An extent that is in use.
#[derive(Debug, Clone, Copy)]
pub(super) struct Used {
    pub(super) at: u64,
    pub(super) len: u64,
    /// The transaction that took it.
    pub(super) generation: u64,
}

impl Used {
    fn parse(pool: &Pool, item: &Item) -> Option<Result<Self, ReadError>> {
        let len = match item.key.kind {
            EXTENT_ITEM => item.key.offset,
            METADATA_ITEM => pool.sb.node,
            _ => return None,
        };
        let fields: Fields<'_> = item.fields("btrfs extent item");
        Some(fields.u64(8).map(|generation| Self { at: item.key.id, len, generation }))
    }

    fn end(&self) -> u64 {
        self.at.saturating_add(self.len)
    }
}

/// Steps back to the extent before an address.
const BACK: usize = 8;

/// The extents in use that have a part in `len` bytes at `at`, in order.
pub(super) fn used(pool: &Pool, tree: Tree, at: u64, len: u64) -> Result<Vec<Used>, ReadError> {
    let end = at.saturating_add(len);
    let mut all = Vec::new();
    // The extent that begins at or before `at`; behind it stand references to it, and the block group that begins there.
    let mut key = Key::new(at, u8::MAX, u64::MAX);
    for _ in 0..BACK {
        let Some(item) = pool.before(tree, key)? else { break };
        if let Some(used) = Used::parse(pool, &item) {
            let used = used?;
            all.extend((used.end() > at).then_some(used));
            break;
        }
        if item.key.kind < EXTENT_ITEM {
            break;
        }
        key = Key::new(item.key.id, METADATA_ITEM, u64::MAX);
    }
    let from = Key::new(at.saturating_add(1), 0, 0);
    for item in pool.range(tree, from, Key::new(end.saturating_sub(1), u8::MAX, u64::MAX)) {
        if let Some(used) = Used::parse(pool, &item?) {
            all.push(used?);
        }
    }
    Ok(all)
}
