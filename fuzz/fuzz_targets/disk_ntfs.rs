//! NTFS: every structure that a walk, a read, a search for deleted files and the change journal touch.
#![no_main]

use std::sync::Arc;

use impound::disk::fs::{self, Options};
use impound::disk::walk::{How, walk};
use impound::image::{InMemory, ReadAt, ReadError};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let disk: Arc<dyn ReadAt> = Arc::new(InMemory(bytes.to_vec()));
    let Ok(Some(fs)) = fs::open(&disk, Options::default()) else { return };
    let how = How { recursive: true, deleted: true };
    let _ = walk::<ReadError>(fs.as_ref(), (fs.root(), b"/"), how, &mut |_| {}, &mut |found| {
        let inode = found.entry.inode;
        let _ = (fs.slack(inode), fs.target(inode), fs.runs(inode));
        let streams = fs.streams(inode).into_iter().flatten().map(|stream| stream.content);
        for content in fs.content(inode).into_iter().chain(streams) {
            let mut part = vec![0; content.len().min(4096) as usize];
            let _ = content.read_at(0, &mut part);
        }
        Ok(())
    });
    let _ = (fs.lost(), fs.changes(&mut |_| Ok(())));
});
