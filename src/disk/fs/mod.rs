//! What every file system answers. One file or folder each; [`ALL`] is the list.
//!
//! Names are bytes. Times have nanoseconds, and one that the file system does not keep is absent. Content is a
//! [`ReadAt`] with its holes, so that an image inside a file opens like any other.

pub mod btrfs;
mod clusters;
pub(crate) mod content;
pub mod exfat;
pub mod ext;
pub mod fat;
pub mod iso9660;
pub mod ntfs;
pub(crate) mod runs;
pub(crate) mod words;
pub mod xfs;

use std::ops::Range;
use std::sync::Arc;

use jiff::Timestamp;

use crate::image::{ReadAt, ReadError};

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Link,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
}

impl FileKind {
    /// Of the upper bits of a POSIX mode.
    pub fn of_mode(mode: u32) -> Option<Self> {
        Some(match mode & 0o170_000 {
            0o100_000 => Self::File,
            0o040_000 => Self::Directory,
            0o120_000 => Self::Link,
            0o020_000 => Self::CharDevice,
            0o060_000 => Self::BlockDevice,
            0o010_000 => Self::Fifo,
            0o140_000 => Self::Socket,
            _ => return None,
        })
    }

    /// As directories of ext, XFS and btrfs number it.
    pub fn of_entry(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::File,
            2 => Self::Directory,
            3 => Self::CharDevice,
            4 => Self::BlockDevice,
            5 => Self::Fifo,
            6 => Self::Socket,
            7 => Self::Link,
            _ => return None,
        })
    }

    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Directory => "directory",
            Self::Link => "link",
            Self::CharDevice => "char-device",
            Self::BlockDevice => "block-device",
            Self::Fifo => "fifo",
            Self::Socket => "socket",
        }
    }

    /// The letter of `ls` and of the bodyfile.
    pub fn letter(self) -> char {
        match self {
            Self::File => 'r',
            Self::Directory => 'd',
            Self::Link => 'l',
            Self::CharDevice => 'c',
            Self::BlockDevice => 'b',
            Self::Fifo => 'p',
            Self::Socket => 'h',
        }
    }
}

/// Is it there?
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// In use.
    Allocated,
    /// Was taken away.
    Deleted,
    /// In use, and no directory names it.
    Orphan,
}

impl State {
    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Allocated => "allocated",
            Self::Deleted => "deleted",
            Self::Orphan => "orphan",
        }
    }
}

/// The times of a file; none where the file system keeps none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Times {
    /// Content changed.
    pub modified: Option<Timestamp>,
    /// Content read.
    pub accessed: Option<Timestamp>,
    /// Of that, only the day is kept, and `accessed` is where it begins (FAT).
    pub accessed_day: bool,
    /// Metadata changed.
    pub changed: Option<Timestamp>,
    /// Made.
    pub born: Option<Timestamp>,
    /// Deleted.
    pub deleted: Option<Timestamp>,
}

/// The metadata of a file.
#[derive(Debug, Clone)]
pub struct Node {
    /// Its number.
    pub inode: u64,
    /// Counts how often the number was given out, where that is kept.
    pub generation: u32,
    /// What it is; none if the mode makes no sense.
    pub kind: Option<FileKind>,
    /// POSIX mode with the kind.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Length in bytes.
    pub size: u64,
    /// Names it has.
    pub links: u32,
    /// Times.
    pub times: Times,
    /// In use, as the file system's own books say.
    pub allocated: bool,
    /// Other properties: flags, extended attributes.
    pub facts: Vec<(String, String)>,
    /// What is not as it should be.
    pub odd: Vec<String>,
}

/// A name in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The name as it stands there.
    pub name: Vec<u8>,
    /// What it names; 0 if that is gone.
    pub inode: u64,
    /// What the directory says it is.
    pub kind: Option<FileKind>,
    /// Still there, or what was left of it.
    pub state: State,
    /// Where it was found.
    pub source: &'static str,
}

/// The names of a directory.
#[derive(Debug, Clone, Default)]
pub struct Listing {
    /// In the order of the directory, without `.` and `..`.
    pub entries: Vec<Entry>,
    /// What could not be read.
    pub odd: Vec<String>,
}

