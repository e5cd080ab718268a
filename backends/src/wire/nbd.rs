//! A small NBD client: fixed newstyle handshake, structured replies, `base:allocation`; reads one export from end to end.
//!
//! No kept crate carries it (the one there is knows neither structured replies nor block status), and imaging needs both:
//! an error must name its place, and a hole must stay a hole. The server runs inside a process that a hostile guest may
//! have taken over, so every length is bounded before it is believed.
//!
//! Source: NBD protocol, doc/proto.md ("Fixed newstyle negotiation", "Structured replies", "Metadata querying").

use std::collections::{HashMap, VecDeque};
use std::io;

use bytes::{Bytes, BytesMut};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::{GRAIN, Piece, Why};

const INIT_MAGIC: u64 = 0x4e42_444d_4147_4943;
const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
const REQUEST_MAGIC: u32 = 0x2560_9513;
const STRUCTURED_MAGIC: u32 = 0x668e_33ef;

const OPT_GO: u32 = 7;
const OPT_STRUCTURED_REPLY: u32 = 8;
const OPT_SET_META_CONTEXT: u32 = 10;
const REP_ACK: u32 = 1;
const REP_INFO: u32 = 3;
const REP_META_CONTEXT: u32 = 4;
const REP_ERROR: u32 = 1 << 31;
const INFO_EXPORT: u16 = 0;

const CMD_READ: u16 = 0;
const CMD_DISC: u16 = 2;
const CMD_BLOCK_STATUS: u16 = 7;
const CMD_FLAG_DF: u16 = 1 << 2;

const CHUNK_NONE: u16 = 0;
const CHUNK_DATA: u16 = 1;
const CHUNK_HOLE: u16 = 2;
const CHUNK_STATUS: u16 = 5;
const CHUNK_ERROR: u16 = 1 << 15;
const CHUNK_DONE: u16 = 1;

const STATE_HOLE: u32 = 1;
const STATE_ZERO: u32 = 2;

/// Bytes asked for at once.
const READ: u64 = 1 << 20;
/// Reads under way at once; with [`READ`] this bounds the memory of one disk to 16 MiB.
const DEPTH: usize = 16;
/// Bytes whose allocation is asked for at once.
const WINDOW: u64 = 1 << 30;
/// Longest reply to an option or chunk other than data, in bytes: 64 Ki extents.
const REPLY_MAX: u32 = 1 << 20;

/// Why an export could not be read.
#[derive(Debug, Error)]
pub enum NbdError {
    /// The connection broke.
    #[error("the NBD connection broke: {0}")]
    Io(#[from] io::Error),
    /// The server does not offer what is needed.
    #[error("the NBD server refuses {what}: {why}")]
    Refused {
        /// What was asked.
        what: &'static str,
        /// What it said.
        why: String,
    },
    /// It is not NBD.
    #[error("the NBD server broke the protocol in {within}: expected {expected}, found {found}")]
    Corrupt {
        /// Which message.
        within: &'static str,
        /// What should be there.
        expected: String,
        /// What is there.
        found: String,
    },
    /// Whoever takes the pieces has given up.
    #[error("nobody takes the pieces any more")]
    Closed,
}

fn corrupt(within: &'static str, expected: impl std::fmt::Display, found: impl std::fmt::Display) -> NbdError {
    NbdError::Corrupt { within, expected: expected.to_string(), found: found.to_string() }
}

/// Where the pieces of a disk go. `false` ends the reading.
pub trait Take: Send {
    /// Takes one piece.
    fn take(&mut self, piece: Piece) -> impl Future<Output = bool> + Send;
}

/// An export, ready to be read.
pub struct Client<S> {
    stream: S,
    size: u64,
    last_handle: u64,
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Client<S> {
    /// Negotiates for the export `name`.
    pub async fn open(mut stream: S, name: &str) -> Result<Self, NbdError> {
        let greeting = array::<18>(&mut stream).await?;
        let (magic, option) = (be64(&greeting, 0), be64(&greeting, 8));
        if magic != INIT_MAGIC || option != OPTION_MAGIC {
            return Err(corrupt("the greeting", "NBDMAGIC IHAVEOPT", format!("{magic:#x} {option:#x}")));
        }
        if be16(&greeting, 16) & 1 == 0 {
            return Err(NbdError::Refused {
                what: "fixed newstyle negotiation",
                why: "its flag is not set".to_owned(),
            });
        }
        stream.write_all(&3u32.to_be_bytes()).await?;
        let mut client = Self { stream, size: 0, last_handle: 0 };
        client.option("structured replies", OPT_STRUCTURED_REPLY, &[]).await?;
        client.choose_context(name).await?;
        client.go(name).await?;
        Ok(client)
    }

    /// Size of the export in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    async fn choose_context(&mut self, name: &str) -> Result<(), NbdError> {
        let mut query = counted(name);
        query.extend(1u32.to_be_bytes());
        query.extend(counted("base:allocation"));
        let replies = self.option("base:allocation", OPT_SET_META_CONTEXT, &query).await?;
        match replies.as_slice() {
            [(REP_META_CONTEXT, _)] => Ok(()),
            other => Err(corrupt("the choice of base:allocation", "one context", other.len())),
        }
    }

