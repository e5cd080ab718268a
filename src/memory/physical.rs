//! Guest-physical memory: pages of the image, cached, read by many threads. A gap of the image is a fault, never zeros.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::Fault;
use crate::image::{Cpu, Machine, ReadAt, ReadError};

/// Bytes of a page.
pub const PAGE: u64 = 4096;
/// Parts that are locked apart.
const SHARDS: u64 = 64;
/// Pages that one part holds at most: 64 MiB in all.
const PAGES: usize = 256;

type Page = [u8; PAGE as usize];

/// See the module.
pub struct Physical {
    image: Arc<dyn ReadAt>,
    machine: Machine,
    broken: OnceLock<String>,
    shards: Vec<Mutex<HashMap<u64, Arc<Page>>>>,
}

impl Physical {
    /// The memory that an image holds.
    pub fn new(image: Arc<dyn ReadAt>) -> Self {
        Self {
            image,
            machine: Machine::default(),
            broken: OnceLock::new(),
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
        }
    }

    /// The same memory, and what the image tells of the machine: registers, and the frames of a Xen PV guest.
    #[must_use]
    pub fn with_machine(mut self, machine: Option<&Machine>) -> Self {
        self.machine = machine.cloned().unwrap_or_default();
        self
    }

    /// The same memory with nothing read yet: that of a running guest changes.
    #[must_use]
    pub fn afresh(&self) -> Self {
        Self::new(Arc::clone(&self.image)).with_machine(Some(&self.machine))
    }

    /// Registers of the virtual CPUs, as far as the image tells.
    pub fn cpus(&self) -> &[Cpu] {
        &self.machine.cpus
    }

    /// Where in this memory lies what an entry of a page table calls `address`: page tables of Xen PV guests hold frames of the
    /// machine.
    pub fn guest_address(&self, address: u64) -> Result<u64, Fault> {
        match &self.machine.frames {
            None => Ok(address),
            Some(frames) => {
                let frame = frames.guest_frame(address / PAGE).ok_or(Fault::NotInImage(address))?;
                Ok(frame.checked_mul(PAGE).ok_or(Fault::NoAddress(address))? + address % PAGE)
            }
        }
    }

    /// What went wrong first while the image was read, if anything did: not what it lacks, but what it should hold.
    pub fn broken(&self) -> Option<&str> {
        self.broken.get().map(String::as_str)
    }

    /// Why the image does not give what is at `at`: it does not hold it, or it could not be read, which is remembered.
    pub(super) fn fault(&self, at: u64, error: &ReadError) -> Fault {
        match error.root() {
            ReadError::Gap { .. } | ReadError::Caller { .. } => Fault::NotInImage(at),
            _ => {
                self.broken.get_or_init(|| error.to_string());
                Fault::Unreadable(at)
            }
        }
    }

    /// The image itself.
    pub fn image(&self) -> &Arc<dyn ReadAt> {
        &self.image
    }

    /// Length of the address space in bytes.
    pub fn len(&self) -> u64 {
        self.image.len()
    }

    /// Is there no memory at all?
    pub fn is_empty(&self) -> bool {
        self.image.is_empty()
    }

