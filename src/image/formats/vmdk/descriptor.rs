//! The descriptor: a text that names the extents and the parent (Virtual Disk Format 1.1, "The Descriptor File").

use crate::image::{Layer, ReadError};

pub(super) const WHAT: &str = "VMDK descriptor";
/// The most extents that are believed: 2 GB each, they make 32 TB.
const EXTENTS_MOST: usize = 16_384;
/// The parent's CID of a disk without one.
const NO_PARENT: u32 = 0xffff_ffff;

/// One line of "Extent description".
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    /// Byte offset of the line in its file.
    pub(super) at: u64,
    /// `NOACCESS`: its content may not be read.
    pub(super) closed: bool,
    pub(super) sectors: u64,
    /// `FLAT`, `SPARSE`, ….
    pub(super) kind: String,
    pub(super) name: Vec<u8>,
    /// First sector of the extent in its file.
    pub(super) offset: u64,
}

/// What a descriptor says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Descriptor {
    pub(super) cid: Option<u32>,
    /// The parent's CID, and where that stands; `None` for a disk without a parent.
    pub(super) parent_cid: Option<(u64, u32)>,
    pub(super) parent: Option<Vec<u8>>,
    pub(super) create_type: String,
    pub(super) lines: Vec<Line>,
    facts: Vec<(&'static str, String)>,
}

/// Parses the text that stands at byte `at` of its file. It ends with a NUL or with the text.
pub(super) fn parse(at: u64, text: &[u8]) -> Result<Descriptor, ReadError> {
    let mut descriptor = Descriptor::default();
    let mut offset = at;
    let text = text.split(|&b| b == 0).next().unwrap_or_default();
    for raw in text.split(|&b| b == b'\n') {
        let line = raw.trim_ascii();
        if let Some(equals) = line.iter().position(|&b| b == b'=')
            && !line.starts_with(b"#")
            && !line.get(..equals).unwrap_or_default().contains(&b'"')
        {
            let (name, value) = line.split_at(equals);
            descriptor.set(offset, name.trim_ascii(), unquote(value.get(1..).unwrap_or_default()))?;
        } else if !line.is_empty() && !line.starts_with(b"#") {
            if descriptor.lines.len() >= EXTENTS_MOST {
                return Err(ReadError::corrupt(WHAT, offset, format_args!("at most {EXTENTS_MOST} extents"), "more"));
            }
            descriptor.lines.push(extent(offset, line)?);
        }
        offset = offset.saturating_add(raw.len() as u64 + 1);
    }
    Ok(descriptor)
}

fn unquote(value: &[u8]) -> &[u8] {
    let value = value.trim_ascii();
    value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value)
}

/// `RW 4192256 SPARSE "disk-s001.vmdk" 0`.
fn extent(at: u64, line: &[u8]) -> Result<Line, ReadError> {
    let wrong = |expected: &str| ReadError::corrupt(WHAT, at, expected, short(line));
    let (front, rest) = match line.iter().position(|&b| b == b'"') {
        Some(quote) => line.split_at(quote),
        None => (line, &b""[..]),
    };
    let front = String::from_utf8_lossy(front).into_owned();
    let mut words = front.split_ascii_whitespace();
    let closed = match words.next() {
        Some("RW" | "RDONLY") => false,
        Some("NOACCESS") => true,
        _ => return Err(wrong("a line name = value, or an extent: RW, RDONLY or NOACCESS")),
    };
    let sectors = words.next().and_then(|word| word.parse().ok());
    let (Some(sectors), Some(kind)) = (sectors, words.next()) else {
        return Err(wrong("an extent with its length in sectors and its type"));
    };
    let mut line = Line { at, closed, sectors, kind: kind.to_owned(), name: Vec::new(), offset: 0 };
    if let Some(quoted) = rest.strip_prefix(b"\"") {
        let end = quoted.iter().rposition(|&b| b == b'"').ok_or_else(|| wrong("a name that ends with a quote"))?;
        let (name, behind) = quoted.split_at(end);
        line.name = name.to_vec();
        let behind = String::from_utf8_lossy(behind.get(1..).unwrap_or_default()).into_owned();
        if let Some(word) = behind.split_ascii_whitespace().next() {
            line.offset = word.parse().map_err(|_| wrong("an offset in sectors behind the name"))?;
        }
    }
    Ok(line)
}

