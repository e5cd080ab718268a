//! How long a virtual CPU waited for the snapshot, watched from outside.
//!
//! During a background snapshot a CPU that writes to a page not yet saved waits in the kernel's `handle_userfault`. The
//! kernel says where a thread sleeps in `/proc/PID/task/TID/wchan`. A watcher looks every millisecond; the longest run of
//! looks that found one CPU there is the worst stall, right to a millisecond or so, and an upper bound where several short
//! waits follow each other. It needs the right to look (the same user, or root), and a QEMU on this machine.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::Stall;

const LOOK: Duration = Duration::from_millis(1);

/// A watcher at work.
pub(super) struct StallWatch {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Duration>,
}

impl StallWatch {
    /// Watches these threads of the process; `None` if the kernel does not let us look.
    pub(super) fn start(pid: i32, threads: &[i32]) -> Option<Self> {
        let path = |tid: &i32| PathBuf::from(format!("/proc/{pid}/task/{tid}/wchan"));
        let paths: Vec<_> = threads.iter().map(path).collect();
        // "0" for a thread that sleeps is what a kernel answers to somebody who may not know.
        if paths.is_empty() || paths.iter().any(|path| fs::read_to_string(path).is_err()) {
            return None;
        }
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&stop);
        let thread = std::thread::Builder::new().name("stall-watch".to_owned()).spawn(move || watch(&paths, &seen));
        thread.ok().map(|thread| Self { stop, thread })
    }

    /// Ends the watching.
    pub(super) fn end(self) -> Option<Stall> {
        self.stop.store(true, Ordering::Relaxed);
        let worst = self.thread.join().ok()?;
        let worst_us = u64::try_from(worst.as_micros()).unwrap_or(u64::MAX);
        Some(Stall {
            worst_us,
            how: "longest wait of one virtual CPU on a protected page, looked at every millisecond".to_owned(),
        })
    }
}

fn watch(paths: &[PathBuf], stop: &AtomicBool) -> Duration {
    let mut since: Vec<Option<Instant>> = vec![None; paths.len()];
    let mut worst = Duration::ZERO;
    while !stop.load(Ordering::Relaxed) {
        for (path, since) in paths.iter().zip(&mut since) {
            let waits = fs::read_to_string(path).is_ok_and(|place| place.contains("userfault"));
            match (waits, *since) {
                (true, None) => *since = Some(Instant::now()),
                (true, Some(start)) => worst = worst.max(start.elapsed()),
                (false, _) => *since = None,
            }
        }
        std::thread::sleep(LOOK);
    }
    worst
}
