//! Making hostile text safe for a terminal.

/// The text with everything escaped that could move a cursor, change colours, reverse reading order or hide: control
/// characters (C0, C1, DEL), direction marks and isolates (Unicode TR 36, "Bidirectional Text Spoofing"), and characters
/// without width. The backslash itself stays: this is for eyes, JSON is for machines.
pub fn printable(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        if is_hostile(c) { safe.extend(c.escape_default()) } else { safe.push(c) }
    }
    safe
}

fn is_hostile(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{061c}')
        || matches!(c, '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_acts_on_a_terminal_passes() {
        assert_eq!(printable("a\u{1b}]0;x\u{7}\n\u{9b}31m"), "a\\u{1b}]0;x\\u{7}\\n\\u{9b}31m");
        assert_eq!(printable("gnp\u{202e}.exe"), "gnp\\u{202e}.exe");
        assert_eq!(printable("Grüße, 世界"), "Grüße, 世界");
    }
}
