//! QEMU's migration stream, where it needs to be wrong: those of QEMU itself are in `tests/qemu/image.rs`.

use crate::kit;
use crate::memory::{self, PAGE, with};

fn name(text: &str) -> Vec<u8> {
    [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat()
}

fn begin(machine: &str, capabilities: &[&str]) -> Vec<u8> {
    let mut stream = b"QEVM\0\0\0\x03\x07".to_vec();
    stream.extend_from_slice(&u32::try_from(machine.len()).unwrap().to_be_bytes());
    stream.extend_from_slice(machine.as_bytes());
    if !capabilities.is_empty() {
        stream.push(5);
        stream.extend_from_slice(&name("configuration/capabilities"));
        stream.extend_from_slice(&1_u32.to_be_bytes());
        stream.extend_from_slice(&u32::try_from(capabilities.len()).unwrap().to_be_bytes());
        for capability in capabilities {
            stream.extend_from_slice(&name(capability));
        }
    }
    // The section of RAM begins: number 2, instance 0, version 4.
    stream.extend_from_slice(b"\x01\0\0\0\x02\x03ram\0\0\0\0\0\0\0\x04");
    stream
}

/// A block of RAM whose pages are given in some order, the first of each with the block's name.
fn stream(machine: &str, block: &str, len: u64, pages: &[(u64, Option<Vec<u8>>)]) -> Vec<u8> {
    let mut stream = begin(machine, &[]);
    stream.extend_from_slice(&(len | 4).to_be_bytes());
    stream.extend_from_slice(&name(block));
    stream.extend_from_slice(&len.to_be_bytes());
    stream.extend_from_slice(&0x10_u64.to_be_bytes());
    stream.extend_from_slice(b"\x7e\0\0\0\x02\x03\0\0\0\x02");
    for (index, (at, page)) in pages.iter().enumerate() {
        let kind = if page.is_some() { 8 } else { 2 } | if index > 0 { 0x20 } else { 0 };
        stream.extend_from_slice(&(at | kind).to_be_bytes());
        if index == 0 {
            stream.extend_from_slice(&name(block));
        }
        stream.extend_from_slice(page.as_deref().unwrap_or(&[0]));
    }
    stream.extend_from_slice(&0x10_u64.to_be_bytes());
    stream.extend_from_slice(b"\x7e\0\0\0\x02\x04opaque");
    stream
}

fn page(seed: u8) -> Vec<u8> {
    vec![seed; PAGE]
}

/// Damaged files, for the folder of damaged samples.
pub(crate) fn damaged() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let good = stream("pc-q35-10.0", "pc.ram", 0x3000, &[(0, Some(page(1))), (0x1000, None), (0x2000, Some(page(3)))]);
    let first = 9 + 4 + 11 + 20;
    let (block, record) = (first + 8, first + 8 + 7 + 8 + 8 + 10);
    let mut mapped = begin("pc-q35-10.0", &["mapped-ram"]);
    mapped.extend_from_slice(&(0x2000_u64 | 4).to_be_bytes());
    mapped.extend_from_slice(&name("pc.ram"));
    mapped.extend_from_slice(&0x2000_u64.to_be_bytes());
    let head = mapped.len();
    mapped.extend_from_slice(&1_u32.to_be_bytes());
    for word in [4096, head as u64 + 28, 0x1000_u64] {
        mapped.extend_from_slice(&word.to_be_bytes());
    }
    mapped.resize(0x1000, 0);
    mapped[head + 28] = 3;
    mapped.resize(0x3000, 0x55);
    mapped.extend_from_slice(&0x10_u64.to_be_bytes());
    let sample = |name: &'static str, bytes: Vec<u8>| ("qemu-migration", name, bytes);
    let mut saved = b"LibvirtQemudSave".to_vec();
    for word in [2_u32, 4, 1, 0, 0] {
        saved.extend_from_slice(&word.to_le_bytes());
    }
    saved.resize(92, 0);
    saved.extend_from_slice(b"<x/>");
    let libvirt = |name: &'static str, at: usize, bytes: &[u8]| ("libvirt-save", name, with(&saved, at, bytes));
    vec![
        sample("truncated.qemu", good[..3000].to_vec()),
        sample("truncated-begin.qemu", good[..20].to_vec()),
        sample("version.qemu", with(&good, 7, &[2])),
        sample("machine-name-huge.qemu", with(&good, 9, &[0x7f; 4])),
        sample("huge-memory.qemu", with(&good, first, &[0x7f; 6])),
        sample("blocks-do-not-add-up.qemu", with(&good, block + 7, &[0, 0, 0, 0, 0, 0, 0x50, 0])),
        sample("page-outside.qemu", with(&good, record, &[0, 0, 0, 1])),
        sample("unknown-block.qemu", with(&good, record + 8 + 1, b"qc.ram")),
        sample("flags.qemu", with(&good, record + 7, &[0x0c])),
        sample("xbzrle.qemu", with(&good, record + 7, &[0x40])),
        sample("no-ram.qemu", with(&good, 24, &[4])),
        sample("mapped-bitmap-outside.qemu", with(&mapped, head + 12, &[0x7f; 8])),
        sample("mapped-pages-outside.qemu", with(&mapped, head + 20, &[0, 0, 1])),
        sample("mapped-version.qemu", with(&mapped, head + 3, &[2])),
        sample("mapped-truncated.qemu", mapped[..0x1800].to_vec()),
        libvirt("version.save", 16, &[9]),
        libvirt("xml-huge.save", 20, &[0xff; 4]),
        libvirt("format.save", 28, &[77]),
        libvirt("gzip.save", 28, &[1]),
        libvirt("sparse-without-stream.save", 28, &[6]),
        ("libvirt-save", "truncated.save", saved[..50].to_vec()),
        ("libvirt-save", "stream-cut.save", [&saved[..], &good[..1000]].concat()),
    ]
}

