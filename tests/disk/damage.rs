//! Damaged images: whatever they say, an answer or a named error, soon.

use std::sync::Arc;
use std::time::{Duration, Instant};

use impound::disk::fs::{self, Filesystem, Options};
use impound::disk::volume::scan;
use impound::disk::walk::{How, walk};
use impound::image::{InMemory, ReadAt, ReadError};

use crate::kit::{folder, make, open, tool, tree};

pub(crate) fn explore(image: Vec<u8>) {
    let bytes: Arc<dyn ReadAt> = Arc::new(InMemory(image));
    explore_bytes(&bytes);
}

pub(crate) fn explore_bytes(bytes: &Arc<dyn ReadAt>) {
    let _ = scan(bytes);
    let Ok(Some(fs)) = fs::open(bytes, Options::default()) else { return };
    look(fs.as_ref());
    for one in fs.subvolumes().unwrap_or_default() {
        look(one.fs.as_ref());
    }
}

fn look(fs: &dyn Filesystem) {
    let how = How { recursive: true, deleted: true };
    let _ = walk::<ReadError>(fs, (fs.root(), b"/"), how, &mut |_| {}, &mut |found| {
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
pub(crate) fn noise(state: &mut u64) -> usize {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    usize::try_from(*state >> 8).unwrap()
}

/// Flips a bit somewhere in a range.
pub(crate) fn flip(image: &mut [u8], at: usize, len: usize, state: &mut u64) {
    let place = (at + noise(state) % len).min(image.len() - 1);
    image[place] ^= 1 << (noise(state) % 8);
}

/// Flips bits and sets bytes in the regions, and cuts the end off; gives the number of images that were explored.
fn batter(good: &[u8], regions: &[(usize, usize)], cuts: &[usize]) -> usize {
    let mut state = 0x9e37_79b9_7f4a_7c15;
    for &(at, len) in regions {
        for flips in [1, 8, 64, 200] {
            for value in [0xff, 0x01, 0x80] {
                let mut image = good.to_vec();
                for _ in 0..flips {
                    let place = (at + noise(&mut state) % len).min(image.len() - 1);
                    image[place] = if value == 0xff { 0xff } else { image[place] ^ value };
                }
                explore(image);
            }
        }
    }
    for cut in cuts {
        explore(good[..*cut].to_vec());
    }
    regions.len() * 12 + cuts.len()
}

#[test]
fn no_damage_stops_the_program() {
    let temp = folder();
    let tree = tree(temp.path());
    let began = Instant::now();
    let mut images = 0;
    for (number, (kind, features, size)) in [
        ("ext2", "none", "16M"),
        ("ext4", "extent", "24M"),
        ("ext3", "^dir_index", "16M"),
        ("ext4", "meta_bg,^resize_inode", "24M"),
        ("ext4", "bigalloc", "24M"),
        ("ext4", "inline_data", "24M"),
        ("ext4", "^metadata_csum,uninit_bg", "24M"),
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
        images += batter(&good, &regions, &[0, 1024, 1100, 2048, 5000, good.len() / 2]);
    }
    assert!(images >= 150, "{images}");
    assert!(began.elapsed() < Duration::from_secs(240), "{:?}", began.elapsed());
}

#[test]
fn no_damage_of_fat_stops_the_program() {
    let temp = folder();
    for (args, len) in
        [(["-F", "12", "-s", "1"], 1 << 20), (["-F", "16", "-s", "1"], 3 << 20), (["-F", "32", "-s", "1"], 34 << 20)]
    {
        let image = temp.path().join("disk.img");
        crate::fat::make(&image, len, &args);
        for name in ["::/a directory", "::/a directory/in it", "::/GONE"] {
            crate::fat::mtool("mmd", &image, [name]);
        }
        let from = temp.path().join("from");
        for (number, name) in (0..).zip(["a long name of a file", "GONE/FILE", "a directory/in it/some file", "SHORT"])
        {
            std::fs::write(&from, crate::fat::noise(20_000 + number * 999, 1)).unwrap();
            crate::fat::mtool("mcopy", &image, [from.as_os_str(), format!("::/{name}").as_ref()]);
        }
        crate::fat::mtool("mdeltree", &image, ["::/GONE", "::/SHORT"]);
        let good = std::fs::read(&image).unwrap();
        let fs = open(&image);
        let mut regions = vec![(0, 96), (512, 12_000)];
        let directories = [&b"/"[..], b"/a directory", b"/a directory/in it"];
        for directory in directories.map(|path| impound::disk::walk::find(fs.as_ref(), path).unwrap()) {
            regions.push((usize::try_from(fs.runs(directory).unwrap()[0].physical * 512).unwrap(), 512));
        }
        assert!(batter(&good, &regions, &[0, 100, 512, 5000, good.len() / 2]) > 60);
    }
}

#[test]
fn no_damage_of_exfat_or_iso_stops_the_program() {
    let temp = folder();
    let image = temp.path().join("disk.img");
    std::fs::File::create(&image).unwrap().set_len(4 << 20).unwrap();
    tool("mkfs.exfat", ["-c".as_ref(), "4096".as_ref(), image.as_os_str()]);
    let mut good = std::fs::read(&image).unwrap();
    let mut root = 0;
    for name in ["some file", "another", "the third"] {
        root = crate::exfat::plant(&mut good, &crate::exfat::set(name, 100, 12_000, 9000), &[7; 12_000]);
    }
    assert!(batter(&good, &[(0, 120), (root & !4095, 512), (1 << 20, 4096)], &[0, 600, 7000, good.len() / 2]) > 36);
    let folder = temp.path().join("put");
    std::fs::create_dir_all(folder.join("a/b/c/d/e/f/g/h/i/j")).unwrap();
    std::fs::write(folder.join("a/b/c/d/e/f/g/h/i/j/some rather long name"), "text").unwrap();
    std::os::unix::fs::symlink("../a/b", folder.join("link")).unwrap();
    let arguments = ["-quiet", "-R", "-J", "-o"].map(std::ffi::OsStr::new);
    tool("genisoimage", arguments.into_iter().chain([image.as_os_str(), folder.as_os_str()]));
    let good = std::fs::read(&image).unwrap();
    // Descriptors, then path tables and directories.
    assert!(batter(&good, &[(32_768, 200), (34_816, 200), (38_912, 60_000)], &[0, 32_800, 34_000, 50_000]) > 36);
}

/// All that is said of an image: why it cannot be opened, or what is odd in it.
fn said(image: Vec<u8>) -> Vec<String> {
    let bytes: Arc<dyn ReadAt> = Arc::new(InMemory(image));
    let fs = match fs::open(&bytes, Options::default()) {
        Ok(fs) => fs.expect("its signature is there"),
        Err(error) => return vec![error.to_string()],
    };
    let (mut lines, mut odd) = (fs.odd(), Vec::new());
    let how = How { recursive: true, deleted: false };
    let walked = walk::<ReadError>(fs.as_ref(), (fs.root(), b"/"), how, &mut |line| odd.push(line), &mut |found| {
        lines.extend(found.node.map_or_else(|error| vec![error.to_string()], |node| node.odd));
        if let Ok(content) = fs.content(found.entry.inode) {
            let mut all = vec![0; usize::try_from(content.len().min(1 << 20)).unwrap()];
            lines.extend(content.read_at(0, &mut all).err().map(|error| error.to_string()));
        }
        Ok(())
    });
    lines.extend(walked.err().map(|error| error.to_string()));
    lines.extend(odd);
    lines
}

#[test]
fn every_damaged_sample_is_said_to_be_one() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/damaged/disk");
    let mut samples = 0;
    for folder in ["fat", "exfat", "iso9660"] {
        for path in std::fs::read_dir(root.join(folder)).unwrap().map(|entry| entry.unwrap().path()) {
            let image = std::fs::read(&path).unwrap();
            let lines = said(image.clone());
            let sound = path.file_stem().is_some_and(|name| name == "sound");
            assert_eq!(lines.is_empty(), sound, "{}: {lines:?}", path.display());
            explore(image);
            samples += 1;
        }
    }
    assert!(samples > 40, "{samples}");
}
