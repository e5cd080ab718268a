//! Damaged btrfs: copies are used where there are some, what is wrong is named, and nothing that a tree says stops the program.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use impound::disk::fs::{self as disk, Filesystem, Options};
use impound::disk::walk::find;
use impound::image::{InMemory, ReadAt, ReadError};

use crate::btrfs::{make, noise, sync, text};
use crate::damage::{explore, flip};
use crate::kit::{bytes, folder, mounted, read};

/// A small file system that needed no mount, as bytes.
fn small(at: &Path, args: &[&str], size: u64) -> Vec<u8> {
    let root = at.join("root");
    fs::create_dir_all(root.join("dir")).unwrap();
    fs::write(root.join("noise"), noise(300_000, 1)).unwrap();
    fs::write(root.join("small"), "hello\n").unwrap();
    fs::hard_link(root.join("small"), root.join("dir/other")).unwrap();
    std::os::unix::fs::symlink("small", root.join("link")).unwrap();
    (0..200).for_each(|n| fs::write(root.join(format!("dir/a file {n}")), text(n % 80)).unwrap());
    let image = at.join("image");
    make(&image, &[&["--rootdir", root.to_str().unwrap()], args].concat(), size);
    fs::read(image).unwrap()
}

fn opened(image: &[u8]) -> Result<Arc<dyn Filesystem>, ReadError> {
    let bytes: Arc<dyn ReadAt> = Arc::new(InMemory(image.to_vec()));
    disk::open(&bytes, Options::default()).map(|fs| fs.unwrap())
}

fn number(image: &[u8], at: usize) -> usize {
    usize::try_from(u32::from_le_bytes(image[at..at + 4].try_into().unwrap())).unwrap()
}

/// Where the nodes are.
fn nodes(image: &[u8]) -> Vec<usize> {
    let uuid = &image[0x10020..0x10030];
    let all = (0..image.len() - 4096).step_by(4096);
    all.filter(|at| *at != 0x10000 && *at != 0x400_0000 && &image[at + 0x20..at + 0x30] == uuid).collect()
}

/// Makes all checksums fit again, so that what is wrong is met behind them.
fn mend(image: &mut [u8], nodes: &[usize]) {
    let size = number(image, 0x10094).clamp(4096, 1 << 16);
    for (at, len) in nodes.iter().map(|at| (*at, size)).chain([(0x10000, 4096)]) {
        let len = len.min(image.len() - at);
        let sum = crc32c::crc32c(&image[at + 32..at + len]);
        image[at..at + 4].copy_from_slice(&sum.to_le_bytes());
    }
}

#[test]
fn a_block_that_does_not_fit_its_checksum_is_a_gap_and_a_second_copy_is_used() {
    let temp = folder();
    for (profile, copies) in [("single", 1), ("dup", 2)] {
        let at = temp.path().join(profile);
        fs::create_dir(&at).unwrap();
        let mut image = small(&at, &["-d", profile], 128 << 20);
        let want = noise(300_000, 1);
        let places: Vec<_> =
            (0..image.len() - 4096).step_by(4096).filter(|at| image[*at..at + 4096] == want[40_960..45_056]).collect();
        assert_eq!(places.len(), copies);
        let content = |image: &[u8]| {
            let fs = opened(image).unwrap();
            let inode = find(fs.as_ref(), b"/noise").unwrap();
            fs.content(inode).unwrap()
        };
        image[places[0] + 100] ^= 1;
        if copies == 2 {
            assert!(read(content(&image).as_ref()) == want);
            image[places[1] + 4000] ^= 0x80;
        }
        let content = content(&image);
        match content.read_at(30_000, &mut vec![0; 50_000]) {
            Err(ReadError::Gap { at: 40_960, len: 4096, why }) => {
                let why = impound::image::reason(&why);
                assert!(why.contains("crc32c checksum"), "{why}");
            }
            other => panic!("{other:?}"),
        }
        let mut rest = vec![0; 300_000 - 45_056];
        content.read_at(45_056, &mut rest).unwrap();
        assert!(rest == want[45_056..]);
    }
}

