//! ISO 9660 with Joliet, Rock Ridge and El Torito. ECMA-119 4th edition; Joliet 1995; IEEE P1281 (SUSP) and P1282 (RRIP)
//! 1.12; El Torito 1.0.
//!
//! A disc may have several trees of names over the same content. The one with Rock Ridge is shown, because it alone has
//! owners, links and all times; else Joliet, because its names are whole; else the plain one. The number of a file is the
//! place of its directory record in bytes. Numbers that stand there in both byte orders are compared, and the
//! little-endian ones are used. Named and not read: UDF beside it, zisofs (content stays compressed), sparse files of
//! Rock Ridge, sectors of 2352 bytes.

mod boot;
mod descriptor;
mod lost;
mod record;
mod susp;
mod tree;

use std::sync::{Arc, OnceLock};

use super::content::Content;
use super::{Entry, FileKind, Filesystem, Listing, Lost, Node, Options, Run, State};
use crate::disk::us;
use crate::image::{ReadAt, ReadError, read_vec};
use descriptor::{Descriptor, Disc};
use record::{Part, Record};
use tree::Books;

/// The longest link: what Linux allows.
const TARGET: usize = 4096;

/// Which names are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Names {
    /// With this many bytes to skip in front of each system use area.
    RockRidge(usize),
    Joliet,
    Plain,
}

/// One tree of names.
#[derive(Clone)]
struct Tree {
    volume: Arc<dyn ReadAt>,
    /// Bytes of a logical block.
    block: u64,
    /// Where the record of the root directory stands.
    root: u64,
    names: Names,
}

/// See the module.
struct Iso {
    disc: Disc,
    tree: Tree,
    /// The other trees of the same disc.
    others: Vec<Tree>,
    facts: Vec<(String, String)>,
    odd: Vec<String>,
    books: OnceLock<Books>,
}

/// Opens the file system on a volume.
#[expect(clippy::needless_pass_by_value, reason = "every driver is opened the same way")]
pub fn open(volume: Arc<dyn ReadAt>, _options: Options) -> Result<Arc<dyn Filesystem>, ReadError> {
    let disc = Disc::read(volume.as_ref(), 0)?;
    let (tree, others) = trees(&volume, &disc);
    let mut facts = disc.facts.clone();
    let mut odd = disc.odd.clone();
    let name = |tree: &Tree| match tree.names {
        Names::RockRidge(_) => "Rock Ridge",
        Names::Joliet => "Joliet",
        Names::Plain => "plain",
    };
    facts.push(("tree that is shown".to_owned(), name(&tree).to_owned()));
    facts.push(("other trees".to_owned(), others.iter().map(name).collect::<Vec<_>>().join(", ")));
    if let Some(catalog) = disc.catalog {
        boot::read(volume.as_ref(), catalog, &mut facts, &mut odd);
    }
    Ok(Arc::new(Iso { disc, tree, others, facts, odd, books: OnceLock::new() }))
}

/// The best tree of a disc, and the others.
fn trees(volume: &Arc<dyn ReadAt>, disc: &Disc) -> (Tree, Vec<Tree>) {
    let tree = |descriptor: &Descriptor, names| Tree {
        volume: Arc::clone(volume),
        block: descriptor.block,
        root: descriptor.root,
        names,
    };
    let plain = tree(&disc.primary, Names::Plain);
    let joliet = disc.joliet.as_ref().map(|joliet| tree(joliet, Names::Joliet));
    match (plain.rock_ridge(), joliet) {
        (Some(skip), joliet) => (Tree { names: Names::RockRidge(skip), ..plain }, joliet.into_iter().collect()),
        (None, Some(joliet)) => (joliet, vec![plain]),
        (None, None) => (plain, Vec::new()),
    }
}

impl Tree {
    /// What a record tells, or the directory that it stands for if that was moved elsewhere.
    fn file(&self, at: u64) -> Result<Record, ReadError> {
        let mut record = Record::read(self, at)?;
        if let Some(child) = record.rock.child.take() {
            let mut own = Record::read(self, u64::from(child).saturating_mul(self.block))?;
            (own.at, own.name) = (at, record.name);
            own.facts.push(("moved to block".to_owned(), child.to_string()));
            return Ok(own);
        }
        Ok(record)
    }

    /// From the first block of a section to behind its last.
    fn range(&self, part: &Part) -> (u64, u64) {
        let (blocks, first) = (u64::from(part.len).div_ceil(self.block), u64::from(part.block));
        let gaps = blocks.div_ceil(u64::from(part.unit).max(1)).saturating_sub(1) * u64::from(part.gap);
        (first, first + u64::from(part.attributes) + blocks + if part.unit == 0 { 0 } else { gaps })
    }

    /// Blocks of the content, in order.
    fn runs(&self, record: &Record) -> Vec<Run> {
        let (mut logical, mut runs) = (0, Vec::new());
        for part in &record.parts {
            let blocks = u64::from(part.len).div_ceil(self.block);
            let first = u64::from(part.block) + u64::from(part.attributes);
            // Interleaved: so many blocks, then a gap.
            let unit = if part.unit == 0 || part.gap == 0 { blocks.max(1) } else { u64::from(part.unit) };
            for index in 0..blocks.div_ceil(unit).min(self.volume.len() / self.block + 1) {
                let len = unit.min(blocks - index * unit);
                let physical = first + index * (unit + u64::from(part.gap));
                runs.push(Run { logical: logical + index * unit, len, physical, unwritten: false });
            }
            logical += blocks;
        }
        runs
    }

