//! qcow2: everything qemu-img and qemu-io write, chains, snapshots, and every table damaged.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use impound::image::{self, Image, Kind, Options, ReadAt, ReadError, map, stream};

use crate::kit;

const LEN: usize = (6 << 20) + 5 * 512;

fn path(folder: &Path, name: &str) -> String {
    folder.join(name).to_str().unwrap().to_owned()
}

fn img(args: &[&str]) {
    kit::tool("qemu-img", args);
}

fn io(file: &str, commands: &[&str]) {
    let mut args = vec!["-f", "qcow2"];
    for command in commands {
        args.extend(["-c", command]);
    }
    args.push(file);
    kit::tool("qemu-io", args);
}

/// What qemu-img reads from the image.
fn outside(folder: &Path, file: &str, args: &[&str]) -> Vec<u8> {
    let raw = path(folder, "outside.raw");
    img(&[&["convert", "-O", "raw"], args, &[file, &raw]].concat());
    fs::read(raw).unwrap()
}

fn raw(folder: &Path, want: &[u8]) -> String {
    let raw = path(folder, "disk.raw");
    fs::write(&raw, want).unwrap();
    raw
}

fn facts<'a>(image: &'a Image, name: &str) -> Vec<&'a str> {
    let facts = image.layers().iter().flat_map(|layer| &layer.facts);
    facts.filter(|(fact, _)| *fact == name).map(|(_, value)| value.as_str()).collect()
}

fn be64(file: &[u8], at: u64) -> u64 {
    let at = usize::try_from(at).unwrap();
    u64::from_be_bytes(file[at..at + 8].try_into().unwrap())
}

/// Where the L1 table and the first L2 table are.
fn tables(file: &[u8]) -> (u64, u64) {
    let l1 = be64(file, 40);
    let entries = (0..).map(|i| be64(file, l1 + i * 8) & 0x00ff_ffff_ffff_fe00);
    (l1, entries.into_iter().find(|&at| at != 0).unwrap())
}

fn root(error: &ReadError) -> String {
    error.root().to_string()
}

#[test]
fn every_kind_that_qemu_img_writes() {
    let folder = tempfile::tempdir().unwrap();
    let want = kit::content(LEN);
    let raw = raw(folder.path(), &want);
    for (compress, options) in [
        (false, "compat=1.1"),
        (false, "compat=0.10"),
        (false, "compat=1.1,cluster_size=512"),
        (false, "compat=1.1,cluster_size=2M"),
        (false, "extended_l2=on"),
        (false, "extended_l2=on,cluster_size=16k"),
        (false, "preallocation=metadata"),
        (true, "compat=0.10"),
        (true, "cluster_size=4k"),
        (true, "compression_type=zstd"),
        (true, "compression_type=zstd,cluster_size=2M"),
        (true, "extended_l2=on,compression_type=zstd"),
    ] {
        let file = path(folder.path(), "disk.qcow2");
        let compressed: &[&str] = if compress { &["-c"] } else { &[] };
        img(&[&["convert", "-O", "qcow2", "-o", options], compressed, &[&raw, &file]].concat());
        let image = kit::open(Path::new(&file));
        assert_eq!(kit::wrappings(&image), ["qcow2"], "{options}");
        assert_eq!(image.layers()[0].odd, Vec::<String>::new());
        kit::holds(&image, &want);
        let totals = map::Totals::of(image.bytes().as_ref()).unwrap();
        assert!(totals.zero > 0 || options.contains("2M") || options.contains("metadata"), "{options}: {totals:?}");
        assert_eq!(totals.data + totals.zero, LEN as u64);
    }
}

