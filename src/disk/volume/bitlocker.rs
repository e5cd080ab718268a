//! BitLocker: named by its version, identifier and method of encryption. It is not opened here.
//!
//! Layout: the FVE metadata block as libbde's "BitLocker Drive Encryption (BDE) format specification" describes it.

use super::stack::Stack;
use crate::image::fields::{Fields, read_structure};
use crate::image::{ReadAt, ReadError};

/// Places of the three copies of the metadata, in the boot sector.
const COPIES: [usize; 3] = [176, 184, 192];

/// Puts what it says of itself into the volume's note.
pub(super) fn tell(stack: &mut Stack<'_>, index: usize) {
    let Some((name, bytes)) = stack.member(index) else { return };
    let note = match facts(bytes.as_ref()) {
        Ok(note) => note,
        Err(error) => {
            stack.odd.push(format!("{name}: {error}"));
            "BitLocker".to_owned()
        }
    };
    if let Some(volume) = stack.list.get_mut(index) {
        volume.note = Some(note);
        volume.lacks = Some("it is encrypted with BitLocker, which is not opened here".to_owned());
    }
}

fn facts(volume: &dyn ReadAt) -> Result<String, ReadError> {
    let boot = read_structure(volume, "BitLocker boot sector", 0, 512)?;
    let fields = Fields::new("BitLocker boot sector", 0, &boot);
    let mut damage = None;
    for copy in COPIES {
        match metadata(volume, fields.u64(copy)?) {
            Ok(note) => return Ok(note),
            Err(error) => damage = Some(error),
        }
    }
    Err(damage.unwrap_or_else(|| fields.corrupt(176, "a copy of the metadata", "none")))
}

fn metadata(volume: &dyn ReadAt, at: u64) -> Result<String, ReadError> {
    let bytes = read_structure(volume, "BitLocker metadata", at, 112)?;
    let fields = Fields::new("BitLocker metadata", at, &bytes);
    if fields.slice(0, 8)? != b"-FVE-FS-" {
        return Err(fields.corrupt(0, "-FVE-FS-", "something else"));
    }
    let (version, id) = (fields.u16(10)?, super::gpt::guid(&fields.array(80)?));
    let method = match fields.u16(100)? {
        0x8000 => "AES-CBC 128 with diffuser".to_owned(),
        0x8001 => "AES-CBC 256 with diffuser".to_owned(),
        0x8002 => "AES-CBC 128".to_owned(),
        0x8003 => "AES-CBC 256".to_owned(),
        0x8004 => "AES-XTS 128".to_owned(),
        0x8005 => "AES-XTS 256".to_owned(),
        other => format!("method {other:#06x}"),
    };
    Ok(format!("BitLocker version {version}, {method}, volume {id}"))
}
