//! Xen cores, written as `xl dump-core` of Xen 4.17 was seen to write them.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, dead_code, unreachable_pub, reason = "this is test code")]

const PAGE: usize = 4096;

/// A core, and where its parts stand.
pub struct Layout {
    pub file: Vec<u8>,
    /// Where each section's header stands.
    pub headers: Vec<usize>,
    /// The table of frames.
    pub table: usize,
}

fn le(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn put(bytes: &mut [u8], at: usize, with: &[u8]) {
    bytes[at..at + with.len()].copy_from_slice(with);
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
    put(&mut version, 0, &le(&[4, 17]));
    put(&mut version, 16, b".7-pre");
    [
        note(0x200_0000, &[]),
        note(0x200_0001, &le(&[magic, vcpus as u64, pages as u64, 4096])),
        note(0x200_0002, &version),
        note(0x200_0003, &le(&[1])),
    ]
    .concat()
}

/// A core of pages with their frames; PV if they have machine frames.
pub fn core(pages: &[(u64, Option<u64>, Vec<u8>)], vcpus: usize) -> Layout {
    let pv = pages.iter().any(|(_, gmfn, _)| gmfn.is_some());
    let table: Vec<u8> = pages
        .iter()
        .flat_map(|(pfn, gmfn, _)| le(&if pv { vec![*pfn, gmfn.unwrap_or(u64::MAX)] } else { vec![*pfn] }))
        .collect();
    let content: Vec<u8> = pages.iter().flat_map(|(_, _, page)| page.clone()).collect();
    assemble(pv, vcpus, &table, &content)
}

/// The core of a PVH domain whose memory begins at 0 and has no holes. No registers.
pub fn pvh(memory: &[u8]) -> Layout {
    let table: Vec<u8> = (0..memory.len() / PAGE).flat_map(|pfn| le(&[pfn as u64])).collect();
    assemble(false, 0, &table, memory)
}

fn assemble(pv: bool, vcpus: usize, table: &[u8], content: &[u8]) -> Layout {
    let mut contexts = vec![0; 5168];
    put(&mut contexts, 648, &le(&[0xffff_ffff_8100_0000]));
    put(&mut contexts, 4984, &le(&[0x8005_0033, 0, 0, 0x7_7000, 0x6f0]));
    let contexts = contexts.repeat(vcpus);
    let notes = notes(if pv { 0xf00f_ebed } else { 0xf00f_ebee }, vcpus, content.len() / PAGE);
    let frames: &[u8] = if pv { b".xen_p2m" } else { b".xen_pfn" };
    let names = [&b"\0.note.Xen\0.xen_prstatus\0.xen_shared_info\0.xen_pages\0"[..], frames, b"\0.shstrtab\0"].concat();
    let at = |name: &[u8]| names.windows(name.len()).position(|part| part == name).unwrap();
    let sections: [(&[u8], u32, &[u8]); 6] = [
        (b".note.Xen", 7, &notes),
        (b".xen_prstatus", 1, &contexts),
        (b".xen_shared_info", 1, &[0; PAGE]),
        (b".xen_pages", 1, content),
        (frames, 1, table),
        (b".shstrtab", 3, &names),
    ];
    let count = sections.len() + 1;
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x04\0\x3e\0\x01\0\0\0".to_vec();
    file.extend_from_slice(&le(&[0, 0, 64]));
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
        put(&mut file, header + 24, &le(&[begin as u64, bytes.len() as u64]));
        headers.push(header);
        file.extend_from_slice(bytes);
    }
    Layout { file, headers, table: frames_at }
}
