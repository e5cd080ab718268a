//! VHDX, the disk of Hyper-V, after \[MS-VHDX\]: fixed, dynamic and differencing. A log that was not played back is played
//! back in memory; the file itself stays as it is.

mod blocks;
mod headers;
mod log;
mod metadata;

use std::sync::Arc;

use crate::image::{Below, Content, Image, Layer, Opened, Opening, ReadAt, ReadError, Wrapping, open_below};
use blocks::Blocks;
use headers::Header;
use metadata::Metadata;

/// See the module.
pub(super) static VHDX: Wrapping = Wrapping {
    name: "vhdx",
    about: "Hyper-V disk: fixed, dynamic, differencing; its log is replayed in memory",
    tested_against: "qemu-img (fixed, dynamic); log and differencing against a writer of our own",
    probe,
    open,
};

/// First bytes of the file.
const MAGIC: [u8; 8] = *b"vhdxfile";

fn probe(below: &Below) -> bool {
    below.head::<8>() == MAGIC
}

fn open(below: &Below) -> Opening {
    let mut layer = Layer::new("vhdx", Content::Disk);
    let header = Header::read(below.bytes.as_ref(), &mut layer)?;
    let file: Arc<dyn ReadAt> = if header.log == [0; 16] {
        Arc::clone(&below.bytes)
    } else {
        let (patched, entries) = log::replay(&below.bytes, &header)?;
        layer.odd(format!("it was not closed: {entries} entries of its log were played back in memory"));
        patched
    };
    let regions = headers::regions(file.as_ref(), &mut layer)?;
    let metadata = Metadata::read(file.as_ref(), &regions)?;
    below.allow("a VHDX disk", metadata.size)?;
    layer.fact("virtual size", metadata.size).fact("block size", metadata.block);
    layer.fact("logical sector size", metadata.sector).fact("data write guid", guid(&header.data_write));
    let kind = if metadata.parent.is_some() { "differencing" } else { "fixed or dynamic" };
    layer.fact("kind", if metadata.fixed { "fixed" } else { kind });
    let parent = match &metadata.parent {
        None => None,
        Some(locator) => Some(parent(below, locator, &mut layer)?),
    };
    let blocks = Blocks::new(file, &regions, &metadata, parent)?;
    Ok(Opened::new(Arc::new(blocks), layer))
}

/// Opens the parent of a differencing disk, by any of the names that the locator holds.
fn parent(below: &Below, locator: &[(String, String)], layer: &mut Layer) -> Result<Arc<dyn ReadAt>, ReadError> {
    let value = |key: &str| locator.iter().find(|(known, _)| known == key).map(|(_, value)| value.as_str());
    let names = ["relative_path", "absolute_win32_path", "volume_path"].into_iter().filter_map(value);
    let mut last = ReadError::corrupt("VHDX parent locator", 0, "a path of the parent", "none");
    for name in names {
        match below.place()?.find(name.as_bytes()) {
            Err(error) => last = error,
            Ok(found) => {
                layer.files.push(("parent", found.place.name().display().to_string()));
                layer.odd.extend(found.odd.clone());
                let options = crate::image::Options { wrapping: None, ..below.options.clone() };
                let name = format!("parent {}", found.place.name().display());
                let image = open_below(Below::found(found, options)).map_err(ReadError::within(name))?;
                linked(&image, value("parent_linkage"), value("parent_linkage2"))?;
                return Ok(Arc::clone(image.bytes()));
            }
        }
    }
    Err(last)
}

/// The parent must be as it was when the child was made: its data-write GUID is that of the locator.
fn linked(parent: &Image, first: Option<&str>, second: Option<&str>) -> Result<(), ReadError> {
    let facts = parent.layers().first().map(|layer| layer.facts.as_slice()).unwrap_or_default();
    let found = facts.iter().find(|(name, _)| *name == "data write guid").map_or("none", |(_, value)| value);
    let expected = first.map(|guid| guid.trim_matches(['{', '}']).to_lowercase());
    let second = second.map(|guid| guid.trim_matches(['{', '}']).to_lowercase());
    if expected.as_deref() == Some(found) || second.as_deref() == Some(found) {
        return Ok(());
    }
    let expected = format!("a parent whose data were last written under {}", expected.unwrap_or_default());
    Err(ReadError::corrupt("VHDX parent locator", 0, expected, found))
}

/// A GUID in its usual form: the first three groups are little-endian.
fn guid(bytes: &[u8; 16]) -> String {
    let order = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15_usize];
    let mut text = String::with_capacity(36);
    for (i, at) in order.into_iter().enumerate() {
        if matches!(i, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&crate::image::hex(bytes.get(at..=at).unwrap_or_default()));
    }
    text
}
