//! What the acquirer wrote down: case number, examiner, times. Text with tabs, deflated, in ASCII or UTF-16.

use std::io::Read;

use flate2::read::ZlibDecoder;

use super::{Found, MOST_HEADER};
use crate::image::ReadError;

/// Inflates a header; its length is bounded.
pub(super) fn inflate(packed: &[u8], at: u64) -> Result<String, ReadError> {
    let mut bytes = Vec::new();
    let inflated = ZlibDecoder::new(packed).take(MOST_HEADER as u64).read_to_end(&mut bytes);
    inflated.map_err(|error| ReadError::corrupt("EWF header section", at, "a zlib stream", error))?;
    Ok(text(&bytes))
}

/// UTF-16 with a byte order mark, or what ASCII is enough for.
pub(super) fn text(bytes: &[u8]) -> String {
    let wide = |from: fn([u8; 2]) -> u16| {
        let units = bytes.chunks_exact(2).skip(1).map(|pair| from(pair.try_into().unwrap_or_default()));
        char::decode_utf16(units).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)).collect()
    };
    match bytes {
        [0xff, 0xfe, ..] => wide(u16::from_le_bytes),
        [0xfe, 0xff, ..] => wide(u16::from_be_bytes),
        _ => String::from_utf8_lossy(bytes).into_owned(),
    }
}

/// The line of names under `main`, and the line of values under it.
pub(super) fn facts(text: &str, found: &mut Found) {
    let mut lines = text.lines().map(|line| line.trim_end_matches('\r'));
    if !lines.by_ref().any(|line| line == "main") {
        return;
    }
    let (Some(names), Some(values)) = (lines.next(), lines.next()) else { return };
    for (name, value) in names.split('\t').zip(values.split('\t')) {
        let name = match name {
            "c" | "cn" => "case number",
            "n" | "en" => "evidence number",
            "a" => "description",
            "e" | "ex" => "examiner",
            "t" | "nt" => "notes",
            "av" => "acquired with",
            "ov" | "os" => "acquired on",
            "md" => "model",
            "sn" => "serial number",
            "m" | "at" => "acquired",
            _ => continue,
        };
        found.fact(name, if name == "acquired" { time(value) } else { value.trim().to_owned() });
    }
}

/// Seconds since 1970, or `2026 11 24 14 55 31` in the acquirer's own, unnamed time zone.
fn time(value: &str) -> String {
    if let Ok(seconds) = value.parse::<i64>()
        && let Ok(at) = jiff::Timestamp::from_second(seconds)
    {
        return at.to_string();
    }
    match *value.split(' ').collect::<Vec<_>>().as_slice() {
        [year, month, day, hour, minute, second] => {
            format!("{year}-{month:0>2}-{day:0>2} {hour:0>2}:{minute:0>2}:{second:0>2} (time zone not told)")
        }
        _ => value.to_owned(),
    }
}
