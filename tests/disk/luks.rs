//! LUKS: volumes that qemu-img (LUKS1) and cryptsetup (LUKS2, encrypted in place without device-mapper) have written.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use impound::disk::volume::luks::Passphrase;
use impound::disk::volume::{Beside, Volumes, scan_with};
use impound::image::{InMemory, ReadAt, read_vec};
use zeroize::Zeroizing;

use crate::kit::{bytes, folder, impound, make, read, tool};

pub(crate) const SECRET: &str = "correct horse";

fn plain(at: &Path) -> PathBuf {
    let (tree, image) = (at.join("tree"), at.join("plain"));
    std::fs::create_dir_all(&tree).unwrap();
    std::fs::write(tree.join("who"), "hidden").unwrap();
    make(&image, &["-t", "ext4", "-b", "4096"], &tree, "6M");
    image
}

pub(crate) fn scan(disk: &Arc<dyn ReadAt>, secret: &str) -> Volumes {
    let passphrase = Some(Arc::new(Passphrase::new(Zeroizing::new(secret.as_bytes().to_vec()))));
    scan_with(disk, &Beside { with: Vec::new(), passphrase }).unwrap()
}

/// LUKS1 by QEMU's own code.
fn luks1(at: &Path, plain: &Path, options: &str) -> PathBuf {
    let image = at.join(format!("luks1-{}", options.len()));
    let source = format!("driver=raw,file.filename={}", plain.display());
    let options = format!("key-secret=s,iter-time=10{options}");
    let secret = format!("secret,id=s,data={SECRET}");
    let args = ["convert", "--object", &secret, "--image-opts", "-O", "luks", "-o", &options, &source];
    tool("qemu-img", args.iter().map(std::ffi::OsStr::new).chain([image.as_os_str()]));
    image
}

/// LUKS2 by cryptsetup, which encrypts a file in place.
pub(crate) fn luks2(at: &Path, plain: &Path, name: &str, options: &[&str]) -> PathBuf {
    let (image, secret) = (at.join(name), at.join("secret"));
    std::fs::copy(plain, &image).unwrap();
    let len = std::fs::metadata(plain).unwrap().len();
    std::fs::File::options().write(true).open(&image).unwrap().set_len(len + (32 << 20)).unwrap();
    std::fs::write(&secret, SECRET).unwrap();
    let key = format!("--key-file={}", secret.display());
    let fixed = ["reencrypt", "--encrypt", "--type", "luks2", "--reduce-device-size", "32M", "-q", &key];
    tool("cryptsetup", fixed.iter().chain(options).map(std::ffi::OsStr::new).chain([image.as_os_str()]));
    image
}

/// Little work for the test, the same way for the program.
pub(crate) const QUICK: [&str; 4] = ["--pbkdf-memory", "1024", "--pbkdf-force-iterations", "4"];

fn check(image: &Path, plain: &Path, cipher: &str) {
    let found = scan(&bytes(image), SECRET);
    let volume = found.labelled("p0").unwrap();
    assert_eq!(found.odd, Vec::<String>::new(), "{cipher}");
    assert!(volume.note.as_ref().unwrap().contains(cipher), "{:?}", volume.note);
    assert_eq!(volume.holds, Some("ext"), "{cipher}: {:?}", volume.lacks);
    let (inside, plain) = (volume.bytes().unwrap(), std::fs::read(plain).unwrap());
    assert!(read(inside.as_ref())[..plain.len()] == plain, "{cipher}");
    // Across sectors, and from the middle of one.
    assert_eq!(read_vec(inside.as_ref(), 4090, 5000).unwrap(), plain[4090..9090], "{cipher}");
}

#[test]
fn luks1_as_qemu_writes_it_is_read() {
    let temp = folder();
    let plain = plain(temp.path());
    for (options, cipher) in [
        ("", "LUKS1 aes-xts-plain64"),
        (",cipher-alg=aes-128,hash-alg=sha1", "LUKS1 aes-xts-plain64"),
        (",cipher-mode=cbc,ivgen-alg=essiv,ivgen-hash-alg=sha256,hash-alg=sha512", "LUKS1 aes-cbc-essiv:sha256"),
        (",cipher-alg=aes-128,cipher-mode=cbc,ivgen-alg=plain", "LUKS1 aes-cbc-plain,"),
    ] {
        check(&luks1(temp.path(), &plain, options), &plain, cipher);
    }
}

