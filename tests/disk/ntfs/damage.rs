//! Damaged volumes: copies are used and said, and whatever they hold, an answer or a named error.

use std::path::Path;
use std::sync::Arc;

use impound::disk::fs::{self, Filesystem, Options};
use impound::disk::walk::{How, find, walk};
use impound::image::{InMemory, ReadAt, ReadError};

use super::{changes, compressible, make, mounted, noise};
use crate::kit::{folder, open, read, tool};

#[test]
fn damage_at_the_front_is_made_good_from_the_copies_and_said() {
    let temp = folder();
    let image = make(temp.path(), 16, &[]);
    let Some(()) = mounted(&image, |root| std::fs::write(root.join("file"), "here").unwrap()) else { return };
    let good = std::fs::read(&image).unwrap();
    let of = |raw: Vec<u8>, no_journal| {
        let bytes: Arc<dyn ReadAt> = Arc::new(InMemory(raw));
        fs::open(&bytes, Options { no_journal }).unwrap().unwrap()
    };
    let reads =
        |fs: &dyn Filesystem| assert_eq!(read(fs.content(find(fs, b"/file").unwrap()).unwrap().as_ref()), b"here");
    let mut no_boot = good.clone();
    no_boot[..512].fill(0);
    let fs = of(no_boot, false);
    assert!(fs.odd().iter().any(|line| line.contains("backup boot sector")), "{:?}", fs.odd());
    reads(fs.as_ref());
    let mft =
        usize::try_from(u64::from_le_bytes(good[48..56].try_into().unwrap())).unwrap() * usize::from(good[13]) * 512;
    let mut no_mft = good.clone();
    no_mft[mft..mft + 4].copy_from_slice(b"BAAD");
    let fs = of(no_mft, false);
    assert!(fs.odd().iter().any(|line| line.contains("$MFTMirr")), "{:?}", fs.odd());
    reads(fs.as_ref());
    // A torn record is not read as if it were whole.
    let number = usize::try_from(find(of(good.clone(), false).as_ref(), b"/file").unwrap()).unwrap();
    let mut torn = good.clone();
    torn[mft + number * 1024 + 510] ^= 0xff;
    let fs = of(torn, false);
    assert!(fs.node(number as u64).unwrap_err().to_string().contains("update"));
    assert!(fs.lost().unwrap().iter().any(|lost| lost.node.inode == number as u64 && !lost.node.odd.is_empty()));
    // A log that somebody uses.
    let fs = of(good.clone(), false);
    let log = usize::try_from(fs.runs(2).unwrap()[0].physical * fs.block_size()).unwrap();
    let mut dirty = good;
    for page in [log, log + 4096] {
        dirty[page..page + 4096].fill(0);
        dirty[page..page + 4].copy_from_slice(b"RSTR");
        for (at, value) in [(4, 30_u16), (6, 9), (24, 48), (48 + 12, 0), (17, 16), (21, 16)] {
            dirty[page + at..page + at + 2].copy_from_slice(&value.to_le_bytes());
        }
    }
    let fs = of(dirty.clone(), false);
    assert!(!fs.is_whole() && fs.odd().iter().any(|line| line.contains("not replayed")), "{:?}", fs.odd());
    assert!(of(dirty, true).is_whole(), "taken as it is, as asked");
}

fn explore(image: Vec<u8>) {
    let bytes: Arc<dyn ReadAt> = Arc::new(InMemory(image));
    let Ok(Some(fs)) = fs::open(&bytes, Options::default()) else { return };
    let _ = walk::<ReadError>(
        fs.as_ref(),
        (fs.root(), b"/"),
        How { recursive: true, deleted: true },
        &mut |_| {},
        &mut |found| {
            let inode = found.entry.inode;
            let _ = (fs.runs(inode), fs.slack(inode), fs.target(inode), fs.node(inode));
            let streams = fs.streams(inode).into_iter().flatten().map(|stream| stream.content);
            for content in fs.content(inode).into_iter().chain(streams) {
                let mut part = vec![0; usize::try_from(content.len().min(70_000)).unwrap()];
                let _ = content.read_at(0, &mut part);
            }
            Ok(())
        },
    );
    let _ = (fs.lost(), changes(fs.as_ref()));
}

