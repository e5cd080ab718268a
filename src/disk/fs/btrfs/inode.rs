//! Inodes, their names, and their attributes. Kernel include/uapi/linux/btrfs_tree.h, `struct btrfs_inode_item`,
//! `btrfs_inode_ref`, `btrfs_inode_extref`, `btrfs_dir_item`.

use jiff::Timestamp;

use super::tree::{Item, Key};
use crate::disk::fs::words::flags;
use crate::disk::fs::{FileKind, Node, Times};
use crate::image::ReadError;
use crate::image::fields::Fields;

pub(super) const INODE_ITEM: u8 = 1;
pub(super) const INODE_REF: u8 = 12;
pub(super) const INODE_EXTREF: u8 = 13;
pub(super) const XATTR_ITEM: u8 = 24;
pub(super) const DIR_INDEX: u8 = 96;
pub(super) const ROOT_ITEM: u8 = 132;

/// Flag of an inode: its data has no checksums.
const NODATASUM: u64 = 1;
const FLAGS: &[(u64, &str)] = &[
    (NODATASUM, "nodatasum"),
    (2, "nodatacow"),
    (4, "readonly"),
    (8, "nocompress"),
    (0x10, "prealloc"),
    (0x20, "sync"),
    (0x40, "immutable"),
    (0x80, "append"),
    (0x100, "nodump"),
    (0x200, "noatime"),
    (0x400, "dirsync"),
    (0x800, "compress"),
    (0x8000_0000, "root-item-init"),
    (1 << 32, "verity"),
];

/// An inode as it stands in a leaf.
#[derive(Debug, Clone)]
pub(super) struct Inode {
    pub(super) node: Node,
    /// The transaction that made it. Numbers are not given out twice, and this tells them apart where they are.
    pub(super) made: u64,
    flags: u64,
}

impl Inode {
    pub(super) fn parse(number: u64, fields: &Fields<'_>) -> Result<Self, ReadError> {
        let mode = fields.u32(52)?;
        let (made, flagged) = (fields.u64(0)?, fields.u64(64)?);
        let kind = FileKind::of_mode(mode);
        let mut odd = Vec::new();
        if kind.is_none() {
            odd.push(format!("mode {mode:#o} is of no kind of file"));
        }
        let times = Times {
            accessed: time(fields, 112, &mut odd)?,
            changed: time(fields, 124, &mut odd)?,
            modified: time(fields, 136, &mut odd)?,
            born: time(fields, 148, &mut odd)?.filter(known),
            ..Times::default()
        };
        let mut facts = vec![
            ("flags".to_owned(), flags(flagged, FLAGS).join(" ")),
            ("generation".to_owned(), made.to_string()),
            ("changed in transaction".to_owned(), fields.u64(8)?.to_string()),
            ("bytes on disk".to_owned(), fields.u64(24)?.to_string()),
            ("sequence".to_owned(), fields.u64(72)?.to_string()),
        ];
        if matches!(kind, Some(FileKind::CharDevice | FileKind::BlockDevice)) {
            let device = fields.u64(56)?;
            facts.push(("device".to_owned(), format!("{}:{}", device >> 20, device & 0xf_ffff)));
        }
        let node = Node {
            inode: number,
            generation: u32::try_from(made).unwrap_or(u32::MAX),
            kind,
            mode,
            uid: fields.u32(44)?,
            gid: fields.u32(48)?,
            size: fields.u64(16)?,
            links: fields.u32(40)?,
            times,
            allocated: true,
            facts,
            odd,
        };
        Ok(Self { node, made, flags: flagged })
    }

    /// Its data has checksums.
    pub(super) fn has_sums(&self) -> bool {
        self.flags & NODATASUM == 0
    }
}

/// Birth and the times of subvolumes are zero where they are not known.
pub(super) fn known(time: &Timestamp) -> bool {
    *time != Timestamp::UNIX_EPOCH
}

/// A time: seconds since 1970, signed, and nanoseconds.
pub(super) fn time(fields: &Fields<'_>, at: usize, odd: &mut Vec<String>) -> Result<Option<Timestamp>, ReadError> {
    let (seconds, nanos) = (fields.u64(at)?.cast_signed(), fields.u32(at + 8)?);
    let time = i32::try_from(nanos).ok().filter(|nanos| *nanos < 1_000_000_000);
    let time = time.and_then(|nanos| Timestamp::new(seconds, nanos).ok());
    if time.is_none() {
        odd.push(format!("the time of {seconds} s and {nanos} ns is none"));
    }
    Ok(time)
}

/// A name of an inode.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Name {
    pub(super) directory: u64,
    pub(super) bytes: Vec<u8>,
    /// Its place in the directory.
    pub(super) index: u64,
}

/// The names in an INODE_REF or INODE_EXTREF, up to where it is damaged.
pub(super) fn names(item: &Item) -> Vec<Name> {
    let fields = item.fields("btrfs inode reference");
    let long = item.key.kind == INODE_EXTREF;
    let head = if long { 18 } else { 10 };
    let mut all = Vec::new();
    let mut at = 0;
    while at < fields.bytes().len() {
        let one = || -> Result<Name, ReadError> {
            let directory = if long { fields.u64(at)? } else { item.key.offset };
            let index = fields.u64(at + head - 10)?;
            let len = usize::from(fields.u16(at + head - 2)?);
            Ok(Name { directory, bytes: fields.slice(at + head, len)?.to_vec(), index })
        };
        let Ok(name) = one() else { break };
        at += head + name.bytes.len();
        all.push(name);
    }
    all
}

/// What a directory or an attribute says: a name, and what stands under it.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    /// What it names.
    pub(super) target: Key,
    pub(super) kind: u8,
    pub(super) name: Vec<u8>,
    pub(super) value: Vec<u8>,
}

/// The entries in a DIR_INDEX, DIR_ITEM or XATTR_ITEM: names with the same hash share one.
pub(super) fn entries(item: &Item) -> Result<Vec<Entry>, ReadError> {
    let fields = item.fields("btrfs directory item");
    let mut all = Vec::new();
    let mut at = 0;
    while at < fields.bytes().len() {
        let (value, name) = (usize::from(fields.u16(at + 25)?), usize::from(fields.u16(at + 27)?));
        all.push(Entry {
            target: Key::read(&fields, at)?,
            kind: fields.u8(at + 29)?,
            name: fields.slice(at + 30, name)?.to_vec(),
            value: fields.slice(at + 30 + name, value)?.to_vec(),
        });
        at += 30 + name + value;
    }
    Ok(all)
}

/// A bit of the kind that a directory keeps of a file: its name is encrypted.
pub(super) const ENCRYPTED: u8 = 0x80;

/// The kind that directories keep, the other way around than [`FileKind::of_entry`].
pub(super) fn number(kind: FileKind) -> u8 {
    match kind {
        FileKind::File => 1,
        FileKind::Directory => 2,
        FileKind::CharDevice => 3,
        FileKind::BlockDevice => 4,
        FileKind::Fifo => 5,
        FileKind::Socket => 6,
        FileKind::Link => 7,
    }
}

/// An extended attribute as a fact.
pub(super) fn attribute(entry: &Entry) -> (String, String) {
    let value = std::str::from_utf8(&entry.value)
        .map_or_else(|_| format!("0x{}", crate::image::hex(&entry.value)), ToOwned::to_owned);
    (format!("xattr {}", String::from_utf8_lossy(&entry.name)), value)
}
