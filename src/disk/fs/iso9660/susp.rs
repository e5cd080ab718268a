//! System use areas, and what Rock Ridge keeps there. IEEE P1281 (SUSP) 1.12; IEEE P1282 (RRIP) 1.12.

use super::Tree;
use super::descriptor::both32;
use super::record::{long_time, short_time};
use crate::disk::fs::Times;
use crate::image::ReadError;
use crate::image::fields::{Fields, read_structure};

/// The most areas that one record goes on in.
const AREAS: usize = 32;
/// The longest area: a sector.
const LONGEST: u32 = 2048;
/// The longest name, and the longest target of a link, that are put together, in bytes.
const TEXT: usize = 1 << 14;

/// Owner and mode.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Posix {
    pub(super) mode: u32,
    pub(super) links: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
}

/// What the entries of one record say together.
#[derive(Debug, Clone, Default)]
pub(super) struct Rock {
    pub(super) name: Option<Vec<u8>>,
    pub(super) posix: Option<Posix>,
    pub(super) times: Times,
    /// Where a symbolic link leads.
    pub(super) link: Vec<u8>,
    /// The directory stands in this block.
    pub(super) child: Option<u32>,
    /// The directory is shown elsewhere.
    pub(super) relocated: bool,
    pub(super) facts: Vec<(String, String)>,
    /// The last piece of the link goes on.
    open: bool,
}

impl Tree {
    /// If the tree has Rock Ridge: how many bytes are skipped in front of each system use area.
    pub(super) fn rock_ridge(&self) -> Option<usize> {
        let root = super::Record::read(self, self.root).ok()?;
        let first = self.runs(&root).first()?.physical.checked_mul(self.block)?;
        let head = read_structure(self.volume.as_ref(), "ISO 9660 directory record", first, 256).ok()?;
        let own = head.get(..usize::from(*head.first()?))?;
        let area = own.get(34..)?;
        if !area.starts_with(b"SP") || area.get(4..6)? != b"\xbe\xef" {
            return None;
        }
        // SUSP alone is not Rock Ridge: a file must have a name or a mode of it.
        let skip = usize::from(*area.get(6)?);
        let rock = Rock::read(self, area, &mut Vec::new());
        (rock.posix.is_some() || rock.name.is_some() || rock.times != Times::default()).then_some(skip)
    }
}

impl Rock {
    /// Reads an area and those that it goes on in.
    pub(super) fn read(tree: &Tree, area: &[u8], odd: &mut Vec<String>) -> Self {
        let mut this = Self::default();
        let mut next = this.area(area, odd);
        let mut seen = Vec::new();
        while let Some((block, from, len)) = next.take() {
            if seen.contains(&(block, from)) || seen.len() >= AREAS || len > LONGEST {
                odd.push(format!("its system use area goes on in block {block} without an end"));
                break;
            }
            seen.push((block, from));
            let at = u64::from(block).saturating_mul(tree.block).saturating_add(u64::from(from));
            let len = crate::disk::us(u64::from(len));
            match read_structure(tree.volume.as_ref(), "system use area", at, len) {
                Ok(area) => next = this.area(&area, odd),
                Err(error) => odd.push(error.to_string()),
            }
        }
        this
    }

    /// Reads one area; where it goes on.
    fn area(&mut self, area: &[u8], odd: &mut Vec<String>) -> Option<(u32, u32, u32)> {
        let (mut rest, mut next) = (area, None);
        while let Some(&len) = rest.get(2) {
            let len = usize::from(len);
            if len < 4 {
                if rest.iter().any(|byte| *byte != 0) {
                    odd.push("its system use area holds what is no entry".to_owned());
                }
                break;
            }
            let Some((entry, behind)) = rest.split_at_checked(len) else {
                odd.push("an entry of its system use area is longer than the area".to_owned());
                break;
            };
            if entry.starts_with(b"ST") {
                break;
            }
            match self.entry(&Fields::new("system use entry", 0, entry), odd) {
                Ok(found) => next = found.or(next),
                Err(error) => odd.push(error.to_string()),
            }
            rest = behind;
        }
        next
    }

