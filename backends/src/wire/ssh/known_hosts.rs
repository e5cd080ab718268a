//! Is this the machine that it was last time? The files that OpenSSH keeps, read as it reads them.
//!
//! libssh2 has a reader of its own, which knows neither patterns nor `@revoked`; a key that was revoked must not pass.
//! `@cert-authority` lines are passed over: certificates of hosts are not asked for.
//!
//! Source: OpenBSD manual, sshd(8), "SSH_KNOWN_HOSTS FILE FORMAT".

use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;
use sha2::{Digest, Sha256};

use super::config::pattern_list;
use crate::BackendError;

/// The longest file that is read, in bytes.
const LONGEST: u64 = 64 << 20;

/// What the files say of a key.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is the one.
    Known,
    /// The host is in no file.
    New,
    /// The host is there with another key; where.
    Changed(String),
    /// This key was revoked; where.
    Revoked(String),
}

/// All that the files say of one host.
#[derive(Debug, Default)]
pub(super) struct Known {
    keys: Vec<(Vec<u8>, String)>,
    revoked: Vec<(Vec<u8>, String)>,
}

impl Known {
    /// Reads the files; one that is not there has nothing to say.
    pub(super) fn read(files: &[PathBuf], name: &str) -> Self {
        let mut known = Self::default();
        for file in files {
            let small = fs::metadata(file).is_ok_and(|about| about.len() <= LONGEST);
            let Some(bytes) = small.then(|| fs::read(file).ok()).flatten() else { continue };
            for (line, number) in String::from_utf8_lossy(&bytes).lines().zip(1..) {
                known.line(line, name, &format!("{}:{number}", file.display()));
            }
        }
        known
    }

    fn line(&mut self, line: &str, name: &str, place: &str) {
        let mut words = line.split_ascii_whitespace();
        let Some(mut first) = words.next().filter(|word| !word.starts_with('#')) else { return };
        let mut revoked = false;
        if let Some(marker) = first.strip_prefix('@') {
            revoked = marker == "revoked";
            let Some(next) = words.next().filter(|_| revoked) else { return };
            first = next;
        }
        let key = words.nth(1).and_then(|key| STANDARD.decode(key).ok());
        let Some(key) = key.filter(|_| is_for(first, name)) else { return };
        let list = if revoked { &mut self.revoked } else { &mut self.keys };
        list.push((key, place.to_owned()));
    }

    /// Names of the kinds of keys that are known for this host, which is what to ask it for first.
    pub(super) fn kinds(&self) -> Vec<String> {
        self.keys.iter().filter_map(|(key, _)| kind(key)).collect()
    }

    /// See [`Verdict`].
    pub(super) fn judge(&self, key: &[u8]) -> Verdict {
        if let Some((_, place)) = self.revoked.iter().find(|(known, _)| known == key) {
            return Verdict::Revoked(place.clone());
        }
        if self.keys.iter().any(|(known, _)| known == key) {
            return Verdict::Known;
        }
        // Another kind of key for a host that is known is no sign of peace either: it may be somebody in between.
        self.keys.first().map_or(Verdict::New, |(_, place)| Verdict::Changed(place.clone()))
    }
}

/// The name under which a host is kept.
pub(super) fn name(host: &str, port: u16) -> String {
    let host = host.to_ascii_lowercase();
    if port == 22 { host } else { format!("[{host}]:{port}") }
}

/// As people compare it: `SHA256:…`.
pub(super) fn fingerprint(key: &[u8]) -> String {
    format!("SHA256:{}", STANDARD_NO_PAD.encode(Sha256::digest(key)))
}

/// The name of its kind, which a key begins with.
pub(super) fn kind(key: &[u8]) -> Option<String> {
    let (len, rest) = key.split_first_chunk::<4>()?;
    let name = rest.get(..usize::try_from(u32::from_be_bytes(*len)).ok()?)?;
    String::from_utf8(name.to_vec()).ok().filter(|name| !name.is_empty() && name.is_ascii())
}

/// Adds a host, in a line of its own.
pub(super) fn add(file: &Path, name: &str, key: &[u8]) -> Result<(), BackendError> {
    let broke = |error| BackendError::io("write down the key of a new host", file.display().to_string(), &error);
    if let Some(folder) = file.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(broke)?;
    }
    let whole = fs::read(file).map_or(true, |text| text.is_empty() || text.ends_with(b"\n"));
    let mut into = fs::OpenOptions::new().create(true).append(true).mode(0o600).open(file).map_err(broke)?;
    let line =
        format!("{}{name} {} {}\n", if whole { "" } else { "\n" }, kind(key).unwrap_or_default(), STANDARD.encode(key));
    into.write_all(line.as_bytes()).and_then(|()| into.sync_all()).map_err(broke)
}

