//! $STANDARD_INFORMATION and $FILE_NAME: times, flags, names (linux-ntfs documentation, the attributes of these names).
//!
//! The first has the times that programs see and can set. The second is written when a file gets a name, and only the file
//! system writes it: what was set back in the first is often still true there.

use jiff::Timestamp;

use super::record::Reference;
use super::text;
use crate::disk::fs::Times;
use crate::image::ReadError;
use crate::image::fields::Fields;

/// Seconds from 1601 to 1970.
const EPOCH: i64 = 11_644_473_600;
/// Flags of a file, as Windows names them.
const FLAGS: &[(u32, &str)] = &[
    (0x1, "read-only"),
    (0x2, "hidden"),
    (0x4, "system"),
    (0x20, "archive"),
    (0x40, "device"),
    (0x100, "temporary"),
    (0x200, "sparse"),
    (0x400, "reparse-point"),
    (0x800, "compressed"),
    (0x1000, "offline"),
    (0x2000, "not-indexed"),
    (0x4000, "encrypted"),
    (0x8000, "integrity"),
    (0x2_0000, "no-scrub"),
    (0x4_0000, "recall-on-open"),
    (0x8_0000, "pinned"),
    (0x10_0000, "unpinned"),
    (RECALL, "recall-on-data-access"),
];
pub(super) const READ_ONLY: u32 = 0x1;
pub(super) const SYSTEM: u32 = 0x4;
pub(super) const HAS_REPARSE: u32 = 0x400;
pub(super) const OFFLINE: u32 = 0x1000;
pub(super) const RECALL: u32 = 0x40_0000;
/// Set in $FILE_NAME only.
const DIRECTORY: u32 = 0x1000_0000;

/// The names of the flags that are set.
pub(super) fn flags(set: u32) -> String {
    let names: Vec<_> = FLAGS.iter().filter(|(bit, _)| set & bit != 0).map(|(_, name)| *name).collect();
    names.join(" ")
}

/// A time: ticks of 100 ns since 1601. None for 0 and for what no calendar has.
pub(super) fn time(ticks: u64) -> Option<Timestamp> {
    let ticks = i64::try_from(ticks).ok().filter(|ticks| *ticks != 0)?;
    let nanos = i32::try_from(ticks % 10_000_000 * 100).ok()?;
    Timestamp::new(ticks / 10_000_000 - EPOCH, nanos).ok()
}

/// Four times in the order of both attributes.
fn times(fields: &Fields<'_>, at: usize) -> Result<Times, ReadError> {
    let one = |index: usize| fields.u64(at + index * 8).map(time);
    Ok(Times { born: one(0)?, modified: one(1)?, changed: one(2)?, accessed: one(3)?, ..Times::default() })
}

/// What programs see.
#[derive(Debug, Clone, Default)]
pub(super) struct Standard {
    pub(super) times: Times,
    pub(super) flags: u32,
    /// Which security descriptor, and the number of the last entry in $UsnJrnl; not in old volumes.
    pub(super) newer: Option<(u32, u64)>,
}

impl Standard {
    pub(super) fn parse(fields: &Fields<'_>) -> Result<Self, ReadError> {
        let newer = match fields.u64(64) {
            Ok(usn) => Some((fields.u32(52)?, usn)),
            Err(_) => None,
        };
        Ok(Self { times: times(fields, 0)?, flags: fields.u32(32)?, newer })
    }
}

/// A name, and what the directory that holds it knows of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FileName {
    pub(super) parent: Reference,
    pub(super) name: Vec<u8>,
    pub(super) times: Times,
    pub(super) size: u64,
    pub(super) flags: u32,
    /// The kind of the reparse point, if the flags say that it is one.
    pub(super) reparse: u32,
    space: u8,
}

impl FileName {
    /// Length of the fixed part.
    pub(super) const FIXED: usize = 66;

    pub(super) fn parse(value: &[u8]) -> Result<Self, ReadError> {
        let fields = Fields::new("NTFS $FILE_NAME", 0, value);
        Ok(Self {
            parent: Reference::of(fields.u64(0)?),
            times: times(&fields, 8)?,
            size: fields.u64(48)?,
            flags: fields.u32(56)?,
            reparse: fields.u32(60)?,
            space: fields.u8(65)?,
            name: text::name(fields.slice(Self::FIXED, usize::from(fields.u8(64)?) * 2)?),
        })
    }

    /// The short name that MS-DOS would see, beside another.
    pub(super) fn is_dos(&self) -> bool {
        self.space == 2
    }

    pub(super) fn is_directory(&self) -> bool {
        self.flags & DIRECTORY != 0
    }

    /// Who may use the name.
    pub(super) fn space(&self) -> &'static str {
        match self.space {
            0 => "POSIX",
            1 => "Win32",
            2 => "DOS",
            3 => "Win32 and DOS",
            _ => "unknown",
        }
    }

    /// Could this be one, in a place where nothing says so?
    pub(super) fn is_plausible(&self) -> bool {
        let all = [self.times.born, self.times.modified, self.times.changed, self.times.accessed];
        self.space <= 3
            && !self.name.is_empty()
            && all.iter().all(Option::is_some)
            && super::text::units(&self.name).is_some_and(|units| units.iter().all(|unit| *unit >= 32))
    }
}
