//! LVM2: groups that LVM itself makes on loop devices; without device-mapper it activates nothing, so what a volume holds is
//! written to its extents here. A snapshot's metadata goes through `vgcfgrestore`, which checks it; its store is by a writer of ours.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use impound::disk::fs::{self, Options};
use impound::disk::volume::{Beside, Use, Volumes, scan, scan_with};
use impound::image::{InMemory, ReadAt, ReadError, map, read_vec};

use crate::kit::{bytes, folder, impound, make, tool};
use crate::luks::{QUICK, SECRET, luks2};

const MIB: u64 = 1 << 20;

/// Loop devices over files, and LVM confined to them.
struct Group {
    devices: Vec<String>,
}

impl Group {
    /// None where this machine has no loop devices.
    fn on(files: &[&Path]) -> Option<Self> {
        let mut group = Self { devices: Vec::new() };
        for file in files {
            let output = Command::new("losetup").args(["-f", "--show"]).arg(file).output().ok()?;
            if !output.status.success() {
                eprintln!("not run: this machine has no loop devices");
                return None;
            }
            group.devices.push(String::from_utf8(output.stdout).unwrap().trim().to_owned());
        }
        Some(group)
    }

    /// Runs LVM without device-mapper.
    fn lvm(&self, args: &[&str]) -> String {
        let only: Vec<_> = self.devices.iter().map(|device| format!("\"a|^{device}$|\"")).collect();
        let only = only.join(",");
        let config = format!(
            "devices {{ scan=[\"/dev\"] filter=[{only},\"r|.*|\"] use_devicesfile=0 }} \
             activation {{ udev_sync=0 udev_rules=0 }} backup {{ backup=0 archive=0 }} global {{ locking_type=0 }}"
        );
        let all = args.iter().copied().chain(["--driverloaded", "n", "--config", &config]);
        String::from_utf8(tool("lvm", all).stdout).unwrap()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        for device in &self.devices {
            let _ = Command::new("losetup").args(["-d", device]).status();
        }
    }
}

fn file(at: &Path, name: &str, len: u64) -> PathBuf {
    let path = at.join(name);
    std::fs::File::create(&path).unwrap().set_len(len).unwrap();
    path
}

/// A file system of `len` bytes that holds one file.
fn content(at: &Path, name: &str, text: &str, len: u64) -> Vec<u8> {
    let (tree, image) = (at.join(format!("{name}.tree")), at.join(format!("{name}.ext")));
    std::fs::create_dir(&tree).unwrap();
    std::fs::write(tree.join("who"), text).unwrap();
    make(&image, &["-t", "ext4", "-b", "1024"], &tree, &format!("{}M", len / MIB));
    std::fs::read(image).unwrap()
}

fn write(path: &Path, at: u64, bytes: &[u8]) {
    let file = std::fs::File::options().write(true).open(path).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, bytes, at).unwrap();
}

fn all_of(volumes: &Volumes, label: &str) -> Vec<u8> {
    let bytes = volumes.labelled(label).unwrap_or_else(|| panic!("no {label}")).bytes().unwrap();
    crate::kit::read(bytes.as_ref())
}

fn labels(volumes: &Volumes, what: Use) -> Vec<&str> {
    volumes.list.iter().filter(|one| one.what == what).filter_map(|one| one.label.as_deref()).collect()
}

fn with(path: &Path, others: &[&Path]) -> Volumes {
    let with =
        others.iter().map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), bytes(path))).collect();
    scan_with(&bytes(path), &Beside { with, passphrase: None }).unwrap()
}

/// Two physical volumes; `root` is linear in two segments, `my-data` is striped over both.
struct Two {
    temp: tempfile::TempDir,
    first: PathBuf,
    second: PathBuf,
    root: Vec<u8>,
    data: Vec<u8>,
}

fn two() -> Option<Two> {
    let temp = folder();
    let (first, second) = (file(temp.path(), "first", 40 * MIB), file(temp.path(), "second", 30 * MIB));
    let group = Group::on(&[&first, &second])?;
    let devices: Vec<&str> = group.devices.iter().map(String::as_str).collect();
    group.lvm(&["pvcreate", "--pvmetadatacopies", "2", devices[0], devices[1]]);
    group.lvm(&["vgcreate", "-s", "1M", "vg0", devices[0], devices[1]]);
    let create = ["lvcreate", "-an", "-Zn", "-Wn"];
    group.lvm(&[&create[..], &["-n", "root", "-L", "8M", "vg0", devices[0]]].concat());
    group.lvm(&[&create[..], &["-n", "my-data", "-i2", "-I64k", "-L", "16M", "vg0"]].concat());
    group.lvm(&["lvextend", "-L", "16M", "vg0/root", devices[0]]);
    drop(group);
    let (root, data) = (content(temp.path(), "root", "root", 16 * MIB), content(temp.path(), "data", "data", 16 * MIB));
    let half = usize::try_from(8 * MIB).unwrap();
    write(&first, MIB, &root[..half]);
    write(&first, 17 * MIB, &root[half..]);
    for (turn, chunk) in (0_u64..).zip(data.chunks(64 << 10)) {
        let (path, from) = if turn % 2 == 0 { (&first, 9 * MIB) } else { (&second, MIB) };
        write(path, from + turn / 2 * (64 << 10), chunk);
    }
    Some(Two { temp, first, second, root, data })
}

