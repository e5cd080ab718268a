//! Memory for the fixtures of the memory formats, and what each of them is asked.

use std::path::Path;

use impound::image::{Content, Image, Kind, map};

use crate::kit;

/// Bytes in a page.
pub(crate) const PAGE: usize = 4096;

/// Ranges of guest memory: low, behind the VGA window, and above 4 GiB. Whole pages, the last of each unlike the others.
pub(crate) fn ranges() -> Vec<(u64, Vec<u8>)> {
    let content = kit::content(96 * PAGE);
    let part = |from: usize, pages: usize| content[from * PAGE..(from + pages) * PAGE].to_vec();
    vec![(0x1000, part(0, 5)), (0x10_0000, part(5, 40)), (1 << 32, part(45, 33))]
}

/// Opens what must be memory in one wrapping.
pub(crate) fn open(path: &Path, wrapping: &str) -> Image {
    let image = kit::open(path);
    assert_eq!(kit::wrappings(&image), [wrapping]);
    assert_eq!(image.content(), Content::Memory);
    image
}

/// It holds exactly these ranges, and says that there is no memory between them.
pub(crate) fn holds(image: &Image, want: &[(u64, Vec<u8>)]) {
    let bytes = image.bytes();
    for (at, want) in want {
        let mut found = vec![0xee; want.len()];
        bytes.read_at(*at, &mut found).unwrap_or_else(|error| panic!("{error}"));
        assert!(found == *want, "the {} bytes at {at:#x} differ", want.len());
        let odd = 4097.min(want.len() - 1);
        let mut found = vec![0xee; want.len() - odd];
        bytes.read_at(*at + odd as u64, &mut found).unwrap_or_else(|error| panic!("{error}"));
        assert!(found == want[odd..], "from {odd} bytes into {at:#x}");
    }
    let extents =
        map::walk(bytes.as_ref(), 0..bytes.len()).map(|extent| extent.unwrap_or_else(|error| panic!("{error}")));
    let there: Vec<_> = extents.filter(|e| !matches!(e.kind, Kind::Gap(_))).map(|e| (e.at, e.len)).collect();
    let joined = there.iter().fold(Vec::<(u64, u64)>::new(), |mut all, &(at, len)| {
        match all.last_mut() {
            Some(last) if last.0 + last.1 == at => last.1 += len,
            _ => all.push((at, len)),
        }
        all
    });
    assert_eq!(joined, want.iter().map(|(at, bytes)| (*at, bytes.len() as u64)).collect::<Vec<_>>());
    assert_eq!(bytes.len(), want.last().map_or(0, |(at, bytes)| at + bytes.len() as u64));
    for (at, range) in want {
        let error = bytes.read_at(at + range.len() as u64 - 1, &mut [0; 2]).unwrap_err();
        assert!(error.is_gap() || matches!(error, impound::image::ReadError::Caller { .. }), "{error}");
    }
}

/// A fact of the innermost layer.
pub(crate) fn fact(image: &Image, name: &str) -> Option<String> {
    let layer = image.layers().last()?;
    layer.facts.iter().find(|(found, _)| *found == name).map(|(_, value)| value.clone())
}

/// Puts numbers behind each other, little-endian.
pub(crate) fn le(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// Overwrites bytes.
pub(crate) fn put(bytes: &mut [u8], at: usize, with: &[u8]) {
    bytes[at..at + with.len()].copy_from_slice(with);
}

/// A copy with other bytes at a place.
pub(crate) fn with(bytes: &[u8], at: usize, with: &[u8]) -> Vec<u8> {
    let mut copy = bytes.to_vec();
    put(&mut copy, at, with);
    copy
}

/// Writes it into a folder of its own.
pub(crate) fn file(name: &str, bytes: &[u8]) -> (tempfile::TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    (folder, path)
}
