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
    let want = into.len();
    match ZLIB.with_borrow_mut(|decoder| fill(decoder, true, packed, into))? {
        Rest::Ended => Ok(()),
        Rest::More => Err(format!("more than {want} bytes")),
        Rest::Torn => Err("a stream without an end".to_owned()),
    }
}

/// The same for a stream that may hold more than `into` takes: a grain at the end of a disk may be stored whole. Its
/// checksum is checked if it ends where `into` does.
pub(crate) fn zlib_or_longer(packed: &[u8], into: &mut [u8]) -> Result<(), String> {
    match ZLIB.with_borrow_mut(|decoder| fill(decoder, true, packed, into))? {
        Rest::Ended | Rest::More => Ok(()),
        Rest::Torn => Err("a stream without an end".to_owned()),
    }
}

/// The same for raw deflate (RFC 1951), which has no checksum; what follows may be anything, as in the last sector of a
/// qcow2 cluster.
pub(crate) fn raw(packed: &[u8], into: &mut [u8]) -> Result<(), String> {
    RAW.with_borrow_mut(|decoder| {
        decoder.reset(false);
        first(decoder, packed, into).map(|_| ())
    })
}

/// How a stream goes on behind the bytes that were asked for.
enum Rest {
    Ended,
    More,
    Torn,
}

fn fill(decoder: &mut Decompress, header: bool, packed: &[u8], into: &mut [u8]) -> Result<Rest, String> {
    decoder.reset(header);
    let want = into.len() as u64;
    if first(decoder, packed, into)? == Status::StreamEnd {
        return Ok(Rest::Ended);
    }
    // The content is full, but only the end of the stream brings its checksum.
    let used = usize::try_from(decoder.total_in()).unwrap_or(usize::MAX);
    let rest = packed.get(used..).unwrap_or_default();
    let status = decoder.decompress(rest, &mut [0], FlushDecompress::Finish).map_err(|error| error.to_string())?;
    Ok(match status {
        _ if decoder.total_out() > want => Rest::More,
        Status::StreamEnd => Rest::Ended,
        _ => Rest::Torn,
    })
}

/// Fills `into`, or says how many bytes there were.
fn first(decoder: &mut Decompress, packed: &[u8], into: &mut [u8]) -> Result<Status, String> {
    let want = into.len() as u64;
    let status = decoder.decompress(packed, into, FlushDecompress::Finish).map_err(|error| error.to_string())?;
    if decoder.total_out() == want { Ok(status) } else { Err(format!("{} bytes", decoder.total_out())) }
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

        zlib_or_longer(&packed, &mut into[1..]).unwrap();
        zlib_or_longer(&packed, &mut into).unwrap();
        assert!(zlib_or_longer(&damaged, &mut into).is_err());

        let mut encoder = DeflateEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(&want).unwrap();
        let mut packed = encoder.finish().unwrap();
        packed.extend_from_slice(&[0xaa; 300]);
        raw(&packed, &mut into).unwrap();
        assert!(into == want);
    }
}
