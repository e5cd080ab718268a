//! VMware's memory of a snapshot (`.vmsn`, `.vmem`) or a suspended VM (`.vmss`, `.vmem`).
//!
//! The metadata (see [`tags`]) says which guest pages each part of the memory holds: above about 3 GiB the memory moves behind
//! the hole for devices, and only `regionPPN`, `regionPageNum` and `regionSize` tell how. Either file may be opened; the other
//! is looked for beside it under the same name. A `.vmem` alone is taken as one range from address 0, and said to be assumed.
//!
//! Memory inside the metadata file is read if it is not compressed. Registers come from the group `cpu`.

mod tags;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::sync::Arc;

use crate::image::{Below, Content, Cpu, Layer, Machine, Opened, Opening, ReadAt, ReadError, Span, Spans, Wrapping};

use tags::{Tag, Value};

/// See the module.
pub(super) static VMWARE: Wrapping = Wrapping {
    name: "vmware",
    about: "VMware memory: .vmem with .vmsn or .vmss",
    tested_against: "files written by the tests as public parsers describe them, one pair with memory of a real Linux; Volatility 3 reads them alike; no real ESX",
    probe,
    open,
};

const PAGE: u64 = 4096;
/// Most regions: a machine has two or three.
const REGIONS: u64 = 1024;
/// Most CPUs.
const CPUS: u32 = 4096;
/// Above this, memory does not fit below the hole for devices.
const BELOW_HOLE: u64 = 3 << 30;
/// Files of the folder that are looked at for advice.
const LISTED: usize = 4096;

fn probe(below: &Below) -> bool {
    tags::known(u32::from_le_bytes(below.head())).is_some() || is_vmem(below)
}

fn is_vmem(below: &Below) -> bool {
    below.is_file && below.place.as_ref().is_some_and(|place| ends_with(place.name(), "vmem"))
}

fn ends_with(name: &OsStr, ending: &str) -> bool {
    std::path::Path::new(name).extension().is_some_and(|found| found.eq_ignore_ascii_case(ending))
}

fn open(below: &Below) -> Opening {
    if tags::known(u32::from_le_bytes(below.head())).is_some() { open_metadata(below) } else { open_vmem(below) }
}

/// The `.vmem` was named: its metadata is beside it or not.
fn open_vmem(below: &Below) -> Opening {
    let mut layer = Layer::new("vmware", Content::Memory);
    let place = below.place()?;
    for ending in ["vmsn", "vmss"] {
        let name = place.sibling(ending);
        let Some(found) = place.beside(&name)? else { continue };
        let told = Told::read(found.bytes.as_ref()).map_err(ReadError::within(name.to_string_lossy().into_owned()))?;
        layer.files.push(("metadata", name.to_string_lossy().into_owned()));
        return finish(Arc::clone(&below.bytes), &told, 0, layer);
    }
    layer.odd("no .vmsn or .vmss beside it: the address map is assumed");
    if below.bytes.len() > BELOW_HOLE {
        layer.odd("memory above 3 GiB is not where a VM with a hole for devices has it");
    }
    let spans = whole(below.bytes.as_ref());
    Ok(Opened::new(Arc::new(Spans::new(Arc::clone(&below.bytes), "vmem", spans)?), layer))
}

fn whole(bytes: &dyn ReadAt) -> Vec<Span> {
    let len = bytes.len();
    if len == 0 { Vec::new() } else { vec![Span { at: 0, len, from: Some(0) }] }
}

/// The metadata was named: memory is inside or beside it.
fn open_metadata(below: &Below) -> Opening {
    let told = Told::read(below.bytes.as_ref())?;
    let layer = Layer::new("vmware", Content::Memory);
    match told.inline {
        Some(Value::Block { compressed: true, at, .. }) => {
            let why = format!("the block at {at:#x} is compressed in a way that nobody has described");
            Err(ReadError::unsupported("this .vmsn's memory", why))
        }
        Some(Value::Block { at, .. }) => finish(Arc::clone(&below.bytes), &told, at, layer),
        _ => beside(below, &told, layer),
    }
}

fn beside(below: &Below, told: &Told, mut layer: Layer) -> Opening {
    let place = below.place()?;
    let name = place.sibling("vmem");
    let Some(found) = place.beside(&name)? else {
        let others = place.list(LISTED)?.into_iter().filter(|other| ends_with(other, "vmem"));
        let others: Vec<_> = others.map(|other| other.to_string_lossy().into_owned()).collect();
        let advice = if others.is_empty() {
            "copy that file from the VM's folder; a snapshot taken without memory has none".to_owned()
        } else {
            format!("the folder has {}; rename it if it is the one", others.join(", "))
        };
        let why = format!("it holds none, and there is no {} beside it: {advice}", name.display());
        return Err(ReadError::unsupported("the memory of this .vmsn", why));
    };
    layer.files.push(("memory", name.to_string_lossy().into_owned()));
    finish(found.bytes, told, 0, layer)
}

/// Puts the regions together: they count pages from `begin` of `bytes`.
fn finish(bytes: Arc<dyn ReadAt>, told: &Told, begin: u64, mut layer: Layer) -> Opening {
    layer.fact("version", told.about).fact("groups", told.groups.join(", ")).fact("CPUs", told.cpus.len());
    layer.fact("memory", if begin == 0 { "a file of its own" } else { "inside the .vmsn" });
    let end = match told.inline {
        Some(Value::Block { at, len, .. }) if begin > 0 => at + len,
        _ => bytes.len(),
    };
    let spans = if told.regions.is_empty() {
        if end - begin > BELOW_HOLE {
            layer.odd("the metadata has no regions, and memory is too long for one: the address map is assumed");
        }
        vec![Span { at: 0, len: end - begin, from: Some(begin) }]
    } else {
        regions(told, begin, end, &mut layer)?
    };
    layer.fact("regions", spans.len());
    let spans: Vec<Span> = spans.into_iter().filter(|span| span.len > 0).collect();
    let machine = Some(Machine { cpus: told.cpus.clone(), frames: None });
    Ok(Opened { bytes: Arc::new(Spans::new(bytes, "VMware region", spans)?), layer, machine })
}

