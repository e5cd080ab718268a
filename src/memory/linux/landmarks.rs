//! What scanners look for in physical memory, and the one pass that serves them all.
//!
//! Whatever is found by what it looks like is first found by a pointer that each of its kind holds: a task points at a scheduling class,
//! a socket's file at the operations of sockets. A scanner says by which ([`Landmark`], a row of [`ALL`]); memory is passed over once for all of
//! them, by all cores, and each takes the places that are its own. No scanner reads all of memory by itself.

use std::sync::{Arc, Mutex, PoisonError};

use super::super::scan::{self, Words};
use super::{Ask, Kernel, psscan, sockscan};

/// Pointers that tell where a structure is.
pub(super) struct Landmark {
    /// Of what, for notes.
    pub(super) of: &'static str,
    /// The pointers, as this kernel has them.
    pub(super) words: fn(&Kernel) -> Vec<u64>,
}

/// All of them.
static ALL: &[&Landmark] = &[&psscan::TASKS, &sockscan::SOCKETS, &sockscan::SOCKET_FILES];

/// What the pass found, once there was one.
#[derive(Default)]
pub(super) struct Seen(Mutex<Option<Arc<Words>>>);

impl Clone for Seen {
    fn clone(&self) -> Self {
        Self(Mutex::new(self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()))
    }
}

impl Kernel {
    /// Passes over all of memory once for every scanner. Those that are asked for later find what they need.
    pub fn look_around(&self) {
        drop(self.seen());
    }

    /// Physical addresses at which one of the landmark's pointers stands, ascending.
    pub(super) fn places(&self, landmark: &Landmark, ask: &Ask) -> Vec<u64> {
        let seen = self.seen();
        if seen.cut {
            ask.note(format!("more places look like {} than are looked at: some may be missing", landmark.of));
        }
        let wanted = (landmark.words)(self);
        seen.found.iter().filter(|(_, word)| wanted.contains(word)).map(|(at, _)| *at).collect()
    }

    fn seen(&self) -> Arc<Words> {
        let known = || self.landmarks.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(seen) = known().as_ref() {
            return Arc::clone(seen);
        }
        // Not under the lock: a thread that waits for parts of a pass may be given another scanner to run, which would wait for the lock.
        let words = ALL.iter().flat_map(|landmark| (landmark.words)(self)).collect();
        let seen = Arc::new(scan::words(self.physical(), words));
        *known() = Some(Arc::clone(&seen));
        seen
    }
}
