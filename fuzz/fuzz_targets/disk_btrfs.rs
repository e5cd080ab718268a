//! btrfs: every structure that a walk, a read and a search for deleted files touch. Checksums of the superblock and of nodes
//! are made to fit first: else nothing behind them would ever be met.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../filesystem.rs"]
mod filesystem;

const SUPERBLOCK: usize = 0x1_0000;

/// Crc32c for what looks like a node of this file system.
fn mend(image: &mut [u8]) {
    let Some(superblock) = image.get(SUPERBLOCK..SUPERBLOCK + 4096) else { return };
    let uuid = superblock[0x20..0x30].to_vec();
    let size = u32::from_le_bytes(superblock[0x94..0x98].try_into().unwrap_or_default()).clamp(4096, 0x1_0000) as usize;
    for at in (SUPERBLOCK..image.len().saturating_sub(4095)).step_by(4096) {
        let len = if at == SUPERBLOCK { 4096 } else { size };
        if image.get(at + 0x20..at + 0x30) == Some(&uuid[..]) && at + len <= image.len() {
            let sum = crc32c::crc32c(&image[at + 32..at + len]);
            image[at..at + 4].copy_from_slice(&sum.to_le_bytes());
        }
    }
}

fuzz_target!(|bytes: &[u8]| {
    let mut image = bytes.to_vec();
    mend(&mut image);
    filesystem::explore("btrfs", &image);
});