    /// Fills `into` from `at` on.
    pub fn read(&self, at: u64, into: &mut [u8]) -> Result<(), Fault> {
        let mut at = at;
        let mut into = into;
        while !into.is_empty() {
            let within = at % PAGE;
            let here = usize::try_from(PAGE - within).unwrap_or(1).min(into.len());
            let (part, rest) = into.split_at_mut(here);
            self.read_in_page(at, part)?;
            at = at.checked_add(here as u64).ok_or(Fault::NoAddress(at))?;
            into = rest;
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
        self.vec_with_room(at, len, 0)
    }

    /// The same, with room for so many more behind it: what is added there moves nothing.
    pub fn vec_with_room(&self, at: u64, len: usize, room: usize) -> Result<Vec<u8>, Fault> {
        let end = at.checked_add(len as u64).ok_or(Fault::NoAddress(at))?;
        if end > self.len() {
            return Err(Fault::NotInImage(at));
        }
        let mut bytes = vec![0; len.saturating_add(room)];
        bytes.truncate(len);
        // Large copies pass the cache by.
        self.image.read_at(at, &mut bytes).map_err(|error| self.fault(at, &error))?;
        Ok(bytes)
    }

    fn read_in_page(&self, at: u64, into: &mut [u8]) -> Result<(), Fault> {
        let (number, within) = (at / PAGE, (at % PAGE) as usize);
        let shard = self.shards.get((number % SHARDS) as usize);
        let Some(shard) = shard else { return Err(Fault::NoAddress(at)) };
        // Pages are put in whole: a panic elsewhere leaves nothing half done.
        let cached = shard.lock().unwrap_or_else(PoisonError::into_inner).get(&number).map(Arc::clone);
        let page = if let Some(page) = cached {
            page
        } else if number * PAGE >= self.len() {
            // What is no table leads anywhere; to be told so by the image costs more.
            return Err(Fault::NotInImage(at));
        } else {
            let mut page: Page = [0; PAGE as usize];
            if self.image.read_at(number * PAGE, &mut page).is_err() {
                // The image may end, or begin to lack, within the page.
                return self.image.read_at(at, into).map_err(|error| self.fault(at, &error));
            }
            let page = Arc::new(page);
            let mut pages = shard.lock().unwrap_or_else(PoisonError::into_inner);
            if pages.len() >= PAGES {
                pages.clear();
            }
            pages.insert(number, Arc::clone(&page));
            page
        };
        let bytes = page.get(within..within + into.len()).ok_or(Fault::NoAddress(at))?;
        into.copy_from_slice(bytes);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::InMemory;

    /// Four pages: the second cannot be read, the third is missing.
    struct Broken;

    impl ReadAt for Broken {
        fn len(&self) -> u64 {
            4 * PAGE
        }

        fn read_at(&self, at: u64, into: &mut [u8]) -> Result<(), ReadError> {
            match (at / PAGE, (at + into.len() as u64 - 1) / PAGE) {
                (1, _) | (_, 1) => Err(ReadError::corrupt("a table", at, "sense", "none")),
                (2, _) | (_, 2) => Err(ReadError::within("a part")(ReadError::caller("read it", "it ends before"))),
                _ => Ok(()),
            }
        }
    }

    #[test]
    fn what_is_broken_is_no_absence() {
        let memory = Physical::new(Arc::new(Broken));
        let mut some = [0; 8];
        assert_eq!(memory.read(0, &mut some), Ok(()));
        assert_eq!(memory.read(2 * PAGE, &mut some), Err(Fault::NotInImage(2 * PAGE)));
        assert_eq!(memory.broken(), None);
        assert_eq!(memory.read(PAGE + 8, &mut some), Err(Fault::Unreadable(PAGE + 8)));
        assert!(memory.broken().is_some_and(|why| why.contains("a table is damaged")));
        assert_eq!(memory.vec(PAGE, 16), Err(Fault::Unreadable(PAGE)));
    }

    #[test]
    fn reads_cross_pages_and_end_where_the_image_ends() {
        let bytes: Vec<u8> = (0..10_000_u32).map(|n| (n % 251) as u8).collect();
        let memory = Physical::new(Arc::new(InMemory(bytes.clone())));
        let mut some = vec![0; 5000];
        memory.read(4000, &mut some).unwrap();
        assert_eq!(some, bytes[4000..9000]);
        memory.read(9990, &mut some[..10]).unwrap();
        assert_eq!(memory.read(9991, &mut some[..10]), Err(Fault::NotInImage(9991)));
        assert!(memory.read(u64::MAX - 2, &mut some[..10]).is_err());
        assert!(memory.vec(1, usize::MAX).is_err());
    }
}
