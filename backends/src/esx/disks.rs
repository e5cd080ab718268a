//! The disks of a VM: what each rests on, and why some cannot be read.
//!
//! A disk is a chain of descriptors, each with its extents: `web-000001.vmdk` and its delta over `web.vmdk` and its `-flat`.
//! Once a snapshot was taken, nothing of the chain that was there before is written any more.

use serde::Serialize;

use super::files::{FileAt, path_beside, path_of, volume_of};
use super::listing::{Volume, short};
use super::shell::Shell;
use super::text::Value;
use crate::BackendError;

/// Descriptors that may rest on each other.
const CHAIN: usize = 256;
/// Extents of one descriptor.
const EXTENTS: usize = 16_384;
/// Longest descriptor, in bytes.
const DESCRIPTOR: u64 = 1 << 20;

/// A disk.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Disk {
    /// `disk0`, in the order of their keys.
    pub(super) name: String,
    /// `Hard disk 1`.
    pub(super) label: String,
    /// `persistent`, `independent_persistent` ….
    pub(super) mode: String,
    /// Type of its backing: `FlatVer2`, `RawDiskMappingVer1` ….
    pub(super) backing: String,
    /// Its descriptor, in the host's words.
    pub(super) file: String,
    /// Bytes, as the guest sees them.
    pub(super) capacity: Option<u64>,
    /// The files, the topmost descriptor first.
    #[serde(skip)]
    pub(super) parts: Vec<Part>,
    /// Why it cannot be taken, if so.
    pub(super) refused: Option<String>,
    /// Not part of snapshots: it can only be taken while the VM does not run.
    pub(super) independent: bool,
}

/// A file of a disk.
#[derive(Debug, Clone)]
pub(super) struct Part {
    pub(super) file: FileAt,
    /// `vmdk`, or `raw`.
    pub(super) wrapping: &'static str,
}

/// What a descriptor says of other files.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Descriptor {
    /// Type and name of each extent.
    pub extents: Vec<(String, String)>,
    /// What it rests on.
    pub parent: Option<String>,
}

/// Reads a descriptor (Virtual Disk Format 1.1, "The Descriptor File").
pub(super) fn descriptor(text: &str) -> Result<Descriptor, String> {
    if !text.trim_start().starts_with("# Disk DescriptorFile") {
        return Err(format!("expected a disk's descriptor, found \"{}\"", short(text)));
    }
    let mut found = Descriptor::default();
    for line in text.lines().map(str::trim).filter(|line| !line.starts_with('#')) {
        if let Some(value) = line.strip_prefix("parentFileNameHint=") {
            found.parent = Some(value.trim_matches('"').to_owned());
        }
        if !matches!(line.split_whitespace().next(), Some("RW" | "RDONLY" | "NOACCESS")) {
            continue;
        }
        let Some(extent) = extent(line) else {
            return Err(format!("expected an extent with a length, a type and a name, found \"{}\"", short(line)));
        };
        if found.extents.len() >= EXTENTS {
            return Err(format!("expected at most {EXTENTS} extents"));
        }
        found.extents.push(extent);
    }
    if found.extents.is_empty() {
        return Err("expected an extent, found none".to_owned());
    }
    Ok(found)
}

/// Type and file of an extent: `RW 6144 VMFS "web01-flat.vmdk"`. Bytes of some types are said to begin behind an offset, which
/// comes last.
fn extent(line: &str) -> Option<(String, String)> {
    let (head, rest) = line.split_once('"')?;
    let (name, _) = rest.rsplit_once('"')?;
    let words: Vec<_> = head.split_whitespace().collect();
    let [_, sectors, kind] = *words.as_slice() else { return None };
    sectors.parse::<u64>().ok().filter(|_| !name.is_empty())?;
    Some((kind.to_owned(), name.to_owned()))
}

/// The disks that the devices of a VM name, with their files as they are now.
pub(super) async fn of(shell: &Shell, devices: &Value, volumes: &[Volume]) -> Result<Vec<Disk>, BackendError> {
    let mut found = Vec::new();
    devices.all("vim.vm.device.VirtualDisk", &mut found);
    found.sort_by_key(|device| device.number("key"));
    let mut disks = Vec::new();
    for (number, device) in found.into_iter().take(1024).enumerate() {
        let mut disk = described(number, device);
        if disk.refused.is_none() {
            match parts(shell, &disk.file, volumes).await {
                Ok(parts) => disk.parts = parts,
                Err(Refused::Disk(why)) => disk.refused = Some(why),
                Err(Refused::Host(error)) => return Err(error),
            }
        }
        disks.push(disk);
    }
    Ok(disks)
}

