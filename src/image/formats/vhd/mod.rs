//! VHD: Virtual PC's and Hyper-V's older disk: fixed, dynamic and differencing (Microsoft, Virtual Hard Disk Image Format
//! Specification 1.0).
//!
//! Checksums of footer and header are verified; the footer's copy is used if the last is damaged. The length is the
//! footer's current size, not the geometry. A parent is looked up by its locators (`W2ru`, `W2ku`), then by its name, and
//! must carry the identifier that its child notes. Not read: footers of 511 bytes (before Virtual PC 2004), the locators of
//! Macs, the bitmaps of dynamic disks.

mod blocks;
mod footer;

use std::sync::Arc;

use crate::image::fields::read_structure;
use crate::image::{Below, Content, Layer, Opened, Opening, Part, ReadAt, ReadError, Wrapping};

use self::blocks::Blocks;
use self::footer::{FOOTER, Footer, Header, Type};
use super::shared::chain;
use super::shared::mapped::{Mapped, Parent};

/// See the module.
pub(super) static VHD: Wrapping = Wrapping {
    name: "vhd",
    about: "Virtual PC and Hyper-V disk: fixed, dynamic, differencing",
    tested_against: "qemu-img 10.0: fixed and dynamic; differencing by a writer of ours; no file of Hyper-V",
    probe,
    open,
};

/// Longest name of a parent in bytes.
const NAME_MOST: u32 = 4096;

fn probe(below: &Below) -> bool {
    if &below.head::<8>() == b"conectix" {
        return true;
    }
    let mut mark = [0; 8];
    let at = below.bytes.len().checked_sub(FOOTER);
    at.is_some_and(|at| below.bytes.read_at(at, &mut mark).is_ok()) && &mark == b"conectix"
}

fn open(below: &Below) -> Opening {
    let mut layer = Layer::new("vhd", Content::Disk);
    let footer = footer::read(below.bytes.as_ref(), &mut layer.odd)?;
    footer.tell(&mut layer);
    below.allow("vhd", footer.size)?;
    let file = Arc::clone(&below.bytes);
    if footer.kind == Type::Fixed {
        return Ok(Opened::new(fixed(file, &footer)?, layer));
    }
    let header = footer.header(file.as_ref())?;
    let differencing = footer.kind == Type::Differencing;
    let parent = if differencing { parent(below, &header, &mut layer)? } else { Parent::Nothing };
    let blocks = Blocks::new(Arc::clone(&file), &header, footer.size, differencing)?;
    layer.fact("block size", header.block).fact("blocks in use", blocks.used());
    Ok(Opened::new(Arc::new(Mapped::new(blocks, file, parent)), layer))
}

fn fixed(file: Arc<dyn ReadAt>, footer: &Footer) -> Result<Arc<dyn ReadAt>, ReadError> {
    let there = file.len().saturating_sub(FOOTER);
    if footer.size > there {
        let expected = format_args!("a current size of at most {there} bytes, which are in front of it");
        return Err(ReadError::corrupt("VHD footer", there + 48, expected, footer.size));
    }
    Ok(Arc::new(Part::new(file, 0, footer.size)?))
}

/// The disk under a differencing one.
fn parent(below: &Below, header: &Header, layer: &mut Layer) -> Result<Parent, ReadError> {
    let names = names(below.bytes.as_ref(), header)?;
    let mut failed = None;
    for name in names {
        let found = match chain::find(below, "parent", name.as_bytes(), layer) {
            Ok(found) => found,
            Err(error) => {
                failed.get_or_insert(error);
                continue;
            }
        };
        let name = format!("parent {name}");
        let image = chain::open(below, found, &name, Some(VHD.name))?;
        let facts = image.layers().iter().flat_map(|layer| &layer.facts);
        let uuid = facts.filter(|(name, _)| *name == "uuid").map(|(_, uuid)| uuid.clone()).next_back();
        let (wanted, uuid) = (chain::uuid(header.parent_uuid), uuid.unwrap_or_default());
        if uuid != wanted {
            let expected = format_args!("the identifier of the {name}, which is {uuid}");
            return Err(ReadError::corrupt("VHD header", header_uuid_at(below), expected, wanted));
        }
        return chain::under(&image, name, layer);
    }
    Err(failed.unwrap_or_else(|| ReadError::unsupported("this differencing VHD", "it does not name its parent")))
}

/// Where the parent's identifier stands, for an error.
fn header_uuid_at(below: &Below) -> u64 {
    let header = footer::read(below.bytes.as_ref(), &mut Vec::new()).map_or(FOOTER, |footer| footer.header_at);
    header.saturating_add(40)
}

/// What the parent may be called: beside the child, by its full path, by its name.
fn names(file: &dyn ReadAt, header: &Header) -> Result<Vec<String>, ReadError> {
    let mut names = Vec::new();
    for code in [b"W2ru", b"W2ku"] {
        for (_, at, len) in header.locators.iter().filter(|(found, ..)| found == code) {
            if *len > NAME_MOST {
                let expected = format_args!("a name of at most {NAME_MOST} bytes");
                return Err(ReadError::corrupt("VHD parent locator", *at, expected, len));
            }
            let bytes = read_structure(file, "VHD parent locator", *at, usize::try_from(*len).unwrap_or(0))?;
            names.push(utf16(bytes.as_chunks::<2>().0.iter().map(|two| u16::from_le_bytes(*two))));
        }
    }
    names.push(utf16(header.parent_name.as_chunks::<2>().0.iter().map(|two| u16::from_be_bytes(*two))));
    names.retain(|name| !name.is_empty());
    // The folder itself is no part of the name.
    Ok(names.into_iter().map(|name| name.strip_prefix(".\\").map_or(name.clone(), ToOwned::to_owned)).collect())
}

fn utf16(units: impl Iterator<Item = u16>) -> String {
    char::decode_utf16(units.take_while(|&unit| unit != 0)).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)).collect()
}
