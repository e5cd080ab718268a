//! VDI and VHD: what qemu-img writes, and differencing VHDs by a small writer of ours.

use std::fs;
use std::path::{Path, PathBuf};

use impound::image::{self, Options, ReadError, map};

use crate::kit;

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        fs::write(self.path(name), bytes).unwrap();
        self.path(name)
    }

    fn convert(&self, want: &[u8], format: &str, options: &str, name: &str) -> PathBuf {
        let (raw, path) = (self.write("disk.raw", want), self.path(name));
        kit::tool("qemu-img", ["convert", "-O", format, "-o", options, raw.to_str().unwrap(), path.to_str().unwrap()]);
        path
    }
}

fn refused(path: &Path) -> ReadError {
    match image::open(path, &Options::default()) {
        Ok(_) => panic!("{} was opened", path.display()),
        Err(error) => error,
    }
}

fn odd(path: &Path) -> String {
    kit::open(path).layers()[0].odd.join("; ")
}

/// Writes the checksum of a footer (at 64) or header (at 36).
pub(crate) fn seal(part: &mut [u8], at: usize) {
    part[at..at + 4].fill(0);
    let sum = part.iter().fold(0_u32, |sum, &byte| sum.wrapping_add(byte.into()));
    part[at..at + 4].copy_from_slice(&(!sum).to_be_bytes());
}

fn footer(kind: u32, len: u64, id: u8) -> Vec<u8> {
    let mut footer = vec![0; 512];
    footer[..8].copy_from_slice(b"conectix");
    footer[8..12].copy_from_slice(&2_u32.to_be_bytes());
    footer[12..16].copy_from_slice(&0x1_0000_u32.to_be_bytes());
    footer[16..24].copy_from_slice(&512_u64.to_be_bytes());
    footer[28..32].copy_from_slice(b"win ");
    footer[40..48].copy_from_slice(&len.to_be_bytes());
    footer[48..56].copy_from_slice(&len.to_be_bytes());
    footer[60..64].copy_from_slice(&kind.to_be_bytes());
    footer[68..84].fill(id);
    seal(&mut footer, 64);
    footer
}

/// A dynamic (`kind` 3) or differencing (4) disk with blocks of 4 KiB. Each sector given is `byte` all over.
pub(crate) fn vhd(kind: u32, len: usize, (id, parent_id): (u8, u8), parent: &str, sectors: &[(usize, u8)]) -> Vec<u8> {
    let blocks = len.div_ceil(4096);
    let mut header = vec![0; 1024];
    header[..8].copy_from_slice(b"cxsparse");
    header[8..16].fill(0xff);
    header[16..24].copy_from_slice(&2048_u64.to_be_bytes());
    header[24..28].copy_from_slice(&0x1_0000_u32.to_be_bytes());
    header[28..32].copy_from_slice(&u32::try_from(blocks).unwrap().to_be_bytes());
    header[32..36].copy_from_slice(&4096_u32.to_be_bytes());
    header[40..56].fill(parent_id);
    let name: Vec<u8> = format!(".\\{parent}").encode_utf16().flat_map(u16::to_le_bytes).collect();
    if kind == 4 {
        for (i, unit) in parent.encode_utf16().enumerate() {
            header[64 + i * 2..66 + i * 2].copy_from_slice(&unit.to_be_bytes());
        }
        header[576..580].copy_from_slice(b"W2ru");
        header[584..588].copy_from_slice(&u32::try_from(name.len()).unwrap().to_be_bytes());
        header[592..600].copy_from_slice(&1536_u64.to_be_bytes());
    }
    seal(&mut header, 36);
    let mut file = [footer(kind, len as u64, id), header, name].concat();
    file.resize(2048, 0);
    file.resize(2048 + (blocks * 4).next_multiple_of(512), 0xff);
    for (sector, byte) in sectors {
        let entry = 2048 + sector / 8 * 4;
        let mut at = u32::from_be_bytes(file[entry..entry + 4].try_into().unwrap()) as usize * 512;
        if at == 0xffff_ffff * 512 {
            at = file.len();
            file[entry..entry + 4].copy_from_slice(&u32::try_from(at / 512).unwrap().to_be_bytes());
            file.resize(at + 512 + 4096, if kind == 4 { 0xee } else { 0 });
            file[at..at + 512].fill(0);
        }
        file[at] |= 0x80 >> (sector % 8);
        file[at + 512 + sector % 8 * 512..][..512].fill(*byte);
    }
    file.extend(footer(kind, len as u64, id));
    file
}

#[test]
fn what_qemu_img_writes_is_read() {
    let mut want = kit::content((9 << 20) + 7 * 512);
    want.resize(14 << 20, 0);
    for (format, name, options) in [
        ("vdi", "vdi", "static=off"),
        ("vdi", "vdi", "static=on"),
        ("vpc", "vhd", "subformat=dynamic,force_size=on"),
        ("vpc", "vhd", "subformat=fixed,force_size=on"),
        ("vpc", "vhd", "subformat=dynamic"),
        ("vpc", "vhd", "subformat=fixed"),
    ] {
        let folder = Folder::new();
        let path = folder.convert(&want, format, options, "disk");
        let image = kit::open(&path);
        assert_eq!(kit::wrappings(&image), [name], "{options}");
        assert!(image.layers()[0].odd.is_empty(), "{:?}", image.layers()[0].odd);
        // Without force_size the disk is rounded up to whole cylinders.
        let mut want = want.clone();
        want.resize(usize::try_from(image.bytes().len()).unwrap(), 0);
        assert!(want.len() < 15 << 20 && (want.len() == 14 << 20 || !options.contains("force") && format == "vpc"));
        kit::holds(&image, &want);
        if options.contains("dynamic") || options.contains("off") {
            assert!(map::Totals::of(image.bytes().as_ref()).unwrap().zero >= 3 << 20);
        }
    }
}