    async fn go(&mut self, name: &str) -> Result<(), NbdError> {
        let mut query = counted(name);
        query.extend(0u16.to_be_bytes());
        for (kind, body) in self.option("the export", OPT_GO, &query).await? {
            if kind == REP_INFO && body.len() >= 12 && be16(&body, 0) == INFO_EXPORT {
                self.size = be64(&body, 2);
                if self.size > i64::MAX.unsigned_abs() {
                    return Err(corrupt("the export's size", "at most 2^63 bytes", self.size));
                }
                return Ok(());
            }
        }
        Err(corrupt("the export's description", "its size", "none"))
    }

    /// Sends an option; answers what came before the acknowledgement.
    async fn option(&mut self, what: &'static str, option: u32, data: &[u8]) -> Result<Vec<(u32, Bytes)>, NbdError> {
        let mut text = OPTION_MAGIC.to_be_bytes().to_vec();
        text.extend(option.to_be_bytes());
        text.extend(u32::try_from(data.len()).unwrap_or(u32::MAX).to_be_bytes());
        text.extend(data);
        self.stream.write_all(&text).await?;
        let mut replies = Vec::new();
        loop {
            let header = array::<20>(&mut self.stream).await?;
            if be64(&header, 0) != OPTION_REPLY_MAGIC || be32(&header, 8) != option {
                return Err(corrupt(what, "a reply to the option", format!("{:#x}", be64(&header, 0))));
            }
            let (kind, len) = (be32(&header, 12), be32(&header, 16));
            let body = bounded(&mut self.stream, len, what).await?;
            match kind {
                REP_ACK => return Ok(replies),
                kind if kind & REP_ERROR != 0 => {
                    let why = String::from_utf8_lossy(&body).escape_debug().to_string();
                    return Err(NbdError::Refused { what, why: format!("{why} (error {})", kind & !REP_ERROR) });
                }
                _ if replies.len() >= 64 => return Err(corrupt(what, "at most 64 replies", "more")),
                kind => replies.push((kind, body)),
            }
        }
    }