fn described(number: usize, device: &Value) -> Disk {
    let text = |path: &str| device.text(path).unwrap_or_default().to_owned();
    let kind = device.at("backing").map_or("", Value::kind);
    let backing = kind.strip_prefix("vim.vm.device.VirtualDisk.").unwrap_or(kind).trim_end_matches("BackingInfo");
    let mode = text("backing.diskMode");
    let mut disk = Disk {
        name: format!("disk{number}"),
        label: text("deviceInfo.label"),
        independent: mode.starts_with("independent"),
        mode,
        backing: backing.to_owned(),
        file: text("backing.fileName"),
        capacity: device
            .number("capacityInBytes")
            .or_else(|| device.number("capacityInKB").and_then(|kib| kib.checked_mul(1024))),
        parts: Vec::new(),
        refused: None,
    };
    if backing.starts_with("RawDiskMapping") {
        let mode = text("backing.compatibilityMode");
        let device = text("backing.deviceName");
        disk.refused =
            Some(format!("a raw device ({mode}, {device}): no file holds its bytes; take that device where it is"));
    } else if disk.file.is_empty() {
        disk.refused = Some(format!("its backing ({backing}) names no file"));
    }
    disk
}

/// Why the files of a disk are not known.
enum Refused {
    /// This disk cannot be taken.
    Disk(String),
    /// The host does not answer.
    Host(BackendError),
}

impl From<String> for Refused {
    fn from(why: String) -> Self {
        Self::Disk(why)
    }
}

async fn parts(shell: &Shell, file: &str, volumes: &[Volume]) -> Result<Vec<Part>, Refused> {
    let mut next = Some(path_of(volumes, file)?);
    let mut parts: Vec<Part> = Vec::new();
    let mut links = 0;
    while let Some(path) = next.take() {
        links += 1;
        if links > CHAIN || parts.iter().any(|part| part.file.path == path) {
            return Err(Refused::Disk(format!("its chain of files does not end at \"{}\"", short(&path))));
        }
        let volume = volume_of(volumes, &path);
        if let Some(volume) =
            volume.filter(|volume| matches!(volume.kind.to_ascii_lowercase().as_str(), "vsan" | "vvol"))
        {
            let why = format!("it is an object on {} ({}): there is no -flat file to read", volume.name, volume.kind);
            return Err(Refused::Disk(why));
        }
        let file = measured(shell, &path).await?;
        if file.len > DESCRIPTOR {
            return Err(Refused::Disk(format!("\"{}\" is too long for a descriptor", short(&path))));
        }
        let text = shell.small(&path).await.map_err(refused)?;
        let read = descriptor(&String::from_utf8_lossy(&text))?;
        parts.push(Part { file, wrapping: "vmdk" });
        for (kind, name) in &read.extents {
            let wrapping = match kind.to_ascii_uppercase().as_str() {
                "VMFS" | "FLAT" => "raw",
                "VMFSSPARSE" | "SESPARSE" | "SPARSE" => "vmdk",
                "VMFSRDM" | "VMFSRAW" => return Err(Refused::Disk("a raw device: no file holds its bytes".to_owned())),
                _ => return Err(Refused::Disk(format!("an extent of the type \"{}\" is not known", short(kind)))),
            };
            let path = path_beside(volumes, &path, name)?;
            parts.push(Part { file: measured(shell, &path).await?, wrapping });
        }
        next = read.parent.map(|parent| path_beside(volumes, &path, &parent)).transpose()?;
    }
    Ok(parts)
}

async fn measured(shell: &Shell, path: &str) -> Result<FileAt, Refused> {
    shell.measure(path).await.map_err(refused)
}

/// A file that cannot be read is the disk's trouble; a host that does not answer is not.
fn refused(error: BackendError) -> Refused {
    if error.kind == crate::Kind::Io { Refused::Host(error) } else { Refused::Disk(error.to_string()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_descriptor_names_its_extents_and_what_it_rests_on() {
        let text = "# Disk DescriptorFile\nversion=1\nparentFileNameHint=\"a = b.vmdk\"\nRW 4 SESPARSE \"w \"x\" (1)-sesparse.vmdk\"\n#DDB\n";
        let read = descriptor(text).unwrap();
        assert_eq!(read.extents, [("SESPARSE".to_owned(), "w \"x\" (1)-sesparse.vmdk".to_owned())]);
        assert_eq!(read.parent.as_deref(), Some("a = b.vmdk"));
        for bad in [
            "",
            "RW 4 VMFS \"x\"",
            "# Disk DescriptorFile\n",
            "# Disk DescriptorFile\nRW 4 VMFS\n",
            "# Disk DescriptorFile\nRW \"x\"\n",
        ] {
            assert!(descriptor(bad).is_err(), "{bad}");
        }
    }
}
