//! Any image a hypervisor or an examiner hands over, as bytes that can be read at any place.
//!
//! [`open`] stacks the wrappings of [`ALL`] until none fits (split file → qcow2, zstd → raw); raw is what remains. It stops
//! where the guest's own bytes begin ([`Content::Disk`], [`Content::Memory`]): what a guest wrote into its disk is never
//! taken for a format. A file that matches a format and is damaged is an error, not the next guess.

mod bytes;
pub mod cache;
pub mod digest;
mod error;
mod exhibit;
pub mod fields;
mod file;
pub mod formats;
pub(crate) mod inflate;
pub mod joined;
mod layer;
mod live;
pub mod map;
mod place;
mod shelf;
mod spans;
pub mod stream;

use std::path::Path;
use std::sync::Arc;

pub use crate::case::hex;
pub(crate) use bytes::inside;
pub use bytes::{Extent, InMemory, Kind, Part, ReadAt, read_vec};
pub use error::{ReadError, reason};
pub(crate) use file::FileBytes;
pub use formats::ALL;
pub use impound_backends::Why;
pub use layer::{Carried, Content, Cpu, Frames, Layer, Machine, Opened, Opening};
pub use place::{Found, Place};
pub use spans::{Span, Spans};

/// The most wrappings around each other.
const DEPTH: usize = 16;
/// The longest address space that is believed unless told otherwise, in bytes: 4 PiB holds the physical addresses of any
/// machine that exists.
pub const MAX_SIZE: u64 = 1 << 52;

/// Name of the fact by which a layer says that it shows a snapshot, not the latest state.
pub const SHOWS_SNAPSHOT: &str = "shows snapshot";

/// How images are opened.
#[derive(Debug, Clone)]
pub struct Options {
    /// Other files of the image may lie anywhere, not only in its folder.
    pub follow: bool,
    /// Longest address space that a header may claim, in bytes.
    pub max_size: u64,
    /// Take the file for this wrapping instead of looking; `raw` for none.
    pub wrapping: Option<String>,
    /// Show this internal snapshot, by its name or id, instead of the latest state.
    pub snapshot: Option<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self { follow: false, max_size: MAX_SIZE, wrapping: None, snapshot: None }
    }
}

/// What a wrapping is opened on.
#[derive(Clone)]
pub struct Below {
    /// The bytes to look at.
    pub bytes: Arc<dyn ReadAt>,
    /// The folder around them, if they are a file.
    pub place: Option<Place>,
    /// The bytes are that file itself, not what was found inside: its name says something of them.
    pub is_file: bool,
    /// How.
    pub options: Options,
}

impl Below {
    /// Bytes without a file of their own.
    pub fn bytes(bytes: Arc<dyn ReadAt>, options: Options) -> Self {
        Self { bytes, place: None, is_file: false, options }
    }

    /// Another file of an image.
    pub fn found(found: Found, options: Options) -> Self {
        Self { bytes: found.bytes, place: Some(found.place), is_file: true, options }
    }

    /// The first `N` bytes, as far as they are there; zeros behind. For probing.
    pub fn head<const N: usize>(&self) -> [u8; N] {
        let mut head = [0; N];
        let there = usize::try_from(self.bytes.len()).unwrap_or(usize::MAX).min(N);
        if let Some(part) = head.get_mut(..there)
            && self.bytes.read_at(0, part).is_err()
        {
            return [0; N];
        }
        head
    }

    /// Fails if a header claims more than was allowed.
    pub fn allow(&self, what: &str, len: u64) -> Result<(), ReadError> {
        if len <= self.options.max_size {
            return Ok(());
        }
        let why =
            format!("it claims {len} bytes, more than the {} that are allowed (--max-size)", self.options.max_size);
        Err(ReadError::unsupported(what, why))
    }

    /// The folder, or why the other files of the image cannot be found.
    pub fn place(&self) -> Result<&Place, ReadError> {
        let why = "it is no file of its own, so it has no folder";
        self.place.as_ref().ok_or_else(|| ReadError::caller("look for the other files of the image", why))
    }
}

/// One wrapping. A record, so that adding one is a file and a row.
pub struct Wrapping {
    /// Its name, as in tables and `--wrapping`.
    pub name: &'static str,
    /// What it is, in a few words.
    pub about: &'static str,
    /// Who wrote the files that it was tested with.
    pub tested_against: &'static str,
    /// Does it look like this? Cheap: a few bytes of the head or the tail, or the name.
    pub probe: fn(&Below) -> bool,
    /// Opens it; what does not fit now is damage or unsupported.
    pub open: fn(&Below) -> Opening,
}

