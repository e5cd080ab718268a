//! $LogFile: was the volume given up in order? The log itself is not replayed (linux-ntfs documentation, "$LogFile",
//! "Restart page").

use super::record::fix;
use crate::image::fields::{Fields, read_structure};
use crate::image::{ReadAt, ReadError};

/// Nobody uses the log.
const NOBODY: u16 = 0xffff;
const CLEAN: u16 = 2;

/// What the restart pages say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Log {
    /// All bytes are ones, as a tool leaves it that has written without it.
    Reset,
    /// Given up in order.
    Clean,
    /// Changes may be in the log that are not yet elsewhere.
    Dirty,
}

impl Log {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Reset => "empty",
            Self::Clean => "clean",
            Self::Dirty => "dirty, not replayed",
        }
    }
}

/// Looks at both restart pages; the newer one counts.
pub(super) fn state(log: &dyn ReadAt) -> Result<Log, ReadError> {
    let first = read_structure(log, "NTFS $LogFile", 0, 4096)?;
    if first.iter().all(|byte| *byte == 0xff) {
        return Ok(Log::Reset);
    }
    let one = page(log, 0);
    let size = one.as_ref().map_or(4096, |page| page.size);
    let two = page(log, size);
    let newest = match (one, two) {
        (Ok(one), Ok(two)) => {
            if two.lsn > one.lsn {
                two
            } else {
                one
            }
        }
        (Ok(page), Err(_)) | (Err(_), Ok(page)) => page,
        (Err(error), Err(_)) => return Err(error),
    };
    Ok(if newest.clean { Log::Clean } else { Log::Dirty })
}

struct Page {
    size: u64,
    lsn: u64,
    clean: bool,
}

fn page(log: &dyn ReadAt, at: u64) -> Result<Page, ReadError> {
    const WHAT: &str = "NTFS $LogFile restart page";
    let head = read_structure(log, WHAT, at, 32)?;
    let fields = Fields::new(WHAT, at, &head);
    let magic = fields.slice(0, 4)?;
    // Chkdsk has been there.
    if magic != b"RSTR" && magic != b"CHKD" {
        return Err(fields.corrupt(0, "RSTR", crate::image::hex(magic)));
    }
    let size = fields.u32(16)?;
    if !size.is_power_of_two() || !(512..=1 << 16).contains(&size) {
        return Err(fields.corrupt(16, "a page of 512 to 65536 bytes", size));
    }
    let area = usize::from(fields.u16(24)?);
    let mut bytes = read_structure(log, WHAT, at, usize::try_from(size).unwrap_or(0))?;
    fix(WHAT, at, &mut bytes)?;
    let fields = Fields::new(WHAT, at, &bytes);
    let (lsn, users, flags) = (fields.u64(area)?, fields.u16(area + 12)?, fields.u16(area + 14)?);
    Ok(Page { size: u64::from(size), lsn, clean: users == NOBODY || flags & CLEAN != 0 })
}
