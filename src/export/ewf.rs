//! E01 as EnCase 6 writes it ("Expert Witness Compression Format", J. Metz): deflated chunks of 32 KiB, one segment, MD5 and
//! SHA-1 at the end; sectors that the source does not hold are in its error section.

use jiff::tz::TimeZone;

use super::batch::{Batch, deflate};
use super::output::Output;
use super::source::Source;
use super::{ExportError, Format};

/// See the module.
pub(super) static E01: Format = Format {
    name: "e01",
    about: "Expert Witness image, for EnCase, FTK, X-Ways, Autopsy",
    ending: "E01",
    disks_only: true,
    sectors: true,
    tested_against: "ewfverify, ewfinfo, dissect",
    wrapping: "ewf",
    write,
};

const SECTOR: u64 = 512;
/// Sectors of a chunk.
const SECTORS: u64 = 64;
/// Length of a chunk in bytes.
const CHUNK: usize = 32 << 10;
/// Chunks of one table: what EnCase itself puts there.
const ENTRIES: usize = 16_375;

fn write(source: &mut Source<'_>, output: &mut Output) -> Result<(), ExportError> {
    let size = source.padded();
    output.append(b"EVF\x09\x0d\x0a\xff\x00\x01\x01\x00\x00\x00")?;
    headers(source, output)?;
    let volume = volume(size, &source.name)?;
    section(output, b"volume", &volume)?;
    let zeros = deflate(&vec![0; CHUNK])?;
    let mut chunks = Chunks {
        output,
        zeros,
        sectors_at: None,
        offsets: Vec::new(),
        next: 0,
        data: volume,
        all: size.div_ceil(CHUNK as u64),
        last: usize::try_from(size % CHUNK as u64).unwrap_or(0),
    };
    let mut batch = Batch::default();
    source.units(CHUNK, |number, chunk| {
        // The last chunk is as long as the rest of the medium.
        let len = usize::try_from(size - number * CHUNK as u64).unwrap_or(CHUNK).min(CHUNK);
        let chunk = chunk.get(..len).unwrap_or(chunk);
        if batch.add(number, chunk) {
            batch.write(pack, |number, packed| chunks.append(number, &packed))
        } else {
            Ok(())
        }
    })?;
    batch.write(pack, |number, packed| chunks.append(number, &packed))?;
    chunks.finish()?;
    let unread: Vec<_> = source.unread().collect();
    errors(output, &unread)?;
    digests(source, output)?;
    descriptor(output, b"done", 0, true)
}

/// Deflated, or as it is where that is shorter; the first byte says which.
fn pack(chunk: &[u8]) -> Result<Vec<u8>, ExportError> {
    let mut packed = deflate(chunk)?;
    if packed.len() < chunk.len() {
        packed.insert(0, 1);
        return Ok(packed);
    }
    let mut plain = Vec::with_capacity(chunk.len() + 5);
    plain.push(0);
    plain.extend_from_slice(chunk);
    plain.extend(simd_adler32::adler32(&chunk).to_le_bytes());
    Ok(plain)
}

/// The descriptor of 76 bytes, for `len` bytes of data behind it. The last section points at itself.
fn descriptor(output: &mut Output, kind: &[u8], len: u64, last: bool) -> Result<(), ExportError> {
    let at = output.at();
    let bytes = descriptor_bytes(kind, if last { at } else { at + 76 + len }, 76 + len);
    output.append(&bytes)
}

fn descriptor_bytes(kind: &[u8], next: u64, size: u64) -> Vec<u8> {
    let mut bytes = kind.to_vec();
    bytes.resize(16, 0);
    bytes.extend(next.to_le_bytes());
    bytes.extend(size.to_le_bytes());
    bytes.resize(72, 0);
    checked(bytes)
}

/// Bytes with their Adler-32 behind them.
fn checked(mut bytes: Vec<u8>) -> Vec<u8> {
    let sum = simd_adler32::adler32(&bytes.as_slice());
    bytes.extend(sum.to_le_bytes());
    bytes
}

