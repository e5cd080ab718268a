//! The other images that an image rests on: found through [`Place`](crate::image::Place), opened, and told in the layer.

use super::mapped::Parent;
use crate::image::{Below, Content, Found, Image, Layer, Options, ReadError, open_below};

/// Looks for the file `name`, a `role` ("backing file"), and notes it.
pub(crate) fn find(below: &Below, role: &'static str, name: &[u8], layer: &mut Layer) -> Result<Found, ReadError> {
    let text = String::from_utf8_lossy(name).into_owned();
    let found =
        below.place().and_then(|place| place.find(name)).map_err(ReadError::within(format!("{role} {text}")))?;
    found.place.refuse_loop().map_err(ReadError::within(format!("{role} {text}")))?;
    if let Some(odd) = &found.odd {
        layer.odd(odd.clone());
    }
    layer.files.push((role, text));
    Ok(found)
}

/// Opens such a file as an image. `wrapping`: what it is said to be, `raw` for none; `None`: it is looked at.
pub(crate) fn open(below: &Below, found: Found, name: &str, wrapping: Option<&str>) -> Result<Image, ReadError> {
    let wrapping = wrapping.map(ToOwned::to_owned);
    let options = Options { wrapping, snapshot: None, ..below.options.clone() };
    open_below(Below::found(found, options)).map_err(ReadError::within(name.to_owned()))
}

/// The image as what lies under another: its own chain, and what is odd in it, are told in `layer`.
pub(crate) fn under(image: &Image, name: String, layer: &mut Layer) -> Result<Parent, ReadError> {
    if image.content() == Content::Memory {
        return Err(ReadError::unsupported(name, "it is an image of memory, not of a disk"));
    }
    for parent in image.layers() {
        layer.files.extend(parent.files.iter().cloned());
        layer.odd.extend(parent.odd.iter().map(|odd| format!("{name}: {odd}")));
    }
    Ok(Parent::Image(image.bytes().clone(), name))
}

/// An identifier in the usual form, by which children know their parents.
pub(crate) fn uuid(bytes: [u8; 16]) -> String {
    let hex = format!("{:032x}", u128::from_be_bytes(bytes));
    let parts = [0..8, 8..12, 12..16, 16..20, 20..32].map(|range| hex.get(range).unwrap_or_default().to_owned());
    parts.join("-")
}

/// A GUID in its usual form: of its bytes the first three fields are little-endian.
pub(crate) fn guid(mut bytes: [u8; 16]) -> String {
    let (fields, _) = bytes.split_at_mut(8);
    let (first, others) = fields.split_at_mut(4);
    first.reverse();
    others.chunks_mut(2).for_each(<[u8]>::reverse);
    uuid(bytes)
}