#[test]
fn written_zeroed_and_discarded_ranges_read_as_qemu_reads_them() {
    let folder = tempfile::tempdir().unwrap();
    for options in ["compat=1.1", "extended_l2=on", "compat=0.10", "cluster_size=4k"] {
        let file = path(folder.path(), "disk.qcow2");
        img(&["create", "-q", "-f", "qcow2", "-o", options, &file, "40M"]);
        io(&file, &["write -P 1 0 300k", "write -P 2 1234k 3k", "write -z 64k 70k", "write -c -P 3 10M 256k"]);
        io(&file, &["discard 128k 64k", "write -P 4 9999k 130k", "write -z -u 10M 64k", "write -P 5 39M 1M"]);
        let image = kit::open(Path::new(&file));
        kit::holds(&image, &outside(folder.path(), &file, &[]));
        // 40 MiB and hardly anything in it: few steps.
        assert!(map::walk(image.bytes().as_ref(), 0..40 << 20).count() < 30);
    }
}

#[test]
fn a_chain_is_followed_and_only_inside_its_folder() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| path(folder.path(), name);
    let mut want = kit::content(LEN);
    let raw = raw(folder.path(), &want);
    img(&["convert", "-O", "qcow2", "-c", &raw, &at("base.qcow2")]);
    img(&["create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", &at("mid.qcow2"), "16M"]);
    io(&at("mid.qcow2"), &["write -P 7 100k 500k", "write -z 1M 64k", "write -P 8 12M 4k"]);
    img(&["create", "-q", "-f", "qcow2", "-b", "mid.qcow2", "-F", "qcow2", "-o", "extended_l2=on", &at("top.qcow2")]);
    io(&at("top.qcow2"), &["write -P 9 110k 3k", "write -z 5M 4k"]);
    want.resize(16 << 20, 0);
    want[100 << 10..600 << 10].fill(7);
    want[1 << 20..(1 << 20) + (64 << 10)].fill(0);
    want[12 << 20..(12 << 20) + 4096].fill(8);
    want[110 << 10..113 << 10].fill(9);
    want[5 << 20..(5 << 20) + 4096].fill(0);
    let image = kit::open(Path::new(&at("top.qcow2")));
    assert_eq!(
        image.layers()[0].files,
        [("backing file", "mid.qcow2".to_owned()), ("backing file", "base.qcow2".to_owned())]
    );
    kit::holds(&image, &want);
    assert_eq!(want, outside(folder.path(), &at("top.qcow2"), &[]));

    let other = tempfile::tempdir().unwrap();
    let elsewhere = path(other.path(), "top.qcow2");
    fs::copy(at("top.qcow2"), &elsewhere).unwrap();
    let error = image::open(Path::new(&elsewhere), &Options::default()).err().unwrap();
    assert!(error.to_string().contains("mid.qcow2") && root(&error).contains("--follow"), "{error}");
    let moved = at("moved.qcow2");
    img(&["rebase", "-u", "-b", &at("mid.qcow2"), "-F", "qcow2", &elsewhere]);
    fs::rename(&elsewhere, &moved).unwrap();
    let image = kit::open(Path::new(&moved));
    kit::holds(&image, &want);
    assert!(image.layers()[0].odd.iter().any(|odd| odd.contains("beside it was taken")), "{:?}", image.layers());
}

#[test]
fn a_raw_backing_file_is_never_taken_for_a_format() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| path(folder.path(), name);
    // A guest wrote a whole qcow2 into its raw disk.
    img(&["create", "-q", "-f", "qcow2", &at("inside.qcow2"), "1G"]);
    let base = fs::read(at("inside.qcow2")).unwrap();
    fs::write(at("base.raw"), &base).unwrap();
    img(&["create", "-q", "-f", "qcow2", "-b", "base.raw", "-F", "raw", &at("top.qcow2"), "1M"]);
    let mut want = base;
    want.resize(1 << 20, 0);
    kit::holds(&kit::open(Path::new(&at("top.qcow2"))), &want);

    // Without the declaration it is looked at, and that is told.
    img(&["create", "-q", "-f", "qcow2", "-b", "inside.qcow2", "-F", "qcow2", &at("open.qcow2"), "1M"]);
    let mut bytes = fs::read(at("open.qcow2")).unwrap();
    let mark = bytes.windows(4).position(|four| four == 0xe279_2aca_u32.to_be_bytes()).unwrap();
    bytes[mark..mark + 4].copy_from_slice(&0x1234_5678_u32.to_be_bytes());
    fs::write(at("open.qcow2"), bytes).unwrap();
    let image = kit::open(Path::new(&at("open.qcow2")));
    assert!(image.layers()[0].odd.iter().any(|odd| odd.contains("does not say what format")));
    kit::holds(&image, &vec![0; 1 << 20]);
}