#[test]
fn linear_and_striped_volumes_are_read_over_two_images() {
    let Some(two) = two() else { return };
    let found = with(&two.first, &[&two.second]);
    assert_eq!(found.odd, Vec::<String>::new());
    assert_eq!(labels(&found, Use::Volume), ["vg0-my--data", "vg0-root"]);
    assert_eq!(labels(&found, Use::Member), ["p0", "second:p0"]);
    assert!(all_of(&found, "vg0-root") == two.root, "the linear volume");
    assert!(all_of(&found, "vg0-my--data") == two.data, "the striped volume");
    let gaps: Vec<_> = found
        .list
        .iter()
        .filter(|one| one.what == Use::Gap)
        .map(|gap| (gap.on.clone().unwrap(), gap.from, gap.len))
        .collect();
    assert_eq!(gaps, [("p0".into(), Some(25 * MIB), 14 * MIB), ("second:p0".into(), Some(9 * MIB), 20 * MIB)]);
    let (first, second) = (two.first.to_string_lossy(), two.second.to_string_lossy());
    let (text, code) = impound(["disk", &format!("{first}:vg0-my--data:/who"), "--with", &second, "cat"]);
    assert_eq!((text.as_str(), code), ("data", 0));
    let (text, code) = impound(["--format", "jsonl", "disk", &first, "--with", &second, "hash"]);
    assert_eq!((text.lines().count(), code), (2, 0), "{text}");
    let (text, code) = impound(["disk", &format!("{first}:vg0-none"), "ls"]);
    assert_eq!((text.as_str(), code), ("", 2));
}

/// What LUKS held was once taken for two volumes with one name, and that was called odd.
#[test]
fn a_group_inside_luks_is_met_once() {
    let temp = folder();
    let volume = file(temp.path(), "pv", 24 * MIB);
    let Some(group) = Group::on(&[&volume]) else { return };
    let device = group.devices[0].as_str();
    group.lvm(&["pvcreate", device]);
    group.lvm(&["vgcreate", "-s", "1M", "vg0", device]);
    group.lvm(&["lvcreate", "-an", "-Zn", "-Wn", "-n", "root", "-L", "16M", "vg0"]);
    drop(group);
    let root = content(temp.path(), "root", "root", 16 * MIB);
    write(&volume, MIB, &root);
    let locked = luks2(temp.path(), &volume, "locked", &QUICK);
    let found = crate::luks::scan(&bytes(&locked), SECRET);
    assert_eq!(found.odd, Vec::<String>::new());
    assert_eq!((labels(&found, Use::Volume), labels(&found, Use::Member)), (vec!["vg0-root"], vec!["p0"]));
    assert!(all_of(&found, "vg0-root") == root);
}

#[test]
fn a_physical_volume_that_is_not_here_is_a_gap_and_exit_3() {
    let Some(two) = two() else { return };
    let found = with(&two.first, &[]);
    let data = found.labelled("vg0-my--data").unwrap();
    assert!(data.lacks.as_ref().unwrap().contains("--with"), "{:?}", data.lacks);
    let bytes = data.bytes().unwrap();
    assert_eq!(read_vec(bytes.as_ref(), 0, 64 << 10).unwrap(), two.data[..64 << 10]);
    let gap = read_vec(bytes.as_ref(), 0, 65 << 10).unwrap_err();
    assert!(matches!(gap, ReadError::Gap { at: 0x1_0000, len: 0x1_0000, .. }), "{gap}");
    let totals = map::Totals::of(bytes.as_ref()).unwrap();
    assert_eq!(totals.unreadable, 8 * MIB);
    let name = two.first.to_string_lossy();
    assert_eq!(impound(["disk", &name, "ls"]).1, 3);
    assert_eq!(impound(["disk", &name, "parts"]).1, 3);
    assert_eq!(impound(["disk", &format!("{name}:vg0-root"), "ls"]).1, 0, "this one is all there");
}