#[test]
fn luks2_as_cryptsetup_writes_it_is_read() {
    let temp = folder();
    let plain = plain(temp.path());
    let pbkdf2 = ["--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--hash", "sha512"];
    for (number, (options, cipher)) in [
        (&QUICK[..], "LUKS2 aes-xts-plain64, sectors of 512"),
        (
            &[&QUICK[..], &["--sector-size", "4096", "--pbkdf", "argon2i"]].concat(),
            "LUKS2 aes-xts-plain64, sectors of 4096",
        ),
        (&[&pbkdf2[..], &["-c", "aes-cbc-essiv:sha256", "-s", "256"]].concat(), "LUKS2 aes-cbc-essiv:sha256"),
        (&[&pbkdf2[..], &["-c", "aes-cbc-plain64", "-s", "192"]].concat(), "LUKS2 aes-cbc-plain64"),
    ]
    .into_iter()
    .enumerate()
    {
        check(&luks2(temp.path(), &plain, &format!("luks2-{number}"), options), &plain, cipher);
    }
}

#[test]
fn without_the_passphrase_it_is_named_and_nothing_tells_the_secret() {
    let temp = folder();
    let plain = plain(temp.path());
    let image = luks1(temp.path(), &plain, "");
    let name = image.to_string_lossy();
    let (secret, line, wrong) = (temp.path().join("secret"), temp.path().join("line"), temp.path().join("wrong"));
    std::fs::write(&secret, SECRET).unwrap();
    std::fs::write(&line, format!("{SECRET}\n")).unwrap();
    std::fs::write(&wrong, "wrong-Pass-9173\n").unwrap();
    let cat = |file: &Path| {
        let args = ["disk", &format!("{name}:p0:/who"), "--passphrase-file", &file.to_string_lossy(), "cat"];
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_impound")).args(args).output().unwrap();
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap(), output.status.code())
    };
    assert_eq!(cat(&secret).0, "hidden");
    assert_eq!(cat(&line).0, "hidden", "a newline behind it is none of it");
    let (_, said, code) = cat(&wrong);
    assert!(said.contains("it fits none of 1 key slots") && !said.contains("9173"), "{said}");
    assert_eq!(code, Some(1));
    assert_eq!(cat(&temp.path().join("none")).2, Some(1));
    let (text, code) = impound(["disk", &name, "parts"]);
    assert!(text.contains("luks") && text.contains("LUKS1 aes-xts-plain64") && code == 3, "{code}: {text}");
    // One that can be read beside one that cannot: partial, not whole and not nothing.
    let mut disk = vec![0; 512];
    for (slot, (first, path)) in [(0, (2048_u32, &image)), (1, (2048 + 32768, &plain))] {
        let data = std::fs::read(path).unwrap();
        let at = first as usize * 512;
        disk.resize(at.max(disk.len()), 0);
        disk.extend(&data);
        let entry = 446 + 16 * slot;
        disk[entry + 4] = 0x83;
        disk[entry + 8..entry + 12].copy_from_slice(&first.to_le_bytes());
        disk[entry + 12..entry + 16].copy_from_slice(&u32::try_from(data.len() / 512).unwrap().to_le_bytes());
    }
    disk[510..512].copy_from_slice(b"\x55\xaa");
    let both = temp.path().join("both");
    std::fs::write(&both, disk).unwrap();
    let both = both.to_string_lossy();
    assert_eq!(impound(["disk", &both, "ls"]).1, 3);
    let (text, code) =
        impound(["--format", "csv", "disk", &both, "--passphrase-file", &secret.to_string_lossy(), "hash"]);
    assert_eq!((text.lines().count(), code), (3, 0), "{text}");
}

#[test]
fn the_second_header_of_luks2_is_used_and_hostile_work_is_refused() {
    let temp = folder();
    let plain = plain(temp.path());
    let image = std::fs::read(luks2(temp.path(), &plain, "luks2", &QUICK)).unwrap();
    let disk = |image: &[u8]| Arc::new(InMemory(image.to_vec())) as Arc<dyn ReadAt>;
    for at in [0, 24, 300, 448, 4100] {
        let mut damaged = image.clone();
        damaged[at] ^= 0x20;
        let found = scan(&disk(&damaged), SECRET);
        assert_eq!(found.labelled("p0").unwrap().holds, Some("ext"), "{at}: {:?}", found.odd);
        assert!(found.odd.iter().any(|line| line.contains("second header is used")), "{at}: {:?}", found.odd);
    }
    // The same JSON with other numbers in it, and its checksums made right again.
    let text = String::from_utf8_lossy(&image[4096..0x4000]).trim_end_matches('\0').to_owned();
    for (old, new, word) in [
        ("\"memory\":1024", "\"memory\":4294967295", "at most 4194304 KiB"),
        ("\"time\":4", "\"time\":99999999", "64 GiB of passes"),
        ("\"cpus\":", "\"cpus\":99999", "Argon2"),
        ("\"stripes\":4000", "\"stripes\":99999999", "key material"),
        ("\"key_size\":64", "\"key_size\":9999999999", "at most 512 is given"),
        ("\"encryption\":\"aes-xts-plain64\"", "\"encryption\":\"serpent-xts-plain64\"", "serpent-xts-plain64"),
        ("\"sector_size\":512", "\"sector_size\":513", "sectors of 512 to 4096"),
        ("\"offset\":\"16777216\"", "\"offset\":\"99916777216\"", "detached header"),
        ("\"config\":{", "\"config\":{\"requirements\":{\"mandatory\":[\"new-thing\"]},", "new-thing"),
    ] {
        assert!(text.contains(old), "{old} is not in {text}");
        let changed = text.replace(old, new);
        let mut damaged = image.clone();
        damaged[0x4000..0x8000].fill(0);
        damaged[4096..0x4000].fill(0);
        damaged[4096..4096 + changed.len()].copy_from_slice(changed.as_bytes());
        damaged[448..512].fill(0);
        let sum = <sha2::Sha256 as sha2::Digest>::digest(&damaged[..0x4000]);
        damaged[448..480].copy_from_slice(&sum);
        let found = scan(&disk(&damaged), SECRET);
        let why = found.labelled("p0").unwrap().lacks.clone().unwrap_or_default();
        assert!(why.contains(word), "{new}: {why:?}");
    }
}

