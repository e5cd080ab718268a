//! VMDK: every subformat of qemu-img, chains, and ESX deltas (COWD, seSparse) by small writers of ours, which qemu-img
//! reads as an outside witness.

#![allow(clippy::cast_possible_truncation, reason = "the fixtures are small")]

use std::fs;
use std::path::{Path, PathBuf};

use impound::image::{self, Kind, Options, ReadError, map};

use crate::deltas::{Grain, cowd, descriptor, put, sesparse};
use crate::kit;

const LEN: usize = (6 << 20) + (64 << 10) + 5 * 512;

fn img(args: &[&str]) {
    kit::tool("qemu-img", args);
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn at(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        fs::write(self.path(name), bytes).unwrap();
        self.path(name)
    }

    fn convert(&self, want: &[u8], options: &str, name: &str) -> PathBuf {
        let raw = self.write("disk.raw", want);
        img(&["convert", "-O", "vmdk", "-o", options, raw.to_str().unwrap(), &self.at(name)]);
        self.path(name)
    }

    fn outside(&self, name: &str) -> Vec<u8> {
        img(&["convert", "-O", "raw", &self.at(name), &self.at("outside.raw")]);
        fs::read(self.path("outside.raw")).unwrap()
    }
}

fn refused(path: &Path, options: &Options) -> ReadError {
    match image::open(path, options) {
        Ok(_) => panic!("{} was opened", path.display()),
        Err(error) => error,
    }
}

fn corrupt(path: &Path, what: &str) {
    let error = kit::explore(path).unwrap_err();
    let ReadError::Corrupt { expected, .. } = error.root() else { panic!("{error}") };
    assert!(expected.contains(what), "{error}");
}

#[test]
fn every_subformat_that_qemu_img_writes() {
    let want = kit::content(LEN);
    for options in [
        "subformat=monolithicSparse",
        "subformat=monolithicSparse,zeroed_grain=on",
        "subformat=monolithicFlat",
        "subformat=twoGbMaxExtentSparse",
        "subformat=twoGbMaxExtentFlat",
        "subformat=streamOptimized",
    ] {
        let folder = Folder::new();
        let path = folder.convert(&want, options, "disk.vmdk");
        let image = kit::open(&path);
        assert_eq!(kit::wrappings(&image), ["vmdk"], "{options}");
        kit::holds(&image, &want);
        let odd = &image.layers()[0].odd;
        assert!(odd.is_empty(), "{options}: {odd:?}");
        if !options.contains("Flat") {
            assert!(map::Totals::of(image.bytes().as_ref()).unwrap().zero > 1 << 20, "{options}");
        }
    }
}

#[test]
fn extents_of_two_gigabytes_follow_each_other() {
    let folder = Folder::new();
    let file = folder.at("disk.vmdk");
    img(&["create", "-q", "-f", "vmdk", "-o", "subformat=twoGbMaxExtentSparse", &file, "5G"]);
    let write = "write -P 5 2147418112 128k";
    kit::tool("qemu-io", ["-f", "vmdk", "-c", write, "-c", "write -P 6 5368705024 4k", &file]);
    let image = kit::open(Path::new(&file));
    let bytes = image.bytes();
    let mut part = vec![0; (128 << 10) + 2];
    bytes.read_at((2 << 30) - (64 << 10) - 1, &mut part).unwrap();
    assert!(part[0] == 0 && part[part.len() - 1] == 0 && part[1..part.len() - 1].iter().all(|&b| b == 5));
    let data: u64 = map::walk(bytes.as_ref(), 0..bytes.len())
        .map(Result::unwrap)
        .filter(|extent| extent.kind == Kind::Data)
        .map(|extent| extent.len)
        .sum();
    assert_eq!(data, 3 * (64 << 10));
    // One of the extents by itself: nobody knows what lies under it.
    let image = kit::open(&folder.path("disk-s002.vmdk"));
    assert!(image.layers()[0].odd[0].contains("without its descriptor"));
}

