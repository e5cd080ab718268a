//! What did not change since an earlier snapshot, from the local copy of that one.
//!
//! The copy was hashed against its own exhibit before anything is taken from it. Its holes stay holes.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use crate::wire::http::spans::Out;
use crate::{BackendError, Piece, Since, Why};

use super::api::BLOCK;

/// What is read of the copy at once, in bytes.
const PART: u64 = 2 * BLOCK;

/// An earlier copy, open.
pub(super) struct Earlier {
    /// The snapshot it is of.
    pub(super) snapshot: String,
    path: PathBuf,
    file: Arc<File>,
}

impl Earlier {
    /// Opens it; `len` is the length of the volume, which must not have changed.
    pub(super) fn open(since: &Since, len: u64) -> Result<Self, BackendError> {
        let on = || since.image.display().to_string();
        let failed = |error: std::io::Error| BackendError::io("open the earlier copy", on(), &error);
        let file = File::open(&since.image).map_err(failed)?;
        let found = file.metadata().map_err(failed)?.len();
        if !super::ec2::is_id(&since.from, "snap-") {
            return Err(BackendError::caller("go on from an earlier copy", on(), "it is not one of a snapshot"));
        }
        if found != len {
            let why = format!("it has {found} bytes, and the volume {len} now");
            return Err(BackendError::unsupported("go on from an earlier copy", on(), why)
                .advise("take all of it, without --since"));
        }
        let (snapshot, path) = (since.from.clone(), since.image.clone());
        Ok(Self { snapshot, path, file: Arc::new(file) })
    }

    /// Sends the bytes `from..to` of the copy. Ends early, and well, if nobody listens any more.
    pub(super) async fn send(&self, send: &Out, from: u64, to: u64) -> Result<(), BackendError> {
        let mut at = from;
        while at < to {
            let file = Arc::clone(&self.file);
            let read = move || part(&file, at, to);
            let piece = tokio::task::spawn_blocking(read).await.map_err(std::io::Error::other).and_then(|read| read);
            let on = || self.path.display().to_string();
            let piece = piece.map_err(|error| BackendError::io("read the earlier copy", on(), &error))?;
            at = match &piece {
                Piece::Data { at, bytes } => at.saturating_add(bytes.len() as u64),
                Piece::Gap { at, len, .. } => at.saturating_add(*len),
                _ => to,
            };
            if send.send(Ok(piece)).await.is_err() {
                return Ok(());
            }
        }
        Ok(())
    }
}

/// The next bytes of a copy, or the hole that it has there.
fn part(file: &File, at: u64, to: u64) -> std::io::Result<Piece> {
    // Where the file system knows no holes, all is data.
    let data = crate::file::data(file, at, to).unwrap_or(at..to);
    let start = data.start / BLOCK * BLOCK;
    if start > at {
        return Ok(Piece::Gap { at, len: start.min(to) - at, why: Why::Sparse });
    }
    if data.start >= to {
        return Ok(Piece::Gap { at, len: to - at, why: Why::Sparse });
    }
    let end = data.end.next_multiple_of(BLOCK).min(to).min(at + PART);
    let mut bytes = vec![0; usize::try_from(end - at).map_err(std::io::Error::other)?];
    file.read_exact_at(&mut bytes, at)?;
    Ok(Piece::Data { at, bytes: bytes.into() })
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn parts_follow_each_other_and_hold_what_the_file_holds() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[7; 5000]).unwrap();
        file.write_all_at(&[8; 3], 9 * BLOCK + 77).unwrap();
        file.set_len(20 * BLOCK).unwrap();
        for (from, to) in [(0, 20 * BLOCK), (BLOCK, 9 * BLOCK), (9 * BLOCK, 10 * BLOCK), (12 * BLOCK, 13 * BLOCK)] {
            let (mut at, mut image) = (from, Vec::new());
            while at < to {
                let (start, bytes) = match part(&file, at, to).unwrap() {
                    Piece::Data { at, bytes } => (at, bytes.to_vec()),
                    Piece::Gap { at, len, .. } => (at, vec![0; usize::try_from(len).unwrap()]),
                    other => panic!("{other:?}"),
                };
                assert!(start == at && !bytes.is_empty() && (bytes.len() as u64).is_multiple_of(BLOCK));
                at += bytes.len() as u64;
                image.extend(bytes);
            }
            let mut expected = vec![0; usize::try_from(to - from).unwrap()];
            file.read_exact_at(&mut expected, from).unwrap();
            assert!(image == expected, "{from}..{to}");
        }
    }
}
