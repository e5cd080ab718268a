//! VHDX, dynamic (\[MS-VHDX\]): blocks of 2 MiB, an empty log.

use std::io::Write;

use sha2::{Digest, Sha256};

use super::output::Output;
use super::source::Source;
use super::{ExportError, Format};

/// See the module.
pub(super) static VHDX: Format = Format {
    name: "vhdx",
    about: "Hyper-V's disk, dynamic",
    ending: "vhdx",
    disks_only: true,
    sectors: true,
    tested_against: "qemu-img check and compare",
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

/// GUIDs of the format, as their bytes stand in the file.
const BAT_REGION: [u8; 16] =
    [0x66, 0x77, 0xc2, 0x2d, 0x23, 0xf6, 0x00, 0x42, 0x9d, 0x64, 0x11, 0x5e, 0x9b, 0xfd, 0x4a, 0x08];
const METADATA_REGION: [u8; 16] =
    [0x06, 0xa2, 0x7c, 0x8b, 0x90, 0x47, 0x9a, 0x4b, 0xb8, 0xfe, 0x57, 0x5f, 0x05, 0x0f, 0x88, 0x6e];
const PARAMETERS: [u8; 16] =
    [0x37, 0x67, 0xa1, 0xca, 0x36, 0xfa, 0x43, 0x4d, 0xb3, 0xb6, 0x33, 0xf0, 0xaa, 0x44, 0xe7, 0x6b];
const SIZE: [u8; 16] = [0x24, 0x42, 0xa5, 0x2f, 0x1b, 0xcd, 0x76, 0x48, 0xb2, 0x11, 0x5d, 0xbe, 0xd8, 0x3b, 0xf4, 0xb8];
const LOGICAL: [u8; 16] =
    [0x1d, 0xbf, 0x41, 0x81, 0x6f, 0xa9, 0x09, 0x47, 0xba, 0x47, 0xf2, 0x33, 0xa8, 0xfa, 0xab, 0x5f];
const PHYSICAL: [u8; 16] =
    [0xc7, 0x48, 0xa3, 0xcd, 0x5d, 0x44, 0x71, 0x44, 0x9c, 0xc9, 0xe9, 0x88, 0x52, 0x51, 0xc5, 0x56];
const PAGE83: [u8; 16] =
    [0xab, 0x12, 0xca, 0xbe, 0xe6, 0xb2, 0x23, 0x45, 0x93, 0xef, 0xc3, 0x09, 0xe0, 0x00, 0xc7, 0x46];

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
    for (id, at, len) in [(BAT_REGION, BAT, table), (METADATA_REGION, METADATA, MIB)] {
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
        (PARAMETERS, parameters, 4),
        (SIZE, size.to_le_bytes().to_vec(), 6),
        (PAGE83, disk.to_vec(), 6),
        (LOGICAL, 512_u32.to_le_bytes().to_vec(), 6),
        (PHYSICAL, 4096_u32.to_le_bytes().to_vec(), 6),
    ];
    let mut table = b"metadata\0\0".to_vec();
    table.extend(5_u16.to_le_bytes());
    table.extend([0; 20]);
    let mut data = Vec::new();
    for (id, bytes, flags) in items {
        table.extend(id);
        table.extend((u32::try_from(data.len()).unwrap_or(0) + (64 << 10)).to_le_bytes());
        table.extend(u32::try_from(bytes.len()).unwrap_or(0).to_le_bytes());
        table.extend(u32::to_le_bytes(flags)); // 4: required, 2: of the virtual disk
        table.extend([0; 4]);
        // A vector takes all that is written to it.
        let _ = data.write_all(&bytes);
    }
    (table, data)
}
