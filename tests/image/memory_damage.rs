//! The damaged samples of the memory formats are made by the writers of their tests: this keeps the folder and the writers
//! together. `IMPOUND_WRITE_SAMPLES=1` writes them anew.

use std::fs;
use std::path::Path;

use crate::{elf, kdump, kit, lime_avml, qemu_stream, vmware, windows, xen};

/// Committed samples are this long at most.
const LONGEST: usize = 20 << 10;

#[test]
fn each_sample_is_what_its_writer_makes_and_is_refused_by_its_own_format() {
    let all = [
        lime_avml::damaged(),
        elf::damaged(),
        kdump::damaged(),
        xen::damaged(),
        vmware::damaged(),
        windows::damaged(),
        qemu_stream::damaged(),
    ]
    .concat();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/damaged/image");
    for (format, name, bytes) in all {
        let path = root.join(format).join(name);
        if std::env::var_os("IMPOUND_WRITE_SAMPLES").is_some() {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, &bytes).unwrap();
        }
        assert!(bytes.len() <= LONGEST, "{}: {} bytes", path.display(), bytes.len());
        let found = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert!(found == bytes, "{} is not what its writer makes", path.display());
        let error = kit::explore(&path).err().unwrap_or_else(|| panic!("{} was taken for good", path.display()));
        println!("{format}/{name}: {error}");
    }
}
