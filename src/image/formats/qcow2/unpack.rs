//! One compressed cluster. The compressed bytes end somewhere in their last sector; what lies behind belongs to others.

/// Decodes one zstd frame (RFC 8878), which must fill `into`; else says what was found.
pub(super) fn zstd(packed: &[u8], into: &mut [u8]) -> Result<(), String> {
    let name = |code| zstd::zstd_safe::get_error_name(code).to_owned();
    let len = zstd::zstd_safe::find_frame_compressed_size(packed).map_err(name)?;
    let frame = packed.get(..len).unwrap_or(packed);
    match zstd::zstd_safe::decompress(into, frame).map_err(name)? {
        len if len == into.len() => Ok(()),
        len => Err(format!("{len} bytes")),
    }
}
