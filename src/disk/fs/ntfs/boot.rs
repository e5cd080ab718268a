//! The boot sector: where everything is, and how large. Its layout is the one of the BIOS parameter block, NTFS form
//! (Microsoft, "NTFS boot sector"; linux-ntfs documentation, "$Boot").
//!
//! The last sector of a volume holds a copy. It is used if the first one makes no sense, and that is said.

use crate::image::fields::{Fields, read_structure};
use crate::image::{ReadAt, ReadError};

/// Bytes of it that are looked at.
const LEN: usize = 512;

/// What it tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Boot {
    /// Bytes of a sector.
    pub(super) sector: u64,
    /// Bytes of a cluster.
    pub(super) cluster: u64,
    /// Sectors of the volume, without the last.
    pub(super) sectors: u64,
    /// First byte of $MFT and of $MFTMirr.
    pub(super) mft: [u64; 2],
    /// Bytes of a record of $MFT.
    pub(super) record: u64,
    /// Serial number.
    pub(super) serial: u64,
}

impl Boot {
    /// Reads the first sector, or the copy at the end of the volume; then a line that says so.
    pub(super) fn read(volume: &dyn ReadAt) -> Result<(Self, Option<String>), ReadError> {
        let error = match Self::at(volume, 0) {
            Ok(boot) => return Ok((boot, None)),
            Err(error) => error,
        };
        for sector in [512, 1024, 2048, 4096_u64] {
            let Some(at) = (volume.len() / sector).checked_sub(1).map(|last| last * sector) else { continue };
            if let Ok(boot) = Self::at(volume, at) {
                return Ok((boot, Some(format!("the backup boot sector at {at:#x} was used: {error}"))));
            }
        }
        Err(error)
    }

    fn at(volume: &dyn ReadAt, at: u64) -> Result<Self, ReadError> {
        let bytes = read_structure(volume, "NTFS boot sector", at, LEN)?;
        let fields = Fields::new("NTFS boot sector", at, &bytes);
        if fields.slice(3, 8)? != b"NTFS    " {
            return Err(fields.corrupt(3, "the name NTFS", crate::image::hex(fields.slice(3, 8)?)));
        }
        let sector = u64::from(fields.u16(11)?);
        if !sector.is_power_of_two() || !(512..=4096).contains(&sector) {
            return Err(fields.corrupt(11, "a sector of 512 to 4096 bytes", sector));
        }
        let per_cluster = fields.u8(13)?;
        // Above 128 it is the power of two, negative.
        let per_cluster = if per_cluster <= 128 { u64::from(per_cluster) } else { power(per_cluster) };
        let cluster = sector * per_cluster;
        if !cluster.is_power_of_two() || cluster > 1 << 21 {
            return Err(fields.corrupt(13, "a cluster of at most 2 MiB", cluster));
        }
        let record = fields.u8(64)?;
        let record = if record < 128 { u64::from(record) * cluster } else { power(record) };
        if !record.is_power_of_two() || !(512..=65536).contains(&record) {
            return Err(fields.corrupt(64, "records of 512 to 65536 bytes", record));
        }
        let sectors = fields.u64(40)?;
        let clusters = sectors / per_cluster;
        let place = |at: usize| {
            let first = fields.u64(at)?;
            if first == 0 || first >= clusters {
                return Err(fields.corrupt(at, format_args!("a cluster of {clusters}"), first));
            }
            Ok(first.saturating_mul(cluster))
        };
        let mft = [place(48)?, fields.u64(56)?.saturating_mul(cluster)];
        Ok(Self { sector, cluster, sectors, mft, record, serial: fields.u64(72)? })
    }

    /// Clusters of the volume. What would lie behind the end of the image does not count: no image makes us count
    /// further than it is long.
    pub(super) fn clusters(&self, volume: &dyn ReadAt) -> u64 {
        (self.sectors / (self.cluster / self.sector)).min(volume.len().div_ceil(self.cluster))
    }

    /// Is the copy at the end there?
    pub(super) fn backup(&self, volume: &dyn ReadAt) -> &'static str {
        match Self::at(volume, self.sectors.saturating_mul(self.sector)) {
            Ok(copy) if copy == *self => "the same",
            Ok(_) => "differs",
            Err(_) => "none at the end of the volume",
        }
    }
}

/// Two to the power of minus the signed byte; 0 if that is too much for any size here.
fn power(negative: u8) -> u64 {
    1_u64.checked_shl(u32::from(negative.wrapping_neg())).filter(|n| *n <= 1 << 21).unwrap_or(0)
}
