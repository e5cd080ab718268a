//! qcow2, versions 2 and 3: QEMU's own image, with all that may lie under it (QEMU, `docs/interop/qcow2`).
//!
//! Read are plain, zero and compressed clusters (deflate, zstd), subclusters (extended L2), an external data file, the
//! backing chain, and internal snapshots: listed as facts, and read by [`Options::snapshot`](crate::image::Options). A
//! backing file is opened as what the image calls it; only if it does not say, the file is looked at, and that is told,
//! since a guest may write a header into a raw disk.
//!
//! Tables are read when they are needed, and checked then: a damaged one hides its own range, not the whole disk. Two L1
//! entries may not share an L2 table, and no data lies in the header, in the L1 table or in an L2 table. Not checked:
//! reference counts, whether two data clusters are the same. Not read: encrypted images, bitmaps, the memory of a snapshot.

mod header;
mod snapshots;
mod table;

use std::sync::Arc;

use crate::image::{ALL, Below, Content, Layer, Opened, Opening, ReadAt, ReadError, SHOWS_SNAPSHOT, Wrapping};

use self::header::{Header, MAGIC};
use self::table::{Table, View};
use super::shared::chain;
use super::shared::mapped::{Mapped, Parent};

/// See the module.
pub(super) static QCOW2: Wrapping = Wrapping {
    name: "qcow2",
    about: "QEMU copy-on-write disk, versions 2 and 3",
    tested_against: "qemu-img, qemu-io 10.0: both versions, cluster sizes, zlib and zstd, subclusters, chains, snapshots, \
                     external data file",
    probe,
    open,
};

fn probe(below: &Below) -> bool {
    u32::from_be_bytes(below.head()) == MAGIC
}

fn open(below: &Below) -> Opening {
    let header = Header::read(below.bytes.as_ref())?;
    let mut layer = Layer::new("qcow2", Content::Disk);
    tell(&header, &mut layer);
    let snapshots = snapshots::read(below.bytes.as_ref(), &header)?;
    for snapshot in &snapshots {
        layer.fact("snapshot", snapshot);
    }
    let mut view = View { size: header.size, l1_at: header.l1_at, l1_size: header.l1_size };
    if let Some(wanted) = &below.options.snapshot {
        let snapshot = snapshots::choose(&snapshots, wanted)?;
        view = View { size: snapshot.size.unwrap_or(header.size), l1_at: snapshot.l1_at, l1_size: snapshot.l1_size };
        layer.fact(SHOWS_SNAPSHOT, snapshot);
    }
    below.allow("qcow2", view.size)?;
    let stored = if header.external() { data_file(below, &header, &mut layer)? } else { Arc::clone(&below.bytes) };
    let parent = parent(below, &header, &mut layer)?;
    let table = Table::new(Arc::clone(&below.bytes), &header, &view, stored.len())?;
    Ok(Opened::new(Arc::new(Mapped::new(table, stored, parent)), layer))
}

fn tell(header: &Header, layer: &mut Layer) {
    layer.fact("version", header.version).fact("cluster size", header.cluster()).fact("virtual size", header.size);
    layer.fact("compression", if header.zstd { "zstd" } else { "zlib" });
    if header.extended() {
        layer.fact("extended L2", "yes");
    }
    if header.dirty() {
        layer.odd("the dirty flag is set: the image was not closed; reference counts may be wrong, the content is not");
    }
    if header.corrupt() {
        layer.odd("the corrupt flag is set: QEMU found damage in this image");
    }
    if header.bitmaps {
        layer.fact("bitmaps", if header.autoclear & 1 == 1 { "yes" } else { "yes, out of date" });
    }
}

fn data_file(below: &Below, header: &Header, layer: &mut Layer) -> Result<Arc<dyn ReadAt>, ReadError> {
    let Some(name) = &header.data_file else {
        let why = "it keeps its clusters in an external data file and does not name it";
        return Err(ReadError::unsupported("this qcow2 image", why));
    };
    // By definition raw: never looked at.
    Ok(chain::find(below, "data file", name, layer)?.bytes)
}

fn parent(below: &Below, header: &Header, layer: &mut Layer) -> Result<Parent, ReadError> {
    let Some(said) = &header.backing else { return Ok(Parent::Nothing) };
    if said.starts_with(b"json:") {
        let why = "its backing file is described in JSON; rebase a copy of it to a plain name (qemu-img rebase -u)";
        return Err(ReadError::unsupported("this qcow2 image", why));
    }
    let name = said.strip_prefix(b"file:").unwrap_or(said);
    let format = match header.backing_format.as_deref() {
        None => {
            layer.odd("the image does not say what format its backing file has; it was looked at");
            None
        }
        Some("raw" | "file" | "host_device") => Some("raw"),
        Some("vpc") => Some("vhd"),
        Some(format) if ALL.iter().any(|wrapping| wrapping.name == format) => Some(format),
        Some(format) => {
            let why = format!("its backing file has the format {format}, which is not known here");
            return Err(ReadError::unsupported("this qcow2 image", why));
        }
    };
    let found = chain::find(below, "backing file", name, layer)?;
    let name = format!("backing file {}", String::from_utf8_lossy(name));
    let image = chain::open(below, found, &name, format)?;
    chain::under(&image, name, layer)
}
