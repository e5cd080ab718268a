//! Digests of the content of an image, as the bytes would be in a raw file: what is missing counts as zeros.

use md5::{Digest as _, Md5};
use sha1::Sha1;
use sha2::Sha256;

use super::{Carried, ReadAt, ReadError, hex, stream};
use crate::progress::Task;

/// Several digests of the same bytes.
#[derive(Clone, Default)]
pub struct Digests {
    md5: Option<Md5>,
    sha1: Option<Sha1>,
    sha256: Option<Sha256>,
}

/// Zeros for what takes no room.
static ZEROS: [u8; 1 << 20] = [0; 1 << 20];

impl Digests {
    /// Those of the names `md5`, `sha1`, `sha256` that are in `wanted`.
    pub fn new(wanted: &[&str]) -> Self {
        Self {
            md5: wanted.contains(&"md5").then(Md5::new),
            sha1: wanted.contains(&"sha1").then(Sha1::new),
            sha256: wanted.contains(&"sha256").then(Sha256::new),
        }
    }

    /// The next bytes. The slowest digest has a thread of its own.
    pub fn add(&mut self, bytes: &[u8]) {
        let (md5, sha1, sha256) = (&mut self.md5, &mut self.sha1, &mut self.sha256);
        let mut others = || {
            if let Some(digest) = sha1 {
                digest.update(bytes);
            }
            if let Some(digest) = sha256 {
                digest.update(bytes);
            }
        };
        match md5 {
            None => others(),
            Some(md5) => {
                rayon::join(|| md5.update(bytes), others);
            }
        }
    }

    /// `len` zeros.
    pub fn add_zeros(&mut self, mut len: u64) {
        while len > 0 {
            let part = usize::try_from(len).unwrap_or(usize::MAX).min(ZEROS.len());
            self.add(ZEROS.get(..part).unwrap_or_default());
            len -= part as u64;
        }
    }

    /// All of them, in hex.
    pub fn finish(self) -> Vec<Carried> {
        let md5 = self.md5.map(|digest| Carried { algorithm: "md5", hex: hex(&digest.finalize()) });
        let sha1 = self.sha1.map(|digest| Carried { algorithm: "sha1", hex: hex(&digest.finalize()) });
        let sha256 = self.sha256.map(|digest| Carried { algorithm: "sha256", hex: hex(&digest.finalize()) });
        md5.into_iter().chain(sha1).chain(sha256).collect()
    }
}

/// The digests named in `wanted` of the first `len` bytes of an image.
pub fn of_content(image: &dyn ReadAt, len: u64, wanted: &[&str], task: &dyn Task) -> Result<Vec<Carried>, ReadError> {
    let mut digests = Digests::new(wanted);
    stream::in_order::<ReadError>(image, 0..len, |chunk| {
        match chunk {
            stream::Chunk::Data { bytes, .. } => {
                digests.add(bytes);
                task.add(bytes.len() as u64);
            }
            stream::Chunk::Hole(extent) => {
                digests.add_zeros(extent.len);
                task.add(extent.len);
            }
        }
        Ok(())
    })?;
    Ok(digests.finish())
}
