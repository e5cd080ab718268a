//! The bytes of a fake VM: they follow from item and address, so a test knows what must be there.
//!
//! Every 64 KiB are alike in kind: one of eight holds nothing (zeros in memory, a sparse range on a disk), the others hold
//! words that differ everywhere, with enough zeros in them that they do not look like ciphertext.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::script::{Order, Script};
use crate::{BackendError, Piece, PieceStream, Region, Why};

/// What is alike in kind, in bytes.
const SLOT: u64 = 64 << 10;
/// Pieces that wait for the writer.
const AHEAD: usize = 16;

/// A good mix of 64 bits: the finalizer of `SplitMix64` (Steele, Lea and Flood, 2014).
fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

fn key(item: &str) -> u64 {
    item.bytes().fold(0xcbf2_9ce4_8422_2325, |key, byte| mix(key ^ u64::from(byte)))
}

/// The bits of a word that vary; the lowest is always set, so that no word is zero.
const VARYING: u64 = 0x0000_ffff_00ff_fffe;

/// Does `item` hold nothing at `at`?
pub fn is_empty(item: &str, at: u64) -> bool {
    mix(key(item) ^ (at / SLOT)).is_multiple_of(8)
}

/// The `len` bytes of `item` at `at`, a multiple of 8; empty places read as zeros.
pub fn bytes(item: &str, at: u64, len: usize) -> Vec<u8> {
    let key = key(item);
    let words =
        (at / 8..).map(|word| if is_empty(item, word * 8) { 0 } else { mix(key.wrapping_add(word)) & VARYING | 1 });
    words.flat_map(u64::to_le_bytes).take(len).collect()
}

/// One item's stream, as the script has it.
pub(super) struct Stream {
    pub(super) script: Arc<Script>,
    pub(super) item: String,
    pub(super) len: u64,
    pub(super) regions: Vec<Region>,
    pub(super) from: u64,
    /// It is memory: empty places are zeros, and there is a device state beside it.
    pub(super) memory: bool,
}

impl Stream {
    /// Begins to send.
    pub(super) fn start(self) -> PieceStream {
        let (send, pieces) = mpsc::channel(AHEAD);
        tokio::spawn(async move { self.run(&send).await });
        pieces
    }

    async fn run(self, into: &mpsc::Sender<Result<Piece, BackendError>>) {
        let mut sent = 0;
        for at in self.places() {
            let past = |what| self.script.mishap(what, &self.item).is_some_and(|limit| sent >= limit);
            if past("short") {
                return;
            }
            if past("error") {
                let why = std::io::Error::other("the script says so");
                let _ = into.send(Err(BackendError::io("read on", format!("{} at {at}", self.item), &why))).await;
                return;
            }
            if past("stuck") {
                return into.closed().await;
            }
            if self.script.slow_ms > 0 {
                tokio::time::sleep(std::time::Duration::from_millis(self.script.slow_ms)).await;
            }
            let end = at.saturating_add(self.script.piece).min(self.len);
            let twice = self.script.mishap("double", &self.item).is_some_and(|double| (at..end).contains(&double));
            for _ in 0..=usize::from(twice) {
                for piece in self.pieces(at, end) {
                    if into.send(Ok(piece)).await.is_err() {
                        return;
                    }
                }
            }
            sent += end - at;
        }
        if self.memory {
            let bytes = Bytes::from(bytes("device-state", 0, 4096));
            let _ = into.send(Ok(Piece::Aside { name: "device-state.bin", bytes })).await;
        }
    }

    /// The beginnings of all parts, in the script's order.
    fn places(&self) -> Box<dyn Iterator<Item = u64> + Send> {
        let (from, piece) = (self.from, self.script.piece);
        let count = (self.len - from).div_ceil(piece);
        match self.script.order {
            Order::Ascending => Box::new((0..count).map(move |i| from + i * piece)),
            Order::Descending => Box::new((0..count).rev().map(move |i| from + i * piece)),
            Order::Random => {
                // A step that shares no factor with the count visits each once.
                let step = (count / 3 * 2 + 1..=count * 2 + 1).find(|step| gcd(*step, count) == 1).unwrap_or(1);
                let place =
                    move |i: u64| u64::try_from(u128::from(i) * u128::from(step) % u128::from(count)).unwrap_or(i);
                Box::new((0..count).map(move |i| from + place(i) * piece))
            }
        }
    }

    /// One part as pieces: cut where the kind changes.
    fn pieces(&self, mut at: u64, end: u64) -> Vec<Piece> {
        let mut out = Vec::new();
        while at < end {
            let (piece, stop) = self.piece(at, end);
            out.push(piece);
            at = stop;
        }
        out
    }

    fn piece(&self, at: u64, end: u64) -> (Piece, u64) {
        let mut stop = (at / SLOT + 1).saturating_mul(SLOT).min(end);
        let gaps = self.script.mishaps.iter().filter(|mishap| mishap.what == "gap" && mishap.item == self.item);
        for (from, to) in gaps.map(|gap| (gap.at, gap.at.saturating_add(gap.len))) {
            if (from..to).contains(&at) {
                let stop = to.min(end);
                let why = Why::Unreadable("the script says so".into());
                return (Piece::Gap { at, len: stop - at, why }, stop);
            }
            stop = if from > at { stop.min(from) } else { stop };
        }
        for region in &self.regions {
            let region_end = region.at.saturating_add(region.len);
            stop = if region.at > at { stop.min(region.at) } else { stop };
            stop = if region_end > at { stop.min(region_end) } else { stop };
        }
        let there = self.regions.is_empty() || self.regions.iter().any(|r| r.at <= at && at - r.at < r.len);
        let len = stop - at;
        let piece = match (there, is_empty(&self.item, at), self.memory) {
            (false, _, _) => Piece::Gap { at, len, why: Why::NotRam },
            (true, true, true) => Piece::Zero { at, len },
            (true, true, false) => Piece::Gap { at, len, why: Why::Sparse },
            (true, false, _) => {
                let len = usize::try_from(len).unwrap_or(0);
                Piece::Data { at, bytes: bytes(&self.item, at, len).into() }
            }
        };
        (piece, stop)
    }
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}
