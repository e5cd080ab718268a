//! The GUID partition table. UEFI specification 2.10, section 5.3 "GUID Partition Table (GPT) Disk Layout".
//!
//! Both checksums are checked. If the first header or its entries are damaged the backup in the last sector is used, and
//! that is said. Sectors of 512 and 4096 bytes are tried, since an image does not tell.

use super::Use;
use super::tables::Raw;
use crate::disk::us;
use crate::image::fields::Fields;
use crate::image::{ReadAt, ReadError, read_vec};

const MAGIC: &[u8] = b"EFI PART";
/// The most entries, and the most bytes they may take.
const ENTRIES: u32 = 8192;
const ENTRIES_BYTES: u64 = 4 << 20;

struct Header {
    at: u64,
    sector: u64,
    backup: u64,
    entries_at: u64,
    count: u32,
    size: u32,
    entries_crc: u32,
}

/// The partitions, if the disk has a GPT.
pub(super) fn read(disk: &dyn ReadAt, odd: &mut Vec<String>) -> Option<Vec<Raw>> {
    let mut why = Vec::new();
    for sector in [512_u64, 4096] {
        if let Some(list) = attempt(disk, sector, sector, &mut why) {
            check_backup(disk, &list.0, odd);
            return Some(list.1);
        }
    }
    for sector in [512_u64, 4096] {
        let Some(at) = (disk.len() / sector).checked_sub(1).map(|last| last * sector) else { continue };
        if let Some(list) = attempt(disk, at, sector, &mut why) {
            odd.append(&mut why);
            odd.push(format!("the backup GPT header at {at:#x} was used"));
            return Some(list.1);
        }
    }
    if !why.is_empty() {
        odd.append(&mut why);
        odd.push("there is a GPT, and neither of its headers can be used".to_owned());
    }
    None
}

/// Header and entries at `at`, or a word on why not, if there is something like a header.
fn attempt(disk: &dyn ReadAt, at: u64, sector: u64, why: &mut Vec<String>) -> Option<(Header, Vec<Raw>)> {
    match header(disk, at, sector) {
        Ok(None) => None,
        Ok(Some(header)) => match entries(disk, &header) {
            Ok(list) => Some((header, list)),
            Err(error) => {
                why.push(error.to_string());
                None
            }
        },
        Err(error) => {
            why.push(error.to_string());
            None
        }
    }
}

fn header(disk: &dyn ReadAt, at: u64, sector: u64) -> Result<Option<Header>, ReadError> {
    if at.checked_add(sector).is_none_or(|end| end > disk.len()) {
        return Ok(None);
    }
    let mut bytes = read_vec(disk, at, us(sector))?;
    // A damaged first byte must not hide the table: the revision stands right behind the name.
    let named = bytes.get(..8).unwrap_or_default().iter().zip(MAGIC).filter(|(a, b)| a == b).count();
    if named < 6 && bytes.get(8..16) != Some(b"\x00\x00\x01\x00\x5c\x00\x00\x00") {
        return Ok(None);
    }
    let owned = bytes.clone();
    let fields = Fields::new("GPT header", at, &owned);
    if fields.slice(0, 8)? != MAGIC {
        return Err(fields.corrupt(0, "EFI PART", "something else"));
    }
    let (size, crc) = (fields.u32(12)?, fields.u32(16)?);
    if size < 92 || u64::from(size) > sector {
        return Err(fields.corrupt(12, "a length from 92 to one sector", size));
    }
    if let Some(field) = bytes.get_mut(16..20) {
        field.fill(0);
    }
    let found = crc32fast::hash(bytes.get(..size as usize).unwrap_or_default());
    if found != crc {
        return Err(fields.corrupt(16, format_args!("checksum {crc:#010x}"), format_args!("{found:#010x}")));
    }
    let header = Header {
        at,
        sector,
        backup: fields.u64(32)?,
        entries_at: fields.u64(72)?.saturating_mul(sector),
        count: fields.u32(80)?,
        size: fields.u32(84)?,
        entries_crc: fields.u32(88)?,
    };
    if header.count > ENTRIES || !(128..=4096).contains(&header.size) {
        let found = format_args!("{} of {} bytes", header.count, header.size);
        return Err(fields.corrupt(80, format_args!("at most {ENTRIES} entries of 128 to 4096 bytes"), found));
    }
    Ok(Some(header))
}

