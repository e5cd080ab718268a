//! ELF cores. QEMU's own are in `tests/qemu/image.rs`; here stands what QEMU does not write on demand.

use impound::image::{Kind, map};
use impound_backends::Why;

use crate::kit;
use crate::memory::{self, PAGE, with};

/// A segment: virtual and physical address, its bytes, its length in memory.
struct Load {
    virt: u64,
    phys: u64,
    bytes: Vec<u8>,
    len: u64,
}

fn loads() -> Vec<Load> {
    let load = |(at, bytes): (u64, Vec<u8>)| Load { virt: 0, phys: at, len: bytes.len() as u64, bytes };
    memory::ranges().into_iter().map(load).collect()
}

fn note(name: &[u8], kind: u32, desc: &[u8]) -> Vec<u8> {
    let mut note: Vec<u8> = Vec::new();
    for word in [name.len() + 1, desc.len()] {
        note.extend_from_slice(&u32::try_from(word).unwrap().to_le_bytes());
    }
    note.extend_from_slice(&kind.to_le_bytes());
    note.extend_from_slice(name);
    note.resize((note.len() + 1).next_multiple_of(4), 0);
    note.extend_from_slice(desc);
    note.resize(note.len().next_multiple_of(4), 0);
    note
}

/// An ELF64 core; `many`: the number of segments stands in the section header.
fn core(loads: &[Load], notes: &[u8], many: bool) -> Vec<u8> {
    let count = loads.len() + 1;
    let (table, section) = (64_u64, 64 + 56 * count as u64);
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x04\0\x3e\0\x01\0\0\0".to_vec();
    file.extend_from_slice(&memory::le(&[0, table, section]));
    let phnum = if many { 0xffff } else { u16::try_from(count).unwrap() };
    file.extend_from_slice(&[0, 0, 0, 0]);
    for half in [64, 56, phnum, 64, 1, 0] {
        file.extend_from_slice(&half.to_le_bytes());
    }
    let mut from = section + 64;
    let mut header = |kind: u32, virt: u64, phys: u64, stored: u64, len: u64| {
        file.extend_from_slice(&kind.to_le_bytes());
        file.extend_from_slice(&[0; 4]);
        file.extend_from_slice(&memory::le(&[from, virt, phys, stored, len, 0]));
        from += stored;
    };
    header(4, 0, 0, notes.len() as u64, notes.len() as u64);
    for load in loads {
        header(1, load.virt, load.phys, load.bytes.len() as u64, load.len);
    }
    let mut section = vec![0; 64];
    memory::put(&mut section, 44, &u32::try_from(count).unwrap().to_le_bytes());
    file.extend_from_slice(&section);
    file.extend_from_slice(notes);
    for load in loads {
        file.extend_from_slice(&load.bytes);
    }
    file
}

fn notes() -> Vec<u8> {
    let mut registers = vec![0; 0x1b8];
    for (at, value) in [(136, 0xffff_8000_u64), (384, 0xffff_fe00), (392, 0x8005_0033), (416, 0x1ad_000), (424, 0x6f0)]
    {
        memory::put(&mut registers, at, &value.to_le_bytes());
    }
    let info = b"OSRELEASE=6.1.0-test\nPAGESIZE=4096\nBUILD-ID=00ff\n";
    [note(b"CORE", 1, &[0; 336]), note(b"QEMU", 0, &registers), note(b"VMCOREINFO", 0, info)].concat()
}

/// Damaged files, for the folder of damaged samples.
pub(crate) fn damaged() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let load = |phys: u64| Load { virt: 0, phys, bytes: kit::content(PAGE), len: PAGE as u64 };
    let good = core(&[load(0x1000), load(0x8000)], &notes(), false);
    let (note, first, second) = (64, 120, 176);
    vec![
        ("elf", "truncated.elf", good[..6000].to_vec()),
        ("elf", "truncated-header.elf", good[..40].to_vec()),
        ("elf", "overlapping.elf", with(&good, second + 24, &memory::le(&[0x1800]))),
        ("elf", "offset-outside.elf", with(&good, first + 8, &memory::le(&[u64::MAX - 10]))),
        ("elf", "huge-segment.elf", with(&good, first + 32, &memory::le(&[1 << 60, 1 << 60]))),
        ("elf", "address-wraps.elf", with(&good, second + 24, &memory::le(&[u64::MAX - 0x100]))),
        ("elf", "huge-claim.elf", with(&good, second + 24, &memory::le(&[1 << 60]))),
        ("elf", "table-outside.elf", with(&good, 32, &memory::le(&[1 << 40]))),
        ("elf", "many-segments.elf", with(&core(&[load(0)], &notes(), true), 64 + 112 + 44, &[0xff; 4])),
        ("elf", "note-too-long.elf", with(&good, 64 + 56 * 3 + 64 + 4, &[0xff; 4])),
        ("elf", "notes-huge.elf", with(&good, note + 32, &memory::le(&[1 << 30]))),
        (
            "elf",
            "of-a-process.elf",
            core(&[Load { virt: 0x40_0000, ..load(0) }, Load { virt: 0x60_0000, ..load(0) }], &notes(), false),
        ),
        ("elf", "big-endian.elf", {
            let mut be = with(&good, 5, &[2]);
            memory::put(&mut be, 16, &[0, 4]);
            be
        }),
    ]
}

#[test]
fn segments_are_read_at_their_physical_addresses() {
    for many in [true, false] {
        let (_folder, path) = memory::file("vmcore", &core(&loads(), &notes(), many));
        let image = memory::open(&path, "elf");
        memory::holds(&image, &memory::ranges());
        let cpus = &image.machine().unwrap().cpus;
        assert_eq!(cpus.len(), 1, "one CPU, told twice");
        assert_eq!((cpus[0].cr3, cpus[0].cr4, cpus[0].rip), (Some(0x1ad_000), Some(0x6f0), Some(0xffff_8000)));
        assert_eq!((cpus[0].cr0, cpus[0].idt), (Some(0x8005_0033), Some(0xffff_fe00)));
        assert_eq!(memory::fact(&image, "kernel release").as_deref(), Some("6.1.0-test"));
        assert!(kit::survives(&path, 0..64 + 56 * 3) > 60);
    }
}

#[test]
fn the_kernels_text_is_taken_once_and_what_was_left_out_is_told() {
    let mut all = loads();
    all[1].len += 0x3000;
    let text = Load { virt: 0xffff_ffff_8100_0000, phys: 0x10_2000, bytes: vec![7; 0x2000], len: 0x2000 };
    all.push(text);
    let (_folder, path) = memory::file("vmcore", &core(&all, &notes(), false));
    let image = memory::open(&path, "elf");
    memory::holds(&image, &memory::ranges());
    let end = 0x10_0000 + 40 * PAGE as u64;
    let gaps: Vec<_> = map::walk(image.bytes().as_ref(), end..end + 0x4000).map(Result::unwrap).collect();
    assert_eq!((gaps[0].len, gaps.len()), (0x3000, 2));
    assert!(matches!(&gaps[0].kind, Kind::Gap(Why::Unreadable(why)) if why.contains("p_filesz")), "{gaps:?}");
    assert_eq!(gaps[1].kind, Kind::Gap(Why::NotRam));
    assert_eq!(image.layers()[0].odd.len(), 1);
}
