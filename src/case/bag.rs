//! The tag files of a BagIt bag (RFC 8493): `bagit.txt`, `bag-info.txt`, payload manifests.

use std::fmt::Write as _;
use std::path::Path;

use jiff::Timestamp;

use super::manifest::{self, Entries};
use super::record::{Digests, Record, Stored};

/// Declares the folder a bag.
pub(crate) const BAGIT: &[u8] = b"BagIt-Version: 1.0\nTag-File-Character-Encoding: UTF-8\n";
/// Digests of all tag files but itself and its signature.
pub(crate) const TAG_MANIFEST: &str = "tagmanifest-sha256.txt";
/// Signature over it.
pub(crate) const SIGNATURE: &str = "tagmanifest-sha256.txt.sig";
/// Time stamp over it by a third party (RFC 3161), if somebody adds one.
pub(crate) const TIME_STAMP: &str = "tagmanifest-sha256.txt.tsr";

/// A digest that manifests know.
pub(crate) struct Algorithm {
    /// Name of the file.
    pub(crate) manifest: &'static str,
    /// Length of a digest in hex digits.
    pub(crate) digits: usize,
    /// Where a stored file keeps it.
    pub(crate) of: fn(&Digests) -> Option<&str>,
}

/// The payload manifests, SHA-256 first, without which a bag is none of ours.
pub(crate) static ALGORITHMS: [Algorithm; 4] = [
    Algorithm { manifest: "manifest-sha256.txt", digits: 64, of: |d| Some(d.sha256.as_str()) },
    Algorithm { manifest: "manifest-sha512.txt", digits: 128, of: |d| d.sha512.as_deref() },
    Algorithm { manifest: "manifest-sha1.txt", digits: 40, of: |d| d.sha1.as_deref() },
    Algorithm { manifest: "manifest-md5.txt", digits: 32, of: |d| d.md5.as_deref() },
];

/// The payload manifest of one algorithm, if every file has that digest: a manifest lists all of the payload or is not
/// there (RFC 8493 §2.1.3).
pub(crate) fn payload_manifest(algorithm: &Algorithm, stored: &[Stored]) -> Option<Vec<u8>> {
    let entries: Option<Entries> = stored
        .iter()
        .map(|file| (algorithm.of)(&file.digests).map(|digest| (file.path.clone(), digest.to_owned())))
        .collect();
    // An empty payload has a SHA-256 manifest, empty too, and no other.
    entries.filter(|e| !e.is_empty() || algorithm.digits == 64).map(|entries| manifest::write(&entries))
}

/// `bag-info.txt`.
pub(crate) fn info(record: &Record, organization: Option<&str>, now: Timestamp) -> Vec<u8> {
    let octets = record.stored.iter().fold(0u64, |sum, file| sum.saturating_add(file.len));
    let what = format!("{} of {} ({}), {}", record.item.name, record.target.uri, record.method, record.outcome.name());
    let lines = [
        ("Source-Organization", organization.unwrap_or_default().to_owned()),
        ("Contact-Name", record.case.examiner.clone()),
        ("External-Identifier", record.name.clone()),
        ("External-Description", what),
        ("Bag-Group-Identifier", record.case.number.clone()),
        ("Internal-Sender-Identifier", record.case.evidence_number.clone().unwrap_or_default()),
        ("Bagging-Date", now.strftime("%Y-%m-%d").to_string()),
        ("Payload-Oxum", format!("{octets}.{}", record.stored.len())),
        ("Bag-Software-Agent", format!("{} {} ({})", record.tool.name, record.tool.version, record.tool.build)),
    ];
    let mut text = String::new();
    for (label, value) in lines.iter().filter(|(_, value)| !value.trim().is_empty()) {
        // A line break in free text would begin a new label.
        let value: String = value.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{label}: {}", value.trim());
    }
    text.into_bytes()
}

/// The value of one label of `bag-info.txt`.
pub(crate) fn label<'a>(text: &'a str, label: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.split_once(':').filter(|(name, _)| *name == label)).map(|(_, value)| value.trim())
}

/// Is this the name of a tag file that the tag manifest does not list?
pub(crate) fn is_unlisted(path: &Path) -> bool {
    [TAG_MANIFEST, SIGNATURE, TIME_STAMP].iter().any(|name| path == Path::new(name))
}

#[cfg(test)]
mod tests {
    use super::super::record::tests::sample;
    use super::*;

    #[test]
    fn free_text_begins_no_new_label() {
        let mut record = sample();
        record.case.examiner = "Ada\nPayload-Oxum: 0.0".to_owned();
        let text = String::from_utf8(info(&record, None, record.window.end)).unwrap();
        assert_eq!(label(&text, "Payload-Oxum"), Some("0.0"));
        assert_eq!(text.lines().filter(|line| line.starts_with("Payload-Oxum")).count(), 1);
        assert_eq!(label(&text, "Contact-Name"), Some("Ada Payload-Oxum: 0.0"));
        assert_eq!(label(&text, "Source-Organization"), None);
    }
}