#[test]
fn hostile_backing_files_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| path(folder.path(), name);
    for (name, why) in [
        ("/etc/passwd", "is not there"),
        ("../../../../../../etc/passwd", "is not there"),
        ("/dev/zero", "is not there"),
        ("json:{\"driver\":\"raw\"}", "JSON"),
        ("nbd://host/disk", "is not there"),
    ] {
        img(&["create", "-q", "-u", "-f", "qcow2", "-b", name, "-F", "raw", &at("top.qcow2"), "1M"]);
        let error = image::open(Path::new(&at("top.qcow2")), &Options::default()).err().unwrap();
        assert!(root(&error).contains(why), "{name}: {error}");
    }
    img(&["create", "-q", "-u", "-f", "qcow2", "-b", "/dev/zero", "-F", "raw", &at("top.qcow2"), "1M"]);
    let follow = Options { follow: true, ..Options::default() };
    assert!(image::open(Path::new(&at("top.qcow2")), &follow).is_err(), "a device, even with --follow");
    img(&["create", "-q", "-u", "-f", "qcow2", "-b", "/etc/passwd", "-F", "raw", &at("top.qcow2"), "1M"]);
    assert!(image::open(Path::new(&at("top.qcow2")), &follow).is_ok(), "the user allowed any place");

    img(&["create", "-q", "-u", "-f", "qcow2", "-b", "a.qcow2", "-F", "qcow2", &at("b.qcow2"), "1M"]);
    img(&["create", "-q", "-u", "-f", "qcow2", "-b", "b.qcow2", "-F", "qcow2", &at("a.qcow2"), "1M"]);
    let error = image::open(Path::new(&at("a.qcow2")), &Options::default()).err().unwrap();
    assert!(root(&error).contains("leads back to itself"), "{error}");
    img(&["create", "-q", "-u", "-f", "qcow2", "-b", "self.raw", "-F", "raw", &at("self.raw"), "1M"]);
    let error = image::open(Path::new(&at("self.raw")), &Options::default()).err().unwrap();
    assert!(root(&error).contains("leads back to itself"), "{error}");
}

#[test]
fn the_longest_chain_is_read_and_a_longer_one_refused() {
    let folder = tempfile::tempdir().unwrap();
    let at = |i: usize| folder.path().join(format!("{i:03}.img"));
    img(&["create", "-q", "-u", "-f", "qcow2", "-b", "000.img", "-F", "qcow2", at(1).to_str().unwrap(), "1M"]);
    let bytes = fs::read(at(1)).unwrap();
    let name = bytes.windows(7).position(|name| name == b"000.img").unwrap();
    img(&["create", "-q", "-f", "qcow2", at(0).to_str().unwrap(), "1M"]);
    io(at(0).to_str().unwrap(), &["write -P 6 0 1M"]);
    for i in 1..=256 {
        let mut bytes = bytes.clone();
        bytes[name..name + 7].copy_from_slice(format!("{:03}.img", i - 1).as_bytes());
        fs::write(at(i), bytes).unwrap();
    }
    kit::holds(&kit::open(&at(255)), &vec![6; 1 << 20]);
    let error = image::open(&at(256), &Options::default()).err().unwrap();
    assert!(root(&error).contains("256 files"), "{error}");
}

