//! What a disc boots: the El Torito catalog. "El Torito" Bootable CD-ROM Format 1.0, section 2.

use super::descriptor::SECTOR;
use crate::image::fields::{Fields, read_structure};
use crate::image::{ReadAt, ReadError};

/// Bytes of the catalog that are read: 64 entries.
const SIZE: usize = 2048;

fn platform(id: u8) -> String {
    match id {
        0 => "x86".to_owned(),
        1 => "PowerPC".to_owned(),
        2 => "Mac".to_owned(),
        0xef => "EFI".to_owned(),
        other => format!("platform {other:#x}"),
    }
}

/// Names the entries of the catalog in `block`.
pub(super) fn read(volume: &dyn ReadAt, block: u32, facts: &mut Vec<(String, String)>, odd: &mut Vec<String>) {
    facts.push(("boot catalog".to_owned(), format!("block {block}")));
    if let Err(error) = entries(volume, u64::from(block) * SECTOR, facts, odd) {
        odd.push(error.to_string());
    }
}

fn entries(
    volume: &dyn ReadAt,
    at: u64,
    facts: &mut Vec<(String, String)>,
    odd: &mut Vec<String>,
) -> Result<(), ReadError> {
    let bytes = read_structure(volume, "El Torito boot catalog", at, SIZE)?;
    let fields = Fields::new("El Torito boot catalog", at, &bytes);
    if fields.u8(0)? != 1 || fields.slice(30, 2)? != b"\x55\xaa" {
        return Err(fields.corrupt(0, "a validation entry", "another"));
    }
    let sum = (0..16).try_fold(0_u16, |sum, word| fields.u16(word * 2).map(|value| sum.wrapping_add(value)))?;
    if sum != 0 {
        odd.push("the checksum of the boot catalog does not fit".to_owned());
    }
    let mut system = platform(fields.u8(1)?);
    let mut number = 0;
    for from in (32..SIZE).step_by(32) {
        match fields.u8(from)? {
            0x90 | 0x91 => system = platform(fields.u8(from + 1)?),
            // An entry goes on here.
            0x44 => {}
            mark @ (0x88 | 0) if mark != 0 || from == 32 || fields.u32(from + 8)? != 0 => {
                number += 1;
                facts.push((format!("boot entry {number}"), entry(&fields, from, &system)?));
            }
            _ => break,
        }
    }
    Ok(())
}

fn entry(fields: &Fields<'_>, from: usize, system: &str) -> Result<String, ReadError> {
    let boots = if fields.u8(from)? == 0x88 { "boots" } else { "does not boot" };
    let media = match fields.u8(from + 1)? & 0xf {
        0 => "no emulation".to_owned(),
        1..=3 => "emulates a floppy".to_owned(),
        4 => "emulates a hard disk".to_owned(),
        other => format!("medium {other}"),
    };
    let (sectors, block) = (fields.u16(from + 6)?, fields.u32(from + 8)?);
    Ok(format!("{system}, {boots}, {media}, {sectors} sectors of 512 bytes in block {block}"))
}
