//! Xen cores, written as `xl dump-core` of Xen 4.17 was seen to write them.

use crate::kit;
use crate::memory::{self, PAGE, put, with};

const VCPUS: usize = 2;

struct Layout {
    file: Vec<u8>,
    /// Where each section's header stands.
    headers: Vec<usize>,
    table: usize,
}

fn note(kind: u32, desc: &[u8]) -> Vec<u8> {
    let mut note = Vec::new();
    for word in [4, u32::try_from(desc.len()).unwrap(), kind] {
        note.extend_from_slice(&word.to_le_bytes());
    }
    note.extend_from_slice(b"Xen\0");
    note.extend_from_slice(desc);
    note
}

fn notes(magic: u64, vcpus: usize, pages: usize) -> Vec<u8> {
    let mut version = vec![0; 1280];
    put(&mut version, 0, &memory::le(&[4, 17]));
    put(&mut version, 16, b".7-pre");
    [
        note(0x200_0000, &[]),
        note(0x200_0001, &memory::le(&[magic, vcpus as u64, pages as u64, 4096])),
        note(0x200_0002, &version),
        note(0x200_0003, &memory::le(&[1])),
    ]
    .concat()
}

/// A core of pages with their frames; PV if they have machine frames.
fn core(pages: &[(u64, Option<u64>, Vec<u8>)], vcpus: usize) -> Layout {
    let pv = pages.iter().any(|(_, gmfn, _)| gmfn.is_some());
    let mut contexts = vec![0; 5168];
    put(&mut contexts, 648, &memory::le(&[0xffff_ffff_8100_0000]));
    put(&mut contexts, 4984, &memory::le(&[0x8005_0033, 0, 0, 0x7_7000, 0x6f0]));
    let contexts = contexts.repeat(vcpus);
    let table: Vec<u8> = pages
        .iter()
        .flat_map(|(pfn, gmfn, _)| memory::le(&if pv { vec![*pfn, gmfn.unwrap_or(u64::MAX)] } else { vec![*pfn] }))
        .collect();
    let content: Vec<u8> = pages.iter().flat_map(|(_, _, page)| page.clone()).collect();
    let frames: &[u8] = if pv { b".xen_p2m" } else { b".xen_pfn" };
    let names = [&b"\0.note.Xen\0.xen_prstatus\0.xen_shared_info\0.xen_pages\0"[..], frames, b"\0.shstrtab\0"].concat();
    let at = |name: &[u8]| names.windows(name.len()).position(|part| part == name).unwrap();
    let sections: Vec<(&[u8], u32, Vec<u8>)> = vec![
        (b".note.Xen", 7, notes(if pv { 0xf00f_ebed } else { 0xf00f_ebee }, vcpus, pages.len())),
        (b".xen_prstatus", 1, contexts),
        (b".xen_shared_info", 1, vec![0; PAGE]),
        (b".xen_pages", 1, content),
        (frames, 1, table),
        (b".shstrtab", 3, names.clone()),
    ];
    let count = sections.len() + 1;
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x04\0\x3e\0\x01\0\0\0".to_vec();
    file.extend_from_slice(&memory::le(&[0, 0, 64]));
    file.extend_from_slice(&[0; 4]);
    for half in [64, 56, 0, 64, count, count - 1] {
        file.extend_from_slice(&u16::try_from(half).unwrap().to_le_bytes());
    }
    file.resize(64 + 64 * count, 0);
    let (mut headers, mut frames_at) = (Vec::new(), 0);
    for (index, (name, kind, bytes)) in sections.iter().enumerate() {
        if *name == b".xen_pages" {
            file.resize(file.len().next_multiple_of(PAGE), 0);
        }
        let header = 64 + 64 * (index + 1);
        let begin = file.len();
        if *name == frames {
            frames_at = begin;
        }
        put(&mut file, header, &u32::try_from(at(name)).unwrap().to_le_bytes());
        put(&mut file, header + 4, &kind.to_le_bytes());
        put(&mut file, header + 24, &memory::le(&[begin as u64, bytes.len() as u64]));
        headers.push(header);
        file.extend_from_slice(bytes);
    }
    Layout { file, headers, table: frames_at }
}

