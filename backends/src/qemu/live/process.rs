//! One process: is it the QEMU that it should be, and where are the guest's RAM blocks in it?

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Place, Range, WHAT};
use crate::BackendError;

/// Most mappings accepted of a process; the kernel's own limit is 65530 unless an administrator raised it.
const MAPPINGS_MAX: usize = 1 << 20;
/// `HUGETLBFS_MAGIC` (`include/uapi/linux/magic.h`).
const HUGETLBFS: u64 = 0x9584_58f6;

/// See the module.
pub(super) struct Process {
    pub(super) pid: i32,
    /// `/proc/PID/mem`. It stays with the address space that it was opened for.
    pub(super) mem: File,
    /// `/proc/PID/pagemap`, the same.
    pub(super) pagemap: File,
    mappings: Vec<Mapping>,
}

/// A line of `/proc/PID/maps` (`Documentation/filesystems/proc.rst`, 3.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mapping {
    begin: u64,
    end: u64,
    readable: bool,
    /// Where in its file it begins.
    offset: u64,
    /// Major and minor number of its file's device, and the file's inode; none for anonymous memory.
    file: Option<(u32, u32, u64)>,
}

impl Process {
    /// Opens the memory of process `pid`, which is said to hold the guest behind the socket `on`.
    pub(super) fn open(pid: i32, on: &str) -> Result<Self, BackendError> {
        let folder = PathBuf::from(format!("/proc/{pid}"));
        let open = |name: &str| {
            let path = folder.join(name);
            File::open(&path).map_err(|error| denied(&path, on, &error))
        };
        let (mem, pagemap) = (open("mem")?, open("pagemap")?);
        let maps = folder.join("maps");
        let text = fs::read_to_string(&maps).map_err(|error| denied(&maps, on, &error))?;
        let mappings = text.lines().take(MAPPINGS_MAX).filter_map(mapping).collect();
        Ok(Self { pid, mem, pagemap, mappings })
    }

    /// Is it the process whose threads run the guest's CPUs? Whoever listens on a socket may be a helper that only passed it on.
    pub(super) fn runs(&self, on: &str, threads: &[i32]) -> Result<(), BackendError> {
        let other = |why: String| {
            Err(BackendError::unsupported(WHAT, on, why)
                .advise("name a socket that this very QEMU listens on: -qmp unix:PATH,server=on,wait=off"))
        };
        if threads.is_empty() {
            return other("it names no threads of CPUs, so that nothing tells which process it is".to_owned());
        }
        let lost = threads.iter().find(|tid| !Path::new(&format!("/proc/{}/task/{tid}", self.pid)).exists());
        match lost {
            Some(tid) => other(format!(
                "process {} listens there, and is not the one that runs the guest: it has no thread {tid}",
                self.pid
            )),
            None => Ok(()),
        }
    }

    /// Adds where `range` lies, whose first byte is at `host`: in one piece for each mapping that it goes through.
    pub(super) fn place(
        &self,
        range: &Range,
        host: u64,
        on: &str,
        places: &mut Vec<Place>,
    ) -> Result<(), BackendError> {
        let absent = |at: u64| {
            let found = format!("process {} has nothing readable mapped at {at:#x}", self.pid);
            BackendError::corrupt(WHAT, on, &range.name, "memory where QEMU says it is", found)
        };
        let end = host.checked_add(range.len).ok_or_else(|| absent(host))?;
        let mut at = host;
        while at < end {
            let next =
                self.mappings.iter().find(|mapping| (mapping.begin..mapping.end).contains(&at) && mapping.readable);
            let mapping = next.ok_or_else(|| absent(at))?;
            let upto = mapping.end.min(end);
            let file = match mapping.file {
                Some(_) => self.file(mapping, on)?.map(|file| (file, at - mapping.begin + mapping.offset)),
                None => None,
            };
            places.push(Place { at: range.at + (at - host), len: upto - at, host: at, file });
            at = upto;
        }
        Ok(())
    }

    /// The file behind a mapping; `None` where it cannot tell more than the process's own pages do (huge pages).
    fn file(&self, mapping: &Mapping, on: &str) -> Result<Option<Arc<File>>, BackendError> {
        let found = self.by_mapping(mapping).or_else(|| self.by_descriptor(mapping));
        let file = found.ok_or_else(|| {
            let why =
                "the guest's memory is in a file that cannot be opened, so that pages it never touched cannot be told";
            BackendError::unsupported(WHAT, on, why).advise("run it as root")
        })?;
        let kind = rustix::fs::fstatfs(&file).map_err(|e| BackendError::io(WHAT, on, &e.into()))?;
        // Of huge pages its holder has none in swap and none that only the file knows.
        Ok((u64::try_from(kind.f_type).ok() != Some(HUGETLBFS)).then(|| Arc::new(file)))
    }

