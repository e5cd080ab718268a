//! A volume group as its text describes it: physical volumes, logical volumes, segments.
//!
//! Names and keys: `vgcfgbackup(8)` writes the same text. Units here are extents, as there; [`Group::extent`] turns them into bytes.

use super::text::{Section, Value, parse};

const SECTOR: u64 = 512;

/// A volume group.
pub(super) struct Group {
    pub(super) name: String,
    pub(super) id: String,
    /// Counts the changes; the highest is true.
    pub(super) seqno: u64,
    /// Bytes of an extent.
    pub(super) extent: u64,
    pub(super) pvs: Vec<Pv>,
    pub(super) lvs: Vec<Lv>,
}

/// A physical volume as the group knows it.
pub(super) struct Pv {
    /// `pv0`: what segments call it.
    pub(super) name: String,
    /// The UUID without its hyphens.
    pub(super) id: String,
    /// First byte of extent 0.
    pub(super) start: u64,
    /// Extents.
    pub(super) count: u64,
}

/// A logical volume.
pub(super) struct Lv {
    pub(super) name: String,
    pub(super) visible: bool,
    pub(super) segments: Vec<Segment>,
}

/// `count` extents from `start` on.
pub(super) struct Segment {
    pub(super) start: u64,
    pub(super) count: u64,
    pub(super) kind: Kind,
}

/// What a segment is.
pub(super) enum Kind {
    /// On physical volumes (name, first extent), in turns of `chunk` bytes; linear if it is one.
    Striped {
        stripes: Vec<(String, u64)>,
        chunk: u64,
    },
    Zero,
    Error,
    /// The difference between `origin` and what it was is in `store`.
    Snapshot {
        origin: String,
        store: String,
        merging: bool,
    },
    /// One that is not read here, by LVM's name for it.
    Other(String),
}

/// A UUID without its hyphens, as the label has it.
fn bare(id: &str) -> String {
    id.replace('-', "")
}

impl Group {
    pub(super) fn parse(text: &[u8]) -> Result<Self, String> {
        let all = parse(text)?;
        let (name, group) = all.sections().next().ok_or("it names no volume group")?;
        let extent = group.number("extent_size")?.checked_mul(SECTOR).filter(|size| *size > 0);
        let pvs = group.section("physical_volumes")?.sections().map(|(name, pv)| Pv::parse(name, pv));
        let lvs = group.section("logical_volumes").into_iter().flat_map(Section::sections);
        Ok(Self {
            name: name.to_owned(),
            id: bare(group.text("id")?),
            seqno: group.number("seqno")?,
            extent: extent.ok_or("its extents have no size")?,
            pvs: pvs.collect::<Result<_, _>>()?,
            lvs: lvs.map(|(name, lv)| Lv::parse(name, lv)).collect::<Result<_, _>>()?,
        })
    }
}

impl Pv {
    fn parse(name: &str, pv: &Section) -> Result<Self, String> {
        let of = |error| format!("{name}: {error}");
        let start = pv.number("pe_start").map_err(of)?.saturating_mul(SECTOR);
        let (id, count) = (bare(pv.text("id").map_err(of)?), pv.number("pe_count").map_err(of)?);
        Ok(Self { name: name.to_owned(), id, start, count })
    }
}

impl Lv {
    fn parse(name: &str, lv: &Section) -> Result<Self, String> {
        let segments = lv.sections().map(|(_, segment)| Segment::parse(segment));
        let mut segments: Vec<_> =
            segments.collect::<Result<_, _>>().map_err(|error| format!("logical volume {name}: {error}"))?;
        segments.sort_by_key(|segment: &Segment| segment.start);
        Ok(Self { name: name.to_owned(), visible: lv.flag("status", "VISIBLE"), segments })
    }

    /// It only ties a store to its origin, and has no bytes of its own.
    pub(super) fn is_snapshot(&self) -> bool {
        matches!(self.segments.as_slice(), [Segment { kind: Kind::Snapshot { .. }, .. }])
    }

    /// Extents.
    pub(super) fn extents(&self) -> u64 {
        self.segments.iter().fold(0, |sum: u64, segment| sum.saturating_add(segment.count))
    }
}

impl Segment {
    fn parse(segment: &Section) -> Result<Self, String> {
        let kind = match segment.text("type")? {
            "striped" | "linear" => striped(segment)?,
            "zero" => Kind::Zero,
            "error" => Kind::Error,
            "snapshot" => {
                let merging = segment.has("merging_store");
                let store = segment.text(if merging { "merging_store" } else { "cow_store" })?.to_owned();
                Kind::Snapshot { origin: segment.text("origin")?.to_owned(), store, merging }
            }
            other => Kind::Other(other.to_owned()),
        };
        Ok(Self { start: segment.number("start_extent")?, count: segment.number("extent_count")?, kind })
    }
}

fn striped(segment: &Section) -> Result<Kind, String> {
    let list = segment.list("stripes")?;
    let mut stripes = Vec::new();
    for pair in list.chunks(2) {
        match pair {
            [Value::Text(name), Value::Number(from)] => {
                let from = u64::try_from(*from).map_err(|_| format!("a stripe begins at extent {from}"))?;
                stripes.push((name.clone(), from));
            }
            _ => return Err("its stripes are no pairs of a name and an extent".to_owned()),
        }
    }
    if stripes.is_empty() {
        return Err("it has no stripes".to_owned());
    }
    // LVM leaves the size out where there is one stripe only.
    let chunk = if stripes.len() > 1 { segment.number("stripe_size")?.saturating_mul(SECTOR) } else { u64::MAX };
    Ok(Kind::Striped { stripes, chunk })
}
