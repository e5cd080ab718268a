//! Which addresses came: each once, inside, and how far the beginning is filled.
//!
//! Two levels. The address space is cut into at most about a million cells of 1 MiB or more; a cell is untouched, full,
//! or holds one bit a grain. So 64 GiB of memory in random order cost at most 4 MiB, 10 TB of disk read in order 16 MiB.

use std::ops::Range;

use impound_backends::GRAIN;

/// The least length of a cell in bytes.
const LEAST: u64 = 1 << 20;

/// What a cell knows.
#[derive(Debug)]
enum Fill {
    Empty,
    /// One bit a grain, set when it came. Bits beyond the end of the item are set.
    Part(Box<[u64]>),
    Full,
}

#[derive(Debug)]
struct Cell {
    fill: Fill,
    /// Bytes were written into it; otherwise it is a hole.
    data: bool,
}

/// What came of an item.
#[derive(Debug)]
pub(super) struct Coverage {
    len: u64,
    span: u64,
    cells: Vec<Cell>,
    /// What is there at all: the rest counts as filled.
    regions: Vec<Range<u64>>,
    /// Everything below came, or is not there.
    frontier: u64,
    /// The region the frontier is in or before.
    region: usize,
    /// End of the last address that came.
    pub(super) high: u64,
}

impl Coverage {
    /// Nothing came yet of `len` bytes, of which only `regions` (ascending, apart) are expected.
    pub(super) fn new(len: u64, regions: Vec<Range<u64>>) -> Self {
        let span = LEAST.max((len >> 20).next_power_of_two());
        let count = usize::try_from(len.div_ceil(span)).unwrap_or(usize::MAX);
        let cells = std::iter::repeat_with(|| Cell { fill: Fill::Empty, data: false }).take(count).collect();
        Self { len, span, cells, regions, frontier: 0, region: 0, high: 0 }
    }

    /// May `len` bytes at `at` come now, with bytes or as a hole? `Err` says what is wrong with them.
    pub(super) fn check(&self, at: u64, len: u64, data: bool) -> Result<(), String> {
        let end = at.checked_add(len).filter(|end| *end <= self.len);
        let Some(end) = end else {
            return Err(format!("{len} bytes at {at} do not lie inside the {} bytes of the item", self.len));
        };
        if len == 0 {
            return Err(format!("an empty piece at {at}"));
        }
        if !at.is_multiple_of(GRAIN) || !(end.is_multiple_of(GRAIN) || end == self.len) {
            return Err(format!("{len} bytes at {at} do not begin and end on a multiple of {GRAIN}"));
        }
        if let Some(twice) = self.first_taken(at, end) {
            return Err(format!("address {twice} came twice (in a piece of {len} bytes at {at})"));
        }
        // The frontier has passed over what is not there, so bytes there would miss their hashes.
        if data && !self.expected(at, end) {
            return Err(format!("{len} bytes at {at} lie where the target says that nothing is"));
        }
        Ok(())
    }

    /// Notes that they came. They must have passed [`Coverage::check`].
    pub(super) fn note(&mut self, at: u64, len: u64, data: bool) {
        let end = at.saturating_add(len).min(self.len);
        if at < end {
            self.take(at, end, data);
            self.high = self.high.max(end);
        }
    }

    /// Does all of `at..end` lie in regions?
    fn expected(&self, at: u64, end: u64) -> bool {
        let first = self.regions.partition_point(|region| region.end <= at);
        let mut next = at;
        for region in self.regions.iter().skip(first) {
            if region.start > next || next >= end {
                break;
            }
            next = region.end;
        }
        next >= end
    }

    /// The first address of `at..end` that came already.
    fn first_taken(&self, at: u64, end: u64) -> Option<u64> {
        let mut next = at;
        while next < end {
            let (came, stop) = self.run_at(next);
            if came {
                return Some(next);
            }
            next = stop;
        }
        None
    }

    fn take(&mut self, at: u64, end: u64, data: bool) {
        let (span, len) = (self.span, self.len);
        let first = at / span;
        let count = usize::try_from((end - 1) / span - first + 1).unwrap_or(usize::MAX);
        let skip = usize::try_from(first).unwrap_or(usize::MAX);
        for (index, cell) in (first..).zip(self.cells.iter_mut().skip(skip).take(count)) {
            let start = index * span;
            let stop = start.saturating_add(span).min(len);
            let within = at.max(start) - start..end.min(stop) - start;
            cell.data |= data;
            cell.take(&within, stop - start);
        }
    }

