//! Address spaces: from what a program sees to what the machine has. One file per architecture.

pub mod x86;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::physical::PAGE;
use super::{Fault, Physical};
pub use x86::Mapping;

/// Parts of the cache of translations that are locked apart, and how many translations each holds.
const SHARDS: u64 = 16;
const HELD: usize = 4096;

/// The address space below one root. Reads are exact or a fault.
pub struct Space {
    physical: Arc<Physical>,
    root: u64,
    levels: u8,
    known: Vec<Mutex<HashMap<u64, Result<Mapping, Fault>>>>,
}

impl Space {
    /// The space whose top table is at physical `root`.
    pub fn new(physical: Arc<Physical>, root: u64, levels: u8) -> Self {
        Self { physical, root, levels, known: (0..SHARDS).map(|_| Mutex::default()).collect() }
    }

    /// Physical address of its top table.
    pub fn root(&self) -> u64 {
        self.root
    }

    /// Levels of its tables.
    pub fn levels(&self) -> u8 {
        self.levels
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
            let fresh = x86::walk(&self.physical, self.root, self.levels, at & !(PAGE - 1));
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
