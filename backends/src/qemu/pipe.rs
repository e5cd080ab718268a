//! Pipes whose other end QEMU holds, and a reader, of pipes and sockets, that can be told to stop waiting.

use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};

/// Size asked of the kernel, in bytes: the most an unprivileged process may have.
const PIPE_SIZE: usize = 1 << 20;
/// How long one wait lasts before the stop flag is looked at again.
const LOOK_UP: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// The reading end of a pipe.
pub(super) struct PipeReader {
    fd: OwnedFd,
    stop: Arc<AtomicBool>,
}

impl PipeReader {
    /// A pipe: our reader, the end for QEMU, and the flag that ends the reader's waiting.
    pub(super) fn new() -> io::Result<(Self, OwnedFd, Arc<AtomicBool>)> {
        let (ours, theirs) = pipe_with(PipeFlags::CLOEXEC)?;
        // A smaller pipe is slower, not wrong: the kernel may refuse when a user has many.
        let _ = fcntl_setpipe_size(&ours, PIPE_SIZE);
        let stop = Arc::new(AtomicBool::new(false));
        Ok((Self { fd: ours, stop: Arc::clone(&stop) }, theirs, stop))
    }

    /// The same over any other descriptor.
    pub(super) fn over(fd: OwnedFd, stop: Arc<AtomicBool>) -> Self {
        Self { fd, stop }
    }
}

impl Read for PipeReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            let mut waiting = [PollFd::new(&self.fd, PollFlags::IN)];
            match poll(&mut waiting, Some(&LOOK_UP)) {
                Ok(0) if self.stop.load(Ordering::Relaxed) => return Err(io::Error::other("given up")),
                Ok(0) | Err(rustix::io::Errno::INTR) => {}
                Ok(_) => match rustix::io::read(&self.fd, &mut *into) {
                    // It need not block.
                    Err(rustix::io::Errno::AGAIN) => {}
                    read => return read.map_err(Into::into),
                },
                Err(error) => return Err(error.into()),
            }
        }
    }
}