#[test]
fn snapshots_are_listed_and_read_by_name_or_id() {
    let folder = tempfile::tempdir().unwrap();
    for options in ["compat=1.1", "extended_l2=on", "compat=0.10"] {
        let file = path(folder.path(), "disk.qcow2");
        img(&["create", "-q", "-f", "qcow2", "-o", options, &file, "8M"]);
        io(&file, &["write -P 1 0 2M"]);
        img(&["snapshot", "-c", "before", &file]);
        io(&file, &["write -P 2 1M 2M"]);
        img(&["snapshot", "-c", "after the fact", &file]);
        io(&file, &["write -P 3 0 100k"]);
        let read = |snapshot: &str| {
            let options = Options { snapshot: Some(snapshot.to_owned()), ..Options::default() };
            image::open(Path::new(&file), &options)
        };
        let latest = kit::open(Path::new(&file));
        assert_eq!(facts(&latest, "snapshot").len(), 2);
        assert!(facts(&latest, "snapshot")[1].contains("id 2, name after the fact, taken 20"), "{:?}", latest.layers());
        kit::holds(&latest, &outside(folder.path(), &file, &[]));
        for (name, id, byte) in [("before", "1", 0), ("after the fact", "2", 2)] {
            let want = outside(folder.path(), &file, &["-l", &format!("snapshot.id={id}")]);
            assert_eq!(want[(2 << 20) + 5], byte);
            kit::holds(&read(name).unwrap(), &want);
            kit::holds(&read(id).unwrap(), &want);
        }
        let error = read("never").err().unwrap();
        assert!(root(&error).contains("the image has before, after the fact"), "{error}");
    }
    let raw = raw(folder.path(), &[1; 512]);
    let options = Options { snapshot: Some("x".to_owned()), ..Options::default() };
    assert!(image::open(Path::new(&raw), &options).is_err(), "a raw disk has no snapshots");
}

#[test]
fn an_external_data_file_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| path(folder.path(), name);
    let want = kit::content(LEN);
    let raw = raw(folder.path(), &want);
    for extra in ["", ",data_file_raw=on", ",extended_l2=on"] {
        let options = format!("data_file={}{extra}", at("disk.data"));
        img(&["convert", "-O", "qcow2", "-o", &options, &raw, &at("disk.qcow2")]);
        let image = kit::open(Path::new(&at("disk.qcow2")));
        kit::holds(&image, &want);
        assert!(image.layers()[0].files[0].1.ends_with("disk.data"));
    }
    fs::remove_file(at("disk.data")).unwrap();
    let error = image::open(Path::new(&at("disk.qcow2")), &Options::default()).err().unwrap();
    assert!(error.to_string().contains("disk.data"), "{error}");
}

#[test]
fn what_cannot_be_read_is_refused_by_name_and_flags_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| path(folder.path(), name);
    let secret = ["--object", "secret,id=s,data=abc"];
    for format in ["luks", "aes"] {
        let options = format!("encrypt.format={format},encrypt.key-secret=s");
        img(&[&["create", "-q"], &secret[..], &["-f", "qcow2", "-o", &options, &at("e.qcow2"), "1M"]].concat());
        let error = image::open(Path::new(&at("e.qcow2")), &Options::default()).err().unwrap();
        assert!(matches!(error.root(), ReadError::Unsupported { .. }), "{error}");
        assert!(root(&error).contains(&format.to_uppercase()), "{error}");
    }
    img(&["create", "-q", "-f", "qcow2", &at("f.qcow2"), "1M"]);
    let set = |at_byte: u64, value: &[u8]| {
        let file = fs::OpenOptions::new().write(true).open(at("f.qcow2")).unwrap();
        file.write_all_at(value, at_byte).unwrap();
    };
    set(72, &3_u64.to_be_bytes());
    let image = kit::open(Path::new(&at("f.qcow2")));
    assert_eq!(image.layers()[0].odd.len(), 2, "{:?}", image.layers()[0].odd);
    set(72, &0x8000_u64.to_be_bytes());
    let error = image::open(Path::new(&at("f.qcow2")), &Options::default()).err().unwrap();
    assert!(matches!(error.root(), ReadError::Unsupported { .. }), "{error}");
    let small = Options { max_size: 1 << 19, ..Options::default() };
    set(72, &0_u64.to_be_bytes());
    assert!(root(&image::open(Path::new(&at("f.qcow2")), &small).err().unwrap()).contains("--max-size"));
}

