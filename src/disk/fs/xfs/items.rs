//! From the operations of log records to whole transactions. XFS Algorithms & Data Structures, "Journaling Log"; the
//! kernel's `xfs_log_recover.c`.

use std::collections::HashMap;

use super::log::Record;
use crate::disk::fs::Change;
use crate::image::ReadError;
use crate::image::fields::Fields;

/// Flags of an operation.
const START: u8 = 1;
const COMMIT: u8 = 2;
const WAS_CONTINUED: u8 = 8;
const UNMOUNT: u8 = 0x20;
/// Bytes of the head of a transaction.
const HEAD: usize = 16;

/// Types of items.
pub(super) const INODE: u16 = 0x123b;
pub(super) const BUFFER: u16 = 0x123c;
pub(super) const CREATE: u16 = 0x123f;
/// Flag of a buffer item: it was thrown away.
pub(super) const CANCEL: u16 = 2;
const NAMES: &[(u16, &str)] = &[
    (0x1236, "extent-free-intent"),
    (0x1237, "extent-free-done"),
    (0x1238, "unlink"),
    (INODE, "inode"),
    (BUFFER, "buffer"),
    (0x123d, "quota"),
    (0x123e, "quota-off"),
    (CREATE, "inodes-create"),
    (0x1240, "rmap-intent"),
    (0x1241, "rmap-done"),
    (0x1242, "refcount-intent"),
    (0x1243, "refcount-done"),
    (0x1244, "map-intent"),
    (0x1245, "map-done"),
    (0x1246, "attribute-intent"),
    (0x1247, "attribute-done"),
    (0x1248, "exchange-intent"),
    (0x1249, "exchange-done"),
];

/// What a transaction does to one thing: a description, then the bytes themselves.
#[derive(Default)]
pub(super) struct Item {
    pub(super) regions: Vec<Vec<u8>>,
    /// Regions it will have.
    total: usize,
}

impl Item {
    /// The description.
    pub(super) fn head(&self) -> Fields<'_> {
        Fields::new("xfs log item", 0, self.regions.first().map_or(&[], Vec::as_slice))
    }

    pub(super) fn kind(&self) -> u16 {
        self.head().u16(0).unwrap_or(0)
    }

    pub(super) fn name(&self) -> String {
        let kind = self.kind();
        NAMES.iter().find(|(one, _)| *one == kind).map_or_else(|| format!("{kind:#x}"), |(_, name)| (*name).to_owned())
    }

    /// What it tells, as an entry of a journal. Blocks are of `block` bytes.
    pub(super) fn change(&self, at: u64, sequence: u64, block: u64) -> Change {
        let (fields, kind) = (self.head(), self.kind());
        let mut change = Change {
            at,
            sequence,
            time: None,
            kind: self.name(),
            inode: None,
            name: None,
            block: None,
            note: String::new(),
        };
        if kind == INODE {
            change.inode = fields.u64(16).ok();
            change.note = fields.u32(4).map_or(String::new(), |changed| format!("fields {changed:#x}"));
        } else if kind == BUFFER {
            change.block = fields.u64(8).ok().map(|sector| sector.saturating_mul(512) / block);
            let cancelled = fields.u16(4).is_ok_and(|flags| flags & CANCEL != 0);
            change.note =
                if cancelled { "thrown away".to_owned() } else { format!("{} parts", self.regions.len() - 1) };
        }
        change
    }

    /// One of work that is still to be done: 1, that it was done: -1.
    pub(super) fn intent(&self) -> (u16, i64) {
        let kind = self.kind();
        match kind {
            0x1236 | 0x1240 | 0x1242 | 0x1244 | 0x1246 | 0x1248 => (kind, 1),
            0x1237 | 0x1241 | 0x1243 | 0x1245 | 0x1247 | 0x1249 => (kind - 1, -1),
            _ => (kind, 0),
        }
    }
}

/// What became true together.
pub(super) struct Transaction {
    /// Of the record in which it began.
    pub(super) lsn: u64,
    /// Place of that record in the log, in bytes.
    pub(super) at: u64,
    pub(super) items: Vec<Item>,
}

struct Open {
    transaction: Transaction,
    head: usize,
}

/// Transactions that were begun.
#[derive(Default)]
pub(super) struct Assembly {
    open: HashMap<u32, Open>,
}

impl Assembly {
    /// Takes the operations of a record; `each` gets what was committed in it.
    pub(super) fn add(
        &mut self,
        record: &Record,
        each: &mut dyn FnMut(Transaction) -> Result<(), ReadError>,
    ) -> Result<(), ReadError> {
        if record.big_endian {
            return Err(ReadError::unsupported("the xfs log", "a big-endian machine wrote it"));
        }
        let fields = Fields::new("xfs log record", record.at(), &record.data);
        let mut at = 0;
        for _ in 0..record.count {
            let (id, len, flags) = (fields.be32(at)?, fields.be32(at + 4)?, fields.u8(at + 9)?);
            let bytes = fields.slice(at + 12, usize::try_from(len).unwrap_or(usize::MAX))?;
            at += 12 + bytes.len();
            if flags & UNMOUNT != 0 {
                self.open.clear();
            } else if flags & COMMIT != 0 {
                self.open.remove(&id).map(|open| each(open.transaction)).transpose()?;
            } else if flags & START != 0 {
                let transaction = Transaction { lsn: record.lsn, at: record.at(), items: Vec::new() };
                self.open.insert(id, Open { transaction, head: 0 });
            } else if let Some(open) = self.open.get_mut(&id) {
                open.add(bytes, flags & WAS_CONTINUED != 0);
            }
        }
        Ok(())
    }
}

impl Open {
    fn add(&mut self, bytes: &[u8], continued: bool) {
        if self.head < HEAD {
            self.head += bytes.len();
            return;
        }
        let items = &mut self.transaction.items;
        if continued {
            if let Some(region) = items.last_mut().and_then(|item| item.regions.last_mut()) {
                region.extend_from_slice(bytes);
            }
            return;
        }
        if bytes.is_empty() {
            return;
        }
        if let Some(item) = items.last_mut().filter(|item| item.regions.len() < item.total) {
            item.regions.push(bytes.to_vec());
            return;
        }
        let total = bytes.get(2..4).and_then(|size| size.try_into().ok()).map_or(1, u16::from_le_bytes);
        items.push(Item { regions: vec![bytes.to_vec()], total: usize::from(total) });
    }
}
