//! Linux software RAID. `mdadm --create` needs the kernel's md, so superblocks are written here by the specification, and
//! `mdadm --examine` must find them right.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use impound::disk::volume::{Beside, Use, Volumes, scan_with};
use impound::image::{InMemory, ReadAt};

use crate::kit::{bytes, folder, impound, make, read, tool};

const LEN: usize = 24 << 20;
const DATA_AT: usize = 1 << 20;

struct Member {
    version: &'static str,
    level: i32,
    devices: u32,
    role: u16,
    events: u64,
    features: u32,
}

fn put<const N: usize>(bytes: &mut [u8], at: usize, value: [u8; N]) {
    bytes[at..at + N].copy_from_slice(&value);
}

fn sum(bytes: &[u8]) -> u32 {
    let all: u64 = bytes.chunks(4).map(|word| u64::from(u32::from_le_bytes(word.try_into().unwrap()))).sum();
    u32::try_from((all & 0xffff_ffff) + (all >> 32)).unwrap()
}

/// Bytes of data on each member.
fn size(version: &str) -> usize {
    if version == "0.90" { LEN - (64 << 10) } else { LEN - DATA_AT - (64 << 10) }
}

/// A member with `data` at its place.
fn member(of: &Member, data: &[u8]) -> Vec<u8> {
    let mut image = vec![0; LEN];
    let from = if of.version == "0.90" { 0 } else { DATA_AT };
    image[from..from + data.len()].copy_from_slice(data);
    let (block, at) = if of.version == "0.90" { (ninety(of), LEN - (64 << 10)) } else { one(of) };
    image[at..at + block.len()].copy_from_slice(&block);
    image
}

fn one(of: &Member) -> (Vec<u8>, usize) {
    let at = match of.version {
        "1.0" => LEN - (8 << 10),
        "1.1" => 0,
        _ => 4096,
    };
    let mut block = vec![0; 256 + 2 * 128];
    let sectors = |bytes: usize| (bytes as u64 / 512).to_le_bytes();
    for (at, word) in
        [(0, 0xa92b_4efc), (4, 1), (8, of.features), (72, of.level.cast_unsigned()), (88, 128), (92, of.devices)]
    {
        put(&mut block, at, u32::to_le_bytes(word));
    }
    put(&mut block, 16, *b"0123456789abcdef");
    put(&mut block, 32, *b"web01:0");
    put(&mut block, 64, 1_700_000_000_u64.to_le_bytes());
    put(&mut block, 80, sectors(size(of.version)));
    put(&mut block, 128, sectors(DATA_AT));
    put(&mut block, 136, sectors(size(of.version)));
    put(&mut block, 144, sectors(at));
    put(&mut block, 160, u32::from(of.role).to_le_bytes());
    put(&mut block, 168, [of.role.to_le_bytes()[0] + 1; 16]);
    put(&mut block, 192, 1_700_000_000_u64.to_le_bytes());
    put(&mut block, 200, of.events.to_le_bytes());
    put(&mut block, 208, u64::MAX.to_le_bytes());
    put(&mut block, 220, 128_u32.to_le_bytes());
    for role in 0..128_u16 {
        let value = if u32::from(role) < of.devices { role } else { 0xffff };
        put(&mut block, 256 + 2 * usize::from(role), value.to_le_bytes());
    }
    let checksum = sum(&block);
    put(&mut block, 216, checksum.to_le_bytes());
    (block, at)
}

fn ninety(of: &Member) -> Vec<u8> {
    let mut block = vec![0; 4096];
    let kib = u32::try_from(size(of.version) / 1024).unwrap();
    let events = u32::try_from(of.events).unwrap();
    let head =
        [(0, 0xa92b_4efc), (2, 90), (5, 0x1111_1111), (6, 1_700_000_000), (7, of.level.cast_unsigned()), (8, kib)];
    let more = [(9, of.devices), (10, of.devices), (11, 3), (13, 2), (14, 3), (15, 4), (32, 1_700_000_000), (33, 1)];
    let state = [(34, of.devices), (35, of.devices), (39, events), (65, 64 << 10)];
    for (word, value) in head.into_iter().chain(more).chain(state) {
        put(&mut block, word * 4, u32::to_le_bytes(value));
    }
    for device in 0..of.devices {
        for place in [128 + 32 * device, 992].into_iter().take(if device == u32::from(of.role) { 2 } else { 1 }) {
            for (word, value) in [(0, device), (1, 8), (2, device), (3, device), (4, 6)] {
                put(&mut block, (place + word) as usize * 4, value.to_le_bytes());
            }
        }
    }
    let checksum = sum(&block);
    put(&mut block, 38 * 4, checksum.to_le_bytes());
    block
}

/// A file system that holds one file.
fn content(at: &Path, text: &str) -> Vec<u8> {
    let (tree, image) = (at.join("tree"), at.join("content"));
    std::fs::create_dir_all(&tree).unwrap();
    std::fs::write(tree.join("who"), text).unwrap();
    make(&image, &["-t", "ext4", "-b", "1024"], &tree, "16M");
    std::fs::read(image).unwrap()
}

fn save(at: &Path, name: &str, image: &[u8]) -> PathBuf {
    let path = at.join(name);
    std::fs::write(&path, image).unwrap();
    path
}

fn scan(first: &Path, others: &[&Path]) -> Volumes {
    let with = others.iter().map(|path| (path.display().to_string(), bytes(path))).collect();
    scan_with(&bytes(first), &Beside { with, passphrase: None }).unwrap()
}

