//! Inodes of version 2 and 3. XFS Algorithms & Data Structures, "On-disk Inode".

use jiff::Timestamp;

use super::disk::Disk;
use crate::disk::fs::{FileKind, Node, Times};
use crate::disk::us;
use crate::image::ReadError;
use crate::image::fields::Fields;

/// What a fork holds (`di_format`).
pub(super) const DEVICE: u8 = 0;
pub(super) const LOCAL: u8 = 1;
pub(super) const EXTENTS: u8 = 2;
pub(super) const BTREE: u8 = 3;

const REALTIME: u16 = 1;
const FLAGS: &[(u16, &str)] = &[
    (REALTIME, "realtime"),
    (2, "preallocated"),
    (4, "new-rt-bitmap"),
    (8, "immutable"),
    (0x10, "append-only"),
    (0x20, "sync"),
    (0x40, "no-atime"),
    (0x80, "no-dump"),
    (0x100, "rt-inherit"),
    (0x200, "project-inherit"),
    (0x400, "no-symlinks"),
    (0x800, "extent-size"),
    (0x1000, "extent-size-inherit"),
    (0x2000, "no-defrag"),
    (0x4000, "file-stream"),
];
const BIGTIME: u64 = 8;
const WIDE_COUNTS: u64 = 0x10;
const METADATA: u64 = 0x20;
const FLAGS2: &[(u64, &str)] = &[
    (1, "dax"),
    (2, "reflink"),
    (4, "cow-extent-size"),
    (BIGTIME, "bigtime"),
    (WIDE_COUNTS, "nrext64"),
    (METADATA, "metadata"),
];

/// One of the two forks.
#[derive(Debug, Clone, Default)]
pub(super) struct Fork {
    pub(super) format: u8,
    /// Extents it should have.
    pub(super) extents: u64,
    /// Its room in the inode.
    pub(super) bytes: Vec<u8>,
}

/// An inode as it stands on the disk.
#[derive(Debug, Clone)]
pub(super) struct Inode {
    pub(super) node: Node,
    pub(super) data: Fork,
    /// Extended attributes; none if there is no fork.
    pub(super) attr: Option<Fork>,
    pub(super) realtime: bool,
    /// The file system's own, below a directory that no file is in.
    pub(super) is_metadata: bool,
    /// All bytes behind the fixed fields: of a file that is gone, what was there.
    pub(super) literal: Vec<u8>,
}

/// A time of seconds and nanoseconds, or of nanoseconds since the first second that 32 bits can tell.
fn time(fields: &Fields<'_>, at: usize, big: bool) -> Result<Option<Timestamp>, ReadError> {
    if big {
        let nanos = fields.be64(at)?;
        let seconds = i64::try_from(nanos / 1_000_000_000).unwrap_or(i64::MAX) - (1 << 31);
        return Ok(Timestamp::new(seconds, i32::try_from(nanos % 1_000_000_000).unwrap_or(0)).ok());
    }
    let nanos = i32::try_from(fields.be32(at + 4)?.min(999_999_999)).unwrap_or(0);
    Ok(Timestamp::new(i64::from(fields.be32(at)?.cast_signed()), nanos).ok())
}