    /// Reads the whole export into `to`: what is allocated as data, what reads as zeros but is allocated as zeros, what
    /// is not allocated as sparse gaps, what cannot be read as gaps of [`GRAIN`]. Then says goodbye.
    pub async fn read_all(&mut self, to: &mut impl Take) -> Result<(), NbdError> {
        let mut plan = Plan::new(self.size);
        let mut under_way: HashMap<u64, (u64, u64)> = HashMap::new();
        loop {
            while under_way.len() < DEPTH {
                if let Some(piece) = plan.ready.pop_front() {
                    if !to.take(piece).await {
                        return Err(NbdError::Closed);
                    }
                } else if let Some((at, len)) = plan.reads.pop_front() {
                    let handle = self.request(CMD_READ, CMD_FLAG_DF, at, len).await?;
                    under_way.insert(handle, (at, len));
                } else if under_way.is_empty() && plan.known < self.size {
                    self.ask_allocation(&mut plan).await?;
                } else {
                    break;
                }
            }
            if under_way.is_empty() {
                break;
            }
            let Some(piece) = self.reply(&mut under_way, &mut plan).await? else { continue };
            if !to.take(piece).await {
                return Err(NbdError::Closed);
            }
        }
        self.request(CMD_DISC, 0, 0, 0).await?;
        Ok(())
    }

    async fn request(&mut self, command: u16, flags: u16, at: u64, len: u64) -> Result<u64, NbdError> {
        self.last_handle = self.last_handle.wrapping_add(1);
        let mut text = Vec::with_capacity(28);
        text.extend(REQUEST_MAGIC.to_be_bytes());
        text.extend(flags.to_be_bytes());
        text.extend(command.to_be_bytes());
        text.extend(self.last_handle.to_be_bytes());
        text.extend(at.to_be_bytes());
        text.extend(u32::try_from(len).map_err(|_| corrupt("a request", "at most 4 GiB", len))?.to_be_bytes());
        self.stream.write_all(&text).await?;
        Ok(self.last_handle)
    }

    /// Asks how the next part is allocated and puts it into the plan. Called while no read is under way.
    async fn ask_allocation(&mut self, plan: &mut Plan) -> Result<(), NbdError> {
        let (at, len) = (plan.known, WINDOW.min(self.size - plan.known));
        let handle = self.request(CMD_BLOCK_STATUS, 0, at, len).await?;
        loop {
            let chunk = self.chunk().await?;
            if chunk.handle != handle {
                return Err(corrupt("the allocation", format!("an answer to {handle}"), chunk.handle));
            }
            match chunk.kind {
                CHUNK_STATUS => {
                    for extent in chunk.body.get(4..).unwrap_or_default().chunks_exact(8) {
                        plan.extent(u64::from(be32(extent, 0)), be32(extent, 4));
                    }
                }
                CHUNK_NONE => {}
                // Without an answer nothing is known of the part; reading it tells.
                kind if kind & CHUNK_ERROR != 0 => plan.extent(len, 0),
                kind => return Err(corrupt("the allocation", "extents", format!("chunk {kind}"))),
            }
            if chunk.done {
                break;
            }
        }
        if plan.known == at {
            return Err(corrupt("the allocation", "at least one extent", "none"));
        }
        Ok(())
    }

    /// Takes one chunk of a reply to a read. A failed read goes back into the plan in halves, down to [`GRAIN`].
    async fn reply(
        &mut self,
        under_way: &mut HashMap<u64, (u64, u64)>,
        plan: &mut Plan,
    ) -> Result<Option<Piece>, NbdError> {
        let chunk = self.chunk().await?;
        let Some((at, len)) = under_way.get(&chunk.handle).copied() else {
            return Err(corrupt("a reply", "an answer to a read under way", chunk.handle));
        };
        if chunk.done {
            under_way.remove(&chunk.handle);
        }
        let (piece, end) = match chunk.kind {
            CHUNK_DATA => {
                let mut body = chunk.body;
                let (from, bytes) = (be64(&body, 0), body.split_off(body.len().min(8)));
                let end = from.checked_add(bytes.len() as u64);
                (Piece::Data { at: from, bytes }, (from, end))
            }
            CHUNK_HOLE => {
                let (from, hole) = (be64(&chunk.body, 0), u64::from(be32(&chunk.body, 8)));
                (Piece::Zero { at: from, len: hole }, (from, from.checked_add(hole)))
            }
            CHUNK_NONE => return Ok(None),
            kind if kind & CHUNK_ERROR != 0 => {
                let errno = i32::try_from(be32(&chunk.body, 0)).unwrap_or(0);
                return Ok(plan.failed(at, len, errno));
            }
            kind => return Err(corrupt("a reply to a read", "data", format!("chunk {kind}"))),
        };
        // "Don't fragment" was asked for, so one chunk carries exactly what was asked.
        if end != (at, at.checked_add(len)) {
            return Err(corrupt("a reply to a read", format!("{len} bytes at {at}"), format!("{:?}", end.1)));
        }
        Ok(Some(piece))
    }