/// What was found, for an error.
fn short(line: &[u8]) -> String {
    let text: String = String::from_utf8_lossy(line).chars().take(80).collect();
    format!("{text:?}")
}

impl Descriptor {
    fn set(&mut self, at: u64, name: &[u8], value: &[u8]) -> Result<(), ReadError> {
        let text = || String::from_utf8_lossy(value).into_owned();
        let cid = || {
            let found = u32::from_str_radix(&text(), 16);
            found.map_err(|_| ReadError::corrupt(WHAT, at, "an identifier of 8 hex digits", short(value)))
        };
        let name = String::from_utf8_lossy(name).to_ascii_lowercase();
        match name.as_str() {
            "cid" => self.cid = Some(cid()?),
            "parentcid" => self.parent_cid = Some((at, cid()?)).filter(|(_, cid)| *cid != NO_PARENT),
            "parentfilenamehint" => self.parent = Some(value.to_vec()),
            "createtype" => self.create_type = text(),
            "changetrackpath" => self.facts.push(("changed block tracking", text())),
            "ddb.adaptertype" => self.facts.push(("adapter", text())),
            "ddb.uuid" => self.facts.push(("uuid", text())),
            "ddb.longcontentid" => self.facts.push(("content id", text())),
            "ddb.toolsversion" => self.facts.push(("tools version", text())),
            encrypted if encrypted.starts_with("encryption") => {
                let why = "its content is encrypted with the keys of its machine; export it through the hypervisor";
                return Err(ReadError::unsupported("an encrypted VMDK", why));
            }
            _ => {}
        }
        Ok(())
    }

    /// Nothing stood there.
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    pub(super) fn tell(&self, layer: &mut Layer) {
        if !self.create_type.is_empty() {
            layer.fact("type", &self.create_type);
        }
        if let Some(cid) = self.cid {
            layer.fact("CID", format_args!("{cid:08x}"));
        }
        if let Some((_, cid)) = self.parent_cid {
            layer.fact("parent's CID", format_args!("{cid:08x}"));
        }
        layer.facts.extend(self.facts.iter().cloned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_a_host_are_understood() {
        let text =
            b"# Disk DescriptorFile\r\nversion=1\nCID=0e3c9a12\nparentCID=7475b330\r\ncreateType=\"vmfsSparse\"\n\
            parentFileNameHint=\"a = b.vmdk\"\n\nRW 83886080 VMFSSPARSE \"web [1] \"x\".vmdk\"\nRDONLY 63 ZERO\n\
            NOACCESS 5 FLAT \"x.vmdk\" 128\nddb.uuid = \"60 00\"\n\0garbage";
        let descriptor = parse(512, text).unwrap();
        assert_eq!(descriptor.cid, Some(0x0e3c_9a12));
        assert_eq!(descriptor.parent_cid, Some((558, 0x7475_b330)));
        assert_eq!(descriptor.parent.as_deref(), Some(&b"a = b.vmdk"[..]));
        let lines: Vec<_> = descriptor.lines.iter().map(|l| (l.closed, l.sectors, l.kind.as_str(), l.offset)).collect();
        assert_eq!(lines, [(false, 83_886_080, "VMFSSPARSE", 0), (false, 63, "ZERO", 0), (true, 5, "FLAT", 128)]);
        assert_eq!(descriptor.lines[0].name, b"web [1] \"x\".vmdk");
        for bad in ["RW x FLAT \"a\"", "RW 5", "hello", "RW 5 FLAT \"a\" b", "RW 5 FLAT \"a", "CID=xyz"] {
            assert!(matches!(parse(0, bad.as_bytes()), Err(ReadError::Corrupt { .. })), "{bad}");
        }
        assert_eq!(parse(0, b"parentCID=ffffffff").unwrap().parent_cid, None);
    }
}