#[test]
fn the_newest_copy_of_the_metadata_counts_and_damage_is_said() {
    let Some(two) = two() else { return };
    let good = std::fs::read(&two.first).unwrap();
    let old = two.temp.path().join("old");
    // A copy of the second from before the group changed again.
    std::fs::copy(&two.second, &old).unwrap();
    let group = Group::on(&[&two.first, &two.second]).unwrap();
    group.lvm(&["lvcreate", "-an", "-Zn", "-Wn", "-n", "late", "-L", "2M", "vg0"]);
    drop(group);
    let found = with(&two.first, &[&old]);
    assert!(found.labelled("vg0-late").is_some());
    assert!(found.odd.iter().any(|line| line.contains("copies of the metadata of vg0 differ")), "{:?}", found.odd);
    // The first area broken in its header, then in its text: the second one at the end is used.
    let text = 4096 + usize::try_from(u64::from_le_bytes(good[4136..4144].try_into().unwrap())).unwrap();
    for at in [4096 + 40, text + 30] {
        let mut damaged = good.clone();
        damaged[at] ^= 1;
        let found = scan(&(Arc::new(InMemory(damaged)) as Arc<dyn ReadAt>)).unwrap();
        assert!(found.odd.iter().any(|line| line.contains("checksum")), "{at}: {:?}", found.odd);
        assert!(all_of(&found, "vg0-root") == two.root);
    }
    // The label itself: the volume is still named, and why it cannot be read.
    let mut damaged = good.clone();
    damaged[512 + 40] ^= 1;
    let found = scan(&(Arc::new(InMemory(damaged)) as Arc<dyn ReadAt>)).unwrap();
    assert_eq!(found.list[0].holds, Some("lvm2"));
    assert!(found.list[0].lacks.as_ref().unwrap().contains("LVM label is damaged"), "{:?}", found.list[0].lacks);
    // Cut short: the label tells how long it was.
    let found = scan(&(Arc::new(InMemory(good[..20 << 20].to_vec())) as Arc<dyn ReadAt>)).unwrap();
    assert!(found.odd.iter().any(|line| line.contains("should have")), "{:?}", found.odd);
    let root = found.labelled("vg0-root").unwrap().bytes().unwrap();
    assert!(read_vec(root.as_ref(), 0, 8 << 20).is_ok());
    assert!(read_vec(root.as_ref(), 0, 16 << 20).unwrap_err().is_gap());
}

/// The store of a snapshot whose chunks of 4 KiB keep what `old` has and `new` has not.
fn store(old: &[u8], new: &[u8]) -> (Vec<u8>, u64) {
    let mut header = vec![0; 4096];
    for (at, word) in [(0, 0x7041_6e53_u32), (4, 1), (8, 1), (12, 8)] {
        header[at..at + 4].copy_from_slice(&word.to_le_bytes());
    }
    let differ: Vec<_> =
        (0_u64..).zip(old.chunks(4096).zip(new.chunks(4096))).filter(|(_, (old, new))| old != new).collect();
    let (mut out, mut chunk) = (header, 1_u64);
    for area in differ.chunks(256) {
        let mut list = Vec::new();
        for ((number, _), place) in area.iter().zip(chunk + 1..) {
            list.extend(number.to_le_bytes().into_iter().chain(place.to_le_bytes()));
        }
        list.resize(4096, 0);
        out.extend(list);
        for (_, (old, _)) in area {
            out.extend_from_slice(old);
        }
        chunk += 1 + area.len() as u64;
    }
    (out, differ.len() as u64)
}

/// What `lvcreate -s` and `--type mirror` would write if there were device-mapper.
const MORE: &str = r#"
snapshot0 {
  id = "W3Gomr-Vwe4-7vpG-6t2z-nXLb-LeMD-N94p3J"
  status = ["READ", "WRITE", "VISIBLE"]
  segment_count = 1
  segment1 { start_extent = 0 extent_count = 8 type = "snapshot" chunk_size = 8 origin = "origin" cow_store = "snap" }
}
mir {
  id = "W3Gomr-Vwe4-7vpG-6t2z-nXLb-LeMD-N94p3K"
  status = ["READ", "WRITE", "VISIBLE"]
  segment_count = 1
  segment1 { start_extent = 0 extent_count = 1 type = "mirror" mirror_count = 1 region_size = 64 mirrors = [ "im0", 0 ] }
}
nul {
  id = "W3Gomr-Vwe4-7vpG-6t2z-nXLb-LeMD-N94p3L"
  status = ["READ", "WRITE", "VISIBLE"]
  segment_count = 1
  segment1 { start_extent = 0 extent_count = 4 type = "zero" }
}
"#;