#[test]
fn a_table_of_partitions_that_names_the_same_header_over_and_over_keeps_nobody_busy() {
    let temp = folder();
    let mut header = std::fs::read(luks1(temp.path(), &plain(temp.path()), "")).unwrap();
    // One round each, of the digest and of the slot: they are tried, not opened.
    header[164..168].copy_from_slice(&1_u32.to_be_bytes());
    header[212..216].copy_from_slice(&1_u32.to_be_bytes());
    let (entries, sector) = (400_usize, 512);
    let at = 2 + (entries * 128).div_ceil(sector);
    let mut disk = vec![0; at * sector];
    disk.extend(&header[..header.len().min(4 << 20)]);
    for entry in 0..entries {
        let to = &mut disk[sector * 2 + entry * 128..][..128];
        to[..16].fill(0x11);
        to[16..32].copy_from_slice(&(entry as u128 + 1).to_le_bytes());
        to[32..40].copy_from_slice(&(at as u64).to_le_bytes());
        to[40..48].copy_from_slice(&(at as u64 + 8000).to_le_bytes());
    }
    let table = crc32fast::hash(&disk[2 * sector..2 * sector + entries * 128]);
    let mut head = vec![0; 92];
    head[..8].copy_from_slice(b"EFI PART");
    head[8..12].copy_from_slice(&[0, 0, 1, 0]);
    head[12] = 92;
    for (place, value) in [(24, 1_u64), (32, 1), (40, at as u64), (48, at as u64 + 9000), (72, 2)] {
        head[place..place + 8].copy_from_slice(&value.to_le_bytes());
    }
    head[80..84].copy_from_slice(&u32::try_from(entries).unwrap().to_le_bytes());
    head[84] = 128;
    head[88..92].copy_from_slice(&table.to_le_bytes());
    let sum = crc32fast::hash(&head);
    head[16..20].copy_from_slice(&sum.to_le_bytes());
    disk[sector..sector + 92].copy_from_slice(&head);
    let found = scan(&(Arc::new(InMemory(disk)) as Arc<dyn ReadAt>), "wrong");
    let why: Vec<_> = found.readable().filter_map(|one| one.lacks.as_deref()).collect();
    assert_eq!(why.len(), entries, "{:?}", found.odd);
    assert_eq!(why.iter().filter(|why| why.contains("it fits none of")).count(), 256, "{why:?}");
    assert_eq!(why.iter().filter(|why| why.contains("this one was not")).count(), entries - 256, "{why:?}");
}

#[test]
fn no_damage_to_a_header_stops_the_program() {
    let temp = folder();
    let plain = plain(temp.path());
    let mut state = 0x0fed_cba9_8765_4321;
    for (path, len) in [(luks1(temp.path(), &plain, ""), 592), (luks2(temp.path(), &plain, "luks2", &QUICK), 0x8000)] {
        let good = std::fs::read(path).unwrap();
        for round in 0..60 {
            let mut image = good[..good.len().min(20 << 20)].to_vec();
            for _ in 0..=round % 3 {
                image[6 + crate::damage::noise(&mut state) % (len - 6)] ^= 1 << (round % 8);
            }
            // Without the passphrase: a flip in a count of rounds may ask for minutes of honest work.
            let disk = Arc::new(InMemory(image)) as Arc<dyn ReadAt>;
            let _ = scan_with(&disk, &Beside::default());
        }
        for cut in [6, 100, 592, 4096, 0x4000, 1 << 20] {
            let found = scan(&(Arc::new(InMemory(good[..cut].to_vec())) as Arc<dyn ReadAt>), SECRET);
            assert!(found.list.iter().all(|one| one.lacks.is_some()), "{cut}");
        }
    }
}