/// Pages of the ranges; machine frames run backwards, far away.
fn pages(pv: bool) -> Vec<(u64, Option<u64>, Vec<u8>)> {
    let mut all = Vec::new();
    for (at, bytes) in memory::ranges() {
        for (index, page) in bytes.chunks(PAGE).enumerate() {
            let pfn = at / PAGE as u64 + index as u64;
            all.push((pfn, pv.then_some(0x90_0000 - all.len() as u64), page.to_vec()));
        }
    }
    if !pv {
        all.insert(3, (u64::MAX, None, vec![0; PAGE]));
        all.push((u64::MAX, None, vec![0; PAGE]));
    }
    all
}

/// Damaged files, for the folder of damaged samples.
pub(crate) fn damaged() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let page = || kit::content(64);
    let full = |mut part: Vec<u8>| {
        part.resize(PAGE, 0);
        part
    };
    let good = core(&[(1, Some(0x100), full(page())), (2, Some(0x200), full(page()))], 0);
    let (file, table) = (&good.file, good.table);
    let header = |index: usize| good.headers[index];
    let sample = |name: &'static str, bytes: Vec<u8>| ("xen-core", name, bytes);
    vec![
        sample("truncated.core", file[..file.len() - 200].to_vec()),
        sample("truncated-headers.core", file[..200].to_vec()),
        sample("pfn-twice.core", with(file, table + 16, &memory::le(&[1]))),
        sample("gmfn-twice.core", with(file, table + 24, &memory::le(&[0x100]))),
        sample("pfn-huge.core", with(file, table, &memory::le(&[1 << 60]))),
        sample("huge-count.core", with(file, header(3) + 32, &memory::le(&[1 << 60]))),
        sample("table-too-short.core", with(file, header(4) + 32, &memory::le(&[16]))),
        sample("pages-outside.core", with(file, header(3) + 24, &memory::le(&[1 << 40]))),
        sample("no-notes.core", with(file, header(0), &[1 + 10])),
        sample("names-outside.core", with(file, header(5) + 24, &memory::le(&[1 << 40]))),
    ]
}

#[test]
fn a_pv_core_reads_by_guest_frames_and_translates_machine_frames() {
    let layout = core(&pages(true), VCPUS);
    let (_folder, path) = memory::file("pv.core", &layout.file);
    let image = memory::open(&path, "xen-core");
    memory::holds(&image, &memory::ranges());
    let machine = image.machine().unwrap();
    let frames = machine.frames.as_ref().unwrap();
    for (pfn, gmfn, _) in pages(true) {
        assert_eq!(frames.guest_frame(gmfn.unwrap()), Some(pfn));
    }
    assert_eq!(frames.guest_frame(0x90_0001), None);
    assert_eq!(frames.guest_frame(5), None);
    assert_eq!(machine.cpus.len(), VCPUS);
    assert_eq!((machine.cpus[0].cr3, machine.cpus[0].rip), (Some(0x7_7000), Some(0xffff_ffff_8100_0000)));
    assert_eq!(memory::fact(&image, "creator").as_deref(), Some("Xen 4.17.7-pre"));
    let places =
        (0..64).chain(layout.headers.iter().flat_map(|&at| at..at + 40)).chain(layout.table..layout.table + 64);
    assert!(kit::survives(&path, places.collect::<Vec<_>>()) > 200);
}

#[test]
fn a_pvh_core_skips_its_padding() {
    let (_folder, path) = memory::file("pvh.core", &core(&pages(false), VCPUS).file);
    let image = memory::open(&path, "xen-core");
    memory::holds(&image, &memory::ranges());
    assert!(image.machine().unwrap().frames.is_none());
    assert!(memory::fact(&image, "padding").unwrap().starts_with('2'));
}

#[test]
fn the_empty_file_of_a_failed_dump_is_odd() {
    let (_folder, path) = memory::file("failed.core", b"");
    let image = kit::open(&path);
    assert!(image.layers()[0].odd[0].contains("empty"), "{:?}", image.layers());
}
