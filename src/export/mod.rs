//! An image in another format: written while it is read, hashed on both sides, and opened again before it gets its name.
//!
//! Reading is parallel, the content is hashed on the way, and the file that was written is read back by our own reader of
//! that format: its content must have the same digest. What the source does not hold is named in the report beside the
//! file, and in the format itself where it can say so (LiME, ELF: absent ranges; E01: unread sectors).

mod batch;
mod elf;
mod error;
mod ewf;
mod lime;
mod output;
mod qcow2;
mod raw;
mod report;
mod source;
mod vhdx;
mod vmdk;

use std::path::{Path, PathBuf};

pub use error::ExportError;
pub use report::Report;

use crate::case::Disk;
use crate::image::{self, Carried, Content, Image, Kind, Options, digest, map};
use crate::progress::Progress;
use output::Output;
use source::Source;

/// Writes a source in one format.
pub type Writer = fn(&mut Source<'_>, &mut Output) -> Result<(), ExportError>;

/// A format that can be written. A record, so that adding one is a file and a row.
#[derive(Debug)]
pub struct Format {
    /// Its name, as in `--to`.
    pub name: &'static str,
    /// What it is, in a few words.
    pub about: &'static str,
    /// Usual ending of the file's name.
    pub ending: &'static str,
    /// It cannot hold memory, since it knows no absent ranges.
    pub disks_only: bool,
    /// It holds whole sectors: the last one is filled up with zeros.
    pub sectors: bool,
    /// The outside tools that agreed.
    pub tested_against: &'static str,
    /// The wrapping that reads it.
    pub wrapping: &'static str,
    /// Writes it.
    pub write: Writer,
}

/// All of them.
pub static ALL: &[&Format] = &[&raw::RAW, &lime::LIME, &elf::ELF, &qcow2::QCOW2, &vmdk::VMDK, &vhdx::VHDX, &ewf::E01];

/// The format of this name.
pub fn by_name(name: &str) -> Option<&'static Format> {
    ALL.iter().copied().find(|format| format.name == name)
}

/// Writes `image`, opened from `from`, as `format` to `to`, which must not exist yet. The report lies beside it, under the
/// same name with `.export.json` behind it.
pub fn export(
    image: &Image,
    from: &Path,
    format: &Format,
    to: &Path,
    progress: &dyn Progress,
) -> Result<Report, ExportError> {
    fits(image, format)?;
    let disk = Disk::default();
    for path in [to.to_owned(), report_of(to)] {
        if std::fs::symlink_metadata(&path).is_ok() {
            return Err(ExportError::Refused(format!(
                "{} is there already; nothing is ever overwritten",
                path.display()
            )));
        }
    }
    let mut output = Output::create(to)?;
    let bytes = image.bytes().as_ref();
    let len = if format.disks_only { bytes.len() } else { end_of_content(image)? };
    let wanted: &[&'static str] = if format.name == "e01" { &["sha256", "sha1", "md5"] } else { &["sha256"] };
    let name = from.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let task = progress.begin(&format!("export to {}", format.name), Some(len));
    let mut source = Source::new(bytes, len, name, wanted, task.as_ref());
    (format.write)(&mut source, &mut output)?;
    let content = source.finish(format)?;
    output.sync()?;
    drop(task);
    compare_with_carried(image, &content.digests)?;
    let plain = format.wrapping == "raw";
    let task = progress.begin("read back", Some(if plain { len } else { output.len()?.saturating_add(len) }));
    let file = digest::of_content(&output.reader()?, output.len()?, &["sha256"], task.as_ref());
    let file = file.map_err(ExportError::ReadBack)?;
    // A raw file is its own content: its digest is compared, and it is not read again.
    if plain {
        same(output.len()?, &file, len, &content.digests)?;
    } else {
        read_back(&output, format, len, &content.digests, task.as_ref())?;
    }
    drop(task);
    let report = Report::new(image, from, format, to, output.len()?, content, &file);
    disk.write_new(&report_of(to), &report.bytes()?)?;
    disk.rename_new(output.path(), to)?;
    output.keep();
    Ok(report)
}

/// Where the report on `to` lies.
pub fn report_of(to: &Path) -> PathBuf {
    let mut name = to.file_name().unwrap_or_default().to_owned();
    name.push(".export.json");
    to.with_file_name(name)
}

fn fits(image: &Image, format: &Format) -> Result<(), ExportError> {
    match (image.content(), format.disks_only, format.wrapping) {
        (Content::Memory, true, _) => {
            let name = format.name;
            Err(ExportError::Refused(format!(
                "{name} is for disks: it cannot say where no memory is; take raw, lime or elf"
            )))
        }
        (Content::Disk, _, "lime" | "elf") => {
            Err(ExportError::Refused(format!("{} is for memory; take raw, qcow2, vmdk, vhdx or e01", format.name)))
        }
        _ => Ok(()),
    }
}

/// The end of the last range that is there: formats that list ranges end with it.
fn end_of_content(image: &Image) -> Result<u64, ExportError> {
    let bytes = image.bytes();
    let mut end = 0;
    for extent in map::walk(bytes.as_ref(), 0..bytes.len()) {
        let extent = extent?;
        if !matches!(extent.kind, Kind::Gap(_)) {
            end = extent.end();
        }
    }
    Ok(end)
}

/// If the source carries a digest of its content, what was read must have it.
fn compare_with_carried(image: &Image, read: &[Carried]) -> Result<(), ExportError> {
    let carried = image.layers().iter().flat_map(|layer| &layer.digests);
    for carried in carried {
        let found = read.iter().find(|found| found.algorithm == carried.algorithm);
        if let Some(found) = found.filter(|found| found.hex != carried.hex) {
            return Err(ExportError::Differs {
                what: "the source",
                expected: format!("{} {} as it carries it", carried.algorithm, carried.hex),
                found: found.hex.clone(),
            });
        }
    }
    Ok(())
}

/// Opens what was written and compares its content.
fn read_back(
    output: &Output,
    format: &Format,
    len: u64,
    expected: &[Carried],
    task: &dyn crate::progress::Task,
) -> Result<(), ExportError> {
    let options = Options { wrapping: Some(format.wrapping.to_owned()), ..Options::default() };
    let written = image::open(output.path(), &options).map_err(ExportError::ReadBack)?;
    let found = digest::of_content(written.bytes().as_ref(), len, &["sha256"], task).map_err(ExportError::ReadBack)?;
    let padding = if format.sectors { len.next_multiple_of(512) - len } else { 0 };
    same(written.bytes().len(), &found, len + padding, expected)
}

/// What was written is as long as it should be, and has the digest of the source.
fn same(found_len: u64, found: &[Carried], len: u64, expected: &[Carried]) -> Result<(), ExportError> {
    let sha256 = |digests: &[Carried]| {
        digests.iter().find(|digest| digest.algorithm == "sha256").map_or_else(String::new, |digest| digest.hex.clone())
    };
    let (found, expected) = (sha256(found), sha256(expected));
    if found == expected && found_len == len {
        return Ok(());
    }
    let expected = format!("{len} bytes with sha256 {expected}");
    let found = format!("{found_len} bytes with sha256 {found}");
    Err(ExportError::Differs { what: "what was written", expected, found })
}
