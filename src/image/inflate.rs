//! Compressed units of known length: deflate and zstd. The state of the deflate decoder is kept for each thread: setting
//! one up costs as much as a small unit.

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

/// The same for a stream that may end before `into` is full: how many bytes it gave. Its checksum is checked.
pub(crate) fn zlib_up_to(packed: &[u8], into: &mut [u8]) -> Result<usize, String> {
    ZLIB.with_borrow_mut(|decoder| {
        decoder.reset(true);
        let status = decoder.decompress(packed, into, FlushDecompress::Finish).map_err(|error| error.to_string())?;
        let (done, want) = (decoder.total_out(), into.len() as u64);
        match status {
            Status::StreamEnd => {}
            _ if done < want => return Err("a stream without an end".to_owned()),
            _ => match behind(decoder, packed, want)? {
                Rest::Ended => {}
                Rest::More => return Err(format!("more than {want} bytes")),
                Rest::Torn => return Err("a stream without an end".to_owned()),
            },
        }
        Ok(usize::try_from(done).unwrap_or(usize::MAX))
    })
}

/// Decodes one zstd frame (RFC 8878), which must fill `into`; what follows it is ignored.
pub(crate) fn zstd(packed: &[u8], into: &mut [u8]) -> Result<(), String> {
    match zstd_up_to(packed, into)? {
        len if len == into.len() => Ok(()),
        len => Err(format!("{len} bytes")),
    }
}

/// The same for a frame that may end before `into` is full: how many bytes it gave.
pub(crate) fn zstd_up_to(packed: &[u8], into: &mut [u8]) -> Result<usize, String> {
    let name = |code| zstd::zstd_safe::get_error_name(code).to_owned();
    let len = zstd::zstd_safe::find_frame_compressed_size(packed).map_err(name)?;
    let frame = packed.get(..len).unwrap_or(packed);
    zstd::zstd_safe::decompress(into, frame).map_err(name)
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
    behind(decoder, packed, want)
}

/// The content is full, but only the end of the stream brings its checksum.
fn behind(decoder: &mut Decompress, packed: &[u8], want: u64) -> Result<Rest, String> {
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

        let mut roomy = vec![7; want.len() + 3];
        assert_eq!(zlib_up_to(&packed, &mut roomy), Ok(want.len()));
        assert_eq!(zlib_up_to(&packed, &mut into), Ok(want.len()));
        assert!(roomy[..want.len()] == want && into == want);
        assert!(zlib_up_to(&damaged, &mut roomy).is_err() && zlib_up_to(&damaged, &mut into).is_err());
        assert!(zlib_up_to(&packed, &mut into[1..]).is_err() && zlib_up_to(&packed[..99], &mut roomy).is_err());

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
