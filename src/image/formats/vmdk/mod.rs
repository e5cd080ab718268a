//! VMDK: what VMware's products and their friends write (VMware Virtual Disk Format 1.1).
//!
//! Read are a descriptor, by itself or inside its extent, with extents of the types FLAT, VMFS, SPARSE, VMFSSPARSE (COWD),
//! SESPARSE and ZERO; compressed grains of stream-optimized extents; and a chain of snapshots by `parentFileNameHint`, whose
//! CIDs must agree. A sparse extent without its descriptor is read too: what it leaves to a parent is a gap then. A `-flat`
//! file by itself is raw.
//!
//! The redundant grain directory is used if the first is damaged, and compared else. A grain of an uncompressed extent that
//! two entries share is not noticed; a compressed one says itself where it belongs. seSparse grains of type 1 are counted
//! (readers disagree on them) and read as zeros. Not read: raw device mappings, encrypted disks, an seSparse journal.

mod descriptor;
mod grains;
mod nothing;
mod sparse;

use std::sync::Arc;

use impound_backends::Why;

use crate::image::fields::read_structure;
use crate::image::joined::Joined;
use crate::image::{Below, Content, Kind, Layer, Opened, Opening, Part, ReadAt, ReadError, Wrapping};

use self::descriptor::{Descriptor, Line, WHAT};
use self::grains::Grains;
use self::nothing::Nothing;
use self::sparse::{Layout, SECTOR, Sort};
use super::shared::chain;
use super::shared::mapped::{Mapped, Parent};

/// See the module.
pub(super) static VMDK: Wrapping = Wrapping {
    name: "vmdk",
    about: "VMware disk: descriptor, flat, sparse, stream-optimized, ESX deltas (COWD, seSparse)",
    tested_against: "qemu-img 10.0: all subformats it writes; COWD and seSparse by a writer of ours that qemu-img reads; no \
                     file of a VMware product",
    probe,
    open,
};

/// Longest descriptor in bytes.
const DESCRIPTOR_MOST: u64 = 1 << 20;
const NOT_GIVEN: &str = "in the parent disk, which was not given";

fn probe(below: &Below) -> bool {
    Sort::of(below.head()).is_some() || is_descriptor(below)
}

fn is_descriptor(below: &Below) -> bool {
    const MARK: &[u8] = b"# disk descriptorfile";
    let head = below.head::<64>();
    head.trim_ascii_start().get(..MARK.len()).is_some_and(|head| head.eq_ignore_ascii_case(MARK))
}

fn open(below: &Below) -> Opening {
    let mut layer = Layer::new("vmdk", Content::Disk);
    let file = below.bytes.as_ref();
    let Some(sort) = Sort::of(below.head()) else {
        let text = read_structure(file, WHAT, 0, usize::try_from(file.len().min(DESCRIPTOR_MOST)).unwrap_or(0))?;
        return by_descriptor(below, &descriptor::parse(0, &text)?, layer);
    };
    let layout = Layout::read(file, sort, below)?;
    let embedded = match layout.descriptor {
        None => None,
        Some((at, len)) => {
            let len = usize::try_from(len.min(DESCRIPTOR_MOST)).unwrap_or(0);
            // Room for a descriptor may be kept and hold none: an extent of several.
            Some(descriptor::parse(at, &read_structure(file, WHAT, at, len)?)?).filter(|found| !found.is_empty())
        }
    };
    if let Some(descriptor) = embedded.as_ref().filter(|_| layout.len == 0) {
        return by_descriptor(below, descriptor, layer);
    }
    let parent = if let Some(descriptor) = &embedded {
        descriptor.tell(&mut layer);
        parent(below, descriptor, &mut layer)?
    } else {
        layer.odd(format!("a {} without its descriptor: it may be a part of a disk, with a parent", sort.name()));
        Parent::Missing(NOT_GIVEN.to_owned())
    };
    let len = layout.len;
    let bytes = grains(Arc::clone(&below.bytes), layout, len, parent, &mut layer)?;
    Ok(Opened::new(bytes, layer))
}

/// One sparse extent with what lies under it.
fn grains(
    file: Arc<dyn ReadAt>,
    layout: Layout,
    len: u64,
    parent: Parent,
    layer: &mut Layer,
) -> Result<Arc<dyn ReadAt>, ReadError> {
    layer.fact("grain size", layout.grain).fact("version", format_args!("{:#x}", layout.version));
    if layout.compressed {
        layer.fact("compression", "zlib");
    }
    let grains = Grains::new(Arc::clone(&file), layout, len, &mut layer.odd)?;
    Ok(Arc::new(Mapped::new(grains, file, parent)))
}

/// A disk by the extents of its descriptor.
fn by_descriptor(below: &Below, descriptor: &Descriptor, mut layer: Layer) -> Opening {
    descriptor.tell(&mut layer);
    if descriptor.lines.is_empty() {
        return Err(ReadError::corrupt(WHAT, 0, "at least one extent", "none"));
    }
    let parent = parent(below, descriptor, &mut layer)?;
    let (mut extents, mut base) = (Vec::with_capacity(descriptor.lines.len()), 0_u64);
    let too_long = |at| ReadError::corrupt(WHAT, at, "a disk of less than 4 EiB", "more sectors");
    for line in &descriptor.lines {
        let len = line.sectors.checked_mul(SECTOR).filter(|&len| len < 1 << 62).ok_or_else(|| too_long(line.at))?;
        below.allow("the disk of this VMDK descriptor", base.saturating_add(len))?;
        extents.push(extent(below, line, len, part_of(&parent, base, len)?, &mut layer)?);
        base = base.checked_add(len).ok_or_else(|| too_long(line.at))?;
    }
    Ok(Opened::new(Arc::new(Joined::new(extents)?), layer))
}

