//! What `virsh save` and `managedsave` write: a header, the domain's XML, then QEMU's migration stream, perhaps compressed.
//!
//! `LibvirtQemudSave` (`LibvirtQemudPart` while it is written), version, length of XML and cookie, state, format, in the
//! machine's byte order; 92 bytes in all (libvirt's `src/qemu/qemu_saveimage.h`).

use std::sync::Arc;

use crate::image::fields::{Fields, read_structure};
use crate::image::{Below, Content, Layer, Opened, Opening, Part, ReadError, Wrapping};

/// See the module.
pub(in super::super) static LIBVIRT: Wrapping = Wrapping {
    name: "libvirt-save",
    about: "libvirt save file (virsh save, managedsave) around QEMU's stream",
    tested_against: "headers written by the tests after libvirt's source, around streams of QEMU 10.0",
    probe,
    open,
};

const HEADER: u64 = 92;
/// Most bytes of XML and cookie.
const XML: u32 = 64 << 20;
/// Bytes of the XML that facts are looked for in.
const LOOKED_AT: u32 = 1 << 20;
const FORMATS: [&str; 7] = ["raw", "gzip", "bzip2", "xz", "lzop", "zstd", "sparse"];

fn probe(below: &Below) -> bool {
    matches!(&below.head::<16>(), b"LibvirtQemudSave" | b"LibvirtQemudPart")
}

fn open(below: &Below) -> Opening {
    const WHAT: &str = "libvirt save header";
    let file = below.bytes.as_ref();
    let head = read_structure(file, WHAT, 0, 92)?;
    let fields = Fields::new(WHAT, 0, &head);
    let version = fields.u32(16)?;
    if !(1..=3).contains(&version) {
        return Err(fields.corrupt(16, "version 1 to 3", version));
    }
    let (xml, format) = (fields.u32(20)?, fields.u32(28)?);
    let start = HEADER + u64::from(xml);
    if xml > XML || start > file.len() {
        let expected = format_args!("XML inside the {:#x} bytes of the file", file.len());
        return Err(fields.corrupt(20, expected, format_args!("{xml} bytes")));
    }
    let Some(name) = usize::try_from(format).ok().and_then(|format| FORMATS.get(format)) else {
        return Err(fields.corrupt(28, "a format of 0 to 6", format));
    };
    let mut layer = Layer::new("libvirt-save", Content::Carrier);
    layer.fact("version", version).fact("format", *name);
    layer.fact("state", if fields.u32(24)? == 0 { "paused" } else { "running" });
    if below.head::<16>() == *b"LibvirtQemudPart" {
        layer.odd("libvirt had not finished writing this file");
    }
    let text = read_structure(file, WHAT, HEADER, usize::try_from(xml.min(LOOKED_AT)).unwrap_or(0))?;
    tell(&String::from_utf8_lossy(&text), &mut layer);
    match *name {
        "raw" | "zstd" => {
            let stream = Part::new(Arc::clone(&below.bytes), start, file.len() - start)?;
            Ok(Opened::new(Arc::new(stream), layer))
        }
        "sparse" => {
            // Positions inside count from the beginning of the file, so the stream is opened here.
            layer.content = Content::Memory;
            let start = start.next_multiple_of(4096);
            super::open_at(below, start, layer)
        }
        other => {
            let why =
                format!("decompress it first: tail -c +{} FILE | {other} -dc > stream, then open that", start + 1);
            Err(ReadError::unsupported(format!("a libvirt save file compressed with {other}"), why))
        }
    }
}

/// The domain's name and UUID, by the first of each tag. What the text says is not trusted with more.
fn tell(xml: &str, layer: &mut Layer) {
    for (fact, tag) in [("domain", "name"), ("uuid", "uuid")] {
        let text = xml.split_once(&format!("<{tag}>")).and_then(|(_, rest)| rest.split_once("</"));
        if let Some((text, _)) = text {
            layer.fact(fact, text.chars().take(256).collect::<String>());
        }
    }
}
