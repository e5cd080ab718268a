//! Compressed extents. Kernel fs/btrfs/{zlib,lzo,zstd}.c.
//!
//! What a stream gives may end before the extent does: it was compressed up to the end of the file, and what is behind
//! reads as zeros. More than the extent has is damage.

use super::extents::Packing;
use crate::image::fields::Fields;
use crate::image::inflate;

/// Decodes `packed` into all of `into`; else says what was found. `sector`: the bytes that LZO takes at a time.
pub(super) fn unpack(packing: Packing, packed: &[u8], into: &mut [u8], sector: usize) -> Result<(), String> {
    let done = match packing {
        Packing::Zlib => inflate::zlib_up_to(packed, into)?,
        Packing::Zstd => inflate::zstd_up_to(packed, into)?,
        Packing::Lzo => lzo(packed, into, sector)?,
    };
    into.get_mut(done..).unwrap_or_default().fill(0);
    Ok(())
}

/// The length of all, then pieces with their lengths; no length lies over the border of a sector.
fn lzo(packed: &[u8], into: &mut [u8], sector: usize) -> Result<usize, String> {
    let fields = Fields::new("LZO pieces", 0, packed);
    let short = |_| "pieces behind the end".to_owned();
    let number = |at: usize| fields.u32(at).map(|len| crate::disk::us(u64::from(len))).map_err(short);
    let end = number(0)?;
    if end > packed.len() {
        return Err(format!("{end} bytes in {}", packed.len()));
    }
    let (mut at, mut done) = (4, 0);
    while at < end && done < into.len() {
        let left = sector - at % sector;
        if left < 4 {
            at += left;
        }
        let len = number(at)?;
        let piece = fields.slice(at + 4, len).map_err(short)?;
        let room = into.len().min(done + sector);
        let part = into.get_mut(done..room).unwrap_or_default();
        done += lzokay::decompress::decompress(piece, part).map_err(|error| format!("{error:?}"))?;
        at += 4 + len;
    }
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_of_lzo_that_lie_are_refused() {
        // A literal run of 4 bytes and the end mark.
        let stream = [21, b'a', b'b', b'c', b'd', 17, 0, 0];
        let framed = |total: u32, len: u32| [&total.to_le_bytes()[..], &len.to_le_bytes(), &stream].concat();
        let mut into = [9; 6];
        unpack(Packing::Lzo, &framed(16, 8), &mut into, 4096).unwrap();
        assert_eq!(&into, b"abcd\0\0");
        for (total, len) in [(17, 8), (16, 9), (u32::MAX, 8), (16, u32::MAX), (16, 4)] {
            assert!(unpack(Packing::Lzo, &framed(total, len), &mut into, 4096).is_err(), "{total} {len}");
        }
        assert!(unpack(Packing::Lzo, &framed(16, 8), &mut [0; 3], 4096).is_err(), "more than the extent has");
        assert!(unpack(Packing::Lzo, &[], &mut into, 4096).is_err());
        // In sectors of 64 bytes, the second length would stand at 62 to 66: it stands at 64.
        let long = [&[67][..], &[b'x'; 50], &[17, 0, 0]].concat();
        let two = [&76_u32.to_le_bytes()[..], &54_u32.to_le_bytes(), &long, &[0; 2], &8_u32.to_le_bytes(), &stream];
        let mut into = [9; 56];
        unpack(Packing::Lzo, &two.concat(), &mut into, 64).unwrap();
        assert_eq!(into[..], [&[b'x'; 50][..], b"abcd\0\0"].concat());
        for packing in [Packing::Zlib, Packing::Zstd] {
            assert!(unpack(packing, b"nonsense", &mut into, 4096).is_err());
        }
    }
}
