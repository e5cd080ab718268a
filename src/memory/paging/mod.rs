//! Address spaces: from what a program sees to what the machine has. One file per architecture.

pub mod arm64;
pub mod x86;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::physical::PAGE;
use super::{Fault, Physical};
use arm64::Geometry;

/// Parts of the cache of translations that are locked apart, and how many translations each holds.
const SHARDS: u64 = 16;
const HELD: usize = 4096;

/// Where a page lies, and what may be done with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "they are the bits of an entry")]
pub struct Mapping {
    /// Physical address.
    pub physical: u64,
    /// Bytes of the page that it is in.
    pub size: u64,
    /// May be written.
    pub writable: bool,
    /// May be executed: by the kernel in its half, by programs in theirs.
    pub executable: bool,
    /// May be touched by programs.
    pub user: bool,
    /// Was touched since the bit was last cleared.
    pub accessed: bool,
}

/// How tables are walked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tables {
    /// x86-64, of so many levels.
    X86(u8),
    /// 64-bit ARM.
    Arm64(Geometry),
}

impl Tables {
    /// Walks from the table at physical `root` to `at`.
    pub fn walk(self, memory: &Physical, root: u64, at: u64) -> Result<Mapping, Fault> {
        match self {
            Self::X86(levels) => x86::walk(memory, root, levels, at),
            Self::Arm64(geometry) => arm64::walk(memory, root, geometry, at),
        }
    }

    /// Levels of its tables.
    pub fn levels(self) -> u8 {
        match self {
            Self::X86(levels) => levels,
            Self::Arm64(geometry) => geometry.levels(),
        }
    }

    /// Bytes of its smallest page.
    pub fn page(self) -> u64 {
        match self {
            Self::X86(_) => PAGE,
            Self::Arm64(geometry) => 1 << geometry.granule,
        }
    }
}

/// The address space below one root. Reads are exact or a fault.
pub struct Space {
    physical: Arc<Physical>,
    root: u64,
    tables: Tables,
    known: Vec<Mutex<HashMap<u64, Result<Mapping, Fault>>>>,
}

impl Space {
    /// The space whose top table is at physical `root`.
    pub fn new(physical: Arc<Physical>, root: u64, tables: Tables) -> Self {
        Self { physical, root, tables, known: (0..SHARDS).map(|_| Mutex::default()).collect() }
    }

    /// Physical address of its top table.
    pub fn root(&self) -> u64 {
        self.root
    }

    /// How its tables are walked.
    pub fn tables(&self) -> Tables {
        self.tables
    }

    /// The physical memory below.
    pub fn physical(&self) -> &Arc<Physical> {
        &self.physical
    }

    /// Where `at` lies in physical memory.
    pub fn translate(&self, at: u64) -> Result<Mapping, Fault> {
        let page = at / PAGE;
        let Some(shard) = self.known.get((page % SHARDS) as usize) else { return Err(Fault::NoAddress(at)) };
        let known = shard.lock().unwrap_or_else(PoisonError::into_inner).get(&page).copied();
        let mapping = known.unwrap_or_else(|| {
            let fresh = self.tables.walk(&self.physical, self.root, at & !(PAGE - 1));
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            if shard.len() >= HELD {
                shard.clear();
            }
            shard.insert(page, fresh);
            fresh
        })?;
        Ok(Mapping { physical: mapping.physical.wrapping_add(at % PAGE), ..mapping })
    }

    /// Fills `into` from `at` on.
    pub fn read(&self, at: u64, into: &mut [u8]) -> Result<(), Fault> {
        let (mut at, mut into) = (at, into);
        while !into.is_empty() {
            let here = usize::try_from(PAGE - at % PAGE).unwrap_or(1).min(into.len());
            let (part, rest) = into.split_at_mut(here);
            self.physical.read(self.translate(at)?.physical, part)?;
            into = rest;
            if !into.is_empty() {
                at = at.checked_add(here as u64).ok_or(Fault::NoAddress(at))?;
            }
        }
        Ok(())
    }

    /// Eight bytes, little-endian.
    pub fn u64(&self, at: u64) -> Result<u64, Fault> {
        let mut bytes = [0; 8];
        self.read(at, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// A copy of `len` bytes. `len` was bounded by the caller.
    pub fn vec(&self, at: u64, len: usize) -> Result<Vec<u8>, Fault> {
        let mut bytes = vec![0; len];
        self.read(at, &mut bytes)?;
        Ok(bytes)
    }

    /// What of `len` bytes reads, up to the first page that does not.
    pub fn as_far_as(&self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut next = at;
        while bytes.len() < len {
            let here = usize::try_from(PAGE - next % PAGE).unwrap_or(1).min(len - bytes.len());
            let Ok(part) = self.vec(next, here) else { break };
            bytes.extend_from_slice(&part);
            let Some(further) = next.checked_add(here as u64) else { break };
            next = further;
        }
        bytes
    }

    /// Bytes up to a NUL, at most `most`.
    pub fn text(&self, at: u64, most: usize) -> Result<Vec<u8>, Fault> {
        let (mut bytes, mut next) = (Vec::new(), at);
        while bytes.len() < most {
            let here = usize::try_from(PAGE - next % PAGE).unwrap_or(1).min(most - bytes.len()).min(64);
            let part = self.vec(next, here)?;
            if let Some(end) = part.iter().position(|&byte| byte == 0) {
                bytes.extend_from_slice(part.get(..end).unwrap_or_default());
                return Ok(bytes);
            }
            bytes.extend_from_slice(&part);
            next = next.checked_add(here as u64).ok_or(Fault::NoAddress(next))?;
        }
        Ok(bytes)
    }
}