    /// Did the grain at `at` come, and up to where is it the same within its cell?
    fn run_at(&self, at: u64) -> (bool, u64) {
        let start = at / self.span * self.span;
        let stop = start.saturating_add(self.span).min(self.len);
        let index = usize::try_from(at / self.span).unwrap_or(usize::MAX);
        match self.cells.get(index).map(|cell| &cell.fill) {
            None | Some(Fill::Full) => (true, stop.max(at + 1)),
            Some(Fill::Empty) => (false, stop),
            Some(Fill::Part(bits)) => {
                let (came, grain) = run(bits, (at - start) / GRAIN);
                (came, start.saturating_add(grain.saturating_mul(GRAIN)).min(stop))
            }
        }
    }

    /// Moves the frontier as far as it goes and tells each step: the address below which all is filled now, and whether
    /// bytes were written on the way (else it is a hole).
    pub(super) fn advance(&mut self, mut tell: impl FnMut(u64, bool)) -> u64 {
        while self.frontier < self.len {
            let (start, end) = self.regions.get(self.region).map_or((self.len, self.len), |r| (r.start, r.end));
            if self.frontier < start {
                self.frontier = start;
                tell(start, false);
                continue;
            }
            if self.frontier >= end {
                self.region += 1;
                continue;
            }
            let (came, stop) = self.run_at(self.frontier);
            if !came {
                break;
            }
            let index = usize::try_from(self.frontier / self.span).unwrap_or(usize::MAX);
            let data = self.cells.get(index).is_some_and(|cell| cell.data);
            self.frontier = stop.min(end);
            tell(self.frontier, data);
        }
        self.frontier
    }

    /// Tells every range below `below` that never came, and whether it was expected.
    pub(super) fn missing(&self, mut tell: impl FnMut(Range<u64>, bool)) {
        let mut after = 0;
        for region in &self.regions {
            self.missing_within(after..region.start, |range| tell(range, false));
            self.missing_within(region.clone(), |range| tell(range, true));
            after = region.end;
        }
        self.missing_within(after..self.len, |range| tell(range, false));
    }

    fn missing_within(&self, within: Range<u64>, mut tell: impl FnMut(Range<u64>)) {
        let (mut at, mut open) = (within.start, None);
        while at < within.end {
            let (came, stop) = self.run_at(at);
            match (came, open) {
                (false, None) => open = Some(at),
                (true, Some(start)) => {
                    tell(start..at);
                    open = None;
                }
                _ => {}
            }
            at = stop.min(within.end);
        }
        if let Some(start) = open {
            tell(start..within.end);
        }
    }

    /// Bytes were written into the cell of `at`, and where that cell ends.
    pub(super) fn data_at(&self, at: u64) -> (bool, u64) {
        let index = usize::try_from(at / self.span).unwrap_or(usize::MAX);
        let stop = (at / self.span).saturating_add(1).saturating_mul(self.span).min(self.len);
        (self.cells.get(index).is_some_and(|cell| cell.data), stop)
    }
}

impl Cell {
    /// Sets the grains of `within` (bytes from the cell's beginning) of a cell of `len` bytes.
    fn take(&mut self, within: &Range<u64>, len: u64) {
        let grains = within.start / GRAIN..within.end.div_ceil(GRAIN);
        let count = len.div_ceil(GRAIN);
        if grains.end - grains.start == count {
            self.fill = Fill::Full;
            return;
        }
        if let Fill::Empty = self.fill {
            let words = usize::try_from(count.div_ceil(64)).unwrap_or(0);
            let mut bits = vec![0; words].into_boxed_slice();
            set(&mut bits, &(count..count.next_multiple_of(64)));
            self.fill = Fill::Part(bits);
        }
        if let Fill::Part(bits) = &mut self.fill {
            set(bits, &grains);
            if bits.iter().all(|word| *word == u64::MAX) {
                self.fill = Fill::Full;
            }
        }
    }
}

/// Sets a range of bits.
fn set(bits: &mut [u64], range: &Range<u64>) {
    for (word, base) in bits.iter_mut().zip((0_u64..).step_by(64)) {
        let (from, to) = (range.start.max(base), range.end.min(base + 64));
        if from < to {
            // `to - from` is 1 to 64, so neither shift overflows.
            *word |= (u64::MAX >> (64 - (to - from))) << (from - base);
        }
    }
}

