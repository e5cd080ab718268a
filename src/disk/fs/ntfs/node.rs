//! The metadata of a file, from all that its record tells.

use super::attribute::{self, Attribute, DATA, OBJECT_ID, STANDARD_INFORMATION, Value};
use super::info::{self, READ_ONLY, Standard};
use super::mft::File;
use super::reparse::{self, Reparse};
use crate::disk::fs::{FileKind, Node, Times};

/// What the file is.
pub(super) fn kind(file: &File) -> FileKind {
    let made = Reparse::of(file).and_then(|point| reparse::kind(point.tag));
    let made = made.or_else(|| reparse::interix(file).map(|device| device.kind));
    made.unwrap_or(if file.record.is_directory() { FileKind::Directory } else { FileKind::File })
}

/// What all file systems tell. [`facts`] has the rest, which takes longer.
pub(super) fn node(file: &File) -> Node {
    let mut odd = file.odd.clone();
    let standard = match file.value(STANDARD_INFORMATION).map(|value| Standard::parse(&value)) {
        Some(Ok(standard)) => standard,
        Some(Err(error)) => {
            odd.push(error.to_string());
            Standard::default()
        }
        None => {
            odd.push("it has no $STANDARD_INFORMATION".to_owned());
            Standard::default()
        }
    };
    let kind = kind(file);
    let bits = match kind {
        FileKind::Directory => 0o040_000,
        FileKind::Link => 0o120_000,
        FileKind::CharDevice => 0o020_000,
        FileKind::BlockDevice => 0o060_000,
        FileKind::Fifo => 0o010_000,
        FileKind::Socket => 0o140_000,
        FileKind::File => 0o100_000,
    };
    Node {
        inode: file.record.number,
        generation: u32::from(file.record.sequence),
        kind: Some(kind),
        // NTFS has lists of who may do what, and no mode; a mount shows this.
        mode: bits | if standard.flags & READ_ONLY == 0 { 0o777 } else { 0o555 },
        uid: 0,
        gid: 0,
        size: size(file),
        links: u32::try_from(file.names().filter(|name| !name.is_dos()).count()).unwrap_or(u32::MAX),
        times: standard.times,
        allocated: file.record.in_use(),
        facts: Vec::new(),
        odd,
    }
}

/// Length of the content, or of the index of a directory.
fn size(file: &File) -> u64 {
    file.main().map_or(0, Attribute::size)
}

/// A file cannot be older than its name, unless it came with its times, or somebody set them back.
fn earlier(file: &File, times: &Times) -> Option<(String, String)> {
    let named = file.names().filter_map(|name| name.times.born).min()?;
    let born = times.born.filter(|born| *born < named)?;
    let why = "copied with its times, or set back (timestomp)";
    Some(("earlier than its name".to_owned(), format!("$SI born {born}, $FN born {named}: {why}")))
}

/// Everything else that the record tells.
pub(super) fn facts(file: &File, times: &Times) -> Vec<(String, String)> {
    let mut facts: Vec<_> = earlier(file, times).into_iter().collect();
    let mut fact = |name: &str, value: String| facts.push((name.to_owned(), value));
    fact("record", format!("{}-{}", file.record.number, file.record.sequence));
    fact("lsn", file.record.lsn.to_string());
    if let Some(Ok(standard)) = file.value(STANDARD_INFORMATION).map(|value| Standard::parse(&value)) {
        fact("flags", info::flags(standard.flags));
        if let Some((security, usn)) = standard.newer {
            fact("security id", security.to_string());
            fact("usn", usn.to_string());
        }
    }
    for name in file.names() {
        let (text, parent, space) = (crate::report::readable(&name.name), name.parent, name.space());
        fact("$FN name", format!("{text} in {parent} ({space})"));
        for (what, at) in [
            ("$FN modified", name.times.modified),
            ("$FN accessed", name.times.accessed),
            ("$FN changed", name.times.changed),
            ("$FN born", name.times.born),
        ] {
            fact(what, at.map_or_else(|| "none".to_owned(), |at| at.to_string()));
        }
    }
    if let Some(id) = file.value(OBJECT_ID).and_then(|value| value.array::<16>(0).ok()) {
        fact("object id", guid(id));
    }
    if let Some(point) = Reparse::of(file) {
        fact("reparse point", point.name());
        if let Some([_, shown]) = point.target() {
            fact("shown target", crate::report::readable(&shown));
        }
    }
    for one in file.attributes.iter().filter(|one| one.kind == DATA) {
        let name = if one.name.is_empty() {
            "$DATA".to_owned()
        } else {
            format!("$DATA {}", crate::report::readable(&one.name))
        };
        fact(&name, form(one));
    }
    facts
}

/// How the value of an attribute is kept.
fn form(attribute: &Attribute) -> String {
    let Value::Mapped(mapping) = &attribute.value else {
        return "in the record".to_owned();
    };
    let clusters = mapping.runs.iter().map(|run| run.len).sum::<u64>();
    let mut parts = vec![format!("{clusters} clusters in {} runs", mapping.runs.len())];
    if clusters < mapping.to {
        parts.push(format!("{} not stored", mapping.to - clusters));
    }
    if mapping.valid < mapping.size {
        parts.push(format!("written up to {}", mapping.valid));
    }
    if mapping.unit > 0 {
        parts.push(format!("compressed by {} clusters", mapping.unit));
    }
    if attribute.is_encrypted() {
        parts.push("encrypted".to_owned());
    }
    parts.join(", ")
}

/// As Windows writes it: three numbers little-endian, then bytes.
fn guid(id: [u8; 16]) -> String {
    let hex = |range: std::ops::Range<usize>, turned: bool| {
        let mut bytes = id.get(range).unwrap_or_default().to_vec();
        if turned {
            bytes.reverse();
        }
        crate::image::hex(&bytes)
    };
    format!("{}-{}-{}-{}-{}", hex(0..4, true), hex(4..6, true), hex(6..8, true), hex(8..10, false), hex(10..16, false))
}

/// Attributes that are streams beside the content: data with a name.
pub(super) fn streams(file: &File) -> impl Iterator<Item = &Attribute> {
    let bad = file.record.number == BAD_CLUSTERS;
    file.attributes
        .iter()
        .filter(move |one| one.kind == attribute::DATA && !one.name.is_empty() && !(bad && one.name == b"$Bad"))
}

/// Its stream `$Bad` is as long as the volume, and says by its map alone which clusters are bad.
pub(super) const BAD_CLUSTERS: u64 = 8;
