//! What flows out of a target: pieces of an item's address space, each address once, in any order.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::{BackendError, Item};

/// Pieces begin and end on a multiple of this, or at the end of the item. In bytes.
pub const GRAIN: u64 = 4096;

/// The stream of one item. Bounded, so a slow writer holds the reader and memory stays small; and so it has to be read from
/// the moment it is there, or the source, and with it the guest, may come to wait.
pub type PieceStream = mpsc::Receiver<Result<Piece, BackendError>>;

/// One item on its way out.
#[derive(Debug)]
pub struct Capture {
    /// Which item this is.
    pub item: Item,
    /// The method that takes it, as the manifest names it.
    pub method: &'static str,
    /// Length of the item's address space in bytes. Pieces lie inside, and the writer names what never came.
    pub len: u64,
    /// What of the address space is there, for formats that store ranges only. Ascending, apart, aligned to [`GRAIN`].
    pub regions: Vec<Region>,
    /// How well the whole of it belongs to one instant.
    pub consistency: Consistency,
    /// The guest (or its host) is held until this stream has been read to its end.
    pub holds_guest: bool,
    /// Facts of this item at its instant: registers of the CPUs, the block graph … into the manifest as it is.
    pub facts: serde_json::Value,
    /// The pieces.
    pub pieces: PieceStream,
}

#[cfg(any(feature = "cloud", feature = "qemu", feature = "xen"))]
impl Capture {
    /// A document that is there already, or why it is not, as one piece.
    pub(crate) fn document(
        item: Item,
        method: &'static str,
        document: Result<Bytes, BackendError>,
        facts: serde_json::Value,
    ) -> Self {
        let len = document.as_ref().map_or(0, |bytes| bytes.len() as u64);
        let (to, pieces) = mpsc::channel(1);
        // One piece fits into an empty channel of one.
        let _ = to.try_send(document.map(|bytes| Piece::Data { at: 0, bytes }));
        let region = (len > 0).then(|| Region { at: 0, len, name: item.name.clone() });
        let (consistency, regions) = (Consistency::Live, region.into_iter().collect());
        Self { item, method, len, regions, consistency, holds_guest: false, facts, pieces }
    }
}

/// Part of an item's address space that the target says is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Region {
    /// First byte.
    pub at: u64,
    /// Length in bytes.
    pub len: u64,
    /// What the hypervisor calls it: `pc.ram`.
    pub name: String,
}

/// A part of an item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// These bytes are at `at`.
    Data {
        /// Address of the first byte.
        at: u64,
        /// The bytes.
        bytes: Bytes,
    },
    /// The source says that these bytes are there and are all zero. Content, not a gap.
    Zero {
        /// Address of the first byte.
        at: u64,
        /// Length in bytes.
        len: u64,
    },
    /// Nothing is known here, and this is why.
    Gap {
        /// Address of the first byte.
        at: u64,
        /// Length in bytes.
        len: u64,
        /// Why there is nothing.
        why: Why,
    },
    /// Bytes that belong to no address: the next part of a small file kept beside the image (device state).
    Aside {
        /// Name of the file, chosen by the backend, never by the guest.
        name: &'static str,
        /// Appended to what came before under this name.
        bytes: Bytes,
    },
}

/// Why a range holds nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Why {
    /// Never written: the disk has no block here. Reads as zeros.
    Sparse,
    /// No memory at this physical address.
    NotRam,
    /// It is there and could not be read. The only reason that makes an exhibit partial.
    Unreadable(String),
}

/// How well all bytes of a capture belong to one instant, best first. Names after Ottmann, Breitinger and Freiling,
/// "Defining atomicity (and integrity) for snapshots of storage in forensic computing", 2022.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Consistency {
    /// Nothing moved while it was read.
    Instantaneous,
    /// The guest ran on, and each byte was kept as it was at the instant before it could change (copy before write).
    QuasiInstantaneous,
    /// The guest ran on and bytes were read at different times.
    Live,
}

impl Consistency {
    /// The name in manifests and tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Instantaneous => "instantaneous",
            Self::QuasiInstantaneous => "quasi-instantaneous",
            Self::Live => "live",
        }
    }
}

/// Zeros shorter than this stay within the data around them, in bytes.
#[cfg(any(feature = "qemu", feature = "xen", feature = "http"))]
const ZEROS: usize = 64 << 10;

/// Bytes at `at` as pieces, runs of zeros told apart so that images stay sparse.
#[cfg(any(feature = "qemu", feature = "xen", feature = "http"))]
pub(crate) fn split_zeros(mut at: u64, bytes: impl Into<Bytes>) -> Vec<Piece> {
    let (mut pieces, mut bytes) = (Vec::new(), bytes.into());
    while !bytes.is_empty() {
        let zero = is_zero(bytes.get(..ZEROS.min(bytes.len())).unwrap_or_default());
        let parts = bytes.chunks(ZEROS);
        let len = parts.take_while(|part| is_zero(part) == zero).map(<[u8]>::len).sum::<usize>();
        let part = bytes.split_to(len);
        let len = part.len() as u64;
        pieces.push(if zero { Piece::Zero { at, len } } else { Piece::Data { at, bytes: part } });
        at = at.saturating_add(len);
    }
    pieces
}

#[cfg(any(feature = "qemu", feature = "xen", feature = "http"))]
fn is_zero(bytes: &[u8]) -> bool {
    let (words, rest) = bytes.as_chunks::<16>();
    words.iter().fold(0, |any, word| any | u128::from_ne_bytes(*word)) == 0 && rest.iter().all(|byte| *byte == 0)
}