#[test]
fn the_last_copy_of_a_page_wins_and_what_was_not_sent_is_told() {
    let pages = [
        (0, Some(page(1))),
        (0x1000, Some(page(2))),
        (0x2000, None),
        (0x1000, Some(page(9))),
        (0x2000, Some(page(8))),
        (0, None),
    ];
    let (_folder, path) = memory::file("vm.state", &stream("pc-q35-10.0", "/objects/pc.ram", 0x4000, &pages));
    let image = memory::open(&path, "qemu-migration");
    let want = [vec![0; PAGE], vec![9; PAGE], vec![8; PAGE]].concat();
    let mut found = vec![0xee; want.len()];
    image.bytes().read_at(0, &mut found).unwrap();
    assert!(found == want);
    let error = image.bytes().read_at(0x3000, &mut [0]).unwrap_err();
    assert!(error.to_string().contains("not in the stream"), "{error}");
    assert!(image.layers()[0].odd.is_empty(), "{:?}", image.layers()[0].odd);
    assert!(kit::survives(&path, 0..120) > 100);
    // Cut behind the first part, where nothing is missing by the form alone.
    let all = std::fs::read(&path).unwrap();
    let end = all.windows(5).position(|part| part == b"\x7e\0\0\0\x02").unwrap() + 5;
    std::fs::write(&path, &all[..end]).unwrap();
    let image = memory::open(&path, "qemu-migration");
    assert!(image.layers()[0].odd[0].contains("not completed"), "{:?}", image.layers()[0].odd);
}

#[test]
fn an_unknown_machine_is_said_to_be_assumed() {
    let (_folder, path) = memory::file("vm.state", &stream("raspi4b", "ram", 0x1000, &[(0, Some(page(1)))]));
    let image = memory::open(&path, "qemu-migration");
    assert_eq!(image.layers()[0].odd.iter().filter(|odd| odd.contains("assumed")).count(), 2);
}
