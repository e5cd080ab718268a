//! Bytes of dom0's commands as pieces: a core, whose length its own header tells, and disks, whose length was looked up.
//!
//! A stream is whole when it is as long as it should be and its command ended well: xl leaves nothing behind and a status
//! when it cannot dump a guest, and SSH may lose a status but no length.

use bytes::BytesMut;
use tokio::sync::{mpsc, watch};

use super::reach::{Reach, Running};
use crate::capture::split_zeros;
use crate::wire::ssh::{Command, Ending};
use crate::{BackendError, Kind, Piece, PieceStream};

/// Bytes read and sent at once.
const CHUNK: usize = 1 << 20;
/// Pieces between the reader and the writer.
const CHANNEL: usize = 16;
/// Most sections of a core (Xen writes seven), and the last place where their table may begin.
const SECTIONS: usize = 64;
const TABLE: usize = 4096;
/// The longest core that is believed, in bytes: the physical addresses of x86-64.
const LONGEST: u64 = 1 << 52;

/// What a stream is, for messages.
#[derive(Debug, Clone)]
pub(super) struct What {
    pub(super) attempted: &'static str,
    pub(super) on: String,
}

impl What {
    fn failed(&self, why: String) -> BackendError {
        let error = BackendError::new(Kind::Io, self.attempted, &self.on, why);
        if !error.why.contains("p2m_size") {
            return error;
        }
        error.advise("its kernel has not told Xen of its memory: PV-GRUB never does, others do once they have booted; its disks can be taken")
    }
}

/// Begins to read a core. Its length is known when this returns; a dump that fails at once has none, and its error follows.
pub(super) async fn core(reach: &Reach, command: &Command, what: What) -> Result<(u64, PieceStream), BackendError> {
    let mut running = reach.stream(command).await?;
    let (to, pieces) = mpsc::channel(CHANNEL);
    let mut head = Vec::new();
    match read_head(&mut running, &mut head).await {
        Ok(len) => {
            tokio::spawn(async move { forward(running, BytesMut::from(head.as_slice()), len, &what, &to).await });
            Ok((len, pieces))
        }
        Err(why) => {
            let ending = running.end().await.map_or_else(|error| error.why, |ending| all_told(&ending));
            let why = if head.is_empty() { format!("it wrote nothing: {ending}") } else { format!("{why}: {ending}") };
            let _ = to.try_send(Err(what.failed(why)));
            Ok((0, pieces))
        }
    }
}

/// Begins to read a disk of `len` bytes, once `when` says so.
pub(super) fn disk(
    reach: Reach,
    command: Command,
    len: u64,
    what: What,
    when: Option<watch::Receiver<bool>>,
) -> PieceStream {
    let (to, pieces) = mpsc::channel(CHANNEL);
    tokio::spawn(async move {
        if let Some(mut when) = when {
            tokio::select! {
                // A sender that is gone has nothing to wait for any more.
                _ = when.wait_for(|thawed| *thawed) => {}
                () = to.closed() => return,
            }
        }
        match reach.stream(&command).await {
            Ok(running) => forward(running, BytesMut::new(), len, &what, &to).await,
            Err(error) => {
                let _ = to.send(Err(error)).await;
            }
        }
    });
    pieces
}

/// The last lines of what it said, and its status: xl tells the cause first.
fn all_told(ending: &Ending) -> String {
    let words = String::from_utf8_lossy(&ending.words);
    let lines: Vec<_> = words.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let before = lines.iter().rev().skip(1).take(3).rev().map(|line| line.escape_debug().to_string() + "; ");
    before.collect::<String>() + &ending.told()
}

type Sender = mpsc::Sender<Result<Piece, BackendError>>;

/// Sends `len` bytes, of which `begun` were read already, and then what is wrong with them, if anything is.
async fn forward(mut running: Running, begun: BytesMut, len: u64, what: &What, to: &Sender) {
    let outcome = tokio::select! {
        outcome = send_all(&mut running, begun, len, to) => outcome,
        // Nobody takes them any more. Dropping the command closes its output, and dom0's script ends it.
        () = to.closed() => return,
    };
    let why = match outcome {
        Err(why) => Some(why),
        Ok(()) => match running.end().await {
            Ok(ending) if ending.good() => None,
            Ok(ending) => Some(format!("all bytes came, and then it failed: {}", ending.told())),
            Err(error) => Some(format!("all bytes came, and then the connection broke: {}", error.why)),
        },
    };
    if let Some(why) = why {
        let _ = to.send(Err(what.failed(why))).await;
    }
}

async fn send_all(running: &mut Running, mut chunk: BytesMut, len: u64, to: &Sender) -> Result<(), String> {
    let mut at = 0_u64;
    while at < len {
        let wanted = usize::try_from(len - at).unwrap_or(CHUNK).min(CHUNK);
        let begun = chunk.len();
        chunk.resize(wanted.max(begun), 0);
        let filled = match running.fill(chunk.get_mut(begun..).unwrap_or_default()).await {
            Ok(filled) => begun + filled,
            Err(error) => return Err(format!("the stream broke after {at} of {len} bytes: {error}")),
        };
        let short = filled < wanted;
        chunk.truncate(filled);
        for piece in split_zeros(at, std::mem::take(&mut chunk)) {
            if to.send(Ok(piece)).await.is_err() {
                return Ok(());
            }
        }
        at = at.saturating_add(filled as u64);
        if short {
            return Err(format!("it ended after {at} of {len} bytes"));
        }
    }
    match running.read(&mut [0]).await {
        Ok(0) => Ok(()),
        Ok(_) => Err(format!("it went on after the {len} bytes that it should have")),
        Err(error) => Err(format!("the stream broke behind its {len} bytes: {error}")),
    }
}

