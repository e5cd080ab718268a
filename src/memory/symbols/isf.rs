//! A symbol file of Volatility 3 (ISF, JSON, perhaps in xz or gzip), for kernels that do not tell their own symbols or types.
//!
//! Layout: `volatility3/schemas/schema-6.2.0.json`. Its types are turned into BTF (`to_btf`), so that whatever reads those of a kernel
//! reads these. Addresses are those that the kernel was linked for; where it ran is found by its banner, which the file carries.

mod to_btf;

use std::collections::BTreeMap;
use std::io::Read;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use super::btf::Btf;
use super::kallsyms::Kallsyms;

/// The most bytes of JSON: files of Debian's kernels have some fifty million.
const MOST: u64 = 256 << 20;
/// Memory that unpacking xz may take, in KiB: its largest preset takes 65 MiB.
const XZ_KIB: u32 = 128 << 10;
/// A banner is not longer.
const BANNER: usize = 1024;

/// See the module.
pub struct Isf {
    /// Its types.
    pub types: Btf,
    /// Its symbols, at the addresses that the kernel was linked for.
    pub symbols: Kallsyms,
    /// What the kernel's `linux_banner` holds, without the NUL at its end.
    pub banner: Vec<u8>,
}

#[derive(Deserialize)]
struct File {
    base_types: BTreeMap<String, Base>,
    user_types: BTreeMap<String, User>,
    enums: BTreeMap<String, Enumeration>,
    symbols: BTreeMap<String, Symbol>,
}

#[derive(Deserialize)]
struct Base {
    size: u64,
    signed: bool,
    kind: String,
}

#[derive(Deserialize)]
struct User {
    kind: String,
    size: u64,
    fields: BTreeMap<String, Field>,
}

#[derive(Deserialize)]
struct Field {
    #[serde(rename = "type")]
    of: Type,
    offset: u64,
    #[serde(default)]
    anonymous: bool,
}

#[derive(Deserialize)]
struct Enumeration {
    size: u64,
    constants: BTreeMap<String, i128>,
}

#[derive(Deserialize)]
struct Symbol {
    address: u64,
    constant_data: Option<String>,
}

#[derive(Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
enum Type {
    Base {
        name: String,
    },
    Pointer {
        subtype: Option<Box<Self>>,
    },
    Array {
        count: u64,
        subtype: Box<Self>,
    },
    #[serde(alias = "union", alias = "class")]
    Struct {
        name: String,
    },
    Enum {
        name: String,
    },
    Bitfield {
        bit_position: u64,
        bit_length: u64,
        #[serde(rename = "type")]
        of: Box<Self>,
    },
    /// A function, and whatever else has no size.
    #[serde(other)]
    Other,
}

impl Isf {
    /// Reads a file; says what is wrong with one that cannot be used.
    pub fn read(file: impl Read) -> Result<Self, String> {
        let file: File = serde_json::from_slice(&json(file)?).map_err(|error| format!("it is no ISF: {error}"))?;
        let banner = file.symbols.get("linux_banner").and_then(|symbol| symbol.constant_data.as_deref());
        let banner = banner.ok_or("it holds no banner of a Linux kernel (constant data of linux_banner)")?;
        let mut banner = STANDARD.decode(banner).map_err(|error| format!("its banner is no base64: {error}"))?;
        banner.truncate(banner.iter().position(|&byte| byte == 0).unwrap_or(banner.len()));
        if !banner.starts_with(b"Linux version ") || banner.len() > BANNER {
            return Err("its banner is none of a Linux kernel".to_owned());
        }
        let types = Btf::parse(to_btf::convert(&file)?).map_err(|why| format!("its types make no sense: {why}"))?;
        let symbols = Kallsyms::listed(file.symbols.iter().map(|(name, symbol)| (name.as_str(), symbol.address)));
        let symbols = symbols.ok_or("its symbols have longer names than those of any kernel")?;
        Ok(Self { types, symbols, banner })
    }
}

/// The JSON of a file, whatever it is packed in.
fn json(mut file: impl Read) -> Result<Vec<u8>, String> {
    let cannot = |error| format!("could not read it: {error}");
    let mut head = Vec::new();
    file.by_ref().take(6).read_to_end(&mut head).map_err(cannot)?;
    let whole = head.as_slice().chain(file);
    match head.as_slice() {
        [0xfd, b'7', b'z', b'X', b'Z', 0] => bounded(lzma_rust2::XzReader::new_mem_limit(whole, true, XZ_KIB)),
        [0x1f, 0x8b, ..] => bounded(flate2::read::MultiGzDecoder::new(whole)),
        _ => bounded(whole),
    }
}

fn bounded(from: impl Read) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    from.take(MOST + 1).read_to_end(&mut bytes).map_err(|error| format!("could not unpack it: {error}"))?;
    if bytes.len() as u64 > MOST { Err(format!("it holds more than {} MiB of JSON", MOST >> 20)) } else { Ok(bytes) }
}

