//! Damaged XFS: each kind of damage is told by name, and whatever the bytes say, an answer comes soon.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use impound::disk::fs::{self as disk_fs, Filesystem, Options};
use impound::disk::walk::{How, find, walk};
use impound::image::{Extent, ReadAt, ReadError};

use crate::damage::{explore_bytes, noise};
use crate::kit::{bytes, mounted, open, read};
use crate::xfs_kit::{attributed, dirty, make, noise as content, pieces};

/// An image with some bytes changed.
struct Changed {
    below: Arc<dyn ReadAt>,
    bytes: BTreeMap<u64, u8>,
}

impl ReadAt for Changed {
    fn len(&self) -> u64 {
        self.below.len()
    }

    fn read_at(&self, at: u64, into: &mut [u8]) -> Result<(), ReadError> {
        self.below.read_at(at, into)?;
        for (place, value) in self.bytes.range(at..at + into.len() as u64) {
            into[usize::try_from(place - at).unwrap()] = *value;
        }
        Ok(())
    }

    fn extent(&self, at: u64) -> Result<Extent, ReadError> {
        self.below.extent(at)
    }
}

fn changed(below: &Arc<dyn ReadAt>, changes: &[(u64, Vec<u8>)]) -> Arc<dyn ReadAt> {
    let bytes = changes.iter().flat_map(|(at, new)| (*at..).zip(new.iter().copied())).collect();
    Arc::new(Changed { below: Arc::clone(below), bytes })
}

/// A superblock with other bytes and a checksum that fits.
fn superblock(below: &Arc<dyn ReadAt>, at: usize, new: &[u8]) -> Vec<(u64, Vec<u8>)> {
    let mut sector = vec![0; 512];
    below.read_at(0, &mut sector).unwrap();
    sector[at..at + new.len()].copy_from_slice(new);
    sector[224..228].fill(0);
    let sum = crc32c::crc32c(&sector);
    vec![(at as u64, new.to_vec()), (224, sum.to_le_bytes().to_vec())]
}

/// All that is said of a file system and what is in it.
fn said(bytes: &Arc<dyn ReadAt>) -> String {
    let fs = match disk_fs::open(bytes, Options::default()) {
        Ok(fs) => fs.unwrap(),
        Err(error) => return error.to_string(),
    };
    let mut all = fs.odd();
    let how = How { recursive: true, deleted: false };
    let mut odd = Vec::new();
    let walked = walk::<ReadError>(fs.as_ref(), (fs.root(), b"/"), how, &mut |line| odd.push(line), &mut |found| {
        match found.node {
            Ok(node) => all.extend(node.odd),
            Err(error) => all.push(error.to_string()),
        }
        let content = fs.content(found.entry.inode);
        let read = content
            .and_then(|content| content.read_at(0, &mut vec![0; usize::try_from(content.len().min(1 << 20)).unwrap()]));
        all.extend(read.err().map(|error| error.to_string()));
        Ok(())
    });
    all.extend(walked.err().map(|error| error.to_string()));
    all.extend(odd);
    all.join("\n")
}

fn small(root: &Path) {
    for (name, count) in [("block", 20), ("leaf", 250)] {
        fs::create_dir(root.join(name)).unwrap();
        for n in 0..count {
            fs::write(root.join(format!("{name}/a file with a long name {n}")), "x").unwrap();
        }
    }
    fs::write(root.join("big"), content(100_000, 1)).unwrap();
    std::os::unix::fs::symlink("big", root.join("link")).unwrap();
    std::os::unix::fs::symlink("x/".repeat(500), root.join("long link")).unwrap();
    pieces(&root.join("pieces"), 300);
    attributed(root);
}

/// The first block that holds this at this place; the log never does, its sectors begin otherwise.
fn block_with(image: &[u8], at: usize, magic: &[u8]) -> u64 {
    let found = image.chunks(4096).position(|block| block[at..].starts_with(magic));
    found.unwrap_or_else(|| panic!("no block with {magic:?}")) as u64 * 4096
}

fn be32(image: &[u8], at: usize) -> u64 {
    u64::from(u32::from_be_bytes(image[at..at + 4].try_into().unwrap()))
}

