//! Internal snapshots: their list, and the choice of one (`docs/interop/qcow2`, "Snapshots").

use std::fmt;

use crate::image::fields::{Fields, read_structure};
use crate::image::{ReadAt, ReadError};

use super::header::Header;

const WHAT: &str = "qcow2 snapshot table";
/// The most snapshots that are believed.
const MOST: u32 = 65_536;
/// The longest extra data of one.
const EXTRA_MOST: u32 = 1024;
/// Length of the fields that every entry has.
const FIXED: usize = 40;

/// One snapshot.
#[derive(Debug, Clone)]
pub(super) struct Snapshot {
    id: String,
    name: String,
    seconds: u32,
    /// Bytes of saved memory.
    state: u64,
    /// Length of the disk then; old images do not tell.
    pub(super) size: Option<u64>,
    pub(super) l1_at: u64,
    pub(super) l1_size: u32,
}

impl fmt::Display for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "id {}, name {}", self.id, self.name)?;
        if let Ok(time) = jiff::Timestamp::from_second(self.seconds.into()) {
            write!(f, ", taken {time}")?;
        }
        match self.state {
            0 => Ok(()),
            state => write!(f, ", with {state} bytes of the machine's state"),
        }
    }
}

/// The list.
pub(super) fn read(file: &dyn ReadAt, header: &Header) -> Result<Vec<Snapshot>, ReadError> {
    if header.snapshots > MOST {
        let found = format_args!("{}", header.snapshots);
        return Err(ReadError::corrupt("qcow2 header", 60, format_args!("at most {MOST} snapshots"), found));
    }
    let mut list = Vec::new();
    let mut at = header.snapshots_at;
    for _ in 0..header.snapshots {
        let (snapshot, len) = entry(file, header, at)?;
        list.push(snapshot);
        at = at.saturating_add(len);
    }
    Ok(list)
}

/// The entry at `at`, and its length.
fn entry(file: &dyn ReadAt, header: &Header, at: u64) -> Result<(Snapshot, u64), ReadError> {
    let bytes = read_structure(file, WHAT, at, FIXED)?;
    let fields = Fields::new(WHAT, at, &bytes);
    let (id_len, name_len) = (usize::from(fields.be16(12)?), usize::from(fields.be16(14)?));
    let (extra_len, state) = (fields.be32(36)?, u64::from(fields.be32(32)?));
    if extra_len > EXTRA_MOST {
        return Err(fields.corrupt(36, format_args!("at most {EXTRA_MOST} bytes of extra data"), extra_len));
    }
    let extra_len = usize::try_from(extra_len).unwrap_or(0);
    let len = (FIXED + extra_len + id_len + name_len).next_multiple_of(8);
    let bytes = read_structure(file, WHAT, at, FIXED + extra_len + id_len + name_len)?;
    let fields = Fields::new(WHAT, at, &bytes);
    let l1_at = fields.be64(0)?;
    if !l1_at.is_multiple_of(header.cluster()) || l1_at == 0 {
        let expected = format_args!("an L1 table at a multiple of {:#x}, behind the header", header.cluster());
        return Err(fields.corrupt(0, expected, format_args!("{l1_at:#x}")));
    }
    let snapshot = Snapshot {
        id: fields.text(FIXED + extra_len, id_len)?,
        name: fields.text(FIXED + extra_len + id_len, name_len)?,
        seconds: fields.be32(16)?,
        state: if extra_len >= 8 { fields.be64(FIXED)? } else { state },
        size: if extra_len >= 16 { Some(fields.be64(FIXED + 8)?) } else { None },
        l1_at,
        l1_size: fields.be32(8)?,
    };
    Ok((snapshot, len as u64))
}

/// The snapshot that the user named: by its name, or else by its id.
pub(super) fn choose<'a>(list: &'a [Snapshot], wanted: &str) -> Result<&'a Snapshot, ReadError> {
    let attempted = || format!("read the snapshot {wanted}");
    let mut named = list.iter().filter(|snapshot| snapshot.name == wanted);
    match (named.next(), named.next()) {
        (Some(one), None) => Ok(one),
        (Some(_), Some(_)) => Err(ReadError::caller(attempted(), "several have this name; give its id")),
        (None, _) => list.iter().find(|snapshot| snapshot.id == wanted).ok_or_else(|| {
            let known: Vec<_> = list.iter().take(20).map(|snapshot| snapshot.name.as_str()).collect();
            let why = if known.is_empty() {
                "the image has no snapshots".to_owned()
            } else {
                format!("the image has {}", known.join(", "))
            };
            ReadError::caller(attempted(), why)
        }),
    }
}
