//! Every parser of what a hypervisor says, against damaged samples (`damaged/PARSER/`) and against a good one (`good/`) cut
//! and flipped at every place: refused in words that name the place, never a panic. The fuzz targets go on from here.

#![cfg(feature = "qemu")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test stops where something is not as it should be")]

use std::fs;
use std::path::Path;

use impound_backends::qemu::flatview::MemoryMap;
use impound_backends::qemu::{agent, dump, stream};
use impound_backends::wire::{nbd, qmp};
use impound_backends::{Piece, Why};

type Parser = fn(&[u8]) -> Result<(), String>;

const PARSERS: &[(&str, Parser)] = &[
    ("migration_stream", migration),
    ("elf_dump", dump::parse),
    ("qmp", qmp::parse),
    ("agent", agent::parse),
    ("mtree", mtree),
    ("nbd", export),
    #[cfg(feature = "esx")]
    ("esx_object", |bytes| impound_backends::esx::read("object", bytes)),
    #[cfg(feature = "esx")]
    ("esx_volumes", |bytes| impound_backends::esx::read("volumes", bytes)),
    #[cfg(feature = "esx")]
    ("esx_snapshots", |bytes| impound_backends::esx::read("snapshots", bytes)),
    #[cfg(feature = "esx")]
    ("esx_descriptor", |bytes| impound_backends::esx::read("descriptor", bytes)),
];

fn migration(bytes: &[u8]) -> Result<(), String> {
    struct Nowhere(Vec<u64>);
    impl stream::Sink for Nowhere {
        fn block(&mut self, _: usize, _: &str, len: u64) -> Result<(), stream::StreamError> {
            self.0.push(len);
            Ok(())
        }
        fn armed(&mut self) {}
        fn page(&mut self, block: usize, offset: u64, bytes: &[u8]) -> Result<(), stream::StreamError> {
            assert!(offset + bytes.len() as u64 <= *self.0.get(block).unwrap());
            Ok(())
        }
        fn zero(&mut self, block: usize, offset: u64, len: u64) -> Result<(), stream::StreamError> {
            assert!(offset + len <= *self.0.get(block).unwrap());
            Ok(())
        }
        fn rest(&mut self, _: &[u8]) -> Result<(), stream::StreamError> {
            Ok(())
        }
        fn raw(&mut self, _: &[u8]) {}
    }
    stream::read(bytes, &mut Nowhere(Vec::new())).map_err(|error| error.to_string())
}

fn mtree(bytes: &[u8]) -> Result<(), String> {
    let map = MemoryMap::parse(&String::from_utf8_lossy(bytes), &["pc.ram".to_owned()]).map_err(|e| e.to_string())?;
    let covered: u64 =
        map.ranges.iter().map(|range| range.len).sum::<u64>() + map.holes().iter().map(|hole| hole.1).sum::<u64>();
    assert_eq!(covered, map.len, "every byte is memory or a hole");
    Ok(())
}

/// Reads an export whose server says exactly these bytes, whatever is asked.
fn export(bytes: &[u8]) -> Result<(), String> {
    struct Pieces(u64);
    impl nbd::Take for Pieces {
        async fn take(&mut self, piece: Piece) -> bool {
            self.0 += match piece {
                Piece::Data { bytes, .. } => bytes.len() as u64,
                Piece::Zero { len, .. } | Piece::Gap { len, why: Why::Sparse | Why::Unreadable(_), .. } => len,
                other => panic!("{other:?}"),
            };
            // A server that claims a huge empty disk is not wrong; there is no need to hear it out.
            self.0 < 1 << 24
        }
    }
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let stream = tokio::io::join(bytes, tokio::io::sink());
        let mut client = nbd::Client::open(stream, "disk").await.map_err(|error| error.to_string())?;
        client.read_all(&mut Pieces(0)).await.map_err(|error| error.to_string())
    })
}

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests"))
}

#[test]
fn every_damaged_sample_is_refused_with_a_reason() {
    for (name, parser) in PARSERS {
        let samples: Vec<_> = fs::read_dir(root().join("damaged").join(name)).unwrap().collect();
        assert!(samples.len() >= 6, "{name} has {} samples", samples.len());
        for sample in samples {
            let path = sample.unwrap().path();
            let why = parser(&fs::read(&path).unwrap()).expect_err(&format!("{} was taken for good", path.display()));
            assert!(why.len() > 10 && !why.chars().any(char::is_control), "{}: {why:?}", path.display());
        }
    }
}

#[test]
fn a_good_sample_is_read_and_any_cut_or_flip_of_it_is_survived() {
    for (name, parser) in PARSERS {
        let good = fs::read(root().join("good").join(name)).unwrap();
        parser(&good).unwrap_or_else(|why| panic!("{name}: {why}"));
        for at in 0..good.len() {
            // Inside a page all bytes are alike.
            if at > 400 && at + 100 < good.len() && at % 97 != 0 {
                continue;
            }
            let _ = parser(good.get(..at).unwrap());
            for flip in [0x01, 0x10, 0x80, 0xff] {
                let mut damaged = good.clone();
                *damaged.get_mut(at).unwrap() ^= flip;
                let _ = parser(&damaged);
            }
        }
    }
}