#[test]
fn a_chain_is_read_and_its_identifiers_must_agree() {
    let folder = Folder::new();
    let want = kit::content(4 << 20);
    folder.convert(&want, "subformat=twoGbMaxExtentSparse", "base.vmdk");
    img(&["create", "-q", "-f", "vmdk", "-b", &folder.at("base.vmdk"), "-F", "vmdk", &folder.at("top.vmdk")]);
    kit::tool("qemu-io", ["-f", "vmdk", "-c", "write -P 9 100k 300k", &folder.at("top.vmdk")]);
    let image = kit::open(&folder.path("top.vmdk"));
    kit::holds(&image, &folder.outside("top.vmdk"));
    assert!(image.layers()[0].files.iter().any(|(_, name)| name.ends_with("base.vmdk")), "{:?}", image.layers());
    let base = String::from_utf8(fs::read(folder.path("base.vmdk")).unwrap()).unwrap();
    let cid = base.lines().find(|line| line.starts_with("CID=")).unwrap();
    folder.write("base.vmdk", base.replace(cid, "CID=12345678"));
    let error = refused(&folder.path("top.vmdk"), &Options::default());
    let text = error.to_string();
    assert!(text.contains("damaged") && text.contains("12345678") && text.contains(&cid[4..]), "{text}");
}

#[test]
fn deltas_of_esx_read_as_qemu_img_reads_them() {
    let folder = Folder::new();
    let base = kit::content(20 << 20);
    let sectors = base.len() / 512;
    folder.write("web-flat.vmdk", &base);
    folder.write("web.vmdk", descriptor("7475b330", None, &[format!("RW {sectors} VMFS \"web-flat.vmdk\"")]));
    kit::holds(&kit::open(&folder.path("web.vmdk")), &base);
    assert_eq!(kit::wrappings(&kit::open(&folder.path("web-flat.vmdk"))), ["raw"]);

    let grains = [(0, [1; 512]), (1, [2; 512]), (100, [3; 512]), (4096 + 7, [4; 512]), (sectors as u32 - 1, [5; 512])];
    let mut want = base.clone();
    for (sector, bytes) in &grains {
        want[*sector as usize * 512..][..512].copy_from_slice(bytes);
    }
    folder.write("web-000001-delta.vmdk", cowd(sectors as u32, &grains));
    let line = format!("RW {sectors} VMFSSPARSE \"web-000001-delta.vmdk\"");
    let parent = Some(("7475b330", "/vmfs/volumes/5f-a/web/web.vmdk"));
    folder.write("web-000001.vmdk", descriptor("0e3c9a12", parent, std::slice::from_ref(&line)));
    let image = kit::open(&folder.path("web-000001.vmdk"));
    assert!(image.layers()[0].odd[0].contains("web.vmdk beside it was taken"), "{:?}", image.layers());
    kit::holds(&image, &want);
    folder.write("near.vmdk", descriptor("0e3c9a12", Some(("7475b330", "web.vmdk")), &[line]));
    assert!(folder.outside("near.vmdk") == want);

    let grains =
        [(0, Grain::Bytes(7)), (1, Grain::Bytes(8)), (3, Grain::Zero), (9, Grain::Unmapped), (4097, Grain::Bytes(9))];
    for (grain, kind) in &grains {
        let byte = if let Grain::Bytes(byte) = kind { *byte } else { 0 };
        want[grain * 4096..][..4096].fill(byte);
    }
    folder.write("web-000002-sesparse.vmdk", sesparse(sectors as u64, &grains));
    let line = format!("RW {sectors} SESPARSE \"web-000002-sesparse.vmdk\"");
    folder.write("web-000002.vmdk", descriptor("0e3c9a13", Some(("0e3c9a12", "near.vmdk")), &[line]));
    let image = kit::open(&folder.path("web-000002.vmdk"));
    kit::holds(&image, &want);
    assert!(image.layers()[0].odd.iter().any(|odd| odd.starts_with("1 grains are marked as unmapped")));
    assert!(folder.outside("web-000002.vmdk") == want);
}

#[test]
fn a_delta_by_itself_has_gaps_where_its_parent_was() {
    let folder = Folder::new();
    folder.write("cowd.vmdk", cowd(9000, &[(5, [1; 512])]));
    folder.write("se.vmdk", sesparse(9000, &[(5, Grain::Bytes(1))]));
    for (name, at, len) in [("cowd.vmdk", 5 * 512, 512), ("se.vmdk", 5 * 4096, 4096_usize)] {
        let image = kit::open(&folder.path(name));
        assert!(image.layers()[0].odd[0].contains("without its descriptor"));
        let bytes = image.bytes();
        let mut part = vec![0; len];
        bytes.read_at(at, &mut part).unwrap();
        assert!(part.iter().all(|&byte| byte == 1));
        let error = bytes.read_at(at + 1, &mut part).unwrap_err();
        assert!(error.is_gap() && error.to_string().contains("in the parent disk, which was not given"), "{error}");
        let totals = map::Totals::of(bytes.as_ref()).unwrap();
        assert_eq!((totals.data, totals.unreadable), (len as u64, 9000 * 512 - len as u64));
    }
}