type Case = (&'static str, Vec<(u64, Vec<u8>)>, &'static str);

fn cases(below: &Arc<dyn ReadAt>, image: &[u8], fs: &dyn Filesystem) -> Vec<Case> {
    // 8 inodes of 512 bytes a block, and all these lie in the first group.
    let inode = |path: &str| find(fs, path.as_bytes()).unwrap() * 512;
    let (free, inodes) = (be32(image, 528) * 4096, be32(image, 1024 + 20) * 4096);
    let group = be32(image, 84) * 4096;
    let (entries, map) = (block_with(image, 0, b"XDB3"), block_with(image, 0, b"BMA3"));
    let (attrs, value) = (block_with(image, 8, &[0x3b, 0xee]), block_with(image, 0, b"XARM"));
    let link = block_with(image, 0, b"XSLM");
    let copies =
        |more: (u64, Vec<u8>)| vec![more, (group, vec![0; 4]), (group * 2, vec![0; 4]), (group * 3, vec![0; 4])];
    let one = |at: u64, new: &[u8]| vec![(at, new.to_vec())];
    vec![
        ("label", one(108, b"zzz"), "the copy in allocation group 1"),
        ("block size", one(4, &[0; 4]), "the copy in allocation group 1"),
        ("groups", one(88, &[0xff; 4]), "the copy in allocation group"),
        ("root", one(56, &[0xff; 8]), "the copy in allocation group"),
        ("all superblocks", copies((108, b"zzz".to_vec())), "the checksum of the superblock does not fit"),
        ("no block size", copies((4, vec![0; 4])), "expected blocks of 512 bytes to 64 KiB"),
        ("feature", superblock(below, 216, &[0x80, 0, 0, 1]), "it uses the feature 0x80000000"),
        ("zoned", superblock(below, 216, &[0, 0, 2, 1]), "it uses the feature zoned"),
        ("repair", superblock(below, 216, &[0, 0, 0, 0x1b]), "needs repair"),
        ("log elsewhere", superblock(below, 48, &[0; 8]), "it is on another device"),
        ("log outside", superblock(below, 96, &[0x7f; 4]), "a log inside one allocation group"),
        ("AGF", one(512, b"XXXX"), "expected the header of allocation group 0"),
        ("AGF sum", one(512 + 60, &[1]), "the checksum of the xfs AGF"),
        ("AGF levels", one(512 + 28, &[0, 0, 0, 99]), "expected 1 to 12 levels"),
        ("AGF root", one(512 + 16, &[0xff; 4]), "outside or visited before"),
        ("AGI", one(1024, b"XXXX"), "expected the header of allocation group 0"),
        ("AGI sum", one(1024 + 17, &[1]), "the checksum of the xfs AGI"),
        ("AGI root", one(1024 + 20, &[0xff; 4]), "outside or visited before"),
        ("free tree", one(free, b"XXXX"), "expected a node of level 0"),
        ("free count", one(free + 6, &[0xff; 2]), "expected at most 505 records"),
        ("inode tree", one(inodes, b"XXXX"), "nobody knows whether this one is in use"),
        ("inode tree sum", one(inodes + 60, &[0x77]), "the checksum of the xfs inode tree"),
        ("inode", one(inode("/big"), b"XX"), "expected magic IN"),
        ("inode sum", one(inode("/big") + 8, &[7]), "the checksum of the inode does not fit"),
        ("inode number", one(inode("/big") + 159, &[0xee]), "in another place"),
        ("mode", one(inode("/big") + 2, &[0xf0, 0]), "is of no kind"),
        ("extents", one(inode("/big") + 76, &[0x7f; 4]), "expected at most"),
        ("extents missing", one(inode("/pieces") + 79, &[1]), "it should have"),
        ("extent", one(inode("/big") + 176, &[0x7f; 16]), "lies outside of the file system"),
        ("attributes", one(inode("/few attributes") + 82, &[0xff]), "its attributes begin at byte"),
        ("local", one(inode("/link") + 62, &[0x7f]), "expected at most"),
        ("extent tree", one(map, b"XXXX"), "expected a node of level 0"),
        ("extent tree count", one(map + 6, &[0xff; 2]), "the image holds nothing at 0x"),
        ("extent tree sum", one(map + 30, &[0xff]), "the checksum of the extent block"),
        ("entries", one(entries, b"XXXX"), "expected a block of entries"),
        ("entry", one(entries + 64 + 8, &[0xfe]), "expected an entry with its tag"),
        ("entries sum", one(entries + 20, &[0xfe]), "the checksum of the directory block"),
        ("index", one(entries + 4088, &[0x7f; 4]), "expected an index that fits"),
        ("attribute leaf", one(attrs + 8, &[1, 2]), "expected a node or a leaf"),
        ("attribute loop", one(attrs, &[0, 0, 0, 0]), "the checksum of block"),
        ("attribute value", one(value, b"XXXX"), "expected a head for"),
        ("link", one(link, b"XXXX"), "expected magic XSLM"),
    ]
}