    async fn chunk(&mut self) -> Result<Chunk, NbdError> {
        let header = array::<20>(&mut self.stream).await?;
        let magic = be32(&header, 0);
        if magic != STRUCTURED_MAGIC {
            return Err(corrupt("a reply", "a structured reply", format!("{magic:#x}")));
        }
        let (kind, len) = (be16(&header, 6), be32(&header, 16));
        let max = if kind == CHUNK_DATA { u32::try_from(READ + 8).unwrap_or(u32::MAX) } else { REPLY_MAX };
        if len > max {
            return Err(corrupt("a reply", format!("at most {max} bytes"), len));
        }
        let body = bounded(&mut self.stream, len, "a reply").await?;
        Ok(Chunk { kind, handle: be64(&header, 8), done: be16(&header, 4) & CHUNK_DONE != 0, body })
    }
}

struct Chunk {
    kind: u16,
    handle: u64,
    done: bool,
    body: Bytes,
}

/// What is still to be read and sent.
struct Plan {
    size: u64,
    /// The allocation is known up to here.
    known: u64,
    /// Everything before this is in `ready` or `reads`.
    planned: u64,
    ready: VecDeque<Piece>,
    reads: VecDeque<(u64, u64)>,
}

impl Plan {
    fn new(size: u64) -> Self {
        Self { size, known: 0, planned: 0, ready: VecDeque::new(), reads: VecDeque::new() }
    }

    /// The next `len` bytes have this allocation. What reads as zeros is cut to whole grains; the edges are read.
    fn extent(&mut self, len: u64, state: u32) {
        let from = self.known;
        let to = from.saturating_add(len).min(self.size);
        self.known = to;
        if state & STATE_ZERO != 0 {
            let start = from.next_multiple_of(GRAIN).max(self.planned);
            let end = if to == self.size { to } else { to - to % GRAIN };
            if start < end {
                self.read_up_to(start);
                let len = end - start;
                self.ready.push_back(match state & STATE_HOLE {
                    0 => Piece::Zero { at: start, len },
                    _ => Piece::Gap { at: start, len, why: Why::Sparse },
                });
                self.planned = end;
            }
        }
        if to == self.size {
            self.read_up_to(to);
        } else if state & STATE_ZERO == 0 {
            self.read_up_to(to - to % GRAIN);
        }
    }

    fn read_up_to(&mut self, end: u64) {
        while self.planned < end {
            let len = READ.min(end - self.planned);
            self.reads.push_back((self.planned, len));
            self.planned += len;
        }
    }

    /// A read failed: in halves again, or, at the smallest, a named gap.
    fn failed(&mut self, at: u64, len: u64, errno: i32) -> Option<Piece> {
        if len <= GRAIN {
            let why = format!("read error: {}", io::Error::from_raw_os_error(errno));
            return Some(Piece::Gap { at, len, why: Why::Unreadable(why) });
        }
        let half = (len / 2).next_multiple_of(GRAIN);
        self.reads.push_front((at + half, len - half));
        self.reads.push_front((at, half));
        None
    }
}

fn counted(text: &str) -> Vec<u8> {
    let mut counted = u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes().to_vec();
    counted.extend(text.bytes());
    counted
}

async fn array<const N: usize>(stream: &mut (impl AsyncRead + Unpin)) -> Result<[u8; N], NbdError> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes).await?;
    Ok(bytes)
}

