//! Every parser of the case against damaged samples (`tests/damaged/PARSER/`), and against a good document cut and flipped
//! at every place: refused in words that are safe to print, never a panic. The fuzz targets go on from here.

use std::fs;
use std::path::Path;

use impound::case::custody::{Head, check_chain, read_log};
use impound::case::{journal, record};

/// Says why the bytes are refused.
type Parser = fn(&[u8]) -> Result<(), String>;

const PARSERS: &[(&str, Parser)] = &[
    ("exhibit_json", |bytes| record::read(bytes).map(drop).map_err(|refused| refused.to_string())),
    ("custody_jsonl", |bytes| {
        let log = read_log(bytes).map_err(|error| error.to_string())?;
        let breaks: Vec<_> = check_chain(&log).iter().map(ToString::to_string).collect();
        if breaks.is_empty() && !log.entries.is_empty() { Ok(()) } else { Err(breaks.join("; ")) }
    }),
    ("custody_head", |bytes| Head::parse(bytes).map(drop).map_err(|refused| refused.to_string())),
    ("journal_jsonl", |bytes| match journal::parse(bytes) {
        Ok(Some(_)) => Ok(()),
        Ok(None) => Err("nothing was begun".to_owned()),
        Err((at, why)) => Err(format!("{at}: {why}")),
    }),
];

const LINE: &str = r#"{"n":1,"prev":"0000000000000000000000000000000000000000000000000000000000000000","time":"2026-11-24T10:30:00Z","event":"note","subject":null,"digest":null,"signer":null,"who":"Ada","details":{"a":[1,{"b":"c"}]}}"#;
const JOURNAL: &str = r#"{"schema":"impound-journal/1","run":"r1","target":"qmp:/x","who":"Ada","case":"C","pid":7,"started":"2026-11-24T10:30:00Z"}
{"act":1,"at":"2026-11-24T10:30:00Z","do":"stop","undo":{"say":"resume","how":null}}
"#;

fn check(name: &str, parser: Parser, bytes: &[u8]) -> bool {
    match parser(bytes) {
        Ok(()) => true,
        Err(why) => {
            assert!(!why.chars().any(char::is_control), "{name}: {why:?} would steer a terminal");
            false
        }
    }
}

#[test]
fn every_damaged_sample_is_refused() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/damaged");
    for (name, parser) in PARSERS {
        let samples: Vec<_> = fs::read_dir(root.join(name)).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(samples.len() >= 4, "{name} has too few samples");
        for path in samples {
            assert!(!check(name, *parser, &fs::read(&path).unwrap()), "{} was taken for good", path.display());
        }
    }
}

#[test]
fn good_documents_are_read_and_any_cut_or_flip_is_survived() {
    let head = Head { count: 7, hash: "ab".repeat(32) }.bytes();
    let exhibit = fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/exhibit.sample.json")).unwrap();
    let log = format!("{LINE}\n").into_bytes();
    let good = [exhibit, log, head, JOURNAL.as_bytes().to_vec()];
    for ((name, parser), bytes) in PARSERS.iter().zip(good) {
        assert!(check(name, *parser, &bytes), "{name}: the good one is refused");
        for at in 0..bytes.len() {
            check(name, *parser, bytes.get(..at).unwrap());
            for flip in [0x01, 0x20, 0x80] {
                let mut damaged = bytes.clone();
                *damaged.get_mut(at).unwrap() ^= flip;
                check(name, *parser, &damaged);
            }
        }
    }
}
