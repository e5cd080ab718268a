//! zstd, with and without a seek table.

use std::fs;

use impound::image::ReadError;

use crate::kit;

#[test]
fn what_the_zstd_program_writes_is_read_and_damage_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let want = kit::content(3 << 20);
    let raw = folder.path().join("disk.raw");
    fs::write(&raw, &want).unwrap();
    kit::tool("zstd", ["-q".as_ref(), "--check".as_ref(), raw.as_os_str()]);
    let packed = folder.path().join("disk.raw.zst");
    let image = kit::open(&packed);
    assert_eq!(kit::wrappings(&image), ["zstd", "raw"]);
    kit::holds(&image, &want);

    let len = usize::try_from(fs::metadata(&packed).unwrap().len()).unwrap();
    let refused = kit::survives(&packed, (0..16).chain((16..len).step_by(len / 16)));
    assert!(refused > 40, "only {refused} of the damaged files were refused");

    let mut cut = fs::read(&packed).unwrap();
    cut.truncate(len - 5);
    fs::write(&packed, cut).unwrap();
    let error = kit::explore(&packed).unwrap_err();
    assert!(matches!(error.root(), ReadError::Corrupt { .. }), "{error}");
}
