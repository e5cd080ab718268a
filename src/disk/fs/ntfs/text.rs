//! Names: UTF-16 as bytes, and back.
//!
//! NTFS checks nothing: a name may hold half of a surrogate pair. That becomes the three bytes that UTF-8 would have for
//! its number (WTF-8), so names that differ stay different and none is lost. All others are plain UTF-8.

/// The bytes of a name that is stored as UTF-16, little-endian.
pub(super) fn name(stored: &[u8]) -> Vec<u8> {
    let units = stored.chunks_exact(2).map(|pair| pair.iter().rev().fold(0, |unit, byte| unit << 8 | u16::from(*byte)));
    let mut bytes = Vec::with_capacity(stored.len() / 2);
    for unit in char::decode_utf16(units) {
        match unit {
            Ok(c) => bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
            Err(half) => bytes.extend_from_slice(&wide(half.unpaired_surrogate())),
        }
    }
    bytes
}

/// Half of a pair, as UTF-8 would write a number of 16 bits.
fn wide(unit: u16) -> [u8; 3] {
    let six = |shift: u16| 0x80 | u8::try_from(unit >> shift & 0x3f).unwrap_or(0);
    [0xe0 | u8::try_from(unit >> 12).unwrap_or(0), six(6), six(0)]
}

/// The units of a name; none if it is no name that [`name`] could have given.
pub(super) fn units(mut name: &[u8]) -> Option<Vec<u16>> {
    let mut units = Vec::with_capacity(name.len());
    while let Some(first) = name.first() {
        let len = match first {
            0..=0x7f => 1,
            0xc2..=0xdf => 2,
            0xe0..=0xef => 3,
            _ => 4,
        };
        let (one, rest) = name.split_at_checked(len)?;
        match (std::str::from_utf8(one), one) {
            (Ok(text), _) => units.extend(text.encode_utf16()),
            (Err(_), [0xed, high @ 0xa0..=0xbf, low @ 0x80..=0xbf]) => {
                units.push(0xd000 | u16::from(high & 0x3f) << 6 | u16::from(low & 0x3f));
            }
            (Err(_), _) => return None,
        }
        name = rest;
    }
    Some(units)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_is_lost_and_none_becomes_another() {
        let stored = |units: &[u16]| units.iter().flat_map(|unit| unit.to_le_bytes()).collect::<Vec<_>>();
        for units_in in
            [&[0x41, 0xe4, 0x20ac][..], &[0xd83d, 0xde00], &[0xd83d], &[0xde00, 0xd83d], &[0x41, 0xdfff, 0x42]]
        {
            let bytes = name(&stored(units_in));
            assert_eq!(units(&bytes).unwrap(), units_in, "{bytes:x?}");
        }
        assert_eq!(name(&stored(&[0xd83d, 0xde00])), "\u{1f600}".as_bytes());
        assert_eq!(name(&stored(&[0xd83d])), [0xed, 0xa0, 0xbd]);
        assert_eq!((units(b"\xff"), units(b"\xed\xa0"), units(b"\xc3")), (None, None, None));
    }
}
