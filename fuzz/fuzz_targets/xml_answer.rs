//! An answer of a cloud in XML.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(document) = impound_backends::wire::http::xml::Element::parse(bytes) {
        let _ = document.to_json();
    }
});
