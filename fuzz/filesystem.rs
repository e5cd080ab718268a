//! What every target of a file system does with its bytes: list all, read the front of all, look for what is lost.

use std::sync::Arc;

use impound::disk::fs::{self, Filesystem, Options};
use impound::disk::walk::{How, walk};
use impound::image::{InMemory, ReadAt, ReadError};

/// Opens `bytes` as the file system `name`.
pub fn explore(name: &str, bytes: &[u8]) {
    let disk: Arc<dyn ReadAt> = Arc::new(InMemory(bytes.to_vec()));
    let driver = fs::ALL.iter().find(|driver| driver.name == name).expect("the name is in the list");
    let Ok(fs) = (driver.open)(disk, Options::default()) else { return };
    look(fs.as_ref());
    for one in fs.subvolumes().unwrap_or_default() {
        look(one.fs.as_ref());
    }
}

fn look(fs: &dyn Filesystem) {
    let how = How { recursive: true, deleted: true };
    let _ = walk::<ReadError>(fs, (fs.root(), b"/"), how, &mut |_| {}, &mut |found| {
        let inode = found.entry.inode;
        let _ = (fs.slack(inode), fs.target(inode), fs.runs(inode), fs.own_blocks(inode));
        let streams = fs.streams(inode).into_iter().flatten().map(|stream| stream.content);
        for content in fs.content(inode).into_iter().chain(streams) {
            let mut part = vec![0; content.len().min(4096) as usize];
            let _ = content.read_at(0, &mut part);
        }
        Ok(())
    });
    let _ = (fs.lost(), fs.facts(), fs.block_in_use(fs.blocks() / 2), fs.purpose(fs.blocks() / 2));
    let _ = fs.changes(&mut |_| Ok(()));
    let mut ranges = 0;
    let _ = fs.allocation(&mut |_, _| {
        ranges += 1;
        if ranges > 1000 { Err(ReadError::caller("go on", "enough")) } else { Ok(()) }
    });
}
