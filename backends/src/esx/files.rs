//! Where files of a VM lie: from the names that the host gives them (`[datastore] web/web.vmx`) to paths.

use super::command;
use super::listing::{Volume, short};
use super::shell::Shell;
use crate::{BackendError, Kind};

/// The most files of a folder that are believed.
const FILES: usize = 65_536;
/// Longest text that is read whole, in bytes.
pub(super) const TEXT: u64 = 4 << 20;

/// A file of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FileAt {
    pub(super) path: String,
    /// Bytes.
    pub(super) len: u64,
    /// Bytes that the file system keeps for it: fewer where it is thin.
    pub(super) allocated: u64,
}

/// The path of `[datastore] folder/file`. Names of datastores may hold `]` and blanks, so the longest that fits is meant.
pub(super) fn path_of(volumes: &[Volume], name: &str) -> Result<String, String> {
    let inside = |volume: &Volume| {
        let rest = name.strip_prefix('[')?.strip_prefix(volume.name.as_str())?.strip_prefix("] ")?;
        Some((volume.name.len(), format!("{}/{rest}", volume.mount)))
    };
    let found = volumes.iter().filter(|volume| !volume.name.is_empty()).filter_map(inside).max_by_key(|(len, _)| *len);
    let Some((_, path)) = found else {
        return Err(format!("no datastore of this host is that of \"{}\"", short(name)));
    };
    checked(path)
}

/// The path of a file that another one names: beside it, or anywhere on a datastore (`/vmfs/volumes/NAME/…`, by name or UUID).
pub(super) fn path_beside(volumes: &[Volume], of: &str, name: &str) -> Result<String, String> {
    if !name.starts_with('/') {
        let (folder, _) = of.rsplit_once('/').unwrap_or_default();
        return checked(format!("{folder}/{name}"));
    }
    for volume in volumes.iter().filter(|volume| !volume.name.is_empty()) {
        let (root, _) = volume.mount.rsplit_once('/').unwrap_or_default();
        let rest = name.strip_prefix(root).and_then(|rest| rest.strip_prefix('/')?.strip_prefix(volume.name.as_str()));
        if let Some(rest) = rest.filter(|rest| rest.starts_with('/')) {
            return checked(format!("{}{rest}", volume.mount));
        }
    }
    if volumes.iter().any(|volume| name.strip_prefix(volume.mount.as_str()).is_some_and(|rest| rest.starts_with('/'))) {
        return checked(name.to_owned());
    }
    Err(format!("\"{}\" is on no datastore of this host", short(name)))
}

/// A file that lies where it says: no way up, nothing that ends a C string.
fn checked(path: String) -> Result<String, String> {
    if path.contains('\0') || path.split('/').any(|part| part == "..") {
        return Err(format!("\"{}\" is no path of a datastore", short(&path)));
    }
    Ok(path)
}

/// The volume that a path is on.
pub(super) fn volume_of<'a>(volumes: &'a [Volume], path: &str) -> Option<&'a Volume> {
    let on = |volume: &&Volume| path.strip_prefix(volume.mount.as_str()).is_some_and(|rest| rest.starts_with('/'));
    volumes.iter().filter(on).max_by_key(|volume| volume.mount.len())
}

/// Length and blocks in two words.
fn sizes(text: &str) -> Option<(u64, u64)> {
    let (len, blocks) = text.trim().split_once(' ')?;
    Some((len.parse().ok()?, blocks.parse::<u64>().ok()?.checked_mul(512)?))
}

impl Shell {
    /// The file systems of this host.
    pub(super) async fn volumes(&self) -> Result<Vec<Volume>, BackendError> {
        let command = command::volumes();
        super::listing::volumes(&self.text(&command).await?).map_err(|why| self.unread(&command, &why))
    }

    /// One file, measured now: what the host's own lists say of sizes is old.
    pub(super) async fn measure(&self, path: &str) -> Result<FileAt, BackendError> {
        let answer = self.ask(&command::stat(path)).await?;
        let sizes = sizes(&answer.text()).filter(|_| answer.ending.good());
        let (len, allocated) = sizes.ok_or_else(|| {
            BackendError::unsupported("measure a file", path.escape_debug().to_string(), answer.ending.told())
        })?;
        Ok(FileAt { path: path.to_owned(), len, allocated })
    }

