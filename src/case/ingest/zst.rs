//! Compression behind the writer: frames of a fixed uncompressed length, and a seek table at the end.
//!
//! The format is zstd (RFC 8878) with the seek table of zstd's `contrib/seekable_format`: a skippable frame
//! (`0x184D2A5E`) of two 32-bit lengths a frame, compressed and uncompressed, the number of frames, a descriptor byte (0: no
//! checksums in the table, each frame has its own) and `0x8F92EAB1`. So `zstd -d` opens it, and a reader finds any byte by
//! decompressing one frame. Frames are 4 MiB: small enough to look into, large enough to lose almost nothing.
//!
//! What is to be compressed lies in a spool, a sparse file that is given back behind the reader and removed in the end. Where
//! pieces come in order the spool stays small; where they come in any order it grows towards the length of the item.

use std::io;
use std::os::unix::fs::FileExt;

use rayon::prelude::*;
use zstd::bulk::Compressor;
use zstd::zstd_safe::CParameter;

use super::follow::Source;
use super::frontier::Next;
use super::space::Space;
use crate::case::CaseError;

/// Uncompressed length of a frame in bytes.
pub const FRAME: u64 = 4 << 20;
/// Magic number of the frame that holds the table: any decoder skips it.
const SKIPPABLE: u32 = 0x184D_2A5E;
/// Magic number at the end of the table.
const SEEKABLE: u32 = 0x8F92_EAB1;
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
    let mut frames = Frames { out, done, at: 0, written: 0, table: Vec::new() };
    let mut failed = None;
    while failed.is_none() {
        let Some(parts) = gather(spool, frames.at) else { return Ok(None) };
        if parts.is_empty() {
            break;
        }
        let packed: Vec<Vec<u8>> = parts
            .par_iter()
            .map_init(|| compressor(level, spool), |tool, part| pack(tool, part, spool, &empty))
            .collect::<Result<_, _>>()?;
        failed = parts.iter().zip(&packed).find_map(|(part, frame)| frames.write(part, frame).err());
        if let Some(error) = &failed {
            space.release();
            spool.frontier.refuse(format!("could not write {}: {error}", out.path.display()));
        }
    }
    frames.finish(space).map_err(CaseError::io("write the seek table of", &out.path))?;
    let failed = failed.map(|error| format!("could not write {}: {error}", out.path.display()));
    Ok(Some(Packed { content_len: frames.at, failed }))
}

/// The frames that are written.
struct Frames<'a> {
    out: &'a Source,
    done: &'a Source,
    /// Bytes of content that are in them.
    at: u64,
    /// Bytes of the file that they take.
    written: u64,
    /// Length of each, compressed and not.
    table: Vec<(u32, u32)>,
}

impl Frames<'_> {
    /// Appends one. If it fails the file ends, later, where the one before did.
    fn write(&mut self, part: &Part, frame: &[u8]) -> io::Result<()> {
        self.out.file.write_all_at(frame, self.written)?;
        self.table.push((narrow(frame.len() as u64)?, narrow(part.to - part.at)?));
        self.written += frame.len() as u64;
        self.at = part.to;
        self.done.frontier.publish([(self.at, part.data)]);
        self.out.frontier.publish([(self.written, true)]);
        Ok(())
    }

    /// Writes the seek table and ends the file behind it.
    fn finish(&mut self, space: &Space) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(self.table.len() * 8 + 64);
        if self.table.is_empty() {
            // No content is still a frame, so that every tool agrees that the file is whole.
            bytes = zstd::bulk::compress(&[], 1)?;
            self.table.push((narrow(bytes.len() as u64)?, 0));
        }
        let count = self.table.len() as u64;
        bytes.extend_from_slice(&SKIPPABLE.to_le_bytes());
        bytes.extend_from_slice(&narrow(count * 8 + 9)?.to_le_bytes());
        for (packed, content) in &self.table {
            bytes.extend_from_slice(&packed.to_le_bytes());
            bytes.extend_from_slice(&content.to_le_bytes());
        }
        bytes.extend_from_slice(&narrow(count)?.to_le_bytes());
        bytes.push(0); // descriptor: no checksums in the table
        bytes.extend_from_slice(&SEEKABLE.to_le_bytes());
        self.out.file.set_len(self.written)?;
        space.insist(|| self.out.file.write_all_at(&bytes, self.written))?;
        self.written += bytes.len() as u64;
        self.out.frontier.publish([(self.written, true)]);
        self.out.frontier.close();
        self.done.frontier.close();
        Ok(())
    }
}

fn narrow(n: u64) -> io::Result<u32> {
    u32::try_from(n).map_err(|_| io::ErrorKind::FileTooLarge.into())
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
