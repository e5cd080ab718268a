//! Damaged images: whatever they say, an answer or a named error, soon.

use std::sync::Arc;
use std::time::{Duration, Instant};

use impound::disk::fs::{self, Options};
use impound::disk::volume::scan;
use impound::disk::walk::{How, walk};
use impound::image::{InMemory, ReadAt, ReadError};

use crate::kit::{folder, make, open, tree};

fn explore(image: Vec<u8>) {
    let bytes: Arc<dyn ReadAt> = Arc::new(InMemory(image));
    let _ = scan(&bytes);
    let Ok(Some(fs)) = fs::open(&bytes, Options::default()) else { return };
    let how = How { recursive: true, deleted: true };
    let _ = walk::<ReadError>(fs.as_ref(), (fs.root(), b"/"), how, &mut |_| {}, &mut |found| {
        let inode = found.entry.inode;
        let _ = (fs.runs(inode), fs.own_blocks(inode), fs.slack(inode), fs.target(inode), fs.node(inode));
        if let Ok(content) = fs.content(inode) {
            let mut part = vec![0; usize::try_from(content.len().min(8192)).unwrap()];
            let _ = content.read_at(0, &mut part);
        }
        Ok(())
    });
    let _ = fs.lost();
    let _ = fs.changes(&mut |_| Ok(()));
    let (mut last, mut ranges) = (0, 0_u64);
    let books = fs.allocation(&mut |range, _| {
        assert_eq!(range.start, last, "the books leave blocks out");
        last = range.end;
        ranges += 1;
        // A hostile superblock may claim any number of blocks; those who ask for them all wait for their rows.
        if ranges > 100_000 { Err(ReadError::caller("go on", "that is enough")) } else { Ok(()) }
    });
    assert!(books.is_err() || last == fs.blocks());
    let _: Vec<_> = (0..200).map(|block| fs.purpose(block)).collect();
}

/// The same numbers each time.
fn noise(state: &mut u64) -> usize {
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
    for (number, (kind, features, size, flips)) in [
        ("ext2", "none", "16M", &[1, 8, 64, 200][..]),
        ("ext4", "extent", "24M", &[1, 8, 64, 200]),
        ("ext3", "^dir_index", "16M", &[8]),
        ("ext4", "meta_bg,^resize_inode", "24M", &[8]),
        ("ext4", "bigalloc", "24M", &[8]),
        ("ext4", "inline_data", "24M", &[8]),
        ("ext4", "^metadata_csum,uninit_bg", "24M", &[8]),
    ]
    .into_iter()
    .enumerate()
    {
        let path = temp.path().join(number.to_string());
        let features: &[&str] = if features == "none" { &[] } else { &["-O", features] };
        make(&path, &[&["-t", kind, "-b", "1024", "-N", "4096"], features].concat(), &tree, size);
        let good = std::fs::read(&path).unwrap();
        let fs = open(&path);
        // The superblock, descriptors and bitmaps, the inode tables, maps and directories.
        let mut regions = vec![(1024, 300), (2048, 1024), (3072, 200_000)];
        for run in fs.runs(fs.root()).unwrap().iter().chain(&fs.runs(8).unwrap_or_default()) {
            regions.push((usize::try_from(run.physical * 1024).unwrap(), 4096));
        }
        for (at, len) in regions {
            for flips in flips.iter().copied() {
                for value in [0xff, 0x01, 0x80] {
                    let mut image = good.clone();
                    for _ in 0..flips {
                        let place = (at + noise(&mut state) % len).min(image.len() - 1);
                        image[place] = if value == 0xff { 0xff } else { image[place] ^ value };
                    }
                    explore(image);
                    images += 1;
                }
            }
        }
        for cut in [0, 1024, 1100, 2048, 5000, good.len() / 2] {
            explore(good[..cut].to_vec());
            images += 1;
        }
    }
    assert!(images >= 150, "{images}");
    assert!(began.elapsed() < Duration::from_secs(240), "{:?}", began.elapsed());
}
