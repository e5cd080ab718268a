//! Extended attributes: in the inode, in blocks, or with the value in blocks of its own. XFS Algorithms & Data Structures,
//! "Extended Attributes".

use std::collections::HashSet;
use std::sync::Arc;

use super::disk::Disk;
use super::inode::{Inode, LOCAL};
use super::map;
use crate::disk::us;
use crate::image::fields::Fields;
use crate::image::{ReadAt, ReadError, read_vec};

/// The longest value: Linux' own limit.
const LONGEST: u32 = 0x1_0000;
/// Flags of an attribute.
const IN_PLACE: u8 = 1;
const ROOT: u8 = 2;
const SECURE: u8 = 4;
const PARENT: u8 = 8;
const INCOMPLETE: u8 = 0x80;

/// One attribute.
pub(super) struct Attribute {
    flags: u8,
    name: Vec<u8>,
    pub(super) value: Result<Vec<u8>, ReadError>,
}

impl Attribute {
    /// Its whole name.
    pub(super) fn label(&self) -> String {
        let prefix = match self.flags & (ROOT | SECURE | PARENT) {
            ROOT => "trusted.",
            SECURE => "security.",
            PARENT => "parent ",
            _ => "user.",
        };
        let rest = if self.flags & INCOMPLETE != 0 { " (incomplete)" } else { "" };
        format!("{prefix}{}{rest}", String::from_utf8_lossy(&self.name))
    }
}

/// All attributes of an inode; what is damaged is said.
pub(super) fn all(disk: &Disk, inode: &Inode, odd: &mut Vec<String>) -> Vec<Attribute> {
    let mut found = Vec::new();
    let Some(fork) = &inode.attr else { return found };
    let done = if fork.format == LOCAL {
        short(&fork.bytes, &mut found)
    } else if fork.extents > 0 {
        let map = map::of(disk, fork);
        odd.extend(map.odd.iter().cloned());
        let end = map.runs.last().map_or(0, |run| run.logical.saturating_add(run.len));
        let content = map.content(&disk.volume, disk.sb.block_size, end.saturating_mul(disk.sb.block_size), true);
        Tree { disk, content, odd }.leaves(&mut found)
    } else {
        Ok(())
    };
    odd.extend(done.err().map(|error| error.to_string()));
    found
}

fn short(bytes: &[u8], into: &mut Vec<Attribute>) -> Result<(), ReadError> {
    let fields = Fields::new("xfs attributes in an inode", 0, bytes);
    let mut at = 4;
    for _ in 0..fields.u8(2)? {
        let (name, value) = (usize::from(fields.u8(at)?), usize::from(fields.u8(at + 1)?));
        let (flags, from) = (fields.u8(at + 2)?, at + 3);
        let whole = fields.slice(from + name, value)?.to_vec();
        into.push(Attribute { flags, name: fields.slice(from, name)?.to_vec(), value: Ok(whole) });
        at = from + name + value;
    }
    Ok(())
}

struct Tree<'a> {
    disk: &'a Disk,
    content: Arc<dyn ReadAt>,
    odd: &'a mut Vec<String>,
}

impl Tree<'_> {
    fn block(&mut self, number: u32) -> Result<Vec<u8>, ReadError> {
        let at = u64::from(number).saturating_mul(self.disk.sb.block_size);
        let bytes = read_vec(self.content.as_ref(), at, self.disk.sb.block_len())?;
        // Where the block is on the volume, for what comes from the log, it tells itself.
        let place = Fields::new("xfs attribute block", at, &bytes).be64(16).unwrap_or(0).saturating_mul(512);
        if self.disk.sb.v5 && !self.disk.sound(place, &bytes, 12) {
            self.odd.push(format!("the checksum of block {number} of the attributes does not fit"));
        }
        Ok(bytes)
    }

    /// Down to the first leaf, then from leaf to leaf.
    fn leaves(&mut self, into: &mut Vec<Attribute>) -> Result<(), ReadError> {
        let (mut number, mut seen) = (0, HashSet::new());
        while seen.insert(number) {
            let bytes = self.block(number)?;
            let fields = Fields::new("xfs attribute block", u64::from(number) * self.disk.sb.block_size, &bytes);
            let v5 = self.disk.sb.v5;
            match (fields.be16(8)?, v5) {
                (0xfebe, false) => number = fields.be32(16 + 4)?,
                (0x3ebe, true) => number = fields.be32(64 + 4)?,
                (0xfbee, false) | (0x3bee, true) => {
                    self.leaf(&fields, into)?;
                    number = fields.be32(0)?;
                    if number == 0 {
                        return Ok(());
                    }
                }
                (magic, _) => return Err(fields.corrupt(8, "a node or a leaf", format_args!("{magic:#x}"))),
            }
        }
        Err(ReadError::corrupt("xfs attributes", 0, "a tree", format_args!("block {number} a second time")))
    }

    fn leaf(&mut self, fields: &Fields<'_>, into: &mut Vec<Attribute>) -> Result<(), ReadError> {
        let (count, head) = if self.disk.sb.v5 { (fields.be16(56)?, 80) } else { (fields.be16(12)?, 32) };
        for index in 0..usize::from(count) {
            let entry = head + index * 8;
            let (at, flags) = (usize::from(fields.be16(entry + 4)?), fields.u8(entry + 6)?);
            let (name, value) = if flags & IN_PLACE != 0 {
                let (value, name) = (usize::from(fields.be16(at)?), usize::from(fields.u8(at + 2)?));
                (fields.slice(at + 3, name)?, Ok(fields.slice(at + 3 + name, value)?.to_vec()))
            } else {
                let (block, len) = (fields.be32(at)?, fields.be32(at + 4)?);
                (fields.slice(at + 9, usize::from(fields.u8(at + 8)?))?, self.remote(block, len))
            };
            into.push(Attribute { flags, name: name.to_vec(), value });
        }
        Ok(())
    }

    /// A value in blocks of its own, each with a head from version 5 on.
    fn remote(&mut self, block: u32, len: u32) -> Result<Vec<u8>, ReadError> {
        let size = self.disk.sb.block_len();
        let at = u64::from(block).saturating_mul(self.disk.sb.block_size);
        if len > LONGEST {
            return Err(ReadError::corrupt("xfs attribute value", at, format_args!("at most {LONGEST} bytes"), len));
        }
        let len = us(u64::from(len));
        if !self.disk.sb.v5 {
            return read_vec(self.content.as_ref(), at, len);
        }
        let mut value = Vec::with_capacity(len);
        for index in 0..len.div_ceil(size - 56) {
            let here = at.saturating_add(index as u64 * self.disk.sb.block_size);
            let bytes = read_vec(self.content.as_ref(), here, size)?;
            let fields = Fields::new("xfs attribute value", here, &bytes);
            let want = (len - value.len()).min(size - 56);
            if fields.slice(0, 4)? != b"XARM" || us(u64::from(fields.be32(8)?)) != want {
                let found = crate::image::hex(fields.slice(0, 12)?);
                return Err(fields.corrupt(0, format_args!("a head for {want} bytes"), found));
            }
            if !super::superblock::checksum_fits(&bytes, 12) {
                self.odd.push(format!("the checksum of the attribute value at byte {here:#x} does not fit"));
            }
            value.extend_from_slice(fields.slice(56, want)?);
        }
        Ok(value)
    }
}
