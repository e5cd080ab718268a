//! Extended attributes, in the inode, in a block of their own, or with the value in another inode. Kernel
//! Documentation/filesystems/ext4, "Extended Attributes".

use super::Ext;
use super::inode::Inode;
use crate::disk::us;
use crate::image::fields::{Fields, read_structure};
use crate::image::{ReadError, read_vec};

const MAGIC: u32 = 0xea02_0000;
/// The longest value: Linux' own limit.
const LONGEST: u32 = 0x1_0000;
/// Index of `system.`.
const SYSTEM: u8 = 7;

/// One attribute.
pub(super) struct Attribute {
    pub(super) index: u8,
    pub(super) name: Vec<u8>,
    pub(super) value: Result<Vec<u8>, ReadError>,
}

impl Attribute {
    /// Its whole name.
    pub(super) fn label(&self) -> String {
        let prefix = match self.index {
            1 => "user.",
            2 => "system.posix_acl_access",
            3 => "system.posix_acl_default",
            4 => "trusted.",
            6 => "security.",
            SYSTEM => "system.",
            8 => "system.richacl",
            9 => "encryption.",
            _ => "",
        };
        format!("{prefix}{}", String::from_utf8_lossy(&self.name))
    }
}

impl Ext {
    /// All attributes of an inode; what is damaged is said.
    pub(super) fn attributes(&self, inode: &Inode, odd: &mut Vec<String>) -> Vec<Attribute> {
        let mut all = Vec::new();
        let own = inode.raw.get(inode.extra..).unwrap_or_default();
        let fields = Fields::new("ext attributes in an inode", 0, own);
        if fields.u32(0).is_ok_and(|magic| magic == MAGIC) {
            let entries = own.get(4..).unwrap_or_default();
            if let Err(error) = self.read(entries, 0, "ext attributes in an inode", &mut all) {
                odd.push(error.to_string());
            }
        }
        if inode.acl != 0 {
            let at = inode.acl.saturating_mul(self.sb.block_size);
            let read = read_structure(self.volume.as_ref(), "ext attribute block", at, self.sb.block_len());
            let done = read.and_then(|block| {
                let fields = Fields::new("ext attribute block", at, &block);
                match fields.u32(0)? {
                    MAGIC => self.read(&block, 32, "ext attribute block", &mut all),
                    other => Err(fields.corrupt(0, format_args!("magic {MAGIC:#x}"), format_args!("{other:#x}"))),
                }
            });
            odd.extend(done.err().map(|error| error.to_string()));
        }
        all
    }

    /// Entries from `from` on; values are placed relative to the beginning of `bytes`.
    fn read(&self, bytes: &[u8], from: usize, what: &'static str, into: &mut Vec<Attribute>) -> Result<(), ReadError> {
        let fields = Fields::new(what, 0, bytes);
        let mut at = from;
        while at + 4 <= bytes.len() && fields.u32(at)? != 0 {
            let (name_len, index) = (usize::from(fields.u8(at)?), fields.u8(at + 1)?);
            let (place, inode, size) = (fields.u16(at + 2)?, fields.u32(at + 4)?, fields.u32(at + 8)?);
            let name = fields.slice(at + 16, name_len)?.to_vec();
            let value = match inode {
                0 => fields.slice(usize::from(place), size as usize).map(<[u8]>::to_vec),
                inode => self.value_of(inode, size),
            };
            into.push(Attribute { index, name, value });
            at += (16 + name_len).next_multiple_of(4);
        }
        Ok(())
    }

    /// A long value has an inode of its own.
    fn value_of(&self, inode: u32, size: u32) -> Result<Vec<u8>, ReadError> {
        let holder = self.inode(u64::from(inode))?;
        if size > LONGEST || u64::from(size) > holder.node.size {
            return Err(ReadError::corrupt(
                "ext attribute inode",
                u64::from(inode),
                format_args!("{size} bytes"),
                holder.node.size,
            ));
        }
        let content = self.content_of(&holder, false)?;
        read_vec(content.as_ref(), 0, us(u64::from(size)))
    }

    /// What of inline content does not fit the inode's own 60 bytes.
    pub(super) fn inline_rest(&self, inode: &Inode) -> Result<Vec<u8>, ReadError> {
        let mut odd = Vec::new();
        let all = self.attributes(inode, &mut odd);
        let rest = all.into_iter().find(|one| one.index == SYSTEM && one.name == b"data");
        match (rest, odd.into_iter().next()) {
            (Some(rest), _) => rest.value,
            (None, Some(why)) => Err(ReadError::corrupt("ext inline data", inode.node.inode, "an attribute", why)),
            (None, None) => Ok(Vec::new()),
        }
    }
}
