//! ELF64 core: one `PT_LOAD` a range, its address in `p_paddr`, as QEMU's dump-guest-memory writes it. Without notes: the
//! registers stay in the exhibit.

use super::lime::write_layout;
use super::output::Output;
use super::source::Source;
use super::{ExportError, Format};
use crate::case::ingest::layout::Layout;

/// See the module.
pub(super) static ELF: Format = Format {
    name: "elf",
    about: "memory as an ELF core by physical address",
    ending: "elf",
    disks_only: false,
    sectors: false,
    tested_against: "Volatility 3",
    wrapping: "elf",
    write,
};

/// `e_machine` of x86-64: what memory images are of, as far as they are exported.
const X86_64: u16 = 62;

fn write(source: &mut Source<'_>, output: &mut Output) -> Result<(), ExportError> {
    let ranges: Vec<_> = source.ranges()?.iter().map(|range| range.at..range.end()).collect();
    let layout =
        Layout::new(crate::case::ingest::Format::Elf, &ranges, source.len, X86_64).map_err(ExportError::Refused)?;
    write_layout(source, output, &layout)
}