fn section(output: &mut Output, kind: &[u8], data: &[u8]) -> Result<(), ExportError> {
    descriptor(output, kind, data.len() as u64, false)?;
    output.append(data)
}

/// What the fields of an acquisition are for; who did it is in the case's custody log.
fn headers(source: &Source<'_>, output: &mut Output) -> Result<(), ExportError> {
    let clean: String = source.name.chars().map(|c| if c.is_control() { '_' } else { c }).collect();
    let version = env!("CARGO_PKG_VERSION");
    let seconds = source.began.as_second();
    let wide = format!(
        "3\nmain\na\tc\tn\te\tt\tmd\tsn\tav\tov\tm\tu\tp\tdc\n{clean}\t\t\t\texported by impound\t\t\timpound {version}\tLinux\t{seconds}\t{seconds}\t0\t\n\n\
         srce\n0\t1\np\tn\tid\tev\ttb\tlo\tpo\tah\tgu\taq\n0\t0\n\t\t\t\t\t-1\t-1\t\t\t\n\nsub\n0\t1\np\tn\tid\tnu\tco\tgu\n0\t0\n\t\t\t\t1\t\n\n"
    );
    let wide: Vec<u8> = [0xff, 0xfe].into_iter().chain(wide.encode_utf16().flat_map(u16::to_le_bytes)).collect();
    let wide = deflate(&wide)?;
    section(output, b"header2", &wide)?;
    section(output, b"header2", &wide)?;
    let plain: String = clean.chars().map(|c| if c.is_ascii() { c } else { '_' }).collect();
    let at = TimeZone::UTC.to_datetime(source.began);
    let (date, time) = (at.date(), at.time());
    let at =
        format!("{} {} {} {} {} {}", date.year(), date.month(), date.day(), time.hour(), time.minute(), time.second());
    let narrow = format!(
        "1\r\nmain\r\nc\tn\ta\te\tt\tav\tov\tm\tu\tp\r\n\t\t{plain}\t\texported by impound\timpound {version}\tLinux\t{at}\t{at}\t0\r\n\r\n"
    );
    section(output, b"header", &deflate(narrow.as_bytes())?)
}

fn volume(size: u64, name: &str) -> Result<Vec<u8>, ExportError> {
    let chunks = u32::try_from(size.div_ceil(CHUNK as u64));
    let chunks = chunks.map_err(|_| ExportError::Refused("an E01 holds at most 2^32 chunks, 128 TiB".to_owned()))?;
    let mut out = vec![1, 0, 0, 0]; // fixed disk
    out.extend(chunks.to_le_bytes());
    out.extend(u32::try_from(SECTORS).unwrap_or(64).to_le_bytes());
    out.extend(u32::try_from(SECTOR).unwrap_or(512).to_le_bytes());
    out.extend((size / SECTOR).to_le_bytes());
    out.resize(36, 0);
    out.extend([3, 0, 0, 0]); // an image of a physical disk
    out.resize(52, 0);
    out.extend([1, 0, 0, 0]); // fast compression
    out.extend(u32::try_from(SECTORS).unwrap_or(64).to_le_bytes()); // error granularity
    out.resize(64, 0);
    let id = <sha2::Sha256 as sha2::Digest>::digest(format!("{name} {size}"));
    out.extend(id.iter().take(16));
    out.resize(1048, 0);
    Ok(checked(out))
}

/// The chunks that are written, and the table that is being filled.
struct Chunks<'a> {
    output: &'a mut Output,
    /// A chunk of zeros, deflated.
    zeros: Vec<u8>,
    /// Where the descriptor of the open section of chunks is.
    sectors_at: Option<u64>,
    /// Offsets from that descriptor; bit 31: deflated.
    offsets: Vec<u32>,
    next: u64,
    all: u64,
    /// Length of the last chunk in bytes, or a multiple of the usual one.
    last: usize,
    /// The volume section again, for the section that repeats it at the end.
    data: Vec<u8>,
}