async fn bounded(stream: &mut (impl AsyncRead + Unpin), len: u32, within: &'static str) -> Result<Bytes, NbdError> {
    let len = usize::try_from(len).ok().filter(|len| *len <= 2 << 20);
    let len = len.ok_or_else(|| corrupt(within, "at most 2 MiB", "more"))?;
    let mut body = BytesMut::zeroed(len);
    stream.read_exact(&mut body).await?;
    Ok(body.freeze())
}

/// Big-endian numbers at `at`; bytes that are not there count as zero, and the caller checks what it makes of that.
fn be(bytes: &[u8], at: usize, len: usize) -> u64 {
    (at..at.saturating_add(len)).fold(0, |n, i| n << 8 | u64::from(bytes.get(i).copied().unwrap_or(0)))
}

fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::try_from(be(bytes, at, 2)).unwrap_or(0)
}

fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::try_from(be(bytes, at, 4)).unwrap_or(0)
}

fn be64(bytes: &[u8], at: usize) -> u64 {
    be(bytes, at, 8)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(plan: &mut Plan) -> (Vec<Piece>, Vec<(u64, u64)>) {
        (plan.ready.drain(..).collect(), plan.reads.drain(..).collect())
    }

    #[test]
    fn holes_are_cut_to_whole_grains_and_their_edges_are_read() {
        let mut plan = Plan::new(64 << 10);
        plan.extent(512, 0);
        plan.extent(20_000, STATE_HOLE | STATE_ZERO);
        plan.extent((64 << 10) - 20_512, 0);
        let (pieces, reads) = drain(&mut plan);
        assert_eq!(pieces, [Piece::Gap { at: 4096, len: 16384 - 4096 + 4096, why: Why::Sparse }]);
        assert_eq!(reads, [(0, 4096), (20480, 65536 - 20480)]);
    }

    #[test]
    fn an_odd_end_belongs_to_the_last_piece() {
        let mut plan = Plan::new(10_000);
        plan.extent(10_000, STATE_ZERO);
        assert_eq!(drain(&mut plan), (vec![Piece::Zero { at: 0, len: 10_000 }], vec![]));
        let mut plan = Plan::new(10_000);
        plan.extent(9_000, STATE_ZERO);
        plan.extent(5_000, 0);
        assert_eq!(drain(&mut plan), (vec![Piece::Zero { at: 0, len: 8192 }], vec![(8192, 1808)]));
    }

    #[test]
    fn every_byte_is_planned_once_whatever_the_extents() {
        let mut seed = 7u64;
        for _ in 0..500 {
            let mut plan = Plan::new(300_000);
            while plan.known < plan.size {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                plan.extent(1 + (seed >> 33) % 30_000, u32::try_from((seed >> 20) & 3).unwrap());
            }
            let (pieces, mut reads) = drain(&mut plan);
            reads.extend(pieces.iter().map(|piece| match piece {
                Piece::Zero { at, len } | Piece::Gap { at, len, .. } => (*at, *len),
                other => panic!("{other:?}"),
            }));
            reads.sort_unstable();
            let mut next = 0;
            for (at, len) in reads {
                assert_eq!(at, next);
                assert!(at % GRAIN == 0);
                next = at + len;
            }
            assert_eq!(next, plan.size);
        }
    }

    #[test]
    fn a_failed_read_is_halved_down_to_a_named_gap() {
        let mut plan = Plan::new(1 << 20);
        assert_eq!(plan.failed(0, 12_288, 5), None);
        assert_eq!(drain(&mut plan).1, [(0, 8192), (8192, 4096)]);
        match plan.failed(8192, 4096, 5) {
            Some(Piece::Gap { at: 8192, len: 4096, why: Why::Unreadable(why) }) => {
                assert!(why.contains("os error 5"), "{why}");
            }
            other => panic!("{other:?}"),
        }
    }
}
