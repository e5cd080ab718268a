//! Segments into ranges of physical addresses: those that overlap must hold the same bytes, or be the kernel's own text.

use crate::image::{ReadError, Span};

/// Where x86-64 Linux maps its own text, and everything above.
const KERNEL_TEXT: u64 = 0xffff_ffff_8000_0000;

/// A program header.
#[derive(Debug, Clone, Copy)]
pub(super) struct Segment {
    pub(super) kind: u32,
    /// Physical; `None` if it says that it has none.
    pub(super) address: Option<u64>,
    pub(super) virt: u64,
    pub(super) from: u64,
    /// Bytes in the file.
    pub(super) stored: u64,
    /// Bytes in memory.
    pub(super) len: u64,
    /// Where its header stands.
    pub(super) header: u64,
}

/// What became of the segments.
#[derive(Debug, Default)]
pub(super) struct Merged {
    pub(super) spans: Vec<Span>,
    /// Start and length of what is not in the file.
    pub(super) lacking: Vec<(u64, u64)>,
    pub(super) without_address: usize,
    /// Segments of the kernel's text, of which others hold a part.
    pub(super) twice: usize,
}

/// Ranges that are apart.
pub(super) fn merge(mut segments: Vec<Segment>) -> Result<Merged, ReadError> {
    let mut merged = Merged::default();
    let text = |segment: &Segment| segment.virt >= KERNEL_TEXT;
    segments.sort_by_key(|segment| (segment.address, text(segment), std::cmp::Reverse(segment.stored)));
    let mut last: Option<(Span, bool)> = None;
    for segment in &segments {
        let Some(at) = segment.address else {
            merged.without_address += 1;
            continue;
        };
        if at.checked_add(segment.len).is_none() {
            let expected = "a range of addresses below 2^64";
            let found = format_args!("{:#x} bytes at {at:#x}", segment.len);
            return Err(ReadError::corrupt("ELF program header", segment.header, expected, found));
        }
        if segment.len > segment.stored {
            merged.lacking.push((at + segment.stored, segment.len - segment.stored));
        }
        let mut span = Span { at, len: segment.stored, from: Some(segment.from) };
        if let Some((before, before_text)) = &last
            && before.at + before.len > at
            && span.len > 0
        {
            let same = segment.from.wrapping_sub(before.from.unwrap_or(0)) == at - before.at;
            if !same && !before_text && !text(segment) {
                let expected =
                    format_args!("a segment behind {:#x}, where the one before ends", before.at + before.len);
                return Err(ReadError::corrupt(
                    "ELF program header",
                    segment.header,
                    expected,
                    format_args!("{at:#x}"),
                ));
            }
            merged.twice += usize::from(!same);
            let cut = (before.at + before.len - at).min(span.len);
            span = Span { at: at + cut, len: span.len - cut, from: Some(segment.from + cut) };
        }
        if span.len > 0 {
            merged.spans.push(span);
            last = Some((span, text(segment)));
        }
    }
    Ok(merged)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(address: u64, virt: u64, from: u64, stored: u64, len: u64) -> Segment {
        Segment { kind: 1, address: Some(address), virt, from, stored, len, header: 0 }
    }

    #[test]
    fn segments_that_agree_overlap_and_others_do_not() {
        let merged = merge(vec![
            segment(0x1000, KERNEL_TEXT, 0x100, 0x800, 0x800),
            segment(0x0, 0, 0x1000, 0x4000, 0x6000),
            segment(0x2000, 0x99, 0x3000, 0x3000, 0x3000),
        ]);
        let merged = merged.unwrap();
        assert_eq!(merged.spans.len(), 2);
        assert_eq!(merged.spans[1], Span { at: 0x4000, len: 0x1000, from: Some(0x5000) });
        assert_eq!((merged.twice, merged.lacking), (1, vec![(0x4000, 0x2000)]));
        let apart = merge(vec![segment(0, 0, 0, 0x1000, 0x1000), segment(0x800, 0, 0x5000, 0x1000, 0x1000)]);
        assert!(matches!(apart, Err(ReadError::Corrupt { .. })));
    }
}