/// Reads up to the end of the section headers into `head`, and answers how long the core will be.
async fn read_head(running: &mut Running, head: &mut Vec<u8>) -> Result<u64, String> {
    more(running, head, 64).await?;
    let end = table_end(head)?;
    more(running, head, end).await?;
    core_len(head)
}

async fn more(running: &mut Running, head: &mut Vec<u8>, until: usize) -> Result<(), String> {
    let from = head.len();
    head.resize(until, 0);
    let filled = running.fill(head.get_mut(from..).unwrap_or_default()).await.map_err(|error| error.to_string())?;
    head.truncate(from + filled);
    if head.len() < until { Err(format!("it ended after {} bytes", head.len())) } else { Ok(()) }
}

fn field(bytes: &[u8], at: usize, len: usize) -> u64 {
    bytes.get(at..).unwrap_or_default().iter().take(len).rev().fold(0, |n, byte| n << 8 | u64::from(*byte))
}

/// Where the section headers of a core end: bytes 0 to 63 are the ELF header.
fn table_end(head: &[u8]) -> Result<usize, String> {
    if !head.starts_with(b"\x7fELF\x02\x01") {
        return Err("what came is no 64-bit little-endian ELF file".to_owned());
    }
    let number = |at, len| usize::try_from(field(head, at, len)).unwrap_or(usize::MAX);
    let (table, size, count) = (number(40, 8), number(58, 2), number(60, 2));
    if !(64..=TABLE).contains(&table) || size != 64 || !(1..=SECTIONS).contains(&count) {
        return Err(format!("what came is no core of Xen: {count} section headers of {size} bytes at {table}"));
    }
    Ok(table + count * 64)
}

/// How long a core is, by its head up to the end of its section headers: its last section ends it.
pub(super) fn core_len(head: &[u8]) -> Result<u64, String> {
    let end = table_end(head)?;
    let headers =
        head.get(end - usize::try_from(field(head, 60, 2)).unwrap_or(0) * 64..end).ok_or("it is cut short")?;
    let mut len = end as u64;
    for header in headers.chunks_exact(64) {
        let (kind, at, size) = (field(header, 4, 4), field(header, 24, 8), field(header, 32, 8));
        // No section, or one that takes no room.
        if matches!(kind, 0 | 8) {
            continue;
        }
        let end = at.checked_add(size).filter(|end| *end <= LONGEST);
        len = len.max(end.ok_or_else(|| format!("a section of {size:#x} bytes at {at:#x} fits into no core"))?);
    }
    Ok(len)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(sections: &[(u32, u64, u64)]) -> Vec<u8> {
        let mut head = vec![0; 64 + sections.len() * 64];
        head[..6].copy_from_slice(b"\x7fELF\x02\x01");
        head[40] = 64;
        head[58] = 64;
        head[60] = u8::try_from(sections.len()).unwrap();
        for (n, (kind, at, len)) in sections.iter().enumerate() {
            let header = &mut head[64 + n * 64..];
            header[4..8].copy_from_slice(&kind.to_le_bytes());
            header[24..32].copy_from_slice(&at.to_le_bytes());
            header[32..40].copy_from_slice(&len.to_le_bytes());
        }
        head
    }

    #[test]
    fn a_core_is_as_long_as_its_last_section_says() {
        let good = head(&[(0, 0, 0), (1, 4096, 8192), (3, 12288, 100), (8, 1 << 40, 1 << 40)]);
        assert_eq!(core_len(&good), Ok(12388));
        assert_eq!(core_len(&head(&[(0, 0, 0)])), Ok(128));
    }

    #[test]
    fn what_xl_says_first_is_told_too() {
        let words =
            b"xc: error: Cannot map p2m: p2m_size < nr_pages -1 (0 < 1fff)\n\nlibxl: error\x1b[31m: failed\n".to_vec();
        let told = all_told(&Ending { status: Some(1), signal: None, words });
        assert!(told.contains("p2m_size") && told.ends_with("failed (status 1)") && !told.contains('\x1b'), "{told}");
        let what = What { attempted: "dump the memory", on: "memory".into() };
        assert!(what.failed(told).to_string().contains("PV-GRUB"));
    }

    #[test]
    fn damaged_heads_are_refused() {
        let good = head(&[(1, 4096, 8192)]);
        for cut in 0..good.len() {
            assert!(core_len(&good[..cut]).is_err(), "cut at {cut}");
        }
        assert!(core_len(&head(&[(1, u64::MAX, 2)])).is_err());
        assert!(core_len(&head(&[(1, 0, 1 << 60)])).is_err());
        for (at, value) in [(0, 0), (4, 1), (5, 2), (40, 0), (41, 0xff), (58, 0), (60, 0), (60, 65), (61, 1)] {
            let mut bad = good.clone();
            bad[at] = value;
            assert!(core_len(&bad).is_err(), "byte {at} as {value}");
        }
    }
}
