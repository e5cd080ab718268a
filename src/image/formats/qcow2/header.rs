//! The header and its extensions (`docs/interop/qcow2`, "Header", "Header extensions").

use crate::image::fields::{Fields, read_structure};
use crate::image::{ReadAt, ReadError};

/// `QFI\xfb`.
pub(super) const MAGIC: u32 = 0x5146_49fb;
const WHAT: &str = "qcow2 header";
/// Length of the header of version 2, and the least of version 3.
const LEN_V2: usize = 72;
const LEN_V3: usize = 104;
/// Longest name that a header may hold.
const NAME_MOST: usize = 1023;

/// What the header says, checked.
#[derive(Debug, Clone, Default)]
pub(super) struct Header {
    pub(super) version: u32,
    pub(super) cluster_bits: u32,
    pub(super) size: u64,
    pub(super) l1_size: u32,
    pub(super) l1_at: u64,
    pub(super) snapshots: u32,
    pub(super) snapshots_at: u64,
    pub(super) incompatible: u64,
    pub(super) autoclear: u64,
    pub(super) zstd: bool,
    pub(super) bitmaps: bool,
    pub(super) backing: Option<Vec<u8>>,
    pub(super) backing_format: Option<String>,
    pub(super) data_file: Option<Vec<u8>>,
}

impl Header {
    /// Cluster size in bytes.
    pub(super) fn cluster(&self) -> u64 {
        1 << self.cluster_bits
    }

    pub(super) fn dirty(&self) -> bool {
        self.incompatible & 1 != 0
    }

    pub(super) fn corrupt(&self) -> bool {
        self.incompatible & 2 != 0
    }

    pub(super) fn external(&self) -> bool {
        self.incompatible & 4 != 0
    }

    pub(super) fn extended(&self) -> bool {
        self.incompatible & 16 != 0
    }

    pub(super) fn read(file: &dyn ReadAt) -> Result<Self, ReadError> {
        let fixed = read_structure(file, WHAT, 0, LEN_V2)?;
        let fields = Fields::new(WHAT, 0, &fixed);
        let mut header = Self {
            version: fields.be32(4)?,
            cluster_bits: fields.be32(20)?,
            size: fields.be64(24)?,
            l1_size: fields.be32(36)?,
            l1_at: fields.be64(40)?,
            snapshots: fields.be32(60)?,
            snapshots_at: fields.be64(64)?,
            ..Self::default()
        };
        if header.version == 1 {
            return Err(ReadError::unsupported("a qcow image of version 1", "convert it first (qemu-img convert)"));
        }
        if !matches!(header.version, 2 | 3) {
            return Err(fields.corrupt(4, "version 2 or 3", header.version));
        }
        if !(9..=21).contains(&header.cluster_bits) {
            return Err(fields.corrupt(20, "cluster_bits of 9 to 21", header.cluster_bits));
        }
        refuse_encrypted(&fields)?;
        header.aligned(&fields, 40, header.l1_at)?;
        if header.snapshots > 0 {
            header.aligned(&fields, 64, header.snapshots_at)?;
        }
        let (backing_at, backing_len) = (fields.be64(8)?, fields.be32(16)?);
        let first = file.len().min(header.cluster());
        let first = read_structure(file, WHAT, 0, usize::try_from(first).unwrap_or(usize::MAX))?;
        let fields = Fields::new(WHAT, 0, &first);
        let extensions = if header.version == 2 { LEN_V2 } else { header.version_3(&fields)? };
        let end = usize::try_from(backing_at).ok().filter(|&at| at > 0).unwrap_or(first.len()).min(first.len());
        header.extensions(&fields, extensions, end)?;
        if backing_at > 0 {
            let at = usize::try_from(backing_at).unwrap_or(usize::MAX);
            let len = usize::try_from(backing_len).unwrap_or(usize::MAX);
            let inside = at.checked_add(len).is_some_and(|end| end <= first.len());
            if at < extensions || len > NAME_MOST || !inside {
                let expected = format_args!("a name of at most {NAME_MOST} bytes inside the first cluster");
                return Err(fields.corrupt(8, expected, format_args!("{len} bytes at {at:#x}")));
            }
            header.backing = Some(fields.slice(at, len)?.to_vec()).filter(|name| !name.is_empty());
        }
        Ok(header)
    }

