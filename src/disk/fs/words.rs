//! Flags and identifiers of superblocks in words.

/// Names of the bits that are set; unknown ones as a number.
pub(crate) fn flags<T: Copy + Into<u64>>(set: T, known: &[(T, &str)]) -> Vec<String> {
    let mut rest = set.into();
    let mut names = Vec::new();
    for (bit, name) in known {
        let bit = (*bit).into();
        if rest & bit != 0 {
            names.push((*name).to_owned());
        }
        rest &= !bit;
    }
    if rest != 0 {
        names.push(format!("{rest:#x}"));
    }
    names
}

/// A UUID as it is written; `bytes` are its 16, big-endian (RFC 9562, section 4).
pub(crate) fn uuid(bytes: &[u8]) -> String {
    let hex = crate::image::hex(bytes);
    let part = |from: usize, to: usize| hex.get(from..to).unwrap_or_default().to_owned();
    [part(0, 8), part(8, 12), part(12, 16), part(16, 20), part(20, 32)].join("-")
}
