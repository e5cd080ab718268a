//! VMDK, streamOptimized ("Virtual Disk Format 1.1", VMware): deflated grains of 64 KiB, each with its marker, the tables
//! between them, the directory at the end. One file that every hypervisor imports.

use super::batch::{Batch, deflate};
use super::output::Output;
use super::source::Source;
use super::{ExportError, Format};

/// See the module.
pub(super) static VMDK: Format = Format {
    name: "vmdk",
    about: "VMware's disk, compressed (streamOptimized)",
    ending: "vmdk",
    disks_only: true,
    sectors: true,
    tested_against: "qemu-img check and compare, dissect",
    wrapping: "vmdk",
    write,
};

const SECTOR: u64 = 512;
/// Length of a grain in bytes.
const GRAIN: usize = 64 << 10;
/// Grains of one table.
const ENTRIES: u64 = 512;
/// Sectors before the first grain.
const OVERHEAD: u64 = 128;
/// Types of markers.
const TABLE: u32 = 1;
const DIRECTORY: u32 = 2;
const FOOTER: u32 = 3;

fn write(source: &mut Source<'_>, output: &mut Output) -> Result<(), ExportError> {
    let capacity = source.padded() / SECTOR;
    let tables = capacity.div_ceil(ENTRIES * GRAIN as u64 / SECTOR);
    output.write_at(0, &header(capacity, u64::MAX))?;
    output.write_at(SECTOR, descriptor(capacity, &source.name, source.began.as_second()).as_bytes())?;
    output.skip(OVERHEAD * SECTOR);
    let mut grains = Grains { output, directory: vec![0; usize::try_from(tables).unwrap_or(0)], table: None };
    let mut batch = Batch::default();
    source.units(GRAIN, |number, grain| {
        if batch.add(number, grain) {
            batch.write(deflate, |number, packed| grains.append(number, &packed))
        } else {
            Ok(())
        }
    })?;
    batch.write(deflate, |number, packed| grains.append(number, &packed))?;
    grains.finish(capacity)
}

/// What is written so far.
struct Grains<'a> {
    output: &'a mut Output,
    /// Sector of each table; 0: it has no grain.
    directory: Vec<u32>,
    /// The table that is being filled, and its number.
    table: Option<(u64, Vec<u32>)>,
}

impl Grains<'_> {
    /// The sector where the next thing goes. Sectors have 32 bits.
    fn sector(&self) -> Result<u32, ExportError> {
        let too_long = || ExportError::Refused("the VMDK would become longer than 2 TiB".to_owned());
        u32::try_from(self.output.at() / SECTOR).map_err(|_| too_long())
    }

    fn append(&mut self, number: u64, packed: &[u8]) -> Result<(), ExportError> {
        if self.table.as_ref().is_none_or(|(index, _)| *index != number / ENTRIES) {
            self.close()?;
            self.table = Some((number / ENTRIES, vec![0; usize::try_from(ENTRIES).unwrap_or(512)]));
        }
        let sector = self.sector()?;
        let slot = usize::try_from(number % ENTRIES).unwrap_or(usize::MAX);
        if let Some(entry) = self.table.as_mut().and_then(|(_, table)| table.get_mut(slot)) {
            *entry = sector;
        }
        let mut bytes = (number * (GRAIN as u64 / SECTOR)).to_le_bytes().to_vec();
        bytes.extend(u32::try_from(packed.len()).unwrap_or(u32::MAX).to_le_bytes());
        bytes.extend_from_slice(packed);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
        self.output.append(&bytes)
    }

    /// Writes the table that is full, or the last one.
    fn close(&mut self) -> Result<(), ExportError> {
        let Some((index, table)) = self.table.take() else { return Ok(()) };
        self.marker(ENTRIES * 4 / SECTOR, TABLE)?;
        let sector = self.sector()?;
        if let Some(entry) = self.directory.get_mut(usize::try_from(index).unwrap_or(usize::MAX)) {
            *entry = sector;
        }
        self.output.append(&table.iter().flat_map(|entry| entry.to_le_bytes()).collect::<Vec<_>>())
    }

    fn marker(&mut self, sectors: u64, kind: u32) -> Result<(), ExportError> {
        let mut bytes = sectors.to_le_bytes().to_vec();
        bytes.extend([0; 4]);
        bytes.extend(kind.to_le_bytes());
        bytes.resize(512, 0);
        self.output.append(&bytes)
    }

    /// Directory, footer, end-of-stream marker.
    fn finish(mut self, capacity: u64) -> Result<(), ExportError> {
        self.close()?;
        let mut directory: Vec<u8> = self.directory.iter().flat_map(|entry| entry.to_le_bytes()).collect();
        directory.resize(directory.len().next_multiple_of(512), 0);
        self.marker(directory.len() as u64 / SECTOR, DIRECTORY)?;
        let sector = self.sector()?;
        self.output.append(&directory)?;
        self.marker(1, FOOTER)?;
        self.output.append(&header(capacity, sector.into()))?;
        self.output.append(&[0; 512])
    }
}

fn header(capacity: u64, directory: u64) -> Vec<u8> {
    let mut out = b"KDMV".to_vec();
    out.extend(3_u32.to_le_bytes()); // version
    out.extend(0x0003_0001_u32.to_le_bytes()); // newline test, compressed grains, markers
    for field in [capacity, GRAIN as u64 / SECTOR, 1, 20] {
        out.extend(field.to_le_bytes()); // capacity, grainSize, descriptorOffset, descriptorSize
    }
    out.extend(512_u32.to_le_bytes()); // numGTEsPerGT
    for field in [0, directory, OVERHEAD] {
        out.extend(u64::to_le_bytes(field)); // rgdOffset, gdOffset, overHead
    }
    out.extend(*b"\0\n \r\n"); // clean shutdown, newline test
    out.extend(1_u16.to_le_bytes()); // deflate
    out.resize(512, 0);
    out
}

/// The descriptor in front. The source's name is not repeated: it is hostile, and nobody needs it here.
fn descriptor(capacity: u64, name: &str, seconds: i64) -> String {
    let id = crc32fast::hash(format!("{name} {capacity} {seconds}").as_bytes()).clamp(1, u32::MAX - 1);
    let cylinders = (capacity / (16 * 63)).clamp(1, 16383);
    format!(
        "# Disk DescriptorFile\nversion=1\nCID={id:08x}\nparentCID=ffffffff\ncreateType=\"streamOptimized\"\n\n\
         # Extent description\nRW {capacity} SPARSE \"disk.vmdk\"\n\n# The Disk Data Base\n#DDB\n\n\
         ddb.virtualHWVersion = \"4\"\nddb.geometry.cylinders = \"{cylinders}\"\nddb.geometry.heads = \"16\"\n\
         ddb.geometry.sectors = \"63\"\nddb.adapterType = \"lsilogic\"\n"
    )
}
