//! LZNT1, the compression of NTFS (Microsoft MS-XCA, section 2.5).
//!
//! Chunks of at most 4096 bytes, each with a header of two bytes; in a compressed one, eight flags tell which of the next
//! eight items is a byte and which a distance and a length. How many bits the distance has depends on how much of the chunk is there.

/// Bytes that a chunk decodes to, all but the last.
const CHUNK: usize = 4096;
const COMPRESSED: u16 = 0x8000;

/// Decodes what is compressed together into exactly `len` bytes. It may end early: what is missing then is zero, by the
/// format. The error is the byte of `packed` that makes no sense.
pub(super) fn decode(packed: &[u8], len: usize) -> Result<Vec<u8>, usize> {
    let mut out = Vec::with_capacity(len);
    let mut rest = packed;
    while let Some((head, body)) = rest.split_first_chunk::<2>() {
        let head = u16::from_le_bytes(*head);
        if head == 0 || out.len() >= len {
            break;
        }
        let here = packed.len() - rest.len();
        let (chunk, next) = body.split_at_checked(usize::from(head & 0xfff) + 1).ok_or(here)?;
        let start = out.len();
        if head & COMPRESSED == 0 {
            out.extend_from_slice(chunk);
        } else {
            unpack(chunk, start, &mut out).ok_or(here)?;
        }
        if out.len() < len.min(start + CHUNK) {
            out.resize(len.min(start + CHUNK), 0);
        }
        rest = next;
    }
    out.resize(len, 0);
    Ok(out)
}

/// One chunk, to the end of `out`, where it begins at `start`.
fn unpack(mut chunk: &[u8], start: usize, out: &mut Vec<u8>) -> Option<()> {
    while let Some((flags, items)) = chunk.split_first() {
        chunk = items;
        for bit in 0..8 {
            if chunk.is_empty() {
                return Some(());
            }
            if flags >> bit & 1 == 0 {
                let (byte, next) = chunk.split_first()?;
                out.push(*byte);
                chunk = next;
            } else {
                let (item, next) = chunk.split_first_chunk::<2>()?;
                copy(u16::from_le_bytes(*item), start, out)?;
                chunk = next;
            }
            if out.len() - start > CHUNK {
                return None;
            }
        }
    }
    Some(())
}

/// Repeats what stands some bytes before; it may repeat itself.
fn copy(item: u16, start: usize, out: &mut Vec<u8>) -> Option<()> {
    let inside = out.len().checked_sub(start).filter(|inside| (1..CHUNK).contains(inside))?;
    let bits = (usize::BITS - (inside - 1).leading_zeros()).max(4);
    let back = usize::from(item >> (16 - bits)) + 1;
    let len = usize::from(item & (0xffff >> bits)) + 3;
    let from = out.len().checked_sub(back).filter(|from| *from >= start)?;
    for at in from..from + len {
        let byte = *out.get(at)?;
        out.push(byte);
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_the_specification_decodes() {
        // MS-XCA 3.3: the text, and the bytes that Windows makes of it.
        let packed = [
            0x38, 0xb0, 0x88, 0x46, 0x23, 0x20, 0x00, 0x20, 0x47, 0x20, 0x41, 0x00, 0x10, 0xa2, 0x47, 0x01, 0xa0, 0x45,
            0x20, 0x44, 0x00, 0x08, 0x45, 0x01, 0x50, 0x79, 0x00, 0xc0, 0x45, 0x20, 0x05, 0x24, 0x13, 0x88, 0x05, 0xb4,
            0x02, 0x4a, 0x44, 0xef, 0x03, 0x58, 0x02, 0x8c, 0x09, 0x16, 0x01, 0x48, 0x45, 0x00, 0xbe, 0x00, 0x9e, 0x00,
            0x04, 0x01, 0x18, 0x90, 0x00,
        ];
        let text = b"F# F# G A A G F# E D D E F# F# E E F# F# G A A G F# E D D E F# E D D E E F# D E F# G F# D E F# G F# E D E A F# F# G A A G F# E D D E F# E D D\0";
        assert_eq!(decode(&packed, text.len()).unwrap(), text);
        assert_eq!(decode(&packed, 5000).unwrap().get(text.len()..), Some(&vec![0; 5000 - text.len()][..]));
    }

    #[test]
    fn nothing_reaches_before_or_behind_a_chunk() {
        // A copy as the first item; a distance before the chunk; more than 4096 bytes; a chunk that is cut.
        for (packed, at) in [
            (&[0x02, 0xb0, 0x01, 0, 0][..], 0),
            (&[0x03, 0xb0, 0x02, b'a', 0, 0x10], 0),
            (&[0x00, 0x30, 7, 0x03, 0xb0, 0x02, b'a', 0xff, 0x0f], 3),
            (&[0x07, 0x30, 1, 2], 0),
        ] {
            assert_eq!(decode(packed, 8192).err(), Some(at), "{packed:x?}");
        }
        assert_eq!(decode(&[], 3).unwrap(), [0, 0, 0]);
        assert_eq!(decode(&[0x00, 0x30, 7, 0, 0], 3).unwrap(), [7, 0, 0]);
    }
}
