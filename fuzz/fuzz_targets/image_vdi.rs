//! Opens the bytes as vdi, walks the map, and reads up to 1 MiB.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../image.rs"]
mod image;

fuzz_target!(|bytes: &[u8]| image::explore("vdi", bytes));
