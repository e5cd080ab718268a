//! LiME version 1: each range with a header of 32 bytes before it (`LiME/doc/README.md`, "Memory Range Header").

use super::output::Output;
use super::source::Source;
use super::{ExportError, Format};
use crate::case::ingest::layout::Layout;

/// See the module.
pub(super) static LIME: Format = Format {
    name: "lime",
    about: "memory in ranges, for Volatility and others",
    ending: "lime",
    disks_only: false,
    sectors: false,
    tested_against: "Volatility 3",
    wrapping: "lime",
    write,
};

fn write(source: &mut Source<'_>, output: &mut Output) -> Result<(), ExportError> {
    let ranges: Vec<_> = source.ranges()?.iter().map(|range| range.at..range.end()).collect();
    let layout =
        Layout::new(crate::case::ingest::Format::Lime, &ranges, source.len, 0).map_err(ExportError::Refused)?;
    write_layout(source, output, &layout)
}

/// Writes the headers of a layout and the data at their places.
pub(super) fn write_layout(source: &mut Source<'_>, output: &mut Output, layout: &Layout) -> Result<(), ExportError> {
    output.set_len(layout.len)?;
    for (at, bytes) in &layout.headers {
        output.write_at(*at, bytes)?;
    }
    source.data(|at, bytes| {
        let misplaced = || ExportError::Refused(format!("the range at {at:#x} has no place in the file"));
        for (to, part) in layout.places(at, bytes.len() as u64).ok_or_else(misplaced)? {
            output.write_at(to, bytes.get(part).unwrap_or_default())?;
        }
        Ok(())
    })
}
