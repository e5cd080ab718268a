//! Compression behind the writer: frames of a fixed uncompressed length, and a seek table at the end.
//!
//! The format is zstd (RFC 8878) with the seek table of zstd's `contrib/seekable_format`: a skippable frame
//! (`0x184D2A5E`) of two 32-bit lengths a frame, compressed and uncompressed, the number of frames, a descriptor byte (0: no
//! checksums in the table, each frame has its own) and `0x8F92EAB1`. So `zstd -d` opens it, and a reader finds any byte by
//! decompressing one frame. Frames are 4 MiB: small enough to look into, large enough to lose almost nothing.
//!
//! What is to be compressed lies in a spool, a sparse file that is given back behind the reader and removed in the end. Where
//! pieces come in order the spool stays small; where they come in any order it grows towards the length of the item.

use std::fs::File;
use std::os::unix::fs::FileExt;

use rayon::prelude::*;
use zstd::bulk::Compressor;
use zstd::zstd_safe::CParameter;

use super::follow::Source;
use super::frontier::Next;
use super::space::{Space, full};
use crate::case::CaseError;

/// Uncompressed length of a frame in bytes.
pub const FRAME: u64 = 4 << 20;
/// The most frames in the works at once: bounds memory to about 9 MiB each.
const MOST_AT_ONCE: usize = 8;

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Packed {
    /// Bytes of content that are in the file.
    pub(super) content_len: u64,
    /// Why not all are, if so.
    pub(super) failed: Option<String>,
}

/// A part of the spool that becomes a frame.
struct Part {
    at: u64,
    to: u64,
    data: bool,
}

/// Compresses `spool` into `out` while it grows, and publishes what is written and what of the content is done.
/// `None` if the writer gave up.
pub(super) fn compress(
    spool: &Source,
    out: &Source,
    done: &Source,
    level: i32,
    space: &Space,
) -> Result<Option<Packed>, CaseError> {
    // Those who follow must not wait for ever, however this ends. After `close` it does nothing.
    let _guards = (out.frontier.guard(), done.frontier.guard());
    let empty = frame(&mut compressor(level, spool)?, &vec![0; usize::try_from(FRAME).unwrap_or(0)], spool)?;
    let (mut at, mut written, mut table, mut failed) = (0, 0, Vec::new(), None);
    'all: loop {
        let Some(parts) = gather(spool, at) else { return Ok(None) };
        if parts.is_empty() {
            break;
        }
        let frames: Vec<Vec<u8>> = parts
            .par_iter()
            .map_init(|| compressor(level, spool), |tool, part| pack(tool, part, spool, &empty))
            .collect::<Result<_, _>>()?;
        for (part, frame) in parts.iter().zip(&frames) {
            match out.file.write_all_at(frame, written) {
                Err(error) if full(&error) => {
                    let why = format!("could not write {}: {error}", out.path.display());
                    space.release();
                    spool.frontier.refuse(&why);
                    failed = Some(why);
                    break 'all;
                }
                result => result.map_err(CaseError::io("write", &out.path))?,
            }
            written += frame.len() as u64;
            table.push((frame.len(), part.to - part.at));
            at = part.to;
            done.frontier.publish([(at, part.data)]);
            out.frontier.publish([(written, true)]);
        }
    }
    let end = finish(&out.file, written, &table, space).map_err(CaseError::io("write the seek table of", &out.path))?;
    out.frontier.publish([(end, true)]);
    out.frontier.close();
    done.frontier.close();
    Ok(Some(Packed { content_len: at, failed }))
}

/// The next frames that are final; none at the end, `None` if the writer gave up.
fn gather(spool: &Source, mut at: u64) -> Option<Vec<Part>> {
    let mut parts = Vec::new();
    while parts.len() < rayon::current_num_threads().min(MOST_AT_ONCE) {
        match spool.frontier.next(at, FRAME) {
            Next::Filled { to, data } => {
                parts.push(Part { at, to, data });
                at = to;
            }
            Next::End => break,
            Next::Abandoned => return None,
        }
    }
    Some(parts)
}

fn compressor(level: i32, on: &Source) -> Result<Compressor<'static>, CaseError> {
    let failed = || CaseError::io("set up compression of", &on.path);
    let mut tool = Compressor::new(level).map_err(failed())?;
    tool.set_parameter(CParameter::ChecksumFlag(true)).map_err(failed())?;
    Ok(tool)
}

fn frame(tool: &mut Compressor<'static>, bytes: &[u8], on: &Source) -> Result<Vec<u8>, CaseError> {
    tool.compress(bytes).map_err(CaseError::io("compress", &on.path))
}

fn pack(
    tool: &mut Result<Compressor<'static>, CaseError>,
    part: &Part,
    spool: &Source,
    empty: &[u8],
) -> Result<Vec<u8>, CaseError> {
    let len = part.to - part.at;
    if !part.data && len == FRAME {
        return Ok(empty.to_vec());
    }
    let mut buffer = vec![0; usize::try_from(len).unwrap_or(0)];
    let want = buffer.len();
    let bytes = spool.read(&mut buffer, part.at, want)?;
    let tool = tool.as_mut().map_err(|error| CaseError::caller("compress", &spool.path, error.to_string()))?;
    frame(tool, bytes, spool)
}

/// Writes the seek table after `written` bytes of frames and ends the file there. The length of it all.
fn finish(file: &File, mut written: u64, table: &[(usize, u64)], space: &Space) -> std::io::Result<u64> {
    let narrow = |n: u64| u32::try_from(n).map_err(|_| std::io::Error::from(std::io::ErrorKind::FileTooLarge));
    let mut bytes = Vec::with_capacity(table.len() * 8 + 17);
    // No content is still a frame, so that every tool agrees that the file is whole.
    let nothing = zstd::bulk::compress(&[], 1)?;
    let alone = [(nothing.len(), 0)];
    let table = if table.is_empty() { alone.as_slice() } else { table };
    if written == 0 {
        bytes.extend_from_slice(&nothing);
    }
    let count = table.len() as u64;
    bytes.extend_from_slice(&0x184D_2A5E_u32.to_le_bytes());
    bytes.extend_from_slice(&narrow(count * 8 + 9)?.to_le_bytes());
    for (packed, content) in table {
        bytes.extend_from_slice(&narrow(*packed as u64)?.to_le_bytes());
        bytes.extend_from_slice(&narrow(*content)?.to_le_bytes());
    }
    bytes.extend_from_slice(&narrow(count)?.to_le_bytes());
    bytes.push(0);
    bytes.extend_from_slice(&0x8F92_EAB1_u32.to_le_bytes());
    file.set_len(written)?;
    space.insist(|| file.write_all_at(&bytes, written))?;
    written += bytes.len() as u64;
    Ok(written)
}