#[test]
fn a_snapshot_shows_its_view_and_the_origin_its_own() {
    let temp = folder();
    let disk = file(temp.path(), "disk", 32 * MIB);
    let Some(group) = Group::on(&[&disk]) else { return };
    group.lvm(&["pvcreate", &group.devices[0]]);
    group.lvm(&["vgcreate", "-s", "1M", "vs", &group.devices[0]]);
    for (name, size) in [("origin", "8M"), ("snap", "10M"), ("im0", "1M")] {
        group.lvm(&["lvcreate", "-an", "-Zn", "-Wn", "-n", name, "-L", size, "vs"]);
    }
    let text = temp.path().join("text");
    let name = text.to_string_lossy();
    group.lvm(&["vgcfgbackup", "-f", &name, "vs"]);
    let saved = std::fs::read_to_string(&text).unwrap();
    let end = saved.rfind("\t}\n").unwrap();
    std::fs::write(&text, format!("{}{MORE}{}", &saved[..end], &saved[end..])).unwrap();
    group.lvm(&["vgcfgrestore", "-f", &name, "vs"]);
    let theirs = group.lvm(&["lvs", "-a", "--noheadings", "-o", "lv_name,origin,segtype"]);
    assert!(theirs.lines().any(|line| line.split_whitespace().eq(["snap", "origin", "linear"])), "{theirs}");
    drop(group);
    let (old, new) = (content(temp.path(), "old", "before", 8 * MIB), content(temp.path(), "new", "after", 8 * MIB));
    // Enough differences for several areas of exceptions.
    let new: Vec<u8> = new.iter().enumerate().map(|(at, byte)| if at >= 6 << 20 { !byte } else { *byte }).collect();
    let (store, moved) = store(&old, &new);
    assert!(moved > 512, "{moved}");
    write(&disk, MIB, &new);
    write(&disk, 9 * MIB, &store);
    let found = with(&disk, &[]);
    assert_eq!(labels(&found, Use::Volume), ["vs-im0", "vs-mir", "vs-nul", "vs-origin", "vs-snap"]);
    assert!(all_of(&found, "vs-origin") == new && all_of(&found, "vs-snap") == old);
    assert_eq!(all_of(&found, "vs-nul"), vec![0; 4 << 20]);
    let snap = found.labelled("vs-snap").unwrap();
    assert!(snap.note.as_ref().unwrap().contains(&format!("{moved} chunks")), "{:?}", snap.note);
    assert!(found.labelled("vs-mir").unwrap().bytes().is_err_and(|error| error.to_string().contains("mirror")));
    let who = |label: &str| impound(["disk", &format!("{}:{label}:/who", disk.display()), "cat"]).0;
    assert_eq!((who("vs-origin").as_str(), who("vs-snap").as_str()), ("after", "before"));
    // A snapshot that ran full says so, and one chunk twice is damage.
    for (at, value, word) in
        [(4, 0_u32, "invalid"), (4096 + 16, 0, "twice"), (12, 7, "power of two"), (4096 + 8, 9000, "chunks")]
    {
        let mut image = std::fs::read(&disk).unwrap();
        let place = usize::try_from(9 * MIB).unwrap() + at;
        let first: [u8; 8] = image[place - place % 4096..][..8].try_into().unwrap();
        image[place..place + 4].copy_from_slice(&value.to_le_bytes());
        if word == "twice" {
            image[place..place + 8].copy_from_slice(&first);
        }
        let found = scan(&(Arc::new(InMemory(image)) as Arc<dyn ReadAt>)).unwrap();
        let error = found.labelled("vs-snap").unwrap().bytes().map(drop).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    }
}

#[test]
fn no_damage_to_a_group_stops_the_program() {
    let Some(two) = two() else { return };
    let good = std::fs::read(&two.first).unwrap();
    let text = good[4608..16384].windows(5).position(|part| part == b"vg0 {").unwrap() + 4608;
    let mut state = 0x9e37_79b9_7f4a_7c15;
    for (at, len) in [(512, 200), (4096, 64), (text, 4096)] {
        for round in 0..40 {
            let mut image = good.clone();
            for _ in 0..=round % 4 {
                image[at + crate::damage::noise(&mut state) % len] ^= 1 << (round % 8);
            }
            let disk = Arc::new(InMemory(image)) as Arc<dyn ReadAt>;
            let Ok(found) = scan(&disk) else { continue };
            for volume in found.readable() {
                let _ = volume.bytes().map(|bytes| fs::open(&bytes, Options::default()).map(drop));
            }
        }
    }
}
