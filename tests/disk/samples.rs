//! `tests/damaged/disk/FORMAT/`: the smallest sound volume of a format with one thing wrong. It is named, what is wrong is said,
//! and it takes neither time nor memory.

use std::path::Path;
use std::sync::Arc;

use impound::disk::volume::luks::Passphrase;
use impound::disk::volume::{Beside, scan_with};
use impound::image::{InMemory, ReadAt, read_vec};
use zeroize::Zeroizing;

use crate::kit::impound;

#[test]
fn every_damaged_volume_is_named_with_what_is_wrong() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/damaged/disk");
    for (format, least) in [("lvm", 25), ("md", 11), ("luks", 25), ("bitlocker", 4)] {
        let samples: Vec<_> =
            std::fs::read_dir(root.join(format)).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(samples.len() >= least, "{format}: {}", samples.len());
        for path in samples {
            let name = path.display();
            let disk = Arc::new(InMemory(std::fs::read(&path).unwrap())) as Arc<dyn ReadAt>;
            let passphrase = Some(Arc::new(Passphrase::new(Zeroizing::new(b"guess".to_vec()))));
            let found = scan_with(&disk, &Beside { with: Vec::new(), passphrase }).unwrap();
            let said = found.odd.len() + found.list.iter().filter(|one| one.lacks.is_some()).count();
            assert!(said > 0, "{name} was taken for good");
            for bytes in found.list.iter().filter_map(|one| one.bytes().ok()) {
                let _ = (read_vec(bytes.as_ref(), 0, 512), bytes.extent(0));
            }
            let (text, code) = impound(["disk", &path.to_string_lossy(), "parts"]);
            assert!([0, 3].contains(&code) && text.contains("p0"), "{name}: {code}");
            assert!(!text.contains('\u{1b}'), "{name} would steer a terminal");
        }
    }
}