/// Blocks of a file that follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// First block of the file.
    pub logical: u64,
    /// Blocks.
    pub len: u64,
    /// First block of the volume.
    pub physical: u64,
    /// Set aside, never written: reads as zeros.
    pub unwritten: bool,
}

/// How much of a deleted file is still its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Confidence {
    /// No block was given to another file since.
    Whole,
    /// Some were.
    Part,
    /// All were.
    Reused,
    /// Nothing tells where its content was.
    NoMap,
}

impl Confidence {
    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Whole => "whole",
            Self::Part => "part",
            Self::Reused => "reused",
            Self::NoMap => "no-map",
        }
    }
}

/// A file that is no longer there.
#[derive(Clone)]
pub struct Lost {
    /// Path from the root as far as it is known.
    pub path: Option<Vec<u8>>,
    /// Its metadata, as it last was.
    pub node: Node,
    /// Deleted, or an orphan that is still in use.
    pub state: State,
    /// Where metadata and map come from.
    pub source: String,
    /// How much of it is its own.
    pub confidence: Confidence,
    /// Blocks of content.
    pub blocks: u64,
    /// Of these, in use by others now.
    pub reused: u64,
    /// Where they are; empty if nothing tells, or if it has no blocks.
    pub runs: Vec<Run>,
    /// What is there now at its place.
    pub content: Option<Arc<dyn ReadAt>>,
}

/// Content of a file beside its main one.
#[derive(Clone)]
pub struct Stream {
    /// Its name, without the colon.
    pub name: Vec<u8>,
    /// The bytes.
    pub content: Arc<dyn ReadAt>,
}

/// A file system inside another.
pub struct Subvolume {
    /// What stands behind `@` in an address: its path from the top, without a leading `/`.
    pub name: Vec<u8>,
    /// What it is: its number, whether it is a snapshot, of which one.
    pub facts: Vec<(String, String)>,
    /// Its files.
    pub fs: Arc<dyn Filesystem>,
}

/// One entry of a journal.
#[derive(Debug, Clone)]
pub struct Change {
    /// Place of the entry, in bytes from the front of the journal.
    pub at: u64,
    /// Counts up; entries with the same number became true together.
    pub sequence: u64,
    /// When, if the journal says so.
    pub time: Option<Timestamp>,
    /// What the entry is, in the words of the file system: `descriptor`, `file-create`.
    pub kind: String,
    /// The inode it is about.
    pub inode: Option<u64>,
    /// The name it is about.
    pub name: Option<Vec<u8>>,
    /// The block of the volume it is about.
    pub block: Option<u64>,
    /// Whatever else it tells.
    pub note: String,
}