fn entries(disk: &dyn ReadAt, header: &Header) -> Result<Vec<Raw>, ReadError> {
    let len = u64::from(header.count) * u64::from(header.size);
    let at = header.entries_at;
    if len > ENTRIES_BYTES || at.checked_add(len).is_none_or(|end| end > disk.len()) {
        return Err(ReadError::corrupt("GPT entries", at, "entries inside the disk", format_args!("{len} bytes")));
    }
    let bytes = read_vec(disk, at, us(len))?;
    let found = crc32fast::hash(&bytes);
    if found != header.entries_crc {
        let want = format_args!("checksum {:#010x}", header.entries_crc);
        return Err(ReadError::corrupt("GPT entries", at, want, format_args!("{found:#010x}")));
    }
    let table =
        |from, len, kind: &str| Raw { number: None, from, len, what: Use::Table, kind: kind.to_owned(), name: None };
    let mut all = vec![table(header.at, header.sector, "GPT header"), table(at, len, "GPT entries")];
    for (number, entry) in (1_u32..).zip(bytes.chunks_exact(header.size as usize)) {
        let fields = Fields::new("GPT entry", at, entry);
        let kind = fields.array::<16>(0)?;
        if kind == [0; 16] {
            continue;
        }
        let (first, last) = (fields.u64(32)?, fields.u64(40)?);
        let sectors = last.checked_sub(first).and_then(|rest| rest.checked_add(1)).unwrap_or(0);
        all.push(Raw {
            number: Some(number),
            from: first.saturating_mul(header.sector),
            len: sectors.saturating_mul(header.sector),
            what: Use::Volume,
            kind: kind_name(&guid(&kind)),
            name: Some(utf16(fields.slice(56, 72)?)).filter(|name| !name.is_empty()),
        });
    }
    Ok(all)
}

/// Says if the backup is not what the first header promises.
fn check_backup(disk: &dyn ReadAt, first: &Header, odd: &mut Vec<String>) {
    let at = first.backup.saturating_mul(first.sector);
    match header(disk, at, first.sector) {
        Ok(Some(backup)) if backup.entries_crc == first.entries_crc => {}
        Ok(Some(_)) => odd.push(format!("the backup GPT header at {at:#x} tells of other entries than the first")),
        Ok(None) => odd.push(format!("there is no backup GPT header at {at:#x}")),
        Err(error) => odd.push(error.to_string()),
    }
}

/// The usual way to write one: the first three groups are little-endian.
#[expect(clippy::many_single_char_names, reason = "eight bytes that change places")]
pub(super) fn guid(bytes: &[u8; 16]) -> String {
    let [a, b, c, d, e, f, g, h, rest @ ..] = bytes;
    let head = format!("{d:02x}{c:02x}{b:02x}{a:02x}-{f:02x}{e:02x}-{h:02x}{g:02x}");
    let (mid, tail) = rest.split_at(2);
    format!("{head}-{}-{}", crate::image::hex(mid), crate::image::hex(tail))
}

fn utf16(bytes: &[u8]) -> String {
    let units = bytes
        .chunks_exact(2)
        .map(|pair| u16::from_le_bytes([pair.first().copied().unwrap_or(0), pair.last().copied().unwrap_or(0)]));
    let units: Vec<_> = units.take_while(|unit| *unit != 0).collect();
    String::from_utf16_lossy(&units)
}

fn kind_name(guid: &str) -> String {
    let name = match guid {
        "c12a7328-f81f-11d2-ba4b-00a0c93ec93b" => "EFI system",
        "21686148-6449-6e6f-744e-656564454649" => "BIOS boot",
        "0fc63daf-8483-4772-8e79-3d69d8477de4" => "Linux",
        "4f68bce3-e8cd-4db1-96e7-fbcaf984b709" => "Linux root x86-64",
        "0657fd6d-a4ab-43c4-84e5-0933c84b4f4f" => "Linux swap",
        "e6d6d379-f507-44c2-a23c-238f2a3df928" => "Linux LVM",
        "a19d880f-05fc-4d3b-a006-743f0f84911e" => "Linux RAID",
        "ebd0a0a2-b9e5-4433-87c0-68b6b72699c7" => "Windows data",
        "e3c9e316-0b5c-4db8-817d-f92df00215ae" => "Microsoft reserved",
        "de94bba4-06d1-4d40-a16a-bfd50179d6ac" => "Windows recovery",
        _ => return guid.to_owned(),
    };
    format!("{guid} {name}")
}