fn is_for(hosts: &str, name: &str) -> bool {
    match hosts.strip_prefix("|1|").and_then(|rest| rest.split_once('|')) {
        Some((salt, digest)) => {
            let (Ok(salt), Ok(digest)) = (STANDARD.decode(salt), STANDARD.decode(digest)) else { return false };
            let Ok(mut mac) = Hmac::<Sha1>::new_from_slice(&salt) else { return false };
            mac.update(name.as_bytes());
            mac.verify_slice(&digest).is_ok()
        }
        None => pattern_list(hosts, name),
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn keygen(folder: &Path, name: &str, kind: &str) -> (String, Vec<u8>) {
        let path = folder.join(name);
        let made = Command::new("ssh-keygen").args(["-q", "-N", "", "-t", kind, "-f"]).arg(&path).status().unwrap();
        assert!(made.success());
        let public = fs::read_to_string(path.with_extension("pub")).unwrap();
        let blob = STANDARD.decode(public.split_whitespace().nth(1).unwrap()).unwrap();
        (public.split_whitespace().take(2).collect::<Vec<_>>().join(" "), blob)
    }

    #[test]
    fn hosts_are_known_as_openssh_knows_them() {
        let folder = tempfile::tempdir().unwrap();
        let ((one, one_blob), (two, two_blob)) =
            (keygen(folder.path(), "one", "ed25519"), keygen(folder.path(), "two", "ecdsa"));
        let file = folder.path().join("known_hosts");
        let text = format!(
            "# comment\nplain,10.0.0.1 {one}\n*.example.org,!bad.example.org {one} me\n[ported]:2222 {one}\n@revoked * {two}\n@cert-authority * {one}\nhashed {one}\n"
        );
        fs::write(&file, text).unwrap();
        let judge =
            |host: &str, port, key: &[u8]| Known::read(std::slice::from_ref(&file), &name(host, port)).judge(key);
        let of_hashed = || {
            let hashed = Command::new("ssh-keygen").args(["-q", "-H", "-f"]).arg(&file).output().unwrap();
            assert!(hashed.status.success());
        };
        for round in 0..2 {
            for (host, port) in [("plain", 22), ("10.0.0.1", 22), ("ported", 2222), ("hashed", 22), ("PLAIN", 22)] {
                assert_eq!(judge(host, port, &one_blob), Verdict::Known, "{host} in round {round}");
            }
            assert_eq!(judge("kvm.example.org", 22, &one_blob), Verdict::Known);
            assert_eq!(judge("bad.example.org", 22, &one_blob), Verdict::New);
            assert_eq!(judge("ported", 22, &one_blob), Verdict::New);
            assert!(matches!(judge("plain", 22, &two_blob), Verdict::Revoked(_)));
            // OpenSSH hashes the names of a file; they must be found as before.
            of_hashed();
        }
        assert_eq!(kind(&one_blob).as_deref(), Some("ssh-ed25519"));
    }

    #[test]
    fn another_key_for_a_known_host_is_a_change() {
        let folder = tempfile::tempdir().unwrap();
        let ((_, one), (_, two)) = (keygen(folder.path(), "one", "ed25519"), keygen(folder.path(), "two", "ed25519"));
        let file = folder.path().join("new/known_hosts");
        add(&file, "host", &one).unwrap();
        fs::write(&file, fs::read_to_string(&file).unwrap().trim_end()).unwrap();
        add(&file, "other", &two).unwrap();
        let known = Known::read(std::slice::from_ref(&file), "host");
        assert_eq!((known.judge(&one), known.kinds()), (Verdict::Known, vec!["ssh-ed25519".to_owned()]));
        assert!(matches!(known.judge(&two), Verdict::Changed(place) if place.ends_with(":1")));
        assert_eq!(Known::read(&[file], "other").judge(&two), Verdict::Known);
        let listed = Command::new("ssh-keygen").arg("-lf").arg(folder.path().join("one.pub")).output().unwrap();
        assert!(String::from_utf8_lossy(&listed.stdout).contains(&fingerprint(&one)));
    }

    #[test]
    fn damaged_lines_say_nothing() {
        let mut known = Known::default();
        for line in [
            "",
            "@",
            "@revoked",
            "host",
            "host ssh-rsa",
            "host ssh-rsa !!!",
            "|1|x host y",
            "|1||| a AAAA",
            "@odd host a AAAA",
        ] {
            known.line(line, "host", "here");
        }
        assert_eq!(known.judge(b"key"), Verdict::New);
        assert_eq!(kind(&[0xff; 8]), None);
    }
}