#[test]
fn discarded_blocks_of_a_vdi_are_zero_and_shared_ones_damage() {
    let folder = Folder::new();
    let want = vec![7; 5 << 20];
    let path = folder.convert(&want, "vdi", "static=off", "disk.vdi");
    let good = fs::read(&path).unwrap();
    let map = u32::from_le_bytes(good[0x154..0x158].try_into().unwrap()) as usize;
    let with = |at: usize, value: u32| {
        let mut bytes = good.clone();
        bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        folder.write("disk.vdi", bytes)
    };
    let path = with(map + 4, 0xffff_fffe);
    let mut want = want;
    want[1 << 20..2 << 20].fill(0);
    kit::holds(&kit::open(&path), &want);
    assert!(odd(&path).contains("5 blocks are in use, the map names 4"));
    for (at, value, what) in [
        (map, 3, "a block of its own"),
        (map, 77, "a block inside the"),
        (0x4c, 4, "a differencing VDI"),
        (0x180, 2, "5 blocks for"),
        (0x158, 512, "blocks behind the map"),
        (0x178, 1000, "a block size"),
    ] {
        let error = kit::explore(&with(at, value)).unwrap_err();
        assert!(error.to_string().contains(what), "{error}");
    }
}

#[test]
fn the_copy_of_a_footer_is_used_and_told() {
    let folder = Folder::new();
    let want = kit::content(5 << 20);
    let path = folder.convert(&want, "vpc", "subformat=dynamic,force_size=on", "disk.vhd");
    let good = fs::read(&path).unwrap();
    let mut bytes = good.clone();
    let end = bytes.len();
    bytes[end - 400] ^= 1;
    folder.write("disk.vhd", &bytes);
    assert!(odd(&path).contains("copy of the footer was used"), "{}", odd(&path));
    kit::holds(&kit::open(&path), &want);
    bytes[100] ^= 1;
    folder.write("disk.vhd", &bytes);
    let error = refused(&path);
    assert!(error.to_string().contains("the checksum"), "{error}");
    let mut bytes = good;
    bytes[100] ^= 1;
    folder.write("disk.vhd", &bytes);
    assert!(odd(&path).contains("copy of the footer is damaged"));
    kit::holds(&kit::open(&path), &want);
}

#[test]
fn a_differencing_vhd_is_read_sector_by_sector() {
    let folder = Folder::new();
    let len = 40_000 / 512 * 512;
    let base = vhd(3, len, (1, 0), "", &[(0, 10), (1, 11), (9, 12), (30, 13), (77, 14)]);
    let base = folder.write("base.vhd", base);
    let mut want = vec![0; len];
    for (sector, byte) in [(0, 10), (1, 11), (9, 12), (30, 13), (77, 14)] {
        want[sector * 512..][..512].fill(byte);
    }
    kit::holds(&kit::open(&base), &want);
    // The outside witness of the writer: qemu-img reads the dynamic one (of differencing ones it reads no bitmap).
    kit::tool(
        "qemu-img",
        ["convert", "-f", "vpc", "-O", "raw", base.to_str().unwrap(), folder.path("o").to_str().unwrap()],
    );
    assert!(fs::read(folder.path("o")).unwrap() == want);

    let top = vhd(4, len, (2, 1), "base.vhd", &[(1, 21), (10, 22), (76, 23)]);
    let path = folder.write("top.vhd", &top);
    for (sector, byte) in [(1, 21), (10, 22), (76, 23)] {
        want[sector * 512..][..512].fill(byte);
    }
    let image = kit::open(&path);
    kit::holds(&image, &want);
    assert_eq!(image.layers()[0].files, [("parent", "base.vhd".to_owned())]);

    folder.write("top.vhd", vhd(4, len, (2, 3), "base.vhd", &[]));
    let text = refused(&path).to_string();
    assert!(text.contains("damaged at byte 0x228") && text.contains("01010101") && text.contains("03030303"), "{text}");
    for name in ["/etc/passwd", "..\\..\\etc\\passwd", "/dev/zero", "C:\\disks\\gone.vhd"] {
        folder.write("top.vhd", vhd(4, len, (2, 1), name, &[]));
        let error = refused(&path);
        assert!(error.to_string().contains("--follow"), "{name}: {error}");
    }
    folder.write("top.vhd", vhd(4, len, (2, 2), "top.vhd", &[]));
    assert!(refused(&path).to_string().contains("leads back to itself"));
    folder.write("top.vhd", vhd(4, len, (2, 1), "C:\\disks\\base.vhd", &[]));
    assert!(odd(&path).contains("base.vhd beside it was taken"));
}

#[test]
fn damage_anywhere_is_named() {
    let folder = Folder::new();
    let want = kit::content(300 << 10);
    let vdi = folder.convert(&want, "vdi", "static=off", "disk.vdi");
    assert!(kit::survives(&vdi, 0..0x400) > 80);
    let vhd = folder.write("disk.vhd", vhd(3, 40_448, (1, 0), "", &[(0, 10), (1, 11), (9, 12)]));
    assert!(kit::survives(&vhd, (0..90).chain(512..1200).chain(2048..2120)) > 40);
    let fixed = folder.convert(&want, "vpc", "subformat=fixed,force_size=on", "fixed.vhd");
    let len = usize::try_from(fs::metadata(&fixed).unwrap().len()).unwrap();
    assert!(kit::survives(&fixed, len - 512..len) > 300);
}