    fn aligned(&self, fields: &Fields<'_>, field: usize, at: u64) -> Result<(), ReadError> {
        if at.is_multiple_of(self.cluster()) && (at > 0 || self.l1_size == 0) {
            return Ok(());
        }
        let expected = format_args!("a table at a multiple of {:#x}, behind the header", self.cluster());
        Err(fields.corrupt(field, expected, format_args!("{at:#x}")))
    }

    /// The fields of version 3; answers the length of the header.
    fn version_3(&mut self, fields: &Fields<'_>) -> Result<usize, ReadError> {
        self.incompatible = fields.be64(72)?;
        self.autoclear = fields.be64(88)?;
        let order = fields.be32(96)?;
        let len = usize::try_from(fields.be32(100)?).unwrap_or(usize::MAX);
        if order > 6 {
            return Err(fields.corrupt(96, "refcount_order of 0 to 6", order));
        }
        if len < LEN_V3 || !len.is_multiple_of(8) || len > fields.bytes().len() {
            return Err(fields.corrupt(100, "a header of 104 bytes or more, inside the first cluster", len));
        }
        let unknown = self.incompatible & !0x1f;
        if unknown != 0 {
            let why = format!("it uses features that are not known here (bits {unknown:#x})");
            return Err(ReadError::unsupported("this qcow2 image", why));
        }
        let kind = if len > LEN_V3 { fields.u8(LEN_V3)? } else { 0 };
        self.zstd = kind == 1;
        if kind > 1 {
            let why = format!("its clusters are compressed in a way that is not known here ({kind})");
            return Err(ReadError::unsupported("this qcow2 image", why));
        }
        if (self.incompatible & 8 != 0) != self.zstd {
            return Err(fields.corrupt(LEN_V3, "a compression type that agrees with the feature bit", kind));
        }
        if self.extended() && self.cluster_bits < 14 {
            return Err(fields.corrupt(20, "cluster_bits of 14 or more with extended L2 entries", self.cluster_bits));
        }
        Ok(len)
    }

    fn extensions(&mut self, fields: &Fields<'_>, mut at: usize, end: usize) -> Result<(), ReadError> {
        while at.saturating_add(8) <= end {
            let (kind, len) = (fields.be32(at)?, usize::try_from(fields.be32(at + 4)?).unwrap_or(usize::MAX));
            let data = at + 8;
            if data.checked_add(len).is_none_or(|behind| behind > end) && kind != 0 {
                let expected = format_args!("a header extension that ends before {end:#x}");
                return Err(fields.corrupt(at + 4, expected, format_args!("{len} bytes")));
            }
            match kind {
                0 => return Ok(()),
                0xe279_2aca => self.backing_format = Some(fields.text(data, len)?).filter(|name| !name.is_empty()),
                0x4441_5441 => self.data_file = Some(fields.slice(data, len)?.to_vec()),
                0x2385_2875 => self.bitmaps = true,
                _ => {}
            }
            at = data.saturating_add(len.next_multiple_of(8));
        }
        Ok(())
    }
}

fn refuse_encrypted(fields: &Fields<'_>) -> Result<(), ReadError> {
    let with = match fields.be32(32)? {
        0 => return Ok(()),
        1 => "AES",
        2 => "LUKS",
        other => return Err(fields.corrupt(32, "crypt_method of 0 to 2", other)),
    };
    let why = "decrypt a copy with its passphrase first (qemu-img convert --object secret,… --image-opts …)";
    Err(ReadError::unsupported(format!("a qcow2 image encrypted with {with}"), why))
}
