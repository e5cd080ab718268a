//! VMCOREINFO: the note that Linux keeps for crash dumps, about itself.
//!
//! Layout: `Documentation/admin-guide/kdump/vmcoreinfo.rst`, lines of `KEY=value`. It stands in memory twice, and a
//! makedumpfile or an examiner's tools may have left more.

use std::collections::BTreeMap;

use super::super::scan::{Verdict, scan};
use super::super::symbols::kallsyms::KERNEL_MAP;
use super::super::{Physical, physical::PAGE};
use super::Kernel;

const BEGIN: &[u8] = b"OSRELEASE=";

/// What it says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Vmcoreinfo {
    /// Physical address of the copy that was read.
    pub at: u64,
    /// Every line, in its order.
    pub lines: Vec<(String, String)>,
    keys: BTreeMap<String, String>,
}

impl Vmcoreinfo {
    /// Reads what begins with `OSRELEASE=`; `None` if it does not look like the kernel's own.
    pub fn parse(at: u64, bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.get(..bytes.len().min(PAGE as usize))?;
        let text = bytes.split(|&byte| byte == 0).next().filter(|text| text.is_ascii())?;
        let text = std::str::from_utf8(text).ok()?;
        let pairs = text.lines().filter_map(|line| line.split_once('='));
        let lines: Vec<(String, String)> = pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        let keys = lines.iter().cloned().collect();
        let info = Self { at, lines, keys };
        let whole = info.get("PAGESIZE").is_some() && info.symbol("swapper_pg_dir").or(info.symbol("_stext")).is_some();
        whole.then_some(info)
    }

    /// The copy that the kernel points at itself (`kernel/vmcore_info.c`), as far as it is whole.
    pub(super) fn of(kernel: &Kernel) -> Option<Self> {
        let at = kernel.space.u64(kernel.symbols.address("vmcoreinfo_data")?).ok()?;
        Self::read(kernel.physical(), kernel.space.translate(at).ok()?.physical)
    }

    /// The first copy in memory that is whole; what there is beyond it is not looked at.
    pub(super) fn find(memory: &Physical) -> Option<Self> {
        let accept = |hit: super::super::scan::Hit, _: &[u8]| match Self::read(memory, hit.at) {
            Some(_) => Verdict::Stop,
            None => Verdict::No,
        };
        let hits = scan(memory, &[BEGIN], accept);
        hits.iter().find_map(|hit| Self::read(memory, hit.at))
    }

    fn read(memory: &Physical, at: u64) -> Option<Self> {
        // It fills a page of its own, which it may begin with or stand a note's header into.
        let len = (2 * PAGE).min(memory.len().saturating_sub(at)) as usize;
        let bytes = memory.vec(at, len).or_else(|_| memory.vec(at, (PAGE - at % PAGE) as usize)).ok()?;
        bytes.starts_with(BEGIN).then(|| Self::parse(at, &bytes))?
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.keys.get(key).map(String::as_str)
    }

    /// An address: `SYMBOL(name)`.
    pub fn symbol(&self, name: &str) -> Option<u64> {
        u64::from_str_radix(self.get(&format!("SYMBOL({name})"))?, 16).ok()
    }

    /// A number: `NUMBER(name)`, decimal and perhaps negative, or hexadecimal with `0x`.
    pub fn number(&self, name: &str) -> Option<i64> {
        let text = self.get(&format!("NUMBER({name})"))?;
        match text.strip_prefix("0x") {
            Some(hex) => u64::from_str_radix(hex, 16).ok().map(|number| number as i64),
            None => text.parse().ok(),
        }
    }

    /// An address in the kernel's image less its physical one, as x86-64 (`phys_base`) and ARM (`kimage_voffset`) say it.
    pub fn image_offset(&self) -> Option<u64> {
        match self.number("phys_base") {
            Some(base) => Some(KERNEL_MAP.wrapping_sub(base as u64)),
            None => self.number("kimage_voffset").map(|offset| offset as u64),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_note_is_read_and_a_mention_of_one_is_not() {
        let text =
            b"OSRELEASE=6.1.0\nPAGESIZE=4096\nSYMBOL(swapper_pg_dir)=ffffffff8be10000\nNUMBER(phys_base)=-4194304\n\0x";
        let info = Vmcoreinfo::parse(0, text).unwrap();
        assert_eq!(info.symbol("swapper_pg_dir"), Some(0xffff_ffff_8be1_0000));
        assert_eq!((info.number("phys_base"), info.get("OSRELEASE")), (Some(-0x40_0000), Some("6.1.0")));
        assert_eq!(info.image_offset(), Some(0xffff_ffff_8040_0000));
        let arm = b"PAGESIZE=65536\nSYMBOL(_stext)=ffff800080010000\nNUMBER(kimage_voffset)=0xffff80003fe00000\n";
        assert_eq!(Vmcoreinfo::parse(0, arm).unwrap().image_offset(), Some(0xffff_8000_3fe0_0000));
        assert!(Vmcoreinfo::parse(0, b"OSRELEASE=%s\n\0PAGESIZE").is_none());
    }
}