impl Chunks<'_> {
    /// Appends chunk `number`, and chunks of zeros for those that were left out before it.
    fn append(&mut self, number: u64, packed: &[u8]) -> Result<(), ExportError> {
        self.fill(number)?;
        let (deflated, bytes) = packed.split_first().unwrap_or((&0, &[]));
        self.chunk(*deflated == 1, bytes)
    }

    fn fill(&mut self, up_to: u64) -> Result<(), ExportError> {
        let zeros = std::mem::take(&mut self.zeros);
        while self.next < up_to {
            if self.next + 1 == self.all && !self.last.is_multiple_of(CHUNK) {
                self.chunk(true, &deflate(&vec![0; self.last])?)?;
            } else {
                self.chunk(true, &zeros)?;
            }
        }
        self.zeros = zeros;
        Ok(())
    }

    fn chunk(&mut self, deflated: bool, bytes: &[u8]) -> Result<(), ExportError> {
        if self.offsets.len() == ENTRIES {
            self.close()?;
        }
        let begin = *self.sectors_at.get_or_insert_with(|| {
            let begin = self.output.at();
            self.output.skip(76);
            begin
        });
        let too_far = |_| ExportError::Refused("a section of chunks became longer than 2 GiB".to_owned());
        let offset = u32::try_from(self.output.at() - begin).map_err(too_far)?;
        self.offsets.push(offset | u32::from(deflated) << 31);
        self.next += 1;
        self.output.append(bytes)
    }

    /// Ends the section of chunks and writes its table, twice.
    fn close(&mut self) -> Result<(), ExportError> {
        let Some(begin) = self.sectors_at.take() else { return Ok(()) };
        let end = self.output.at();
        self.output.write_at(begin, &descriptor_bytes(b"sectors", end, end - begin))?;
        let mut head = u32::try_from(self.offsets.len()).unwrap_or(0).to_le_bytes().to_vec();
        head.resize(8, 0);
        head.extend(begin.to_le_bytes());
        head.resize(20, 0);
        let mut table = checked(head);
        table.extend(checked(self.offsets.iter().flat_map(|offset| offset.to_le_bytes()).collect()));
        section(self.output, b"table", &table)?;
        section(self.output, b"table2", &table)?;
        self.offsets.clear();
        Ok(())
    }

    fn finish(mut self) -> Result<(), ExportError> {
        self.fill(self.all)?;
        self.close()?;
        let data = std::mem::take(&mut self.data);
        section(self.output, b"data", &data)
    }
}

/// Sectors that the source does not hold.
fn errors(output: &mut Output, unread: &[(u64, u64)]) -> Result<(), ExportError> {
    if unread.is_empty() {
        return Ok(());
    }
    let mut head = u32::try_from(unread.len()).unwrap_or(u32::MAX).to_le_bytes().to_vec();
    head.resize(516, 0);
    let mut data = checked(head);
    let mut entries = Vec::with_capacity(unread.len() * 8);
    for (at, len) in unread {
        let (first, end) = (at / SECTOR, (at + len).div_ceil(SECTOR));
        let narrow = |n: u64| {
            u32::try_from(n).map_err(|_| ExportError::Refused("an unread sector lies behind 2 TiB".to_owned()))
        };
        entries.extend(narrow(first)?.to_le_bytes());
        entries.extend(narrow(end - first)?.to_le_bytes());
    }
    data.extend(checked(entries));
    section(output, b"error2", &data)
}

fn digests(source: &Source<'_>, output: &mut Output) -> Result<(), ExportError> {
    let padding = usize::try_from(source.padded() - source.len).unwrap_or(0);
    let found = source.digests_padded(padding);
    let bytes = |algorithm: &str| {
        let hex = found.iter().find(|digest| digest.algorithm == algorithm).map_or("", |digest| digest.hex.as_str());
        let pairs = hex.as_bytes().chunks_exact(2).filter_map(|pair| std::str::from_utf8(pair).ok());
        pairs.filter_map(|pair| u8::from_str_radix(pair, 16).ok()).collect::<Vec<_>>()
    };
    let mut both = bytes("md5");
    both.extend(bytes("sha1"));
    both.resize(76, 0);
    section(output, b"digest", &checked(both))?;
    let mut md5 = bytes("md5");
    md5.resize(32, 0);
    section(output, b"hash", &checked(md5))
}