#[test]
fn extents_of_every_type_make_one_disk() {
    let folder = Folder::new();
    folder.write("a.bin", [[1; 512], [2; 512], [3; 512]].concat());
    let lines = ["RW 2 FLAT \"a.bin\" 1", "RW 3 ZERO", "RDONLY 1 VMFS \"a.bin\" 0", "NOACCESS 4 FLAT \"gone.bin\" 0"];
    let path = folder.write("d.vmdk", descriptor("1", None, &lines.map(str::to_owned)));
    let image = kit::open(&path);
    let mut bytes = vec![9; 6 * 512];
    image.bytes().read_at(0, &mut bytes).unwrap();
    assert_eq!(bytes, [[2; 512], [3; 512], [0; 512], [0; 512], [0; 512], [1; 512]].concat());
    let error = image.bytes().read_at(6 * 512, &mut bytes[..1]).unwrap_err();
    assert!(matches!(error.root(), ReadError::Gap { at: 3072, .. }), "{error}");
    assert_eq!(map::Totals::of(image.bytes().as_ref()).unwrap().unreadable, 4 * 512);
}

#[test]
fn extents_and_parents_elsewhere_are_refused() {
    let folder = Folder::new();
    let follow = Options { follow: true, ..Options::default() };
    for kind in ["FLAT", "VMFS", "SPARSE", "VMFSSPARSE", "SESPARSE"] {
        for name in ["/etc/passwd", "../../../../../../../etc/passwd", "/dev/zero", "/proc/self/mem", "d.vmdk", ""] {
            let path = folder.write("d.vmdk", descriptor("1", None, &[format!("RW 1 {kind} \"{name}\" 0")]));
            let error = refused(&path, &Options::default());
            assert!(!matches!(error.root(), ReadError::Corrupt { .. }), "{kind} {name}: {error}");
        }
        let path = folder.write("d.vmdk", descriptor("1", None, &[format!("RW 1 {kind} \"/dev/zero\" 0")]));
        refused(&path, &follow);
    }
    let path = folder.write("d.vmdk", descriptor("1", Some(("2", "/etc/passwd")), &["RW 1 ZERO".to_owned()]));
    refused(&path, &Options::default());
    refused(&path, &follow);
    let path = folder.write("d.vmdk", descriptor("1", Some(("1", "d.vmdk")), &["RW 1 ZERO".to_owned()]));
    assert!(refused(&path, &Options::default()).to_string().contains("leads back to itself"));
    folder.write("e.vmdk", descriptor("1", Some(("1", "d.vmdk")), &["RW 1 ZERO".to_owned()]));
    let path = folder.write("d.vmdk", descriptor("1", Some(("1", "e.vmdk")), &["RW 1 ZERO".to_owned()]));
    assert!(refused(&path, &Options::default()).to_string().contains("leads back to itself"));
    for (line, what) in [("RW 9 VMFSRDM \"x-rdm.vmdk\"", "raw device"), ("encryption.data = \"x\"", "encrypted")] {
        let path = folder.write("d.vmdk", descriptor("1", None, &[line.to_owned()]));
        let error = refused(&path, &Options::default());
        assert!(matches!(error.root(), ReadError::Unsupported { .. }) && error.to_string().contains(what), "{error}");
    }
}

#[test]
fn a_damaged_directory_is_replaced_by_its_copy_and_told() {
    let folder = Folder::new();
    let want = kit::content(3 << 20);
    let path = folder.convert(&want, "subformat=monolithicSparse", "disk.vmdk");
    let good = fs::read(&path).unwrap();
    let field = |at: usize| u64::from_le_bytes(good[at..at + 8].try_into().unwrap()) as usize * 512;
    let (spare, first) = (field(48), field(56));
    let mut bytes = good.clone();
    bytes[first..first + 4].copy_from_slice(&0x7fff_ffff_u32.to_le_bytes());
    fs::write(&path, &bytes).unwrap();
    let image = kit::open(&path);
    assert!(image.layers()[0].odd[0].contains("redundant grain directory was used"), "{:?}", image.layers()[0].odd);
    kit::holds(&image, &want);
    bytes[spare..spare + 4].copy_from_slice(&0x7fff_ffff_u32.to_le_bytes());
    fs::write(&path, &bytes).unwrap();
    corrupt(&path, "a grain table behind the header");
    // Only the copy of a table differs.
    let mut bytes = good.clone();
    let table = u32::from_le_bytes(good[spare..spare + 4].try_into().unwrap()) as usize * 512;
    bytes[table] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let image = kit::open(&path);
    assert!(image.layers()[0].odd[0].contains("1 grain tables differ"), "{:?}", image.layers()[0].odd);
    kit::holds(&image, &want);
}

