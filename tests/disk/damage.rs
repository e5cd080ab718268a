//! Damaged images: whatever they say, an answer or a named error, soon.

use std::sync::Arc;
use std::time::{Duration, Instant};

use impound::disk::fs::{self, Options};
use impound::disk::volume::scan;
use impound::disk::walk::{How, walk};
use impound::image::{InMemory, ReadAt, ReadError};

use crate::kit::{folder, make, open, tree};

pub(crate) fn explore(bytes: &Arc<dyn ReadAt>) {
    let _ = scan(bytes);
    let Ok(Some(fs)) = fs::open(bytes, Options::default()) else { return };
    let how = How { recursive: true, deleted: true };
    let _ = walk::<ReadError>(fs.as_ref(), (fs.root(), b"/"), how, &mut |_| {}, &mut |found| {
        let inode = found.entry.inode;
        let _ = (fs.runs(inode), fs.slack(inode), fs.target(inode));
        if let Ok(content) = fs.content(inode) {
            let mut part = vec![0; usize::try_from(content.len().min(8192)).unwrap()];
            let _ = content.read_at(0, &mut part);
        }
        Ok(())
    });
    let _ = fs.lost();
    let _ = fs.changes(&mut |_| Ok(()));
}

fn memory(image: Vec<u8>) -> Arc<dyn ReadAt> {
    Arc::new(InMemory(image))
}

/// The same numbers each time.
pub(crate) fn noise(state: &mut u64) -> usize {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    usize::try_from(*state >> 8).unwrap()
}

#[test]
fn no_damage_stops_the_program() {
    let temp = folder();
    let tree = tree(temp.path());
    let began = Instant::now();
    let mut state = 0x9e37_79b9_7f4a_7c15;
    let mut images = 0;
    for (kind, size) in [("ext2", "16M"), ("ext4", "24M")] {
        let path = temp.path().join(kind);
        make(&path, &["-t", kind, "-b", "1024", "-N", "4096"], &tree, size);
        let good = std::fs::read(&path).unwrap();
        let fs = open(&path);
        // The superblock, descriptors and bitmaps, the inode tables, maps and directories.
        let mut regions = vec![(1024, 300), (2048, 1024), (3072, 200_000)];
        for run in fs.runs(fs.root()).unwrap().iter().chain(&fs.runs(8).unwrap_or_default()) {
            regions.push((usize::try_from(run.physical * 1024).unwrap(), 4096));
        }
        for (at, len) in regions {
            for flips in [1, 8, 64, 200] {
                for value in [0xff, 0x01, 0x80] {
                    let mut image = good.clone();
                    for _ in 0..flips {
                        let place = (at + noise(&mut state) % len).min(image.len() - 1);
                        image[place] = if value == 0xff { 0xff } else { image[place] ^ value };
                    }
                    explore(&memory(image));
                    images += 1;
                }
            }
        }
        for cut in [0, 1024, 1100, 2048, 5000, good.len() / 2] {
            explore(&memory(good[..cut].to_vec()));
            images += 1;
        }
    }
    assert!(images >= 80, "{images}");
    assert!(began.elapsed() < Duration::from_secs(240), "{:?}", began.elapsed());
}
