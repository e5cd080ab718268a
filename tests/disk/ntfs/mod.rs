//! NTFS: every file equals what the driver (ntfs-3g) saw before it was unmounted, and The Sleuth Kit reads the same. No
//! volume written by Windows is here: what ntfs-3g does not write (a change journal, a dirty log) is crafted.

mod crafted;
mod damage;
mod deleted;
mod files;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use impound::disk::fs::{Change, Filesystem};
use impound::image::ReadError;

use crate::kit::tool;

/// A volume, empty.
pub(super) fn make(at: &Path, megabytes: u64, args: &[&str]) -> PathBuf {
    let image = at.join("ntfs.img");
    std::fs::File::create(&image).unwrap().set_len(megabytes << 20).unwrap();
    let all = ["-F", "-q", "-L", "Grüße"].iter().chain(args).map(OsStr::new).chain([image.as_os_str()]);
    tool("mkntfs", all);
    image
}

/// Mounts it for some work; tells on the output if this machine cannot.
pub(super) fn mounted<T>(image: &Path, work: impl FnOnce(&Path) -> T) -> Option<T> {
    let at = image.with_extension("mnt");
    std::fs::create_dir_all(&at).unwrap();
    let options = "streams_interface=windows,compression,noatime";
    let output = Command::new("ntfs-3g").args(["-o", options]).arg(image).arg(&at).output();
    let output = output.expect("scripts/install test installs ntfs-3g");
    if !output.status.success() {
        eprintln!("skipped: ntfs-3g cannot mount here: {}", String::from_utf8_lossy(&output.stderr));
        return None;
    }
    let done = work(&at);
    tool("umount", [&at]);
    Some(done)
}

pub(super) fn noise(len: usize, seed: u32) -> Vec<u8> {
    (0..u32::try_from(len).unwrap()).map(|n| (n ^ seed).wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect()
}

pub(super) fn compressible(len: usize) -> Vec<u8> {
    let mut text: Vec<u8> =
        (0..len).flat_map(|n| format!("line {} of {}\n", n % 97, n / 1000).into_bytes()).take(len).collect();
    // One unit in three is noise, one in five is zero.
    for (number, unit) in text.chunks_mut(65536).enumerate() {
        match number {
            n if n % 3 == 2 => unit.copy_from_slice(&noise(unit.len(), 7)),
            n if n % 5 == 4 => unit.fill(0),
            _ => {}
        }
    }
    text
}

pub(super) fn units(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

pub(super) fn changes(fs: &dyn Filesystem) -> Result<Vec<Change>, ReadError> {
    let mut all = Vec::new();
    fs.changes(&mut |change| {
        all.push(change);
        Ok(())
    })?;
    Ok(all)
}
