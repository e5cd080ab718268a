//! XFS: every structure that a walk, a read, the log and a search for deleted files touch.
#![no_main]

use std::sync::Arc;

use impound::disk::fs::{Options, xfs};
use impound::disk::walk::{How, walk};
use impound::image::{InMemory, ReadAt, ReadError};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let disk: Arc<dyn ReadAt> = Arc::new(InMemory(bytes.to_vec()));
    let Ok(fs) = xfs::open(disk, Options::default()) else { return };
    let how = How { recursive: true, deleted: true };
    let _ = walk::<ReadError>(fs.as_ref(), (fs.root(), b"/"), how, &mut |_| {}, &mut |found| {
        let inode = found.entry.inode;
        let _ = (fs.slack(inode), fs.target(inode), fs.runs(inode));
        if let Ok(content) = fs.content(inode) {
            let mut part = vec![0; content.len().min(4096) as usize];
            let _ = content.read_at(0, &mut part);
        }
        Ok(())
    });
    let _ = (fs.lost(), fs.changes(&mut |_| Ok(())));
});
