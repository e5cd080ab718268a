//! Small files beside the image: what belongs to no address, as the device state of a guest.

use std::collections::btree_map::{BTreeMap, Entry};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::digests::{Digest, Hasher, Stored};
use super::space::{Space, create, settle};
use crate::case::CaseError;
use crate::case::digest::hex;

/// The most that all small files of one item may hold, in bytes.
const MOST: u64 = 256 << 20;

/// The small files of one item.
#[derive(Default)]
pub(super) struct Asides {
    data: PathBuf,
    digests: Vec<Digest>,
    total: u64,
    files: BTreeMap<&'static str, Aside>,
}

struct Aside {
    file: File,
    part: PathBuf,
    len: u64,
    sha256: Sha256,
    others: Vec<(Digest, Hasher)>,
}

impl Asides {
    /// None yet; they go into the folder `data`.
    pub(super) fn new(data: &Path, digests: Vec<Digest>) -> Self {
        Self { data: data.to_owned(), digests, total: 0, files: BTreeMap::new() }
    }

    /// Appends to the file called `name`. `Err` says why not.
    pub(super) fn append(&mut self, name: &'static str, bytes: &[u8], space: &Space) -> Result<(), String> {
        let plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, b'.' | b'_' | b'-');
        if name.is_empty() || name.len() > 64 || name.starts_with('.') || !name.bytes().all(plain) {
            return Err(format!("`{name}` is no name for a file beside the image"));
        }
        self.total = self.total.saturating_add(bytes.len() as u64);
        if self.total > MOST {
            return Err(format!("the files beside the image grow beyond {MOST} bytes (at `{name}`)"));
        }
        let aside = match self.files.entry(name) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                let part = self.data.join(format!("{name}.part"));
                let file = create(&part).map_err(|error| error.to_string())?;
                let others = self.digests.iter().map(|digest| (*digest, Hasher::new(*digest))).collect();
                entry.insert(Aside { file, part, len: 0, sha256: Sha256::new(), others })
            }
        };
        aside.append(bytes, space).map_err(|error| format!("could not write {}: {error}", aside.part.display()))
    }

    /// Ends them all under their names.
    pub(super) fn finish(self) -> Result<Vec<Stored>, CaseError> {
        let data = self.data;
        self.files.into_iter().map(|(name, aside)| aside.finish(&data, name)).collect()
    }
}

impl Aside {
    fn append(&mut self, mut bytes: &[u8], space: &Space) -> std::io::Result<()> {
        while !bytes.is_empty() {
            let mut count = 0;
            space.insist(|| self.file.write(bytes).map(|wrote| count = wrote))?;
            let Some((head, rest)) = bytes.split_at_checked(count).filter(|_| count > 0) else {
                return Err(std::io::ErrorKind::WriteZero.into());
            };
            // Digests follow what was written, so a file cut short by a full disk has the digest of what it holds.
            self.sha256.update(head);
            self.others.iter_mut().for_each(|(_, hasher)| hasher.update(head));
            self.len += count as u64;
            bytes = rest;
        }
        Ok(())
    }

    fn finish(self, data: &Path, name: &str) -> Result<Stored, CaseError> {
        settle(&self.file, &self.part, &data.join(name))?;
        let others = self.others.into_iter().map(|(digest, hasher)| (digest, hasher.finish())).collect();
        Ok(Stored { path: format!("data/{name}"), len: self.len, sha256: hex(&self.sha256.finalize()), others })
    }
}
