//! btrfs. Kernel include/uapi/linux/btrfs_tree.h and fs/btrfs; <https://btrfs.readthedocs.io>, "On-disk Format".
//!
//! The top (subvolume 5) and each subvolume is a file system of its own with inode numbers of its own; its root is 256. Where
//! a subvolume hangs in another, the entry is a directory with the number 2^62 plus that of the subvolume (the kernel shows
//! 256 there, which is taken here), and it is empty: what is in it is under the subvolume's own name. Nodes and data are
//! believed only if their checksum fits, on whichever copy. One device is read: what others hold is a gap with that reason.
//! Not done: zoned devices, extent tree v2, RAID stripe tree (refused by name).

mod checksum;
mod chunks;
mod content;
mod extents;
mod history;
mod inode;
mod log;
mod lost;
mod old;
mod oldsums;
mod pool;
mod roots;
mod sums;
mod superblock;
mod tree;
mod unpack;
mod usage;
mod view;

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use super::{Filesystem, Options};
use crate::image::{ReadAt, ReadError};
use history::History;
use log::Log;
use oldsums::OldSums;
use pool::Pool;
use roots::Roots;
use superblock::Superblock;
use tree::{Pointer, Tree};
use view::View;

/// Numbers of trees.
const ROOT_TREE: u64 = 1;
const EXTENT_TREE: u64 = 2;
const CHUNK_TREE: u64 = 3;
const FS_TREE: u64 = 5;
const SUM_TREE: u64 = 7;
const LOG_TREE: u64 = (-6_i64).cast_unsigned();
const RELOCATION_TREE: u64 = (-8_i64).cast_unsigned();
/// Under this number the checksums of data stand.
const SUMS: u64 = (-10_i64).cast_unsigned();
/// Under this number the inodes stand that have no name.
const ORPHANS: u64 = (-5_i64).cast_unsigned();
/// Numbers of subvolumes and of inodes. The first is also the root directory.
const FIRST_FREE: u64 = 256;
const LAST_FREE: u64 = (-256_i64).cast_unsigned();
/// Under this number the chunks stand.
const FIRST_CHUNK: u64 = 256;

/// What all subvolumes share.
struct Shared {
    pool: Arc<Pool>,
    roots: Roots,
    facts: Vec<(String, String)>,
    odd: Vec<String>,
    /// See [`Filesystem::is_whole`].
    whole: bool,
    history: OnceLock<History>,
    old_sums: OnceLock<OldSums>,
    logs: BTreeMap<u64, Arc<Log>>,
}

impl Shared {
    /// All leaves on the device; searched for once, when first asked.
    fn history(&self) -> &History {
        self.history.get_or_init(|| History::search(&self.pool))
    }

    /// Checksums of data that is no longer in use.
    fn old_sums(&self) -> &OldSums {
        self.old_sums.get_or_init(|| OldSums::read(self.history()))
    }
}

/// Opens the file system on a volume: its top, subvolume 5.
pub fn open(volume: Arc<dyn ReadAt>, options: Options) -> Result<Arc<dyn Filesystem>, ReadError> {
    let sb = Superblock::read(volume.as_ref())?;
    let (mut odd, mut facts) = (sb.odd.clone(), sb.facts.clone());
    let told = odd.len();
    let pool = Arc::new(Pool::open(volume, sb, &mut odd)?);
    facts.extend(pool.chunks.facts());
    let mut whole = odd.len() == told;
    let root = root_tree(&pool, &mut odd, &mut whole)?;
    let mut roots = Roots::read(&pool, root);
    whole &= roots.odd.is_empty();
    odd.append(&mut roots.odd);
    let Some(top) = roots.tree(FS_TREE) else {
        return Err(ReadError::corrupt("btrfs root tree", root.at, "the tree of the files (5)", "none"));
    };
    facts.push(("subvolumes".to_owned(), roots.subvolumes().count().to_string()));
    let default = roots.mounted();
    let name = if default == FS_TREE { Vec::new() } else { roots.path(&pool, default) };
    facts.push(("default subvolume".to_owned(), format!("{default} /{}", String::from_utf8_lossy(&name))));
    for (id, name) in [(SUM_TREE, "checksums of data"), (EXTENT_TREE, "extents in use")] {
        let read = roots.tree(id).ok_or_else(|| ReadError::corrupt("btrfs root tree", root.at, name, "none"));
        if let Err(error) = read.and_then(|tree| pool.node(tree.root, tree)) {
            odd.push(format!("the tree of the {name} cannot be read: {error}"));
        }
    }
    let logs = logs(&pool, options, &mut facts).unwrap_or_else(|error| {
        odd.push(format!("the log cannot be read, and what was synced last is not shown: {error}"));
        whole = false;
        BTreeMap::new()
    });
    let shared =
        Arc::new(Shared { pool, roots, facts, odd, whole, history: OnceLock::new(), old_sums: OnceLock::new(), logs });
    Ok(Arc::new(View::top(shared, top)))
}

/// What was synced after the last commit, unless it is not to be shown.
fn logs(
    pool: &Pool,
    options: Options,
    facts: &mut Vec<(String, String)>,
) -> Result<BTreeMap<u64, Arc<Log>>, ReadError> {
    let mut fact = |value: String| facts.push(("log".to_owned(), value));
    let Some(root) = pool.sb.log_root else {
        fact("empty".to_owned());
        return Ok(BTreeMap::new());
    };
    if options.no_journal {
        fact("not replayed, as asked".to_owned());
        return Ok(BTreeMap::new());
    }
    let logs = log::read(pool, root)?;
    fact(format!("{} inodes replayed in memory", logs.values().map(|log| log.len()).sum::<usize>()));
    Ok(logs)
}

/// The root of the trees: the one of now, or the newest older one that can be read.
fn root_tree(pool: &Pool, odd: &mut Vec<String>, whole: &mut bool) -> Result<Pointer, ReadError> {
    let readable = |root: Pointer| pool.node(root, Tree { root, id: ROOT_TREE });
    let now = pool.sb.root;
    let Err(error) = readable(now) else { return Ok(now) };
    let mut older: Vec<_> = pool.sb.backups.iter().map(|backup| backup.tree).filter(|tree| tree.at != 0).collect();
    older.sort_by_key(|tree| std::cmp::Reverse(tree.generation));
    let Some(root) = older.into_iter().find(|root| readable(*root).is_ok()) else { return Err(error) };
    odd.push(format!("{error}; the older root tree of generation {} is used", root.generation));
    *whole = false;
    Ok(root)
}