#[test]
fn each_kind_of_damage_is_told_by_name() {
    let temp = crate::kit::folder();
    let path = temp.path().join("disk.img");
    make(&path, &["--unsupported", "-d", "agcount=4"], 64 << 20);
    if !mounted(&path, "loop,noatime", &temp.path().join("mnt"), small) {
        return;
    }
    let (below, image, fs) = (bytes(&path), std::fs::read(&path).unwrap(), open(&path));
    assert_eq!(said(&below), "", "nothing is wrong with it yet");
    let mut wrong = Vec::new();
    let cases = cases(&below, &image, fs.as_ref());
    assert!(cases.len() >= 40);
    for (name, changes, want) in cases {
        let found = said(&changed(&below, &changes));
        if !found.contains(want) {
            wrong.push(format!("{name}: wanted {want:?}, got {:?}", found.chars().take(400).collect::<String>()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // The copy shows the same files.
    let copied = changed(&below, &[(4, vec![0; 4])]);
    let fs = disk_fs::open(&copied, Options::default()).unwrap().unwrap();
    let big = fs.content(find(fs.as_ref(), b"/big").unwrap()).unwrap();
    assert!(read(big.as_ref()) == content(100_000, 1));
}

#[test]
fn no_damage_of_xfs_stops_the_program() {
    let Some((_temp, path, _)) = dirty(&["-d", "agcount=2"], |root| {
        small(root);
        None
    }) else {
        return;
    };
    let (below, image, began) = (bytes(&path), std::fs::read(&path).unwrap(), Instant::now());
    // What has a magic is metadata; so is the log, of which some sectors have one.
    let metadata = |sector: &[u8]| {
        let magics =
            [&b"XFSB"[..], b"XAG", b"AB3", b"IAB3", b"BMA3", b"XD", b"IN", b"XARM", b"XSLM", b"\xfe\xed\xba\xbe"];
        magics.iter().any(|magic| sector.starts_with(magic)) || sector[8..].starts_with(&[0x3b, 0xee])
    };
    let places: Vec<_> =
        (0_u64..).zip(image.chunks(512)).filter(|(_, sector)| metadata(sector)).map(|(n, _)| n * 512).collect();
    assert!(places.len() > 100, "{}", places.len());
    let mut state = 0x9e37_79b9_7f4a_7c15;
    for sample in 0..150_usize {
        let changes: Vec<_> = (0..[1, 4, 16, 60][sample % 4])
            .map(|_| {
                // A few headers decide over all; they are hit as often as all the others.
                let place = if sample % 3 == 0 {
                    noise(&mut state) as u64 % 4 * 512
                } else {
                    places[noise(&mut state) % places.len()]
                };
                let byte = u8::try_from(noise(&mut state) % 256).unwrap();
                (place + noise(&mut state) as u64 % [24, 120, 512][sample % 3], vec![byte])
            })
            .collect();
        explore_bytes(&changed(&below, &changes));
    }
    for cut in [0, 100, 512, 5000, 1 << 20, image.len() / 2] {
        explore_bytes(&(Arc::new(impound::image::InMemory(image[..cut].to_vec())) as Arc<dyn ReadAt>));
    }
    assert!(began.elapsed() < Duration::from_secs(300), "{:?}", began.elapsed());
}
