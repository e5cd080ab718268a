//! Instants as RFC 3339 in UTC, as jiff prints them, only faster: a timeline holds millions.

use std::fmt::Write;

use jiff::Timestamp;

const DAY: i64 = 86_400;

/// Appends the text of an instant: `2026-11-24T10:30:00.25Z`.
pub(super) fn push(at: Timestamp, to: &mut String) {
    let nanos = i64::from(at.subsec_nanosecond());
    let seconds = if nanos < 0 { at.as_second() - 1 } else { at.as_second() };
    let (year, month, day) = civil(seconds.div_euclid(DAY));
    if !(0..=9999).contains(&year) {
        // Writing to a string does not fail.
        let _ = write!(to, "{at}");
        return;
    }
    let inside = seconds.rem_euclid(DAY);
    let mut text = *b"0000-00-00T00:00:00";
    for (place, width, value) in [
        (0, 4, year),
        (5, 2, month),
        (8, 2, day),
        (11, 2, inside / 3600),
        (14, 2, inside / 60 % 60),
        (17, 2, inside % 60),
    ] {
        digits(text.get_mut(place..place + width).unwrap_or_default(), value);
    }
    to.push_str(std::str::from_utf8(&text).unwrap_or_default());
    if nanos != 0 {
        let mut text = *b".000000000";
        digits(text.get_mut(1..).unwrap_or_default(), nanos.rem_euclid(1_000_000_000));
        to.push_str(std::str::from_utf8(&text).unwrap_or_default().trim_end_matches('0'));
    }
    to.push('Z');
}

/// Fills a field with a number, from its end.
fn digits(field: &mut [u8], mut value: i64) {
    for digit in field.iter_mut().rev() {
        *digit = b'0' + u8::try_from(value % 10).unwrap_or_default();
        value /= 10;
    }
}

/// Year, month and day of a number of days since 1970: eras of 400 years that begin on the first of March, so that the
/// day that some years have more is the last one.
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, day) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let (in_month, month) = (day - (153 * month + 2) / 5 + 1, if month < 10 { month + 3 } else { month - 9 });
    (year + era * 400 + i64::from(month <= 2), month, in_month)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_instant_is_printed_as_jiff_does() {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut noise = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        let edges =
            [-1, 0, 1, 951_782_399, 951_782_400, 4_107_542_399, -62_167_219_201, -62_167_219_200, 253_402_207_199];
        let random = (0..20_000).map(|_| i64::try_from(noise() % 377_000_000_000).unwrap() - 200_000_000_000);
        for seconds in edges.into_iter().chain(random.collect::<Vec<_>>()) {
            for nanos in [0, 1, 250_000_000, 999_999_999, -1, -500_000_000] {
                let Ok(at) = Timestamp::new(seconds, nanos) else { continue };
                let mut text = String::new();
                push(at, &mut text);
                assert_eq!(text, at.to_string());
            }
        }
    }
}
