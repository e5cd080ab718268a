//! Content to put into images, outside tools to wrap it, and the questions that every format is asked.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;

use impound::image::{self, Image, Kind, Options, ReadAt, ReadError, map, stream};

/// Bytes like those of a disk: random ones, text, long runs of zeros, and a few bytes in the midst of zeros. The same for
/// the same length.
pub(crate) fn content(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for (at, part) in bytes.chunks_mut(64 << 10).enumerate() {
        match at % 5 {
            0 | 3 => part.iter_mut().for_each(|byte| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                *byte = state.to_le_bytes()[3];
            }),
            1 => {
                let line = format!("{at:08} the quick brown fox jumps over the lazy dog\n");
                part.iter_mut().zip(line.bytes().cycle()).for_each(|(byte, text)| *byte = text);
            }
            _ if at % 10 == 4 => part[part.len() / 2] = 0x41,
            _ => {}
        }
    }
    bytes
}

/// Runs an outside tool; it must succeed.
pub(crate) fn tool<I: AsRef<OsStr>>(name: &str, args: impl IntoIterator<Item = I>) -> Output {
    let output = Command::new(name).args(args).output();
    let output = output.unwrap_or_else(|error| panic!("{name}: {error}; scripts/install test installs it"));
    assert!(
        output.status.success(),
        "{name} failed with {}: {}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

/// Opens an image that must be sound.
pub(crate) fn open(path: &Path) -> Image {
    image::open(path, &Options::default()).unwrap_or_else(|error| panic!("{error}"))
}

/// The names of its wrappings, from the file inwards.
pub(crate) fn wrappings(image: &Image) -> Vec<&'static str> {
    image.layers().iter().map(|layer| layer.wrapping).collect()
}

/// All of it in order, zeros where the format says so; gaps fail.
pub(crate) fn read_all(image: &dyn ReadAt) -> Result<Vec<u8>, ReadError> {
    let mut all = Vec::new();
    stream::in_order::<ReadError>(image, 0..image.len(), |chunk| {
        match chunk {
            stream::Chunk::Data { at, bytes } => {
                assert_eq!(at, all.len() as u64);
                all.extend_from_slice(bytes);
            }
            stream::Chunk::Hole(extent) => {
                assert_eq!(extent.at, all.len() as u64);
                match extent.kind {
                    Kind::Gap(why) => return Err(ReadError::Gap { at: extent.at, len: extent.len, why }),
                    _ => all.resize(all.len() + usize::try_from(extent.len).unwrap(), 0),
                }
            }
        }
        Ok(())
    })?;
    Ok(all)
}

/// It holds exactly `want`: read in order, and at odd places by several threads; what its map calls zero is zero.
pub(crate) fn holds(image: &Image, want: &[u8]) {
    let bytes = image.bytes();
    assert_eq!(bytes.len(), want.len() as u64, "length");
    let all = read_all(bytes.as_ref()).unwrap_or_else(|error| panic!("{error}"));
    if let Some(at) = all.iter().zip(want).position(|(a, b)| a != b) {
        panic!("byte {at:#x} is {:#x} instead of {:#x}", all[at], want[at]);
    }
    std::thread::scope(|scope| {
        for start in 0..4_usize {
            let bytes = Arc::clone(bytes);
            scope.spawn(move || {
                let mut at = start * 7919;
                while at < want.len() {
                    let len = (1 + at % 70_001).min(want.len() - at);
                    let mut part = vec![0xee; len];
                    bytes.read_at(at as u64, &mut part).unwrap_or_else(|error| panic!("{error}"));
                    assert!(part == want[at..at + len], "{len} bytes at {at:#x} differ");
                    at += 104_729;
                }
            });
        }
    });
    let mut end = 0;
    for extent in map::walk(bytes.as_ref(), 0..bytes.len()) {
        let extent = extent.unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(extent.at, end, "the map has no holes of its own");
        end = extent.end();
        if extent.kind == Kind::Zero {
            let range = usize::try_from(extent.at).unwrap()..usize::try_from(extent.end()).unwrap();
            assert!(want[range].iter().all(|&byte| byte == 0), "the map says zero at {:#x}", extent.at);
        }
    }
    assert_eq!(end, bytes.len());
    let mut one = [0];
    assert!(matches!(bytes.read_at(bytes.len(), &mut one), Err(ReadError::Caller { .. })), "a read behind the end");
}

/// Opens whatever is at `path` and goes through all of it, at most 64 MiB of content. Errors are what is asked for.
pub(crate) fn explore(path: &Path) -> Result<(), ReadError> {
    let image = image::open(path, &Options::default())?;
    let bytes = image.bytes();
    let mut left = 64_u64 << 20;
    let mut buffer = vec![0; 1 << 20];
    for extent in map::walk(bytes.as_ref(), 0..bytes.len()).take(100_000) {
        let extent = extent?;
        let (mut at, end) = (extent.at, extent.end().min(extent.at.saturating_add(left)));
        while at < end && extent.kind == Kind::Data {
            let len = usize::try_from((end - at).min(1 << 20)).unwrap();
            bytes.read_at(at, &mut buffer[..len])?;
            at += len as u64;
            left -= len as u64;
        }
    }
    Ok(())
}

/// Cuts the file at many places and flips bits in the bytes at `places` (headers, tables): each must end in an answer or a
/// named error, without a panic, without control codes. Answers how many were refused.
pub(crate) fn survives(path: &Path, places: impl IntoIterator<Item = usize>) -> usize {
    let good = std::fs::read(path).unwrap();
    let damaged = path.with_extension(format!("damaged-{}", path.extension().unwrap_or_default().display()));
    let mut refused = 0;
    let mut ask = |bytes: &[u8]| {
        std::fs::write(&damaged, bytes).unwrap();
        if let Err(error) = explore(&damaged) {
            let text = error.to_string();
            assert!(!text.is_empty());
            refused += 1;
        }
    };
    for place in places {
        for flip in [0x01, 0x40, 0xff] {
            let mut bytes = good.clone();
            bytes[place] ^= flip;
            ask(&bytes);
        }
    }
    for cut in [0, 1, 3, 16, 511, 512, 513, 4096, good.len() / 3, good.len() / 2, good.len() - 1] {
        ask(&good[..cut.min(good.len())]);
    }
    std::fs::remove_file(&damaged).unwrap();
    refused
}