/// Is bit `from` set, and where does the run of equal bits end?
fn run(bits: &[u64], from: u64) -> (bool, u64) {
    let word = |at: u64| usize::try_from(at / 64).ok().and_then(|index| bits.get(index)).copied();
    let set = word(from).is_none_or(|word| word >> (from % 64) & 1 == 1);
    let mut at = from;
    while let Some(word) = word(at) {
        let differing = if set { !word } else { word } >> (at % 64);
        if differing != 0 {
            return (set, at + u64::from(differing.trailing_zeros()));
        }
        at = (at / 64 + 1) * 64;
    }
    (set, at)
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Coverage {
        fn claim(&mut self, at: u64, len: u64, data: bool) -> Result<(), String> {
            self.check(at, len, data)?;
            self.note(at, len, data);
            Ok(())
        }
    }

    fn whole(len: u64) -> Coverage {
        Coverage::new(len, std::iter::once(0..len).collect())
    }

    fn missing(coverage: &Coverage) -> Vec<(Range<u64>, bool)> {
        let mut out = Vec::new();
        coverage.missing(|range, expected| out.push((range, expected)));
        out
    }

    #[test]
    fn what_comes_twice_outside_or_off_the_grain_is_refused_and_leaves_no_trace() {
        let mut coverage = whole((3 << 20) + 100);
        coverage.claim(4096, 8192, true).unwrap();
        for (at, len, word) in [
            (8192, 4096, "twice"),
            (0, 3 << 20, "twice"),
            (0, 8192, "4096 came twice"),
            (1, 4096, "multiple"),
            (0, 100, "multiple"),
            (3 << 20, 4096, "inside"),
            (u64::MAX - 4095, 4096, "inside"),
            (0, 0, "empty"),
        ] {
            let error = coverage.claim(at, len, true).unwrap_err();
            assert!(error.contains(word), "{at} {len}: {error}");
        }
        assert_eq!(missing(&coverage), [(0..4096, true), (12288..(3 << 20) + 100, true)]);
        coverage.claim(3 << 20, 100, true).unwrap();
    }

    #[test]
    fn any_order_ends_with_everything_and_the_frontier_is_the_filled_beginning() {
        let grains = 1025_u64;
        let mut coverage = whole(grains * GRAIN - 77);
        let mut left: Vec<bool> = vec![true; usize::try_from(grains).unwrap()];
        for step in 0..grains {
            let grain = step * 383 % grains; // 383 and 1025 share no factor, so each comes once
            let at = grain * GRAIN;
            coverage.claim(at, GRAIN.min(coverage.len - at), step % 2 == 0).unwrap();
            left[usize::try_from(grain).unwrap()] = false;
            let filled = left.iter().position(|x| *x).map_or(coverage.len, |grain| grain as u64 * GRAIN);
            assert_eq!(coverage.advance(|_, _| {}), filled);
        }
        assert!(missing(&coverage).is_empty());
    }

    #[test]
    fn what_is_not_there_does_not_hold_the_frontier() {
        let mut coverage = Coverage::new(0x10000, vec![0x2000..0x4000, 0x8000..0x9000]);
        let mut steps = Vec::new();
        coverage.advance(|to, data| steps.push((to, data)));
        assert!(coverage.claim(0x4000, 0x1000, true).unwrap_err().contains("nothing is"));
        assert!(coverage.claim(0x3000, 0x2000, true).is_err());
        coverage.claim(0x2000, 0x2000, true).unwrap();
        coverage.advance(|to, data| steps.push((to, data)));
        coverage.claim(0x8000, 0x1000, false).unwrap();
        assert_eq!(coverage.advance(|_, _| {}), 0x10000);
        assert_eq!(steps, [(0x2000, false), (0x4000, true), (0x8000, false)]);
        let not_there = [(0..0x2000, false), (0x4000..0x8000, false), (0x9000..0x10000, false)];
        assert_eq!(missing(&coverage), not_there);
    }

    #[test]
    fn ten_terabytes_cost_little() {
        let len = 10_u64 << 40;
        let mut coverage = whole(len);
        coverage.claim(0, 5 << 40, false).unwrap();
        coverage.claim((5 << 40) + 4096, (5 << 40) - 4096, false).unwrap();
        assert_eq!(coverage.advance(|_, _| {}), 5 << 40);
        coverage.claim(5 << 40, 4096, true).unwrap();
        assert_eq!(coverage.advance(|_, _| {}), len);
        let bytes = coverage.cells.len() * size_of::<Cell>();
        assert!(bytes <= 32 << 20, "{bytes}");
    }

    #[test]
    fn an_empty_item_is_filled_from_the_beginning() {
        let mut coverage = whole(0);
        assert_eq!(coverage.advance(|_, _| {}), 0);
        assert!(missing(&coverage).is_empty());
        assert!(coverage.claim(0, 4096, true).is_err());
    }
}