/// What can be asked of a file system. All of it is read-only, and by many threads at once.
pub trait Filesystem: Send + Sync {
    /// Its name: `ext4`.
    fn name(&self) -> &'static str;
    /// What the superblock tells.
    fn facts(&self) -> Vec<(String, String)>;
    /// What is not as it should be.
    fn odd(&self) -> Vec<String>;
    /// All that says what is true today could be read. Not so if the journal cannot: what stands there may be out of date.
    fn is_whole(&self) -> bool;
    /// Number of the root directory.
    fn root(&self) -> u64;
    /// Bytes of a block.
    fn block_size(&self) -> u64;
    /// Blocks of the volume.
    fn blocks(&self) -> u64;
    /// Metadata of a file.
    fn node(&self, inode: u64) -> Result<Node, ReadError>;
    /// Metadata as far as lists show it, which is all but [`Node::facts`], and whether the content of a file can be read:
    /// what is asked of every file of a volume, in one look.
    fn look(&self, inode: u64) -> Result<(Node, bool), ReadError> {
        let node = self.node(inode)?;
        let readable = node.kind != Some(FileKind::File) || self.content(inode).is_ok();
        Ok((node, readable))
    }
    /// Do two names mean the same file? Not all file systems look at case.
    fn same_name(&self, one: &[u8], other: &[u8]) -> bool {
        one == other
    }
    /// Names in a directory; with `deleted`, also what is left of those taken away.
    fn entries(&self, directory: u64, deleted: bool) -> Result<Listing, ReadError>;
    /// Content.
    fn content(&self, inode: u64) -> Result<Arc<dyn ReadAt>, ReadError>;
    /// What stands behind the end of the content in its last block.
    fn slack(&self, inode: u64) -> Result<Vec<u8>, ReadError>;
    /// Where a symbolic link leads.
    fn target(&self, inode: u64) -> Result<Vec<u8>, ReadError>;
    /// Blocks of the content, in order.
    fn runs(&self, inode: u64) -> Result<Vec<Run>, ReadError>;
    /// Blocks that belong to a file and hold none of its content: of its map, of its attributes.
    fn own_blocks(&self, _inode: u64) -> Result<Vec<u64>, ReadError> {
        Ok(Vec::new())
    }
    /// Is this block in use?
    fn block_in_use(&self, block: u64) -> Result<bool, ReadError>;
    /// The books of all blocks: ranges in order that cover all of them, and whether they are in use. Neighbours may be of
    /// one kind. `each` may end it.
    fn allocation(&self, each: &mut dyn FnMut(Range<u64>, bool) -> Result<(), ReadError>) -> Result<(), ReadError> {
        (0..self.blocks()).try_for_each(|block| each(block..block + 1, self.block_in_use(block)?))
    }
    /// What a block is that belongs to no file but to the file system itself: `inode table of group 3`.
    fn purpose(&self, _block: u64) -> Option<String> {
        None
    }
    /// The bytes that blocks are numbered in: block `n` begins at `n` times [`block_size`](Self::block_size). None where
    /// blocks have no such place.
    fn space(&self) -> Option<Arc<dyn ReadAt>> {
        None
    }
    /// Files that are no longer there, in the order of their numbers.
    fn lost(&self) -> Result<Vec<Lost>, ReadError>;
    /// Content of a file beside its main one (alternate data streams).
    fn streams(&self, _inode: u64) -> Result<Vec<Stream>, ReadError> {
        Ok(Vec::new())
    }
    /// File systems inside this one whose inodes have numbers of their own: subvolumes, snapshots.
    fn subvolumes(&self) -> Result<Vec<Subvolume>, ReadError> {
        Ok(Vec::new())
    }
    /// What the journal tells of changes, oldest first.
    fn changes(&self, _each: &mut dyn FnMut(Change) -> Result<(), ReadError>) -> Result<(), ReadError> {
        Err(ReadError::unsupported(format!("a journal of {}", self.name()), "it keeps none that is read here"))
    }
}

/// How a file system is opened.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Show the bytes as they are on the disk, not as they will be once the journal is replayed.
    pub no_journal: bool,
}

/// A file system, or why not.
pub type Opening = Result<Arc<dyn Filesystem>, ReadError>;

/// One file system. A record, so that adding one is a file and a row.
pub struct Driver {
    /// As in tables.
    pub name: &'static str,
    /// Opens it.
    pub open: fn(Arc<dyn ReadAt>, Options) -> Opening,
}

/// The file systems, by the name that [`super::volume::signature`] gives them.
pub static ALL: &[Driver] = &[
    Driver { name: "ext", open: ext::open },
    Driver { name: "exfat", open: exfat::open },
    Driver { name: "fat", open: fat::open },
    Driver { name: "iso9660", open: iso9660::open },
    Driver { name: "btrfs", open: btrfs::open },
    Driver { name: "ntfs", open: ntfs::open },
    Driver { name: "xfs", open: xfs::open },
];

/// Opens the file system in a volume; none if it is of no kind that is read here.
pub fn open(bytes: &Arc<dyn ReadAt>, options: Options) -> Result<Option<Arc<dyn Filesystem>>, ReadError> {
    let Some(name) = super::volume::signature::of(bytes.as_ref()) else { return Ok(None) };
    let driver = ALL.iter().find(|driver| driver.name == name);
    driver.map(|driver| (driver.open)(Arc::clone(bytes), options)).transpose()
}