    fn content(&self, record: &Record) -> Result<Arc<dyn ReadAt>, ReadError> {
        let last = record.parts.len().saturating_sub(1);
        if record.parts.iter().take(last).any(|part| u64::from(part.len) % self.block != 0) {
            let found = "one that ends inside a block";
            return Err(ReadError::corrupt("ISO 9660 file section", record.at, "whole blocks before the last", found));
        }
        let why = Some("its extents end before its length".to_owned());
        Ok(Arc::new(Content::new(Arc::clone(&self.volume), self.runs(record), self.block, record.size(), why)))
    }
}

impl Iso {
    fn books(&self) -> &Books {
        self.books.get_or_init(|| Books::of(&self.tree, &self.others, &self.disc))
    }

    fn node_of(tree: &Tree, record: &Record) -> Node {
        let rock = &record.rock;
        let kind = record.kind();
        let posix = rock.posix.unwrap_or_default();
        let mode = match (rock.posix, kind) {
            (Some(posix), _) => posix.mode,
            (None, FileKind::Directory) => 0o040_000,
            (None, _) => 0o100_000,
        };
        let mut odd = record.odd.clone();
        let end = tree.volume.len() / tree.block;
        if tree.runs(record).iter().any(|run| run.physical.saturating_add(run.len) > end) {
            odd.push("its content goes on behind the end of the volume".to_owned());
        }
        Node {
            inode: record.at,
            generation: 0,
            kind: Some(kind),
            mode,
            uid: posix.uid,
            gid: posix.gid,
            size: if kind == FileKind::Link { rock.link.len() as u64 } else { record.size() },
            links: posix.links.max(1),
            times: record.times(),
            allocated: true,
            facts: record.facts.clone(),
            odd,
        }
    }
}

impl Filesystem for Iso {
    fn name(&self) -> &'static str {
        "iso9660"
    }

    fn facts(&self) -> Vec<(String, String)> {
        self.facts.clone()
    }

    fn odd(&self) -> Vec<String> {
        self.odd.clone()
    }

    fn is_whole(&self) -> bool {
        true
    }

    fn root(&self) -> u64 {
        self.tree.root
    }

    fn block_size(&self) -> u64 {
        self.tree.block
    }

    fn blocks(&self) -> u64 {
        u64::from(self.disc.primary.blocks)
    }

    fn node(&self, inode: u64) -> Result<Node, ReadError> {
        Ok(Self::node_of(&self.tree, &self.tree.file(inode)?))
    }

    fn entries(&self, directory: u64, _deleted: bool) -> Result<Listing, ReadError> {
        let record = self.tree.file(directory)?;
        if record.kind() != FileKind::Directory {
            return Err(ReadError::caller(format!("list inode {directory}"), "it is no directory"));
        }
        let mut listing = Listing::default();
        if let Some(owner) = self.books().shared.get(&directory) {
            listing.odd.push(format!("it has the blocks of directory {owner} and is listed there"));
            return Ok(listing);
        }
        let found = self.tree.list(&record, &mut listing.odd);
        listing.entries.extend(found.into_iter().map(|one| Entry {
            kind: Some(one.kind()),
            inode: one.at,
            name: one.name,
            state: State::Allocated,
            source: "directory",
        }));
        Ok(listing)
    }

    fn content(&self, inode: u64) -> Result<Arc<dyn ReadAt>, ReadError> {
        self.tree.content(&self.tree.file(inode)?)
    }

    fn slack(&self, inode: u64) -> Result<Vec<u8>, ReadError> {
        let record = self.tree.file(inode)?;
        let rest = record.size() % self.tree.block;
        let Some(last) = self.tree.runs(&record).last().copied().filter(|_| rest != 0) else { return Ok(Vec::new()) };
        let at = last.physical.saturating_add(last.len - 1).saturating_mul(self.tree.block).saturating_add(rest);
        read_vec(self.tree.volume.as_ref(), at, us(self.tree.block - rest))
    }

    fn target(&self, inode: u64) -> Result<Vec<u8>, ReadError> {
        let record = self.tree.file(inode)?;
        if record.kind() != FileKind::Link || record.rock.link.len() > TARGET {
            return Err(ReadError::caller(format!("follow inode {inode}"), "it is no symbolic link"));
        }
        Ok(record.rock.link)
    }

    fn runs(&self, inode: u64) -> Result<Vec<Run>, ReadError> {
        Ok(self.tree.runs(&self.tree.file(inode)?))
    }

    fn block_in_use(&self, block: u64) -> Result<bool, ReadError> {
        Ok(self.books().in_use(block))
    }

    fn space(&self) -> Option<Arc<dyn ReadAt>> {
        Some(Arc::clone(&self.tree.volume))
    }

    fn lost(&self) -> Result<Vec<Lost>, ReadError> {
        Ok(lost::all(self))
    }
}