/// An image that was opened.
#[derive(Clone)]
pub struct Image {
    bytes: Arc<dyn ReadAt>,
    layers: Vec<Layer>,
    machine: Option<Machine>,
}

impl Image {
    /// The innermost bytes.
    pub fn bytes(&self) -> &Arc<dyn ReadAt> {
        &self.bytes
    }

    /// Every wrapping, from the file inwards. Never empty.
    pub fn layers(&self) -> &[Layer] {
        &self.layers
    }

    /// What the bytes are.
    pub fn content(&self) -> Content {
        self.layers.last().map_or(Content::Unknown, |layer| layer.content)
    }

    /// Registers and frames, if it is memory that tells them.
    pub fn machine(&self) -> Option<&Machine> {
        self.machine.as_ref()
    }
}

/// Opens the image in the file or device `path`, or the exhibit in the folder `path`.
pub fn open(path: &Path, options: &Options) -> Result<Image, ReadError> {
    if options.wrapping.is_none()
        && let Some(bag) = exhibit::bag_of(path)
    {
        return exhibit::open(&bag, options).map_err(ReadError::within(format!("exhibit {}", bag.display())));
    }
    let (bytes, place) = Place::open(path, options.follow)?;
    open_below(Below { bytes: Arc::new(bytes), place: Some(place), is_file: true, options: options.clone() })
        .map_err(ReadError::within(path.display().to_string()))
}

/// Opens the image that some bytes are: a file inside a file system, or another file of a chain.
pub fn open_below(mut below: Below) -> Result<Image, ReadError> {
    if let Some(place) = &below.place {
        place.refuse_loop()?;
    }
    let mut layers: Vec<Layer> = Vec::new();
    let mut wanted = below.options.wrapping.take();
    let mut machine = None;
    while layers.len() < DEPTH {
        let fits = match wanted.take().as_deref() {
            Some("raw") => None,
            Some(name) => Some(by_name(name)?),
            None => ALL.iter().copied().find(|wrapping| (wrapping.probe)(&below)),
        };
        let Some(wrapping) = fits else {
            layers.push(raw(&below));
            return shows(&below.options, Image { bytes: below.bytes, layers, machine });
        };
        let stored = below.bytes.len();
        let opened = (wrapping.open)(&below)?;
        below.allow(wrapping.name, opened.bytes.len())?;
        let layer = Layer { len: opened.bytes.len(), stored, ..opened.layer };
        let inmost = layer.content != Content::Carrier;
        layers.push(layer);
        machine = opened.machine.or(machine);
        below.bytes = opened.bytes;
        below.is_file = false;
        if inmost {
            return shows(&below.options, Image { bytes: below.bytes, layers, machine });
        }
    }
    Err(ReadError::unsupported("the image", format!("more than {DEPTH} wrappings around each other")))
}

/// Fails if a snapshot was asked for and no wrapping has shown one: it says so by the fact [`SHOWS_SNAPSHOT`].
fn shows(options: &Options, image: Image) -> Result<Image, ReadError> {
    let mut facts = image.layers.iter().flat_map(|layer| &layer.facts);
    match &options.snapshot {
        Some(wanted) if !facts.any(|(name, _)| *name == SHOWS_SNAPSHOT) => {
            Err(ReadError::caller(format!("read the snapshot {wanted}"), "this format of image has none"))
        }
        _ => Ok(image),
    }
}

fn by_name(name: &str) -> Result<&'static Wrapping, ReadError> {
    let known = || ALL.iter().map(|wrapping| wrapping.name).collect::<Vec<_>>().join(", ");
    ALL.iter()
        .copied()
        .find(|wrapping| wrapping.name == name)
        .ok_or_else(|| ReadError::caller(format!("open the image as {name}"), format!("known are raw, {}", known())))
}

fn raw(below: &Below) -> Layer {
    let len = below.bytes.len();
    let mut layer = Layer { len, stored: len, ..Layer::new("raw", Content::Unknown) };
    if len == 0 {
        layer.odd("it is empty: a dump that failed may leave such a file behind (xl dump-core does)");
    }
    layer
}