#[test]
fn damage_anywhere_is_named() {
    let folder = Folder::new();
    let want = kit::content(400 << 10);
    let sparse = folder.convert(&want, "subformat=monolithicSparse", "sparse.vmdk");
    assert!(kit::survives(&sparse, (0..80).chain((512..900).step_by(4))) > 100);
    let stream = folder.convert(&want, "subformat=streamOptimized", "stream.vmdk");
    let len = fs::metadata(&stream).unwrap().len() as usize;
    assert!(kit::survives(&stream, (0..80).chain((65536..len).step_by(997)).chain(len - 1536..len)) > 100);
    let cowd = folder.write("cowd.vmdk", cowd(9000, &[(5, [1; 512]), (6, [1; 512])]));
    assert!(kit::survives(&cowd, (0..32).chain(2048..2056).chain(2560 + 16..2560 + 32)) > 40);
    let se = folder.write("se.vmdk", sesparse(9000, &[(5, Grain::Bytes(1))]));
    assert!(kit::survives(&se, (0..208).step_by(2).chain(512..544).chain(4096..4104).chain(8192 + 40..8192 + 48)) > 80);
    let text = folder.write("d.vmdk", descriptor("1", None, &["RW 400 VMFS \"disk.raw\" 0".to_owned()]));
    let len = fs::metadata(&text).unwrap().len() as usize;
    assert!(kit::survives(&text, (0..len).step_by(3)) > 40);
}

#[test]
fn grains_that_are_not_their_own_are_named() {
    let folder = Folder::new();
    let want = vec![7; 1 << 20];
    let path = folder.convert(&want, "subformat=streamOptimized", "stream.vmdk");
    let mut bytes = fs::read(&path).unwrap();
    let directory = u64::from_le_bytes(bytes[56..64].try_into().unwrap()) as usize * 512;
    let table = u32::from_le_bytes(bytes[directory..directory + 4].try_into().unwrap()) as usize * 512;
    bytes.copy_within(table..table + 4, table + 4);
    fs::write(&path, &bytes).unwrap();
    corrupt(&path, "the grain of sector 128");
    let good = cowd(3 * 4096, &[(0, [1; 512]), (5000, [2; 512])]);
    for (at, value, what) in [
        (2048, 4, "outside the grain directory"),
        (2048, 0, ""),
        (2052, u32::from_le_bytes(good[2048..2052].try_into().unwrap()), "a grain table of its own"),
        (2048, 0x00ff_ffff, "a grain table behind"),
    ] {
        let mut bytes = good.clone();
        put(&mut bytes, at, &u32::to_le_bytes(value));
        let path = folder.write("cowd.vmdk", bytes);
        match kit::explore(&path) {
            Ok(()) => assert!(what.is_empty() || value == 4, "{what}"),
            Err(error) => assert!(error.to_string().contains(what), "{error}"),
        }
    }
}

/// As VMware's products write it: the directory is told by a footer only. qemu-img writes none, but reads it.
#[test]
fn the_footer_of_a_stream_is_read() {
    let folder = Folder::new();
    let want = kit::content(3 << 20);
    let path = folder.convert(&want, "subformat=streamOptimized", "stream.vmdk");
    let mut bytes = fs::read(&path).unwrap();
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    let header = bytes[..512].to_vec();
    bytes[56..64].fill(0xff);
    let mut marker = vec![0; 512];
    marker[0] = 1;
    marker[12] = 3;
    bytes.extend(marker);
    bytes.extend(header);
    bytes.extend([0; 512]);
    folder.write("stream.vmdk", &bytes);
    kit::holds(&kit::open(&path), &want);
    assert!(folder.outside("stream.vmdk") == want);
    bytes.truncate(bytes.len() - 512);
    folder.write("stream.vmdk", &bytes);
    corrupt(&path, "the marker of a footer");
}