fn regions(told: &Told, begin: u64, end: u64, layer: &mut Layer) -> Result<Vec<Span>, ReadError> {
    let (mut spans, mut most) = (Vec::new(), 0);
    for (number, region) in &told.regions {
        let corrupt = |expected: String, found: String| {
            Err(ReadError::corrupt(format!("VMware region {number}"), begin, expected, found))
        };
        let (Some(ppn), Some(page), Some(size)) = (region.ppn, region.page, region.size) else {
            return corrupt(
                "its guest page, its page in the file and its size".to_owned(),
                "not all of them".to_owned(),
            );
        };
        let bytes = |pages: u64| pages.checked_mul(PAGE);
        let (Some(at), Some(from), Some(len)) = (bytes(ppn), bytes(page), bytes(size)) else {
            return corrupt("pages below 2^52".to_owned(), format!("{size:#x} pages from {page:#x} at {ppn:#x}"));
        };
        if from.checked_add(len).is_none_or(|last| last > end - begin) {
            let found = format!("{len:#x} bytes from {from:#x}");
            return corrupt(format!("a region inside the {:#x} bytes of memory", end - begin), found);
        }
        most = most.max(from + len);
        spans.push(Span { at, len, from: Some(begin + from) });
    }
    if most < end - begin && begin == 0 {
        layer.odd(format!("the regions end at {most:#x}, the memory file at {end:#x}: do the two belong together?"));
    }
    Ok(spans)
}

#[derive(Debug, Default, Clone, Copy)]
struct Region {
    ppn: Option<u64>,
    page: Option<u64>,
    size: Option<u64>,
}

/// What the metadata tells.
struct Told {
    about: &'static str,
    groups: Vec<String>,
    regions: BTreeMap<u32, Region>,
    inline: Option<Value>,
    cpus: Vec<Cpu>,
}

impl Told {
    fn read(file: &dyn ReadAt) -> Result<Self, ReadError> {
        let magic = crate::image::read_vec(file, 0, 4.min(usize::try_from(file.len()).unwrap_or(4)))?;
        let magic = magic.first_chunk::<4>().map_or(0, |word| u32::from_le_bytes(*word));
        let groups = tags::groups(file)?;
        let mut told = Self {
            about: tags::known(magic).unwrap_or_default(),
            groups: groups.iter().map(|group| group.name.clone()).collect(),
            regions: BTreeMap::new(),
            inline: None,
            cpus: Vec::new(),
        };
        let (mut count, mut cpus) = (None, BTreeMap::new());
        for group in &groups {
            match group.name.as_str() {
                "memory" => tags::walk(file, group, |tag| told.memory(&tag, &mut count))?,
                "cpu" => tags::walk(file, group, |tag| cpu(&tag, &mut cpus))?,
                _ => {}
            }
        }
        told.cpus = cpus.into_values().collect();
        let found = told.regions.len() as u64;
        if count.is_some_and(|count| count != found && count <= REGIONS) || found > REGIONS {
            let expected = format_args!("{} regions", count.unwrap_or(0));
            return Err(ReadError::corrupt("vmsn group memory", 0, expected, found));
        }
        match count {
            Some(count) if count > REGIONS => {
                Err(ReadError::corrupt("vmsn tag regionsCount", 0, format_args!("at most {REGIONS}"), count))
            }
            _ => Ok(told),
        }
    }

    fn memory(&mut self, tag: &Tag, count: &mut Option<u64>) {
        let number = tag.index.first().copied().unwrap_or(0);
        let mut region = |set: fn(&mut Region, Option<u64>)| {
            // One more than is believed is enough to be refused.
            if self.regions.len() as u64 <= REGIONS {
                set(self.regions.entry(number).or_default(), tag.value.number());
            }
        };
        match tag.name.as_str() {
            "regionsCount" => *count = tag.value.number(),
            "regionPPN" => region(|region, value| region.ppn = value),
            "regionPageNum" => region(|region, value| region.page = value),
            "regionSize" => region(|region, value| region.size = value),
            "Memory" if matches!(tag.value, Value::Block { .. }) => self.inline = Some(tag.value.clone()),
            _ => {}
        }
    }
}

fn cpu(tag: &Tag, cpus: &mut BTreeMap<u32, Cpu>) {
    let Some(&number) = tag.index.first() else { return };
    if number >= CPUS {
        return;
    }
    let value = tag.value.number();
    let mut with = |set: &dyn Fn(&mut Cpu)| set(cpus.entry(number).or_default());
    match (tag.name.as_str(), tag.index.get(1)) {
        ("CR64" | "CR", Some(0)) => with(&|cpu| cpu.cr0 = value),
        ("CR64" | "CR", Some(3)) => with(&|cpu| cpu.cr3 = value),
        ("CR64" | "CR", Some(4)) => with(&|cpu| cpu.cr4 = value),
        ("rip", None) => with(&|cpu| cpu.rip = value),
        ("IDTR", None) => {
            // Limit in two bytes, then the address.
            if let Value::Bytes(bytes) = &tag.value
                && let Some(base) = bytes.get(2..10).and_then(|bytes| bytes.first_chunk::<8>())
            {
                with(&|cpu| cpu.idt = Some(u64::from_le_bytes(*base)));
            }
        }
        _ => {}
    }
}
