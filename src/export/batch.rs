//! Units that are compressed by all cores, and written in order.

use rayon::prelude::*;

use super::ExportError;

/// Bytes of content that are gathered before they are compressed.
const GATHER: usize = 8 << 20;

/// Units that wait.
#[derive(Default)]
pub(super) struct Batch {
    units: Vec<(u64, Vec<u8>)>,
    bytes: usize,
}

impl Batch {
    /// Adds a unit; answers whether it is time to write.
    pub(super) fn add(&mut self, number: u64, unit: &[u8]) -> bool {
        self.units.push((number, unit.to_vec()));
        self.bytes += unit.len();
        self.bytes >= GATHER
    }

    /// Packs all that wait and hands them on, in order.
    pub(super) fn write(
        &mut self,
        pack: impl Fn(&[u8]) -> Result<Vec<u8>, ExportError> + Sync,
        mut take: impl FnMut(u64, Vec<u8>) -> Result<(), ExportError>,
    ) -> Result<(), ExportError> {
        let units = std::mem::take(&mut self.units);
        self.bytes = 0;
        let packed: Result<Vec<_>, ExportError> =
            units.par_iter().map(|(number, unit)| Ok((*number, pack(unit)?))).collect();
        packed?.into_iter().try_for_each(|(number, unit)| take(number, unit))
    }
}

/// Deflates (zlib, fast).
pub(super) fn deflate(bytes: &[u8]) -> Result<Vec<u8>, ExportError> {
    use std::io::Write;
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::with_capacity(bytes.len() / 2), flate2::Compression::fast());
    let failed = ExportError::write("deflate", "memory");
    encoder.write_all(bytes).and_then(|()| encoder.finish()).map_err(failed)
}
