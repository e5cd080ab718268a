//! Raw: addresses are offsets; what is zero or missing is a hole of the file.

use super::output::Output;
use super::source::Source;
use super::{ExportError, Format};

/// See the module.
pub(super) static RAW: Format = Format {
    name: "raw",
    about: "addresses are offsets, holes are sparse",
    ending: "raw",
    disks_only: false,
    sectors: false,
    tested_against: "qemu-img compare",
    wrapping: "raw",
    write,
};

fn write(source: &mut Source<'_>, output: &mut Output) -> Result<(), ExportError> {
    output.set_len(source.len)?;
    source.data(|at, bytes| output.write_at(at, bytes))
}