#[test]
fn no_damage_of_a_volume_stops_the_program() {
    let temp = folder();
    let image = make(temp.path(), 4, &[]);
    let Some(()) = mounted(&image, |root| {
        std::fs::create_dir(root.join("dir")).unwrap();
        for n in 0..60 {
            std::fs::write(root.join(format!("dir/some long name {n}")), "x").unwrap();
        }
        std::fs::create_dir(root.join("packed")).unwrap();
        tool("setfattr", ["-n", "system.ntfs_attrib_be", "-v", "0x00000800", root.join("packed").to_str().unwrap()]);
        std::fs::write(root.join("packed/text"), compressible(150_000)).unwrap();
        std::fs::write(root.join("file:stream"), noise(9000, 1)).unwrap();
        std::fs::remove_file(root.join("dir/some long name 30")).unwrap();
    }) else {
        return;
    };
    let good = std::fs::read(&image).unwrap();
    let fs = open(&image);
    let place = |inode: u64| usize::try_from(fs.runs(inode).unwrap()[0].physical * fs.block_size()).unwrap();
    let inode = |path: &[u8]| find(fs.as_ref(), path).unwrap();
    let (mft, files) = (place(0), 130 * 1024);
    let regions = [
        (0, 84),
        (mft, 30 * 1024),
        (mft + 64 * 1024, files - 64 * 1024),
        (place(inode(b"/dir")), 8192),
        (place(inode(b"/packed/text")), 4096),
    ];
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut noise = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state >> 8).unwrap()
    };
    let mut images = 0;
    for (at, len) in regions {
        for flips in [1, 4, 16, 64, 200] {
            for value in [0xff, 0x01, 0x80, 0x10] {
                let mut image = good.clone();
                for _ in 0..flips {
                    // The update sequence would hide all that is behind it: the ends of sectors stay.
                    let place = at + noise() % len;
                    if place % 512 < 510 {
                        image[place] = if value == 0xff { 0xff } else { image[place] ^ value };
                    }
                }
                explore(image);
                images += 1;
            }
        }
    }
    for cut in [0, 100, 512, 4096, mft + 1024, mft + 70 * 1024, good.len() / 2, good.len() - 512] {
        explore(good[..cut].to_vec());
        images += 1;
    }
    assert!(images >= 100, "{images}");
}

/// Everything that is said of a volume: by the file system, its directories, its files, their content.
fn said(image: Vec<u8>) -> Vec<String> {
    let bytes: Arc<dyn ReadAt> = Arc::new(InMemory(image));
    let fs = match fs::open(&bytes, Options::default()) {
        Ok(fs) => fs.expect("it is known"),
        Err(error) => return vec![error.to_string()],
    };
    let (mut all, mut odd) = (fs.odd(), Vec::new());
    let how = How { recursive: true, deleted: true };
    let done = walk::<ReadError>(fs.as_ref(), (fs.root(), b"/"), how, &mut |line| odd.push(line), &mut |found| {
        all.extend(found.node?.odd);
        let content = fs
            .content(found.entry.inode)
            .and_then(|content| content.read_at(0, &mut vec![0; usize::try_from(content.len().min(70_000)).unwrap()]));
        all.extend(content.err().map(|error| error.to_string()));
        Ok(())
    });
    all.extend(done.err().map(|error| error.to_string()));
    all.extend(odd);
    all
}

#[test]
fn a_damaged_sample_is_told_by_its_damage() {
    let expected = [
        ("attribute-of-no-length", "a length of 24 or more"),
        ("attribute-outside-its-record", "more bytes"),
        ("boot-cluster-0", "a cluster of at most 2 MiB, found 0"),
        ("boot-cluster-huge", "a cluster of at most 2 MiB"),
        ("boot-mft-outside", "boot sector is damaged at byte 0x30"),
        ("boot-records-of-no-length", "records of 512 to 65536 bytes"),
        ("compressed-by-huge-units", "a compression unit of at most 256 clusters"),
        ("compressed-garbage", "a chunk of LZNT1"),
        ("encrypted", "encrypted by EFS"),
        ("entries-outside-their-node", "entries inside their node"),
        ("entry-too-long", "an entry inside its node"),
        ("index-block-of-nothing", "expected INDX"),
        ("list-leads-in-a-circle", "attribute 0x20 is there twice"),
        ("list-leads-to-another-file", "belongs to another file now"),
        ("list-of-no-length", "a length of 26 or more"),
        ("log-of-garbage", "$LogFile cannot be read"),
        ("map-too-short", "its map ends at cluster 4"),
        ("mft-claims-too-much", "$MFT: attribute 0x80: its map ends"),
        ("mft-without-a-map", "a map of $MFT"),
        ("name-with-a-slash", "the name of file 12 is none"),
        ("overlay-filter", "the bytes are its stream WofCompressedData"),
        ("placeholder", "kept elsewhere"),
        ("root-torn", "expected update"),
        ("run-outside", "a run inside the volume"),
        ("size-of-8-eib", "its map ends at cluster 4"),
        ("value-outside-its-attribute", "more bytes"),
    ];
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/damaged/disk-ntfs");
    assert_eq!(std::fs::read_dir(&root).unwrap().count(), expected.len(), "each has its row");
    for (name, want) in expected {
        let raw = std::fs::read(root.join(name)).unwrap();
        let said = said(raw.clone());
        assert!(said.iter().any(|line| line.contains(want)), "{name}: {said:#?}");
        explore(raw);
    }
}
