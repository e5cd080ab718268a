//! Deflated units of known length. The state of the decoder is kept for each thread: setting one up costs as much as a
//! small unit.

use std::cell::RefCell;

use flate2::{Decompress, FlushDecompress, Status};

thread_local! {
    static ZLIB: RefCell<Decompress> = RefCell::new(Decompress::new(true));
    static RAW: RefCell<Decompress> = RefCell::new(Decompress::new(false));
}

/// Inflates a zlib stream (RFC 1950) that must give exactly as many bytes as `into` has; what follows it is ignored.
/// `Err` says in a few words what it gave instead.
pub(crate) fn zlib(packed: &[u8], into: &mut [u8]) -> Result<(), String> {
    ZLIB.with_borrow_mut(|decoder| {
        decoder.reset(true);
        whole(decoder, packed, into, true)
    })
}

/// The same for raw deflate (RFC 1951). The stream may be longer than `into`: qcow2 pads it with what was there before.
pub(crate) fn raw(packed: &[u8], into: &mut [u8]) -> Result<(), String> {
    RAW.with_borrow_mut(|decoder| {
        decoder.reset(false);
        whole(decoder, packed, into, false)
    })
}

fn whole(decoder: &mut Decompress, packed: &[u8], into: &mut [u8], to_end: bool) -> Result<(), String> {
    let want = into.len();
    let status = decoder.decompress(packed, into, FlushDecompress::Finish).map_err(|error| error.to_string())?;
    let got = decoder.total_out();
    if got != want as u64 {
        return Err(format!("{got} bytes"));
    }
    if status == Status::StreamEnd || !to_end {
        return Ok(());
    }
    // The content is full, but only the end of the stream brings its checksum.
    let used = usize::try_from(decoder.total_in()).unwrap_or(usize::MAX);
    let rest = packed.get(used..).unwrap_or_default();
    match decoder.decompress(rest, &mut [0], FlushDecompress::Finish).map_err(|error| error.to_string())? {
        Status::StreamEnd if decoder.total_out() == want as u64 => Ok(()),
        Status::StreamEnd => Err(format!("more than {want} bytes")),
        _ => Err("a stream without an end".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::write::{DeflateEncoder, ZlibEncoder};

    use super::*;

    #[test]
    fn a_unit_is_whole_or_refused() {
        let want: Vec<u8> = (0..100_000_u32).flat_map(|i| i.wrapping_mul(i).to_le_bytes()).skip(1).step_by(4).collect();
        let mut encoder = ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(&want).unwrap();
        let packed = encoder.finish().unwrap();
        let mut into = vec![0; want.len()];
        zlib(&packed, &mut into).unwrap();
        assert!(into == want);
        let mut damaged = packed.clone();
        *damaged.last_mut().unwrap() ^= 1;
        assert!(zlib(&damaged, &mut into).is_err(), "the checksum is checked");
        assert!(zlib(&packed[..packed.len() - 1], &mut into).is_err());
        assert!(zlib(&packed, &mut into[1..]).is_err() && zlib(&packed, &mut vec![0; want.len() + 1]).is_err());
        assert!(zlib(b"", &mut into).is_err() && zlib(b"nonsense", &mut into).is_err());

        let mut encoder = DeflateEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(&want).unwrap();
        let mut packed = encoder.finish().unwrap();
        packed.extend_from_slice(&[0xaa; 300]);
        raw(&packed, &mut into).unwrap();
        assert!(into == want);
    }
}
