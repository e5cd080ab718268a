//! `tests/damaged/image/FORMAT/`: files that match a format and are damaged. Each is refused with a position, what was
//! expected and what was found, or as unsupported by name.

use std::path::Path;

use crate::kit::explore;

#[test]
fn every_damaged_image_is_refused_by_name() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/damaged/image");
    let mut seen = 0;
    for format in std::fs::read_dir(&root).unwrap() {
        for sample in std::fs::read_dir(format.unwrap().path()).unwrap() {
            let path = sample.unwrap().path();
            match explore(&path) {
                Ok(()) => panic!("{} was taken for good", path.display()),
                Err(error) => {
                    let text = error.to_string();
                    let named = text.contains("is damaged at byte")
                        || text.contains("cannot be read here")
                        || text.contains("could not");
                    assert!(named, "{}: {text}", path.display());
                }
            }
            seen += 1;
        }
    }
    assert!(seen >= 4, "{} has too few samples", root.display());
}
