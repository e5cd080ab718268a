//! Where a domain's disks lie on dom0, and what LVM says of them.

use super::config::DiskConfig;
use crate::BackendError;

/// A snapshot must have room for at least this part of what it is taken of: one part in so many.
const LEAST: u64 = 10;

/// What a path of a disk is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// A logical volume that a snapshot can be taken of.
    Volume(Volume),
    /// A block device. Why no snapshot can be taken of it.
    Device(u64, String),
    /// A plain file: its length, and how much of it is allocated.
    File(u64, u64),
    /// It cannot be read, and why.
    Unusable(String),
}

/// A logical volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Volume {
    /// Its group.
    pub(super) group: String,
    /// Its name.
    pub(super) name: String,
    /// Its length in bytes.
    pub(super) len: u64,
    /// What its group has free, in bytes.
    pub(super) free: u64,
    /// An extent of its group, in bytes.
    pub(super) extent: u64,
}

impl Place {
    /// Bytes, where they are known.
    pub(super) fn len(&self) -> Option<u64> {
        match self {
            Self::Volume(volume) => Some(volume.len),
            Self::Device(len, _) | Self::File(len, _) => Some(*len),
            Self::Unusable(_) => None,
        }
    }
}

/// Reads what `scripts::LOOK` said of the disks, a line each.
pub(super) fn places(text: &str, disks: &[DiskConfig]) -> Vec<Place> {
    let mut lines = text.lines();
    disks.iter().map(|disk| place(disk, lines.next().unwrap_or_default())).collect()
}

fn place(disk: &DiskConfig, line: &str) -> Place {
    let unusable = |why: &str| Place::Unusable(why.to_owned());
    if let Some(server) = &disk.served_by {
        return Place::Unusable(format!("the domain `{}` serves it, not dom0", server.escape_debug()));
    }
    if disk.path.is_empty() {
        return unusable("nothing is in it");
    }
    let place = line_of(line).unwrap_or_else(|| Place::Unusable("dom0 finds nothing there".to_owned()));
    match place {
        // Its bytes are not those that the guest sees, and QEMU in dom0 has it open.
        Place::File(..) | Place::Device(..) | Place::Volume(_) if disk.format != "raw" => {
            Place::Unusable(format!("its format is {}: only raw disks can be taken", disk.format.escape_debug()))
        }
        place => place,
    }
}

/// One line of `scripts::LOOK`.
pub(super) fn line_of(line: &str) -> Option<Place> {
    let mut words = line.split('|');
    let (kind, len) = (words.next()?, words.next()?.parse::<u64>());
    let blocks = words.next()?;
    match kind {
        "file" => {
            let allocated = blocks.parse::<u64>().ok()?.checked_mul(512)?;
            let len = len.ok()?;
            Some(Place::File(len, allocated.min(len)))
        }
        "block" => {
            let len = len.ok()?;
            let words: Vec<_> = words.collect();
            Some(match volume(&words, len) {
                Ok(volume) => Place::Volume(volume),
                Err(why) => Place::Device(len, why.to_owned()),
            })
        }
        _ => None,
    }
}

fn volume(words: &[&str], len: u64) -> Result<Volume, &'static str> {
    let [group, name, kind, origin, free, extent, _attributes] = words else {
        return Err("it is no logical volume");
    };
    if !origin.is_empty() {
        return Err("it is a snapshot itself");
    }
    if !matches!(*kind, "linear" | "striped" | "mirror" | "raid1") {
        return Err("snapshots of volumes of its kind (thin, cache) are not made");
    }
    let number = |text: &str| text.parse::<u64>().map_err(|_| "LVM says nothing that can be understood of it");
    if !(is_name(group) && is_name(name)) {
        return Err("its name is none that LVM allows");
    }
    let extent = number(extent).and_then(|extent| if extent == 0 { Err("it has no extents") } else { Ok(extent) })?;
    Ok(Volume { group: (*group).to_owned(), name: (*name).to_owned(), len, free: number(free)?, extent })
}

/// What LVM allows for names (lvm(8), "VALID NAMES").
pub(super) fn is_name(text: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || "+_.-".contains(c);
    !text.is_empty()
        && text.len() < 128
        && !text.starts_with('-')
        && text != "."
        && text != ".."
        && text.chars().all(fits)
}

/// How long the snapshots of these volumes are to be, in bytes: as long as the volume, so that it cannot overflow, or else an even share
/// of what is free. Refuses where that is too little to last.
pub(super) fn snapshot_sizes(volumes: &[&Volume]) -> Result<Vec<u64>, BackendError> {
    volumes.iter().map(|volume| snapshot_size(volume, volumes)).collect()
}