    fn by_mapping(&self, mapping: &Mapping) -> Option<File> {
        let path = format!("/proc/{}/map_files/{:x}-{:x}", self.pid, mapping.begin, mapping.end);
        open_same(Path::new(&path), mapping)
    }

    fn by_descriptor(&self, mapping: &Mapping) -> Option<File> {
        let list = fs::read_dir(format!("/proc/{}/fd", self.pid)).ok()?;
        list.filter_map(Result::ok).find_map(|entry| open_same(&entry.path(), mapping))
    }
}

/// Opens what a link of `/proc` leads to, if it is the plain file of a mapping.
fn open_same(path: &Path, mapping: &Mapping) -> Option<File> {
    let same = |about: &fs::Metadata| {
        let device = (rustix::fs::major(about.dev()), rustix::fs::minor(about.dev()));
        about.is_file() && mapping.file == Some((device.0, device.1, about.ino()))
    };
    // Looked at before it is opened: opening a device may have effects.
    same(&fs::metadata(path).ok()?).then_some(())?;
    let file = File::open(path).ok()?;
    same(&file.metadata().ok()?).then_some(file)
}

fn denied(path: &Path, on: &str, error: &io::Error) -> BackendError {
    let failed = BackendError::io(format!("{WHAT} ({})", path.display()), on, error);
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            failed.advise("run it as root, or as the user QEMU runs as with kernel.yama.ptrace_scope=0")
        }
        _ => failed,
    }
}

/// `7f065be00000-7f066be00000 rw-p 00000000 00:00 0   [name]`
fn mapping(line: &str) -> Option<Mapping> {
    let mut words = line.split_ascii_whitespace();
    let (begin, end) = words.next()?.split_once('-')?;
    let hex = |text: &str| u64::from_str_radix(text, 16).ok();
    let readable = words.next()?.starts_with('r');
    let offset = hex(words.next()?)?;
    let (major, minor) = words.next()?.split_once(':')?;
    let (major, minor) = (u32::from_str_radix(major, 16).ok()?, u32::from_str_radix(minor, 16).ok()?);
    let inode: u64 = words.next()?.parse().ok()?;
    let file = (inode != 0).then_some((major, minor, inode));
    let found = Mapping { begin: hex(begin)?, end: hex(end)?, readable, offset, file };
    (found.begin < found.end).then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_maps_are_read_whatever_the_file_is_called() {
        let anonymous = mapping("7f065be00000-7f066be00000 rw-p 00000000 00:00 0 ").unwrap();
        assert_eq!((anonymous.end - anonymous.begin, anonymous.readable, anonymous.file), (256 << 20, true, None));
        let shared = mapping("7f00-7f10 ---s 00001000 103:0a 77   /memfd:a b - 00:00 0 (deleted)").unwrap();
        assert_eq!((shared.readable, shared.offset, shared.file), (false, 0x1000, Some((0x103, 10, 77))));
        for bad in ["", "x-y rw-p 0 00:00 0", "20-10 rw-p 0 00:00 0", "10-20 rw-p 0 00:00"] {
            assert_eq!(mapping(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_process_that_runs_no_cpu_of_the_guest_is_refused() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let own = Process::open(pid, "/run/x").unwrap();
        assert!(own.runs("/run/x", &[pid]).is_ok());
        assert!(own.runs("/run/x", &[pid, 1]).unwrap_err().why.contains("no thread 1"));
        assert!(own.runs("/run/x", &[]).is_err());
    }

    #[test]
    fn a_range_has_to_lie_in_what_is_mapped() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let mut own = Process::open(pid, "/run/x").unwrap();
        let piece = |begin, end, readable| Mapping { begin, end, readable, offset: 0, file: None };
        own.mappings = vec![piece(0x1000, 0x3000, true), piece(0x3000, 0x5000, true), piece(0x5000, 0x6000, false)];
        let range = |len| Range { at: 0x10_0000, len, kind: "ram".to_owned(), name: "pc.ram".to_owned(), offset: 0 };
        let mut places = Vec::new();
        own.place(&range(0x3000), 0x2000, "x", &mut places).unwrap();
        let cut: Vec<_> = places.iter().map(|place| (place.at, place.len, place.host)).collect();
        assert_eq!(cut, [(0x10_0000, 0x1000, 0x2000), (0x10_1000, 0x2000, 0x3000)]);
        for (len, host) in [(0x3000, 0x3000), (0x1000, 0x8000), (u64::MAX, 0x2000)] {
            assert!(own.place(&range(len), host, "x", &mut Vec::new()).is_err(), "{len:#x} at {host:#x}");
        }
    }
}