impl Inode {
    /// Reads the bytes of inode `number`, found at `at`.
    pub(super) fn parse(disk: &Disk, number: u64, at: u64, raw: &[u8]) -> Result<Self, ReadError> {
        let fields = Fields::new("xfs inode", at, raw);
        let version = fields.u8(4)?;
        if fields.slice(0, 2)? != b"IN" || !(1..=3).contains(&version) {
            let found = crate::image::hex(fields.slice(0, 5)?);
            return Err(fields.corrupt(0, "magic IN and a version up to 3", found));
        }
        let v3 = version == 3;
        let mut odd = Vec::new();
        if v3 && !disk.sound(at, raw, 100) {
            odd.push("the checksum of the inode does not fit".to_owned());
        }
        if v3 && (fields.be64(152)? != number || !disk.is_own(&fields, 160)) {
            odd.push(format!(
                "the inode says that it is {} of another file system, or in another place",
                fields.be64(152)?
            ));
        }
        let flags2 = if v3 { fields.be64(120)? } else { 0 };
        let node = node(&fields, number, flags2, odd)?;
        let literal = raw.get(if v3 { 176 } else { 100 }..).unwrap_or_default().to_vec();
        let wide = flags2 & WIDE_COUNTS != 0;
        let (extents, attr_extents) = if wide {
            (fields.be64(24)?, u64::from(fields.be32(76)?))
        } else {
            (u64::from(fields.be32(76)?), u64::from(fields.be16(80)?))
        };
        let mut this = Self {
            node,
            data: Fork { format: fields.u8(5)?, extents, bytes: literal.clone() },
            attr: None,
            realtime: fields.be16(90)? & REALTIME != 0,
            is_metadata: flags2 & METADATA != 0,
            literal,
        };
        this.split(usize::from(fields.u8(82)?) * 8, fields.u8(83)?, attr_extents);
        Ok(this)
    }

    /// Gives the attributes their part of the room.
    fn split(&mut self, from: usize, format: u8, extents: u64) {
        if from == 0 {
            return;
        }
        if from >= self.literal.len() {
            self.node.odd.push(format!("its attributes begin at byte {from} of {}", self.literal.len()));
            return;
        }
        let bytes = self.data.bytes.split_off(from);
        self.attr = Some(Fork { format, extents, bytes });
    }

    /// What stands in the inode itself, if it is content.
    pub(super) fn local(&self) -> Option<Result<&[u8], ReadError>> {
        (self.data.format == LOCAL).then(|| {
            let size = us(self.node.size);
            self.data.bytes.get(..size).ok_or_else(|| {
                let room = format!("at most {} bytes", self.data.bytes.len());
                ReadError::corrupt("xfs inode", self.node.inode, room, size)
            })
        })
    }
}

fn node(fields: &Fields<'_>, number: u64, flags2: u64, mut odd: Vec<String>) -> Result<Node, ReadError> {
    let (version, mode, flags) = (fields.u8(4)?, u32::from(fields.be16(2)?), fields.be16(90)?);
    let kind = FileKind::of_mode(mode);
    if kind.is_none() && mode != 0 {
        odd.push(format!("mode {mode:#o} is of no kind"));
    }
    let big = flags2 & BIGTIME != 0;
    let times = Times {
        accessed: time(fields, 32, big)?,
        modified: time(fields, 40, big)?,
        changed: time(fields, 48, big)?,
        born: if version == 3 { time(fields, 144, big)? } else { None },
        ..Times::default()
    };
    let set = FLAGS.iter().filter(|(bit, _)| flags & bit != 0).map(|(_, name)| *name);
    let set = set.chain(FLAGS2.iter().filter(|(bit, _)| flags2 & bit != 0).map(|(_, name)| *name)).collect::<Vec<_>>();
    let generation = fields.be32(92)?;
    let mut facts = vec![("flags".to_owned(), set.join(" ")), ("generation".to_owned(), generation.to_string())];
    if version > 1 && flags2 & METADATA == 0 {
        let project = u32::from(fields.be16(20)?) | u32::from(fields.be16(22)?) << 16;
        facts.push(("project".to_owned(), project.to_string()));
    }
    if fields.u8(5)? == DEVICE && matches!(kind, Some(FileKind::CharDevice | FileKind::BlockDevice)) {
        let raw = fields.be32(if version == 3 { 176 } else { 100 })?;
        facts.push(("device".to_owned(), format!("{}:{}", raw >> 18 & 0x3fff, raw & 0x3_ffff)));
    }
    Ok(Node {
        inode: number,
        generation,
        kind,
        mode,
        uid: fields.be32(8)?,
        gid: fields.be32(12)?,
        size: fields.be64(56)?,
        links: if version == 1 { u32::from(fields.be16(6)?) } else { fields.be32(16)? },
        times,
        allocated: false,
        facts,
        odd,
    })
}