    /// The files of a folder.
    pub(super) async fn folder(&self, folder: &str) -> Result<Vec<FileAt>, BackendError> {
        let command = command::list(folder);
        let answer = self.ask(&command).await?;
        if !answer.ending.good() {
            return Err(BackendError::unsupported(
                "list a folder",
                folder.escape_debug().to_string(),
                answer.ending.told(),
            ));
        }
        let mut files = Vec::new();
        for row in answer.text().split('\0').filter(|row| !row.is_empty()).take(FILES) {
            let mut words = row.splitn(3, ' ');
            let (len, blocks, path) = (words.next(), words.next(), words.next());
            let sizes = len.zip(blocks).and_then(|(len, blocks)| sizes(&format!("{len} {blocks}")));
            // A file that went away between its name and its length.
            let (Some((len, allocated)), Some(path)) = (sizes, path) else { continue };
            files.push(FileAt { path: path.to_owned(), len, allocated });
        }
        Ok(files)
    }

    /// A short file, whole.
    pub(super) async fn small(&self, path: &str) -> Result<Vec<u8>, BackendError> {
        let count = TEXT / command::BLOCK;
        let answer = self.ask(&command::read(path, 0, Some(count))).await?;
        let on = || path.escape_debug().to_string();
        if !answer.ending.good() {
            return Err(BackendError::unsupported("read a file", on(), answer.ending.told()));
        }
        if answer.stdout.len() as u64 >= TEXT {
            return Err(BackendError::new(
                Kind::Corrupt,
                "read a file",
                on(),
                format!("expected less than {TEXT} bytes"),
            ));
        }
        Ok(answer.stdout)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volumes() -> Vec<Volume> {
        let volume = |name: &str, id: &str| Volume {
            name: name.into(),
            mount: format!("/vmfs/volumes/{id}"),
            kind: "VMFS-6".into(),
            free: 0,
            size: 0,
        };
        vec![volume("ds", "u1"), volume("ds] x", "u2"), volume("datastore1 (1)", "u3"), volume("", "u4")]
    }

    #[test]
    fn names_of_datastores_may_hold_anything() {
        let path = |name: &str| path_of(&volumes(), name);
        assert_eq!(path("[ds] web/web.vmx").unwrap(), "/vmfs/volumes/u1/web/web.vmx");
        assert_eq!(path("[ds] x] it's (1)/a [b].vmx").unwrap(), "/vmfs/volumes/u2/it's (1)/a [b].vmx");
        assert_eq!(path("[datastore1 (1)] w/w.vmx").unwrap(), "/vmfs/volumes/u3/w/w.vmx");
        for bad in ["web/web.vmx", "[other] web/web.vmx", "[ds]web.vmx", "[ds] ../u2/x", "[] a/b", "[ds] a\0b"] {
            assert!(path(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_file_beside_another_is_found_by_every_form_of_its_name() {
        let of = "/vmfs/volumes/u1/web/web-000001.vmdk";
        let path = |name: &str| path_beside(&volumes(), of, name);
        assert_eq!(path("web.vmdk").unwrap(), "/vmfs/volumes/u1/web/web.vmdk");
        assert_eq!(path("/vmfs/volumes/ds] x/t/t.vmdk").unwrap(), "/vmfs/volumes/u2/t/t.vmdk");
        assert_eq!(path("/vmfs/volumes/u3/t/t.vmdk").unwrap(), "/vmfs/volumes/u3/t/t.vmdk");
        for bad in ["../x.vmdk", "/etc/shadow", "/vmfs/volumes/u9/x", "/vmfs/volumes/u1/../u2/x"] {
            assert!(path(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn volumes_of_paths() {
        assert_eq!(volume_of(&volumes(), "/vmfs/volumes/u3/w/w.vmx").unwrap().name, "datastore1 (1)");
        assert!(volume_of(&volumes(), "/vmfs/volumes/u33/w").is_none());
    }
}
