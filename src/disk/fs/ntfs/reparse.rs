//! Reparse points: symbolic links, junctions, and files whose content another driver makes (Microsoft MS-FSCC, section
//! 2.1.2). Also the links and devices that Interix, and ntfs-3g after it, keep in system files.

use super::attribute::{Attribute, DATA, REPARSE_POINT};
use super::info::SYSTEM;
use super::mft::File;
use super::text;
use crate::disk::fs::FileKind;
use crate::image::fields::Fields;

const MOUNT_POINT: u32 = 0xa000_0003;
const SYMLINK: u32 = 0xa000_000c;
const LX_SYMLINK: u32 = 0xa000_001d;
const WOF: u32 = 0x8000_0017;
const DEDUP: u32 = 0x8000_0013;

const NAMES: &[(u32, &str)] = &[
    (MOUNT_POINT, "mount point"),
    (SYMLINK, "symbolic link"),
    (LX_SYMLINK, "symbolic link of WSL"),
    (0x8000_0023, "socket"),
    (0x8000_0024, "fifo of WSL"),
    (0x8000_0025, "character device of WSL"),
    (0x8000_0026, "block device of WSL"),
    (WOF, "compressed by the Windows Overlay Filter"),
    (DEDUP, "deduplicated"),
    (0x8000_001b, "app execution link"),
    (0x8000_000a, "distributed file system"),
    (0xc000_0004, "hierarchical storage"),
];

/// What a tag makes of a file; none if it stays what it is.
pub(super) fn kind(tag: u32) -> Option<FileKind> {
    Some(match tag {
        MOUNT_POINT | SYMLINK | LX_SYMLINK => FileKind::Link,
        0x8000_0023 => FileKind::Socket,
        0x8000_0024 => FileKind::Fifo,
        0x8000_0025 => FileKind::CharDevice,
        0x8000_0026 => FileKind::BlockDevice,
        _ => return None,
    })
}

/// A reparse point.
pub(super) struct Reparse<'a> {
    pub(super) tag: u32,
    data: Fields<'a>,
}

impl<'a> Reparse<'a> {
    /// That of a file, if it has one.
    pub(super) fn of(file: &'a File) -> Option<Self> {
        let data = file.value(REPARSE_POINT)?;
        Some(Self { tag: data.u32(0).ok()?, data })
    }

    /// Its kind in words.
    pub(super) fn name(&self) -> String {
        let cloud = self.tag & 0xffff_0fff == 0x9000_001a;
        let known = NAMES.iter().find(|(tag, _)| *tag == self.tag).map(|(_, name)| *name);
        let known = known.or_else(|| cloud.then_some("cloud file"));
        known.map_or_else(|| format!("{:#010x}", self.tag), |name| format!("{name} ({:#010x})", self.tag))
    }

    /// Why $DATA does not hold the content, if so.
    pub(super) fn holds_content(&self) -> Option<&'static str> {
        match (self.tag, self.data.u32(12)) {
            (WOF, Ok(1)) => Some("it is in a WIM archive elsewhere (Windows Overlay Filter)"),
            (WOF, _) => {
                Some("it is compressed by the Windows Overlay Filter; the bytes are its stream WofCompressedData")
            }
            (DEDUP, _) => Some("it is deduplicated: its pieces are below System Volume Information"),
            _ => None,
        }
    }

    /// Where it leads: what the system follows, and what is shown of that.
    pub(super) fn target(&self) -> Option<[Vec<u8>; 2]> {
        let names = match self.tag {
            MOUNT_POINT => 16,
            SYMLINK => 20,
            LX_SYMLINK => {
                let end = self.data.bytes().get(12..)?;
                return Some([end.to_vec(), end.to_vec()]);
            }
            _ => return None,
        };
        let one = |at: usize| {
            let (from, len) = (self.data.u16(at).ok()?, self.data.u16(at + 2).ok()?);
            self.data.slice(names + usize::from(from), usize::from(len)).ok().map(text::name)
        };
        Some([one(8)?, one(12)?])
    }
}

/// A link or device in a system file.
pub(super) struct Interix {
    pub(super) kind: FileKind,
    /// Where the link leads.
    pub(super) target: Vec<u8>,
}

/// Takes a system file for what Interix would take it for. Only what is in the record is looked at.
pub(super) fn interix(file: &File) -> Option<Interix> {
    let standard = file.value(super::attribute::STANDARD_INFORMATION)?;
    if standard.u32(32).ok()? & SYSTEM == 0 || file.record.is_directory() {
        return None;
    }
    let bytes = file.get(DATA, b"").and_then(Attribute::resident)?;
    let (magic, rest) = bytes.split_at_checked(8)?;
    let kind = match magic {
        b"IntxLNK\x01" => FileKind::Link,
        b"IntxCHR\0" => FileKind::CharDevice,
        b"IntxBLK\0" => FileKind::BlockDevice,
        _ => return None,
    };
    Some(Interix { kind, target: if kind == FileKind::Link { text::name(rest) } else { Vec::new() } })
}