#[test]
fn damage_anywhere_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| path(folder.path(), name);
    let raw = raw(folder.path(), &kit::content(1 << 20));
    for (name, args) in [
        ("plain.qcow2", &["-o", "cluster_size=4k"][..]),
        ("packed.qcow2", &["-c", "-o", "cluster_size=4k,compression_type=zstd"]),
        ("deflate.qcow2", &["-c", "-o", "cluster_size=4k,compat=0.10"]),
        ("extended.qcow2", &["-o", "cluster_size=16k,extended_l2=on"]),
    ] {
        img(&[&["convert", "-O", "qcow2"], args, &[&raw, &at(name)]].concat());
        img(&["snapshot", "-c", "s", &at(name)]);
        let file = fs::read(at(name)).unwrap();
        let (l1, l2) = tables(&file);
        let snapshots = be64(&file, 64);
        let places = [0..112, l1..l1 + 8, l2..l2 + 40, snapshots..snapshots + 60];
        let places = places.into_iter().flatten().map(|at| usize::try_from(at).unwrap());
        let refused = kit::survives(Path::new(&at(name)), places);
        assert!(refused > 150, "{name}: only {refused} of the damaged files were refused");
    }
}

#[test]
fn tables_that_point_where_they_must_not() {
    let folder = tempfile::tempdir().unwrap();
    let file = path(folder.path(), "disk.qcow2");
    let raw = raw(folder.path(), &vec![7; 300 << 10]);
    img(&["convert", "-O", "qcow2", "-o", "cluster_size=512", &raw, &file]);
    let good = fs::read(&file).unwrap();
    let (l1, l2) = tables(&good);
    for (place, value, expected) in [
        (l1, l1, "outside the L1 table"),
        (l1, l2 + 1, "no other bits"),
        (l1, be64(&good, l1 + 8), "an L2 table of its own"),
        (l1, 1 << 50, "inside the"),
        (l2, l2, "not one of a table"),
        (l2, l1, "not one of a table"),
        (l2, 1 << 50, "inside the"),
        (l2, 1 << 62, "behind the header"),
        (l2, 0x100, "reserved bits"),
    ] {
        let mut bytes = good.clone();
        let at = usize::try_from(place).unwrap();
        bytes[at..at + 8].copy_from_slice(&value.to_be_bytes());
        fs::write(&file, bytes).unwrap();
        let error = kit::explore(Path::new(&file)).unwrap_err();
        let ReadError::Corrupt { at, expected: wanted, .. } = error.root() else { panic!("{error}") };
        assert_eq!(*at, place, "{error}");
        assert!(wanted.contains(expected), "{error}");
    }
}

/// Counts the reads below it.
struct Counted(Arc<dyn ReadAt>, std::sync::atomic::AtomicUsize);

impl ReadAt for Counted {
    fn len(&self) -> u64 {
        self.0.len()
    }
    fn read_at(&self, at: u64, into: &mut [u8]) -> Result<(), ReadError> {
        self.1.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        self.0.read_at(at, into)
    }
}

#[test]
fn large_reads_are_one_read_and_no_cluster_is_decoded_twice() {
    let folder = tempfile::tempdir().unwrap();
    let raw = raw(folder.path(), &vec![0x55; 32 << 20]);
    for (args, most) in [(&["-W"][..], 40), (&["-c"], 540)] {
        let file = path(folder.path(), "disk.qcow2");
        img(&[&["convert", "-O", "qcow2"], args, &[&raw, &file]].concat());
        let counted = Arc::new(Counted(
            Arc::new(image::InMemory(fs::read(&file).unwrap())),
            std::sync::atomic::AtomicUsize::new(0),
        ));
        let bytes: Arc<dyn ReadAt> = counted.clone();
        let image = image::open_below(image::Below::bytes(bytes, Options::default())).unwrap();
        stream::in_order::<ReadError>(image.bytes().as_ref(), 0..32 << 20, |_| Ok(())).unwrap();
        let reads = counted.1.load(std::sync::atomic::Ordering::Relaxed);
        assert!(reads <= most, "{reads} reads for 32 MiB");
        assert!(map::walk(image.bytes().as_ref(), 0..32 << 20).all(|e| e.unwrap().kind == Kind::Data));
    }
}