#[cfg(test)]
mod tests {
    use super::super::btf::{Kind, Member};
    use super::*;

    const SAMPLE: &str = include_str!("isf/sample/isf.json");
    /// The same, by `xz`.
    const XZ: &[u8] = include_bytes!("isf/sample/isf.json.xz");

    #[test]
    fn types_symbols_and_the_banner_are_read() {
        let isf = Isf::read(SAMPLE.as_bytes()).unwrap();
        assert_eq!(isf.banner, b"Linux version 6.1\n");
        assert_eq!(isf.symbols.address("_text"), Some(0xffff_ffff_8100_0000));
        assert_eq!(isf.symbols.at(0xffff_ffff_8100_0001).map(|symbol| symbol.name), Some("_text"));
        let types = &isf.types;
        let task = types.find("task_struct").unwrap();
        assert_eq!(types.size(task), 72);
        let comm = types.member(task, "comm").unwrap();
        assert_eq!((comm.bit, types.kind(comm.id), types.size(comm.id)), (48 * 8, Kind::Array(4), 16));
        // Through what has no name, with its bits.
        let low = types.member(task, "low").unwrap();
        assert_eq!((low.bit, low.bits), (8 * 8 + 3, Some(5)));
        assert_eq!(types.member(task, "all").map(|member| types.kind(member.id)), Some(Kind::Pointer));
        let next = types.member(task, "next").unwrap();
        assert_eq!(types.plain(types.target(next.id)), task);
        let call = types.member(task, "call").unwrap();
        assert_eq!((types.size(call.id), types.target(call.id)), (8, 0));
        assert!(matches!(types.member(task, "lost"), Some(Member { bit: 256, id: 0, .. })));
        let colors = types.target(comm.id);
        let values: Vec<_> = types.values(colors).map(|(name, value)| (name.to_vec(), value)).collect();
        assert_eq!(values, [(b"BLUE".to_vec(), 2), (b"RED".to_vec(), -1)]);
    }

    #[test]
    fn gzip_is_unpacked_and_what_is_no_symbol_file_is_named() {
        let packed = gzip();
        assert!(Isf::read(packed.as_slice()).is_ok() && Isf::read(XZ).is_ok());
        let fails = |bytes: &[u8]| Isf::read(bytes).err().unwrap();
        assert!(fails(&packed[..packed.len() / 2]).contains("could not unpack"));
        assert!(fails(b"\xfd7zXZ\0torn").contains("could not unpack"));
        assert!(fails(b"").contains("no ISF"));
        assert!(fails(b"[]").contains("no ISF"));
        assert!(fails(SAMPLE.replace("TGlu", "TGlv").as_bytes()).contains("none of a Linux kernel"));
        assert!(fails(SAMPLE.replace("constant_data", "data").as_bytes()).contains("no banner"));
        // As deep as no type is.
        let deep = "{\"kind\":\"pointer\",\"subtype\":".repeat(100_000);
        assert!(fails(SAMPLE.replace("{\"kind\": \"function\"}", &deep).as_bytes()).contains("no ISF"));
    }

    fn gzip() -> Vec<u8> {
        use std::io::Write;
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packed.write_all(SAMPLE.as_bytes()).unwrap();
        packed.finish().unwrap()
    }

    /// Both carry a checksum of what they hold: what is accepted in spite of a changed bit holds the very same.
    #[test]
    fn a_packed_file_that_was_cut_or_changed_is_refused_or_the_same() {
        for packed in [gzip(), XZ.to_vec()] {
            let whole = Isf::read(packed.as_slice()).unwrap();
            for end in 0..packed.len() {
                assert!(Isf::read(&packed[..end]).is_err(), "cut at {end} of {}", packed.len());
            }
            for at in 0..packed.len() {
                for bit in 0..8 {
                    let mut bytes = packed.clone();
                    bytes[at] ^= 1 << bit;
                    if let Ok(isf) = Isf::read(bytes.as_slice()) {
                        assert_eq!(
                            (isf.banner, isf.types.count()),
                            (whole.banner.clone(), whole.types.count()),
                            "{at} {bit}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn a_damaged_file_is_refused_or_harmless() {
        for at in 0..SAMPLE.len() {
            for byte in [b'0', b'9', b'"', b'}', b'x'] {
                let mut bytes = SAMPLE.as_bytes().to_vec();
                bytes[at] = byte;
                if let Ok(isf) = Isf::read(bytes.as_slice()) {
                    let task = isf.types.find("task_struct").unwrap_or(0);
                    let _ = (isf.types.member(task, "low"), isf.types.size(task), isf.symbols.at(u64::MAX));
                }
            }
        }
    }
}
