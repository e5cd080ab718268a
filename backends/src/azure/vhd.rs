//! The footer of an exported disk: an export is a fixed VHD, which is the raw disk and 512 bytes behind it.
//!
//! After "Virtual Hard Disk Image Format Specification", version 1.0. The footer is no part of the disk: it is checked
//! and left out of the image.

/// Length of a footer in bytes.
pub(super) const FOOTER: u64 = 512;
/// A disk that is not sparse.
const FIXED: u32 = 2;
/// Where the checksum stands.
const CHECKSUM: std::ops::Range<usize> = 64..68;

/// Sees that these bytes are the footer of a fixed disk of `len` bytes; else says what was found instead.
pub(super) fn check(footer: &[u8], len: u64) -> Result<(), String> {
    if footer.len() as u64 != FOOTER || !footer.starts_with(b"conectix") {
        return Err("no footer of a VHD (cookie `conectix`)".to_owned());
    }
    let sum = footer.iter().enumerate().filter(|(at, _)| !CHECKSUM.contains(at));
    let sum = !sum.fold(0_u32, |sum, (_, byte)| sum.wrapping_add(u32::from(*byte)));
    if number(footer, CHECKSUM.start) != u64::from(sum) {
        return Err("a footer whose checksum is wrong".to_owned());
    }
    let size = (number(footer, 48) << 32) | number(footer, 52);
    match number(footer, 60) {
        kind if kind != u64::from(FIXED) => Err(format!("a footer of a disk of type {kind}, and not a fixed one")),
        _ if size != len => Err(format!("a footer of a disk of {size} bytes, and not {len}")),
        _ => Ok(()),
    }
}

/// Four bytes, big-endian; zero where there are none.
fn number(footer: &[u8], at: usize) -> u64 {
    footer.get(at..at + 4).unwrap_or_default().iter().fold(0, |number, byte| (number << 8) | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn footer(len: u64, kind: u8) -> Vec<u8> {
        let mut footer = vec![0; 512];
        footer[..8].copy_from_slice(b"conectix");
        footer[48..56].copy_from_slice(&len.to_be_bytes());
        footer[63] = kind;
        let sum = !footer.iter().map(|byte| u32::from(*byte)).sum::<u32>();
        footer[64..68].copy_from_slice(&sum.to_be_bytes());
        footer
    }

    #[test]
    fn only_the_footer_of_this_disk_is_one() {
        let len = 5 << 30;
        let good = footer(len, 2);
        assert_eq!(check(&good, len), Ok(()));
        assert!(check(&good, len - 512).unwrap_err().contains("bytes"));
        assert!(check(&footer(len, 3), len).unwrap_err().contains("type 3"));
        assert!(check(&good[..511], len).is_err() && check(&[], len).is_err());
        for at in [0, 9, 50, 63, 66, 511] {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert!(check(&bad, len).is_err(), "byte {at}");
        }
    }
}