fn snapshot_size(volume: &Volume, all: &[&Volume]) -> Result<u64, BackendError> {
    // Each chunk of 4 KiB has an entry of 16 bytes, and there is a header.
    let whole = |volume: &Volume| {
        let with_table = volume.len.saturating_add(volume.len / 128).saturating_add(volume.extent);
        with_table.div_ceil(volume.extent).saturating_mul(volume.extent)
    };
    let wanted =
        all.iter().filter(|other| other.group == volume.group).map(|other| u128::from(whole(other))).sum::<u128>();
    let size = if wanted <= u128::from(volume.free) {
        whole(volume)
    } else {
        let share = u128::from(volume.free) * u128::from(whole(volume)) / wanted.max(1);
        u64::try_from(share).unwrap_or(0) / volume.extent * volume.extent
    };
    if size < volume.extent || size < volume.len / LEAST {
        let least = u64::try_from(wanted / u128::from(LEAST)).unwrap_or(u64::MAX).max(volume.extent);
        let why = format!(
            "the volume group {} has {} bytes free, and snapshots of what is asked for need at least {least}",
            volume.group, volume.free
        );
        return Err(BackendError::unsupported("make room for a snapshot", &volume.name, why)
            .advise("extend the group, or take fewer disks at a time (--disk NAME)"));
    }
    Ok(size)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(format: &str) -> DiskConfig {
        DiskConfig {
            vdev: "xvda".into(),
            path: "/x".into(),
            format: format.into(),
            backend: None,
            served_by: None,
            writable: true,
            removable: false,
        }
    }

    fn volume(len: u64, free: u64) -> Volume {
        Volume { group: "vg0".into(), name: "web01-root".into(), len, free, extent: 4 << 20 }
    }

    #[test]
    fn every_kind_of_place_is_told_apart() {
        let text = "block|16777216||vg0|web01-root|linear||234881024|4194304|-wi-ao----\nfile|100|8\nblock|512||\n\
            block|512||vg0|t|thin||1|1|x\nabsent|||\n";
        let disks: Vec<_> = (0..6).map(|_| disk("raw")).collect();
        let places = places(text, &disks);
        assert_eq!(places[0], Place::Volume(volume(16 << 20, 234_881_024)));
        assert_eq!(places[1], Place::File(100, 100));
        assert!(matches!(&places[2], Place::Device(512, why) if why.contains("no logical")));
        assert!(matches!(&places[3], Place::Device(512, why) if why.contains("thin")));
        assert!(matches!(&places[4], Place::Unusable(_)) && matches!(&places[5], Place::Unusable(_)));
        let qcow2 = super::places(text, &[disk("qcow2")]);
        assert!(matches!(&qcow2[0], Place::Unusable(why) if why.contains("qcow2")));
    }

    #[test]
    fn damaged_lines_and_names_are_refused() {
        for bad in [
            "",
            "block",
            "block|x||",
            "file|1",
            "file|1|x",
            "file|18446744073709551616|1",
            "file|1|99999999999999999999",
        ] {
            assert_eq!(line_of(bad), None, "{bad}");
        }
        for bad in ["vg 0", "-vg", "..", "", "vg/0", "$(x)", "a;b"] {
            assert!(!is_name(bad), "{bad}");
            let line = format!("block|512||{bad}|lv|linear||1|1|x");
            assert!(matches!(line_of(&line), Some(Place::Device(..))), "{bad}");
        }
        assert!(matches!(line_of("block|512||vg|lv|linear||1|0|x"), Some(Place::Device(..))));
    }

    #[test]
    fn a_snapshot_is_as_long_as_its_volume_or_shares_what_is_free_or_is_refused() {
        let plenty = volume(16 << 20, 1 << 30);
        assert_eq!(snapshot_sizes(&[&plenty]).unwrap(), [24 << 20]);
        let little = volume(100 << 20, 60 << 20);
        assert_eq!(snapshot_sizes(&[&little]).unwrap(), [60 << 20]);
        assert_eq!(snapshot_sizes(&[&little, &little]).unwrap(), [28 << 20, 28 << 20]);
        for free in [0, 4 << 20, 8 << 20] {
            let error = snapshot_sizes(&[&volume(100 << 20, free)]).unwrap_err().to_string();
            assert!(error.contains("vg0") && error.contains(&free.to_string()), "{error}");
        }
    }
}
