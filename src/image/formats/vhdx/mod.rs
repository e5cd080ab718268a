//! VHDX, the disk of Hyper-V, after \[MS-VHDX\]: fixed, dynamic and differencing. A log that was not played back is played
//! back in memory; the file itself stays as it is.

mod blocks;
pub(crate) mod guids;
mod headers;
mod log;
mod metadata;

use std::sync::Arc;

use super::shared::chain::{self, guid};
use super::shared::mapped::{Mapped, Parent};
use crate::image::{Below, Content, Layer, Opened, Opening, ReadAt, ReadError, Wrapping};
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
    layer.fact("logical sector size", metadata.sector).fact("data write guid", guid(header.data_write));
    let kind = if metadata.parent.is_some() { "differencing" } else { "fixed or dynamic" };
    layer.fact("kind", if metadata.fixed { "fixed" } else { kind });
    let parent = match &metadata.parent {
        None => Parent::Nothing,
        Some(locator) => parent(below, locator, &mut layer)?,
    };
    let blocks = Blocks::new(Arc::clone(&file), &regions, &metadata)?;
    Ok(Opened::new(Arc::new(Mapped::new(blocks, file, parent)), layer))
}

/// Opens the parent of a differencing disk, by any of the names that the locator holds. The parent must be as it was when
/// the child was made: its data-write GUID is that of the locator.
fn parent(below: &Below, locator: &[(String, String)], layer: &mut Layer) -> Result<Parent, ReadError> {
    let value = |key: &str| locator.iter().find(|(known, _)| known == key).map(|(_, value)| value.as_str());
    let names = ["relative_path", "absolute_win32_path", "volume_path"].into_iter().filter_map(value);
    let mut failed = None;
    for name in names {
        let found = match below.place().and_then(|place| place.find(name.as_bytes())) {
            Ok(found) => found,
            Err(error) => {
                failed.get_or_insert(error);
                continue;
            }
        };
        // The locator holds whole paths of the host; the file that was taken says more.
        let file = found.place.name().display().to_string();
        let name = format!("parent {file}");
        layer.files.push(("parent", file));
        layer.odd.extend(found.odd.clone());
        let image = chain::open(below, found, &name, Some(VHDX.name))?;
        let facts = image.layers().iter().flat_map(|layer| &layer.facts);
        let told = facts.filter(|(name, _)| *name == "data write guid").map(|(_, guid)| guid.clone()).next_back();
        let bare = |guid: &str| guid.trim_matches(['{', '}']).to_lowercase();
        let wanted = [value("parent_linkage"), value("parent_linkage2")].map(|guid| guid.map(bare));
        if told.is_none() || !wanted.contains(&told) {
            let [first, _] = wanted;
            let expected = format!(
                "a parent whose data were last written under {}",
                first.unwrap_or_else(|| "no GUID".to_owned())
            );
            let told = told.unwrap_or_else(|| "none".to_owned());
            return Err(ReadError::corrupt("VHDX parent locator", 0, expected, told));
        }
        return chain::under(&image, name, layer);
    }
    Err(failed.unwrap_or_else(|| ReadError::corrupt("VHDX parent locator", 0, "a path of the parent", "none")))
}
