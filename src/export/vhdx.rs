//! VHDX, dynamic (\[MS-VHDX\]): blocks of 2 MiB, an empty log.

use sha2::{Digest, Sha256};

use super::output::Output;
use super::source::Source;
use super::{ExportError, Format};
use crate::image::formats::vhdx::guids;

/// See the module.
pub(super) static VHDX: Format = Format {
    name: "vhdx",
    about: "Hyper-V's disk, dynamic",
    ending: "vhdx",
    disks_only: true,
    sectors: true,
    tested_against: "qemu-img check and compare, dissect",
    wrapping: "vhdx",
    write,
};

const MIB: u64 = 1 << 20;
/// Length of a block in bytes.
const BLOCK: u64 = 2 * MIB;
/// Blocks for each entry of the table that stands for sector bitmaps.
const RATIO: u64 = (512 << 23) / BLOCK;
/// Where the regions are.
const LOG: u64 = MIB;
const METADATA: u64 = 2 * MIB;
const BAT: u64 = 3 * MIB;
/// Largest disk of the format, in bytes.
const MOST: u64 = 64 << 40;

fn write(source: &mut Source<'_>, output: &mut Output) -> Result<(), ExportError> {
    let size = source.padded();
    if size > MOST {
        return Err(ExportError::Refused("a VHDX holds at most 64 TiB".to_owned()));
    }
    let blocks = size.div_ceil(BLOCK);
    let entries = blocks + blocks.saturating_sub(1) / RATIO;
    let table = (entries * 8).next_multiple_of(MIB).max(MIB);
    let mut bat: Vec<u64> = vec![0; usize::try_from(entries).unwrap_or(0)];
    output.skip(BAT + table);
    source.units(usize::try_from(BLOCK).unwrap_or(0), |block, bytes| {
        let entry = usize::try_from(block + block / RATIO).unwrap_or(usize::MAX);
        if let Some(entry) = bat.get_mut(entry) {
            *entry = output.at() | 6; // fully present
        }
        output.append(bytes)
    })?;
    let end = output.at();
    output.set_len(end)?;
    output.write_at(BAT, &bat.iter().flat_map(|entry| entry.to_le_bytes()).collect::<Vec<_>>())?;
    let id = |what: &str| guid(&format!("{what} {} {size} {}", source.name, source.began));
    let (head, items) = metadata(size, &id("disk"));
    output.write_at(METADATA, &head)?;
    output.write_at(METADATA + (64 << 10), &items)?;
    let regions = regions(table);
    output.write_at(192 << 10, &regions)?;
    output.write_at(256 << 10, &regions)?;
    for (sequence, at) in [(1, 64 << 10), (2, 128 << 10)] {
        output.write_at(at, &header(sequence, &id("file"), &id("data")))?;
    }
    let mut identifier = b"vhdxfile".to_vec();
    identifier.extend("impound".encode_utf16().flat_map(u16::to_le_bytes));
    output.write_at(0, &identifier)
}

/// A GUID of version 8 (RFC 9562): ours, from a digest.
fn guid(of: &str) -> [u8; 16] {
    let mut id: [u8; 16] = Sha256::digest(of).first_chunk().copied().unwrap_or_default();
    // Byte 7 holds the version in the little-endian form, byte 8 the variant.
    let [.., version, variant, _, _, _, _, _, _, _] = &mut id;
    *version = *version & 0x0f | 0x80;
    *variant = *variant & 0x3f | 0x80;
    id
}

/// Fills up to `len` bytes and puts the CRC-32C into bytes 4 to 8.
fn signed(mut bytes: Vec<u8>, len: usize) -> Vec<u8> {
    bytes.resize(len, 0);
    let sum = crc32c::crc32c(&bytes).to_le_bytes();
    bytes.get_mut(4..8).unwrap_or_default().copy_from_slice(&sum);
    bytes
}

fn header(sequence: u64, file: &[u8; 16], data: &[u8; 16]) -> Vec<u8> {
    let mut out = b"head\0\0\0\0".to_vec();
    out.extend(sequence.to_le_bytes());
    out.extend_from_slice(file);
    out.extend_from_slice(data);
    out.extend([0; 16]); // no log to play back
    out.extend([0, 0, 1, 0]); // log version, version
    out.extend(u32::try_from(MIB).unwrap_or(0).to_le_bytes());
    out.extend(LOG.to_le_bytes());
    signed(out, 4096)
}

fn regions(table: u64) -> Vec<u8> {
    let mut out = b"regi\0\0\0\0".to_vec();
    out.extend(2_u32.to_le_bytes());
    out.extend([0; 4]);
    for (id, at, len) in [(guids::BAT, BAT, table), (guids::METADATA, METADATA, MIB)] {
        out.extend(id);
        out.extend(at.to_le_bytes());
        out.extend(u32::try_from(len).unwrap_or(u32::MAX).to_le_bytes());
        out.extend(1_u32.to_le_bytes()); // required
    }
    signed(out, 64 << 10)
}

/// The table of the metadata, and the items behind it.
fn metadata(size: u64, disk: &[u8; 16]) -> (Vec<u8>, Vec<u8>) {
    let block = u32::try_from(BLOCK).unwrap_or(0).to_le_bytes();
    let parameters = [block, [0; 4]].concat();
    let items: [([u8; 16], Vec<u8>, u32); 5] = [
        (guids::PARAMETERS, parameters, 4),
        (guids::SIZE, size.to_le_bytes().to_vec(), 6),
        (guids::PAGE83, disk.to_vec(), 6),
        (guids::SECTOR, 512_u32.to_le_bytes().to_vec(), 6),
        (guids::PHYSICAL, 4096_u32.to_le_bytes().to_vec(), 6),
    ];
    let mut table = b"metadata\0\0".to_vec();
    table.extend(5_u16.to_le_bytes());
    table.extend([0; 20]);
    let mut data: Vec<u8> = Vec::new();
    for (id, bytes, flags) in items {
        table.extend(id);
        table.extend((u32::try_from(data.len()).unwrap_or(0) + (64 << 10)).to_le_bytes());
        table.extend(u32::try_from(bytes.len()).unwrap_or(0).to_le_bytes());
        table.extend(u32::to_le_bytes(flags)); // 4: required, 2: of the virtual disk
        table.extend([0; 4]);
        data.extend(bytes);
    }
    (table, data)
}
