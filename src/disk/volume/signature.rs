//! What a volume looks like, by a few bytes at fixed places. Cheap, and no promise: opening it is another matter.

use crate::disk::fs::{ext, fat};
use crate::image::ReadAt;

/// Name, place of the signature, its bytes. The first that fits counts; what wraps other things comes first.
const KNOWN: &[(&str, u64, &[u8])] = &[
    ("luks", 0, b"LUKS\xba\xbe"),
    ("luks", 0x4000, b"SKUL\xba\xbe"),
    ("bitlocker", 3, b"-FVE-FS-"),
    ("lvm2", 512, b"LABELONE"),
    ("lvm2", 0, b"LABELONE"),
    ("lvm2", 1024, b"LABELONE"),
    ("lvm2", 1536, b"LABELONE"),
    ("md", 4096, b"\xfc\x4e\x2b\xa9"),
    ("md", 0, b"\xfc\x4e\x2b\xa9"),
    ("ntfs", 3, b"NTFS    "),
    ("exfat", 3, b"EXFAT   "),
    ("fat", 82, b"FAT32   "),
    ("fat", 54, b"FAT16   "),
    ("fat", 54, b"FAT12   "),
    ("xfs", 0, b"XFSB"),
    ("ext", 1080, b"\x53\xef"),
    ("btrfs", 65600, b"_BHRfS_M"),
    ("swap", 4086, b"SWAPSPACE2"),
    ("swap", 4086, b"SWAP-SPACE"),
    ("swap", 65526, b"SWAPSPACE2"),
    ("iso9660", 32769, b"CD001"),
    ("apfs", 32, b"NXSB"),
    ("hfs+", 1024, b"H+\x00\x04"),
    ("hfs+", 1024, b"HX\x00\x05"),
    ("squashfs", 0, b"hsqs"),
    // The second superblock, where the first was wiped.
    ("btrfs", 0x400_0040, b"_BHRfS_M"),
    // The backup of a boot sector that is gone.
    ("exfat", 12 * 512 + 3, b"EXFAT   "),
    ("fat", 6 * 512 + 82, b"FAT32   "),
];

/// What the bytes look like.
pub fn of(bytes: &dyn ReadAt) -> Option<&'static str> {
    let is = |at: u64, magic: &[u8]| {
        let mut found = [0; 16];
        found.get_mut(..magic.len()).is_some_and(|found| bytes.read_at(at, found).is_ok() && found == magic)
    };
    let front = KNOWN.iter().find(|(_, at, magic)| is(*at, magic)).map(|(name, ..)| *name);
    // The last sector of NTFS is a copy of the first.
    let copy =
        |sector: u64| (bytes.len() / sector).checked_sub(1).is_some_and(|last| is(last * sector + 3, b"NTFS    "));
    let front = front.or_else(|| [512, 4096].into_iter().any(copy).then_some("ntfs"));
    let front = front.or_else(|| fat::looks_like(bytes).then_some("fat"));
    // md 0.90 and 1.0 keep their superblock at the end.
    let old = (bytes.len() & !0xffff).checked_sub(0x1_0000);
    let end = (bytes.len() & !0xfff).checked_sub(0x2000);
    let at_end = || old.into_iter().chain(end).any(|at| is(at, b"\xfc\x4e\x2b\xa9"));
    if front.is_none_or(|name| name == "ext" || name == "xfs") && at_end() {
        return Some("md");
    }
    // A first superblock may be wiped or damaged.
    front.or_else(|| ext::has_copy(bytes).then_some("ext"))
}
