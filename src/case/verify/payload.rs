//! The payload of an exhibit: what its documents say of it, and its content.

use std::io;
use std::path::Path;

use md5::Md5;
use rayon::prelude::*;
use sha1::Sha1;
use sha2::{Sha256, Sha512};

use super::Finding;
use super::bag::View;
use super::log::unreadable;
use crate::case::bag::{self as tags, ALGORITHMS};
use crate::case::disk::read_bounded;
use crate::case::manifest::{self, Entries, MANIFEST_LIMIT};
use crate::case::names::Shown;
use crate::case::record::{Digests, Record, Stored};
use crate::case::{CaseError, blocks, digest};
use crate::progress::{Silent, Task};

/// Do `exhibit.json`, the manifests and `bag-info.txt` say the same?
pub(super) fn check_documents(view: &View<'_>, record: Option<&Record>, payload: &Entries) -> Vec<Finding> {
    let Some(record) = record else { return Vec::new() };
    let mut findings = Vec::new();
    for algorithm in &ALGORITHMS {
        let name = Path::new(algorithm.manifest);
        let entries = if algorithm.digits == 64 {
            payload.clone()
        } else if view.found.contains_key(name) {
            let bytes = read_bounded(&view.at(name), MANIFEST_LIMIT);
            bytes.map(|bytes| manifest::parse(&bytes, algorithm.digits).0).unwrap_or_default()
        } else {
            continue;
        };
        let mut disagree = |path: &Path, why: &str| {
            let why = format!("{}: {why}", Shown(path));
            findings.push(Finding::Disagrees { file: view.named(name), why });
        };
        for file in &record.stored {
            match (entries.get(&file.path), (algorithm.of)(&file.digests)) {
                (Some(listed), Some(recorded)) if listed == recorded => {}
                (Some(_), _) => disagree(&file.path, "exhibit.json has another digest"),
                (None, _) => disagree(&file.path, "exhibit.json has it and this manifest does not"),
            }
        }
        for path in entries.keys().filter(|path| !record.stored.iter().any(|file| file.path == **path)) {
            disagree(path, "this manifest has it and exhibit.json does not");
        }
    }
    findings.extend(check_oxum(view, record));
    findings
}

/// RFC 8493 §2.2.2: bytes and number of files, for a quick look.
fn check_oxum(view: &View<'_>, record: &Record) -> Option<Finding> {
    let path = Path::new("bag-info.txt");
    let text = read_bounded(&view.at(path), 1 << 20).ok()?;
    let octets = record.stored.iter().fold(0u64, |sum, file| sum.saturating_add(file.len));
    let expected = format!("{octets}.{}", record.stored.len());
    let found = tags::label(&String::from_utf8_lossy(&text), "Payload-Oxum").unwrap_or("no Payload-Oxum").to_owned();
    let why = format!("{found}, exhibit.json has {expected}");
    (found != expected).then(|| Finding::Disagrees { file: view.named(path), why })
}

/// Hashes every file of the payload. Answers what is wrong, and the bytes that were read.
pub(super) fn check_content(view: &View<'_>, record: Option<&Record>, payload: &Entries) -> (Vec<Finding>, u64) {
    let stored = |path: &Path| record.and_then(|record| record.stored.iter().find(|file| file.path == path));
    let checked: Vec<_> = payload
        .par_iter()
        .filter(|(path, _)| path.starts_with("data"))
        .map(|(path, expected)| match view.missing(path) {
            Some(finding) => (vec![finding], 0),
            None => check_file(view, path, expected, stored(path)),
        })
        .collect();
    let bytes = checked.iter().map(|(_, bytes)| *bytes).fold(0, u64::saturating_add);
    (checked.into_iter().flat_map(|(findings, _)| findings).collect(), bytes)
}

fn check_file(view: &View<'_>, path: &Path, expected: &str, stored: Option<&Stored>) -> (Vec<Finding>, u64) {
    let judged = judge(view, path, expected, stored);
    let (mut findings, len) = judged.unwrap_or_else(|error| (vec![unreadable(&view.named(path), &error)], 0));
    if let Some(stored) = stored {
        if findings.iter().all(|finding| !matches!(finding, Finding::Unreadable { .. })) && stored.len != len {
            let file = view.named(path);
            findings.push(Finding::Resized { file, expected: stored.len, found: len });
        }
        if view.whole && findings.is_empty() {
            findings.extend(check_others(view, path, &stored.digests));
        }
    }
    (findings, len)
}

/// By the block map, if there is one that is as it was sealed and ends in the digest of record; else as a whole.
fn judge(view: &View<'_>, path: &Path, expected: &str, stored: Option<&Stored>) -> io::Result<(Vec<Finding>, u64)> {
    let map = stored.and_then(|stored| stored.blocks.as_deref()).map(Path::new);
    let intact = map.filter(|map| view.intact.iter().any(|intact| intact == map));
    let changed = |ranges| Finding::Changed { file: view.named(path), ranges };
    if let Some(map) = intact {
        match blocks::check(&view.at(path), &view.at(map), view.task) {
            Ok(found) if !found.changed.is_empty() => return Ok((vec![changed(found.changed)], found.actual_len)),
            Ok(found) if found.sha256.as_deref() == Some(expected) => return Ok((Vec::new(), found.actual_len)),
            // Every block fits and the whole does not: the map is of another file.
            Ok(found) => {
                let why = "it fits the file, and the manifest does not fit it".to_owned();
                return Ok((vec![Finding::Disagrees { file: view.named(map), why }], found.actual_len));
            }
            Err(CaseError::Corrupt { at, expected: wanted, found, .. }) => {
                let why = format!("damaged at {at}: expected {wanted}, found {found}");
                let (len, found) = digest::file::<Sha256>(&view.at(path), &Silent)?;
                let mut findings = vec![Finding::Malformed { file: view.named(map), why }];
                findings.extend((found != expected).then(|| changed(Vec::new())));
                return Ok((findings, len));
            }
            Err(CaseError::Io { source, .. }) => return Err(source),
            Err(other) => return Err(io::Error::other(other.to_string())),
        }
    }
    let (len, found) = digest::file::<Sha256>(&view.at(path), view.task)?;
    Ok(((found != expected).then(|| changed(Vec::new())).into_iter().collect(), len))
}

/// The digests beside that of record. One that differs where SHA-256 fits was wrong from the beginning.
fn check_others(view: &View<'_>, path: &Path, digests: &Digests) -> Vec<Finding> {
    type Hash = fn(&Path, &dyn Task) -> io::Result<(u64, String)>;
    let others: [(&str, Option<&String>, Hash); 4] = [
        ("SHA-512", digests.sha512.as_ref(), digest::file::<Sha512>),
        ("SHA-1", digests.sha1.as_ref(), digest::file::<Sha1>),
        ("MD5", digests.md5.as_ref(), digest::file::<Md5>),
        ("BLAKE3", digests.blake3.as_ref(), blake3_file),
    ];
    let wrong = |(name, recorded, hash): &(&str, Option<&String>, Hash)| {
        let recorded = (*recorded)?;
        match hash(&view.at(path), &Silent) {
            Ok((_, found)) if found == *recorded => None,
            Ok(_) => Some(Finding::Disagrees { file: view.named(path), why: format!("its {name} is another") }),
            Err(error) => Some(unreadable(&view.named(path), &error)),
        }
    };
    others.par_iter().filter_map(wrong).collect()
}

fn blake3_file(path: &Path, _task: &dyn Task) -> io::Result<(u64, String)> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(crate::case::disk::open_plain(path)?)?;
    Ok((hasher.count(), hasher.finalize().to_hex().to_string()))
}