/// What lies under the extent of `len` bytes that begins at byte `base` of the disk.
fn part_of(parent: &Parent, base: u64, len: u64) -> Result<Parent, ReadError> {
    Ok(match parent {
        Parent::Image(bytes, name) if base < bytes.len() => {
            let len = len.min(bytes.len() - base);
            Parent::Image(Arc::new(Part::new(Arc::clone(bytes), base, len)?), name.clone())
        }
        Parent::Missing(why) => Parent::Missing(why.clone()),
        Parent::Image(..) | Parent::Nothing => Parent::Nothing,
    })
}

fn extent(
    below: &Below,
    line: &Line,
    len: u64,
    parent: Parent,
    layer: &mut Layer,
) -> Result<Arc<dyn ReadAt>, ReadError> {
    if line.closed {
        let kind = Kind::Gap(Why::Unreadable("the descriptor allows no access to this extent".to_owned()));
        return Ok(Arc::new(Nothing { len, kind }));
    }
    let wanted = match line.kind.to_ascii_uppercase().as_str() {
        "ZERO" => return Ok(Arc::new(Nothing { len, kind: Kind::Zero })),
        "FLAT" | "VMFS" => None,
        "SPARSE" => Some(Sort::Hosted),
        "VMFSSPARSE" => Some(Sort::Cowd),
        "SESPARSE" => Some(Sort::SeSparse),
        kind @ ("VMFSRDM" | "VMFSRAW") => {
            let why = format!("its extent ({kind}) is a raw device of the host: take that device itself");
            return Err(ReadError::unsupported("a VMDK that maps a raw device", why));
        }
        _ => {
            let found = format_args!("{:?}", line.kind);
            return Err(ReadError::corrupt(WHAT, line.at, "FLAT, SPARSE, ZERO, VMFS, VMFSSPARSE or SESPARSE", found));
        }
    };
    let found = chain::find(below, "extent", &line.name, layer)?;
    let name = format!("extent {}", String::from_utf8_lossy(&line.name));
    match wanted {
        None => flat(found.bytes, line, len),
        Some(sort) => sparse_extent(below, found.bytes, (line, len), sort, parent, layer),
    }
    .map_err(ReadError::within(name))
}

fn flat(file: Arc<dyn ReadAt>, line: &Line, len: u64) -> Result<Arc<dyn ReadAt>, ReadError> {
    let from = line.offset.checked_mul(SECTOR);
    let Some(from) = from.filter(|from| from.checked_add(len).is_some_and(|end| end <= file.len())) else {
        let expected = format_args!("{} sectors from sector {} on in the file", line.sectors, line.offset);
        return Err(ReadError::corrupt("VMDK flat extent", 0, expected, format_args!("{} bytes", file.len())));
    };
    Ok(Arc::new(Part::new(file, from, len)?))
}

fn sparse_extent(
    below: &Below,
    file: Arc<dyn ReadAt>,
    (line, len): (&Line, u64),
    sort: Sort,
    parent: Parent,
    layer: &mut Layer,
) -> Result<Arc<dyn ReadAt>, ReadError> {
    let mut head = [0; 8];
    if file.len() >= 8 {
        file.read_at(0, &mut head)?;
    }
    if Sort::of(head) != Some(sort) {
        let expected = format_args!("a {}, as the descriptor says", sort.name());
        return Err(ReadError::corrupt(sort.name(), 0, expected, format_args!("{head:02x?}")));
    }
    let layout = Layout::read(file.as_ref(), sort, below)?;
    if layout.len < len {
        let expected = format_args!("{} sectors, as the descriptor says", line.sectors);
        return Err(ReadError::corrupt(sort.name(), 12, expected, layout.len / SECTOR));
    }
    grains(file, layout, len, parent, layer)
}

/// The disk that a snapshot was taken of; its CID must be the one that was noted then.
fn parent(below: &Below, descriptor: &Descriptor, layer: &mut Layer) -> Result<Parent, ReadError> {
    let Some((at, wanted)) = descriptor.parent_cid else {
        if descriptor.parent.is_some() {
            layer.odd("a parent is named, and the parent's CID says that there is none: none was used");
        }
        return Ok(Parent::Nothing);
    };
    let Some(said) = &descriptor.parent else {
        return Err(ReadError::corrupt(WHAT, at, "a parentFileNameHint beside the parent's CID", "none"));
    };
    let found = chain::find(below, "parent", said, layer)?;
    let name = format!("parent {}", String::from_utf8_lossy(said));
    let image = chain::open(below, found, &name, Some(VMDK.name))?;
    let facts = image.layers().iter().flat_map(|layer| &layer.facts);
    let cid = facts.filter(|(name, _)| *name == "CID").map(|(_, cid)| cid.clone()).next_back().unwrap_or_default();
    if cid != format!("{wanted:08x}") {
        let expected = format_args!("the CID of the {name}, which is {cid}");
        return Err(ReadError::corrupt(WHAT, at, expected, format_args!("{wanted:08x}")));
    }
    chain::under(&image, name, layer)
}