/// LZO has no checksum of its own: a changed literal unpacks to other bytes without a word.
#[test]
fn a_compressed_extent_that_does_not_fit_its_checksum_is_a_gap() {
    let temp = folder();
    let image = temp.path().join("image");
    make(&image, &["-d", "single"], 128 << 20);
    let literal = b"a literal that LZO leaves as it is, 0123456789";
    let done = mounted(&image, "loop,compress-force=lzo", &temp.path().join("at"), |root| {
        fs::write(root.join("packed"), [&literal[..], &b"a".repeat(50_000)].concat()).unwrap();
        sync(root);
    });
    if !done {
        return;
    }
    let mut image = fs::read(image).unwrap();
    let places: Vec<_> = (0..image.len() - 64).filter(|at| image[*at..].starts_with(&literal[..40])).collect();
    let [place] = *places.as_slice() else { panic!("it is at {places:x?}") };
    let content = |image: &[u8]| {
        let fs = opened(image).unwrap();
        fs.content(find(fs.as_ref(), b"/packed").unwrap()).unwrap()
    };
    assert!(read(content(&image).as_ref()).starts_with(literal));
    image[place + 5] ^= 1;
    match content(&image).read_at(0, &mut [0; 64]) {
        Err(ReadError::Gap { at: 0, len: 1.., why }) => {
            let why = impound::image::reason(&why);
            assert!(why.contains("crc32c checksum"), "{why}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn mirrors_of_the_superblock_and_of_nodes_are_used() {
    let temp = folder();
    let mut image = small(temp.path(), &[], 128 << 20);
    let mut seen = std::collections::HashSet::new();
    let mut lost = 0;
    for at in nodes(&image) {
        let address = image[at + 0x30..at + 0x38].to_vec();
        if seen.insert(address) {
            image[at..at + 16384].fill(0xee);
            lost += 1;
        }
    }
    assert!(lost > 8, "{lost}");
    image[0x10000..0x11000].fill(0);
    let fs = opened(&image).unwrap();
    assert!(
        fs.odd().iter().any(|line| line.contains("the mirror of the superblock at 0x4000000 is used")),
        "{:?}",
        fs.odd()
    );
    assert!(read(fs.content(find(fs.as_ref(), b"/noise").unwrap()).unwrap().as_ref()) == noise(300_000, 1));
    assert_eq!(fs.entries(find(fs.as_ref(), b"/dir").unwrap(), false).unwrap().entries.len(), 201);
}

#[test]
fn no_damage_to_trees_stops_the_program() {
    let temp = folder();
    let good = small(temp.path(), &["-M", "-n", "4096"], 16 << 20);
    let nodes = nodes(&good);
    assert!(nodes.len() > 12, "{}", nodes.len());
    let mut state = 0x1234_5678_9abc_def1;
    let mut images = 0;
    for at in nodes.iter().chain([&0x10000]) {
        for (mended, flips) in [(true, 1), (true, 4), (true, 24), (false, 1)] {
            let mut image = good.clone();
            for _ in 0..flips {
                flip(&mut image, *at + 32, 4064, &mut state);
            }
            // What is wrong is most often met in the header, the first items, and the last data.
            flip(&mut image, *at + 80, 150, &mut state);
            if mended {
                mend(&mut image, &nodes);
            }
            explore(image);
            images += 1;
        }
    }
    for cut in [0, 4096, 0x10100, 0x11000, 1 << 20, good.len() / 2, good.len() - 4096] {
        explore(good[..cut].to_vec());
        images += 1;
    }
    assert!(images >= 60, "{images}");
}

/// Each says in its name what is wrong with it; the checksums fit.
#[test]
fn every_damaged_sample_is_refused_or_said_to_be_odd() {
    let samples = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/damaged/disk/btrfs");
    let all: Vec<PathBuf> = fs::read_dir(samples).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(all.len() >= 10, "{}", all.len());
    for path in all {
        let bytes = bytes(&path);
        match disk::open(&bytes, Options::default()) {
            Err(ReadError::Corrupt { .. } | ReadError::Unsupported { .. }) => continue,
            Err(other) => panic!("{}: {other}", path.display()),
            Ok(None) => panic!("{} is taken for something else", path.display()),
            Ok(Some(fs)) => assert!(is_odd(fs.as_ref()), "{} was taken for good", path.display()),
        }
        explore(read(bytes.as_ref()));
    }
}

/// Something of it is said to be wrong: by the file system, a directory, an inode, or its content.
fn is_odd(fs: &dyn Filesystem) -> bool {
    let mut odd = !fs.odd().is_empty();
    let listing = fs.entries(fs.root(), false).unwrap_or_default();
    odd |= !listing.odd.is_empty() || listing.entries.is_empty();
    for entry in listing.entries {
        odd |= fs.node(entry.inode).is_ok_and(|node| !node.odd.is_empty());
        odd |= fs.node(entry.inode).is_err();
        if entry.kind == Some(disk::FileKind::File) {
            let content = fs.content(entry.inode);
            odd |= content.is_err();
            odd |= content
                .is_ok_and(|content| content.read_at(0, &mut vec![0; content.len().min(1 << 20) as usize]).is_err());
        }
    }
    odd
}
