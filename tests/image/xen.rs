//! Xen cores: PV and PVH, whole and damaged.

use crate::kit;
use crate::memory::{self, PAGE, with};
use crate::xencore::core;

const VCPUS: usize = 2;

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