#[test]
fn every_version_is_named_as_mdadm_names_it_and_raid_1_is_read_from_one_member() {
    let temp = folder();
    let data = content(temp.path(), "mirrored");
    for version in ["0.90", "1.0", "1.1", "1.2"] {
        let image = member(&Member { version, level: 1, devices: 2, role: 1, events: 17, features: 0 }, &data);
        let path = save(temp.path(), version, &image);
        let theirs = String::from_utf8(tool("mdadm", ["--examine".as_ref(), path.as_os_str()]).stdout).unwrap();
        let said = |word: &str, value: &str| {
            let line =
                theirs.lines().find(|line| line.trim().starts_with(word)).unwrap_or_else(|| panic!("{word}: {theirs}"));
            assert!(line.contains(value), "{version}: {line}");
        };
        said("Checksum", "correct");
        said("Version", version);
        said("Raid Level", "raid1");
        said("Events", "17");
        let found = scan(&path, &[]);
        let label = if version == "0.90" { "md3" } else { "md0" };
        let array = found.labelled(label).unwrap();
        assert_eq!(found.odd, Vec::<String>::new(), "{version}");
        assert_eq!((array.what, array.kind.as_str(), array.holds), (Use::Volume, "md raid1", Some("ext")));
        assert_eq!(array.len, size(version) as u64);
        assert!(array.note.as_ref().unwrap().starts_with("1 of 2 devices, events 17, array "), "{:?}", array.note);
        let uuid = array.note.as_ref().unwrap().rsplit(' ').next().unwrap().to_owned();
        assert!(theirs.replace(':', "").contains(&uuid), "{uuid} is not in {theirs}");
        let note = found.labelled("p0").unwrap().note.clone().unwrap();
        assert_eq!(note, format!("role 1 of 2 of md {version} raid1, events 17"));
        let address = format!("{}:{label}:/who", path.display());
        assert_eq!(impound(["disk", &address, "cat"]), ("mirrored".to_owned(), 0));
    }
}

#[test]
fn a_stale_member_is_told_and_not_read() {
    let temp = folder();
    let (old, new) = (content(temp.path(), "stale"), content(temp.path(), "fresh"));
    let of = |role, events, features| Member { version: "1.2", level: 1, devices: 2, role, events, features };
    let stale = save(temp.path(), "stale", &member(&of(0, 5, 0), &old));
    let fresh = save(temp.path(), "fresh", &member(&of(1, 17, 0), &new));
    let (first, other) = (stale.to_string_lossy(), fresh.to_string_lossy());
    let found = scan(&stale, &[&fresh]);
    assert!(found.odd.iter().any(|line| line.starts_with("p0 is out of date")), "{:?}", found.odd);
    let address = format!("{first}:md0:/who");
    assert_eq!(impound(["disk", &address, "--with", &other, "cat"]), ("fresh".to_owned(), 0));
    assert_eq!(impound(["disk", &address, "cat"]).0, "stale", "alone, nothing tells");
    // One that is still being filled is no source.
    let filling = save(temp.path(), "filling", &member(&of(0, 17, 2), &old));
    assert_eq!(impound(["disk", &format!("{}:md0:/who", filling.display()), "--with", &other, "cat"]).0, "fresh");
    assert_eq!(impound(["disk", &filling.to_string_lossy(), "ls"]).1, 1);
}

#[test]
fn raid_0_and_linear_are_read_from_all_members_and_others_are_named() {
    let temp = folder();
    let data = content(temp.path(), "spread");
    let of = |level, role| Member { version: "1.2", level, devices: 2, role, events: 3, features: 0 };
    let mut halves = [Vec::new(), Vec::new()];
    data.chunks(64 << 10).enumerate().for_each(|(turn, chunk)| halves[turn % 2].extend_from_slice(chunk));
    for (level, parts) in [(0, halves), (-1, [data.clone(), Vec::new()])] {
        let first = save(temp.path(), &format!("{level}-first"), &member(&of(level, 0), &parts[0]));
        let second = save(temp.path(), &format!("{level}-second"), &member(&of(level, 1), &parts[1]));
        let found = scan(&second, &[&first]);
        let array = found.labelled("md0").unwrap();
        assert_eq!(array.len, 2 * size("1.2") as u64, "{level}");
        let bytes = read(array.bytes().unwrap().as_ref());
        assert!(bytes[..data.len()] == data, "level {level}");
        let alone = scan(&second, &[]);
        let why = alone.labelled("md0").unwrap().lacks.clone().unwrap();
        assert!(why.starts_with("member 0 of 2 is not here"), "{why}");
    }
    let five = save(temp.path(), "five", &member(&of(5, 0), &data));
    let (text, code) = impound(["disk", &five.to_string_lossy(), "parts"]);
    assert!(text.contains("md raid5") && code == 3, "{code}: {text}");
}

#[test]
fn no_damage_to_a_superblock_stops_the_program() {
    let mut state = 0x1234_5678_9abc_def1;
    for version in ["0.90", "1.0", "1.1", "1.2"] {
        let of = Member { version, level: 1, devices: 2, role: 0, events: 17, features: 0 };
        let good = member(&of, &[]);
        let at = if version == "0.90" { LEN - (64 << 10) } else { one(&of).1 };
        let length = if version == "0.90" { 4096 } else { 512 };
        for round in 0..40 {
            let mut image = good.clone();
            for _ in 0..=round % 4 {
                image[at + 4 + crate::damage::noise(&mut state) % (length - 4)] ^= 1 << (round % 8);
            }
            let disk = Arc::new(InMemory(image)) as Arc<dyn ReadAt>;
            let found = scan_with(&disk, &Beside::default()).unwrap();
            let lacks = found.list.iter().any(|one| one.lacks.is_some());
            // A sum does not see two flips that make up for each other.
            assert!(round % 4 > 0 || !found.odd.is_empty() || lacks, "{version}: round {round} went unnoticed");
        }
    }
}