    fn entry(&mut self, fields: &Fields<'_>, odd: &mut Vec<String>) -> Result<Option<(u32, u32, u32)>, ReadError> {
        let body = fields.bytes().get(5..).unwrap_or_default();
        match fields.slice(0, 2)? {
            b"CE" => {
                let block = both32(fields, 4, "where its system use area goes on", odd)?;
                let from = both32(fields, 12, "where its system use area goes on", odd)?;
                return Ok(Some((block, from, both32(fields, 20, "the length of its system use area", odd)?)));
            }
            b"NM" => self.name_part(fields.u8(4)?, body),
            b"PX" => self.posix(fields, odd)?,
            b"TF" => self.time_fields(fields.u8(4)?, body),
            b"SL" => self.link_part(fields.u8(4)?, body),
            b"CL" => self.child = Some(both32(fields, 4, "the block of the moved directory", odd)?),
            b"RE" => self.relocated = true,
            b"PN" => {
                let (high, low) = (both32(fields, 4, "its device", odd)?, both32(fields, 12, "its device", odd)?);
                self.facts.push(("device".to_owned(), format!("{high}:{low}")));
            }
            b"ZF" => {
                let size = both32(fields, 8, "its length", odd)?;
                self.facts.push(("zisofs".to_owned(), format!("compressed; {size} bytes uncompressed")));
            }
            b"SF" => self.facts.push(("sparse".to_owned(), "as Rock Ridge has it; not read".to_owned())),
            _ => {}
        }
        Ok(None)
    }

    fn name_part(&mut self, flags: u8, body: &[u8]) {
        // The other flags stand for "." and "..", which need no name.
        let name = self.name.get_or_insert_default();
        if flags & 6 == 0 && name.len() < TEXT {
            name.extend_from_slice(body);
        }
    }

    fn posix(&mut self, fields: &Fields<'_>, odd: &mut Vec<String>) -> Result<(), ReadError> {
        self.posix = Some(Posix {
            mode: both32(fields, 4, "its mode", odd)?,
            links: both32(fields, 12, "its number of links", odd)?,
            uid: both32(fields, 20, "its owner", odd)?,
            gid: both32(fields, 28, "its group", odd)?,
        });
        if fields.bytes().len() >= 44 {
            self.facts.push(("serial".to_owned(), both32(fields, 36, "its serial number", odd)?.to_string()));
        }
        Ok(())
    }

    fn time_fields(&mut self, flags: u8, body: &[u8]) {
        let long = flags & 0x80 != 0;
        let read = |raw: &[u8]| if long { long_time(raw) } else { short_time(raw) };
        let mut times = body.chunks_exact(if long { 17 } else { 7 });
        for bit in 0..7 {
            if flags & (1 << bit) == 0 {
                continue;
            }
            let time = times.next().and_then(read);
            match bit {
                0 => self.times.born = time,
                1 => self.times.modified = time,
                2 => self.times.accessed = time,
                3 => self.times.changed = time,
                _ => {
                    let name = ["backup", "expires", "effective"].get(bit - 4).copied().unwrap_or_default();
                    self.facts.extend(time.map(|time| (name.to_owned(), time.to_string())));
                }
            }
        }
    }

    /// Pieces of the target of a link, which are put together with `/`.
    fn link_part(&mut self, _flags: u8, mut body: &[u8]) {
        while let [flags, len, rest @ ..] = body {
            let Some((text, behind)) = rest.split_at_checked(usize::from(*len)) else { return };
            if self.link.len() > TEXT {
                return;
            }
            if !self.link.is_empty() && !self.open && self.link != b"/" {
                self.link.push(b'/');
            }
            match flags & 0xe {
                2 => self.link.push(b'.'),
                4 => self.link.extend(b".."),
                8 => self.link.push(b'/'),
                _ => self.link.extend_from_slice(text),
            }
            self.open = flags & 1 != 0;
            body = behind;
        }
    }
}
