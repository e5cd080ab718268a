//! All that dom0 prints and the Xen backend reads: `xl list`, `xl list -l`, `xl info`, what LVM says of disks, the head of a core.
#![no_main]

use impound_backends::xen::read_all;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| read_all(bytes));
