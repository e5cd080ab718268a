//! The tables of kallsyms in a stretch of memory: where each begins, and the addresses.

use super::KERNEL_MAP;
use super::addresses::{Form, Stored};
use super::names::{LONGEST, STEP, head};

/// What the token table holds for the ten digits: nobody abbreviates with them, so they stand for themselves.
pub const TOKENS: &[u8] = b"0\x001\x002\x003\x004\x005\x006\x007\x008\x009\x00";

/// What is said of ten digits that begin no token table.
pub const DECOY: &str = "its token table and its index disagree";

/// More symbols than any kernel has.
const MOST: usize = 4_000_000;
/// Bytes that 256 names take, at least and at most.
const STRIDE: std::ops::RangeInclusive<u32> = 512..=32_768;
/// The fewest markers that are taken for a table.
const FEW: usize = 100;

pub(super) struct Tables<'a> {
    window: &'a [u8],
    pub(super) tokens: Vec<&'a [u8]>,
    /// Where the names begin, and from there on every 256th.
    pub(super) names: usize,
    pub(super) markers: Vec<u32>,
    /// Where `num_syms` stands, and the end of `token_index`: addresses are before the one or behind the other.
    num_syms: usize,
    index_end: usize,
    /// Bytes that each table's begin is a multiple of: eight, and four in kernels since 7.1 or so.
    aligned: usize,
    pub(super) count: usize,
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at.checked_add(8)?)?.try_into().ok()?))
}

impl<'a> Tables<'a> {
    pub(super) fn find(window: &'a [u8], hit: usize) -> Result<Self, String> {
        let (tokens, table, index_end) = tokens(window, hit).ok_or(DECOY)?;
        let (at, run) = markers(window, table).ok_or("no markers stand before its token table")?;
        let mut tables = Self { window, tokens, names: 0, markers: run, num_syms: 0, index_end, aligned: 8, count: 0 };
        // The run may go on into what follows: it is the number of symbols that says how many markers there are.
        for most in (FEW..=tables.markers.len()).rev().take(8) {
            let Some(&last) = tables.markers.get(most - 1) else { continue };
            let from = at.saturating_sub(last as usize + *STRIDE.end() as usize + 16) & !3;
            let to = at.saturating_sub(last as usize + 4);
            for place in (from..to).step_by(4).rev() {
                if tables.number_stands_at(place, most) && tables.names_begin(place, most, at) {
                    return Ok(tables);
                }
            }
        }
        Err("no number of symbols fits its names and markers".to_owned())
    }

    /// Is the number at `place` one of symbols that have `most` markers?
    fn number_stands_at(&mut self, place: usize, most: usize) -> bool {
        let Some(count) = u32_at(self.window, place).map(|count| count as usize) else { return false };
        (self.num_syms, self.count) = (place, count);
        count <= MOST && count.div_ceil(STEP) == most
    }

    /// Do the names begin behind the number at `place`, with the tables aligned one way or the other?
    fn names_begin(&mut self, place: usize, most: usize, end: usize) -> bool {
        [8, 4].into_iter().any(|aligned| {
            (self.names, self.aligned) = (place + aligned, aligned);
            place.is_multiple_of(aligned) && self.markers_agree(most, end)
        })
    }

    fn markers_agree(&self, most: usize, end: usize) -> bool {
        let mut at = self.names;
        for n in 0..self.count {
            if n % STEP == 0 && self.markers.get(n / STEP).is_none_or(|marker| self.names + *marker as usize != at) {
                return false;
            }
            let Some((len, begin)) = head(self.window, at).filter(|(len, _)| *len > 0) else { return false };
            at = begin + len;
        }
        self.count.div_ceil(STEP) == most && at <= end && end - at < 16
    }

    /// Where the addresses are, and in which form. `at` is where the window begins.
    pub(super) fn addresses(&self, at: u64) -> Option<Stored> {
        let count = self.count;
        let stored = |form, at, base| Stored { form, at, count, base };
        let len = count.checked_mul(4)?;
        let aligned = len.next_multiple_of(8);
        let after = self.index_end.next_multiple_of(self.aligned);
        let before = self.num_syms.checked_sub(8).and_then(|base| Some((base.checked_sub(aligned)?, base)));
        let to_base = before.into_iter().chain([(after, after + aligned)]).filter_map(|(offsets, base)| {
            let base = u64_at(self.window, base)?;
            let is_one = base >= KERNEL_MAP >> 16 && base.is_multiple_of(4096);
            is_one.then_some([stored(Form::BasePercpu, offsets, base), stored(Form::Base, offsets, base)])
        });
        let relative = stored(Form::Relative, after, at.wrapping_add(after as u64));
        let full = self.num_syms.checked_sub(count.checked_mul(8)?).map(|begin| stored(Form::Full, begin, 0));
        to_base.flatten().chain([relative]).chain(full).find(|stored| stored.makes_sense(self.window))
    }
}

/// The 256 tokens, where their table begins, and where its index ends.
pub(super) fn tokens(window: &[u8], hit: usize) -> Option<(Vec<&[u8]>, usize, usize)> {
    // The tokens from '0' on tell where the table ends.
    let mut end = hit;
    for _ in b'0'..=255 {
        let token = window.get(end..end.checked_add(LONGEST)?.min(window.len()))?;
        end += token.iter().position(|&byte| byte == 0)? + 1;
    }
    let from = end.next_multiple_of(2);
    for index in (from..from + 16).step_by(2) {
        let words: Vec<usize> = window
            .get(index..index + 512)?
            .chunks_exact(2)
            .map(|word| word.try_into().map_or(0, u16::from_le_bytes) as usize)
            .collect();
        let Some(table) = words.get(usize::from(b'0')).and_then(|&offset| hit.checked_sub(offset)) else { continue };
        if words.first() != Some(&0) || words.iter().zip(words.iter().skip(1)).any(|(one, next)| one >= next) {
            continue;
        }
        let ends = words.iter().skip(1).map(|next| table + next).chain([end]);
        let all: Option<Vec<&[u8]>> = words
            .iter()
            .zip(ends)
            .map(|(&begin, end)| window.get(table + begin..end).and_then(|text| text.split_last()))
            .map(|split| split.filter(|(last, text)| **last == 0 && text.len() < LONGEST && !text.contains(&0)))
            .map(|split| split.map(|(_, text)| text))
            .collect();
        if let Some(all) = all {
            return Some((all, table, index + 512));
        }
    }
    None
}

/// Where the markers begin, and their run: the longest that stands in front of the token table.
fn markers(window: &[u8], table: usize) -> Option<(usize, Vec<u32>)> {
    // Between the markers and the table may stand three bytes for each symbol.
    let nearest = table.saturating_sub(4 * FEW) & !3;
    let furthest = table.saturating_sub(MOST / STEP * 4 + 3 * MOST);
    let stride = |one: u32, next: u32| next.checked_sub(one).is_some_and(|delta| STRIDE.contains(&delta));
    for at in (furthest.next_multiple_of(4)..nearest + 4).step_by(4).rev() {
        if u32_at(window, at) != Some(0) || !u32_at(window, at + 4).is_some_and(|next| stride(0, next)) {
            continue;
        }
        let mut run = vec![0];
        let words = (1..).map_while(|n| u32_at(window, at + 4 * n).filter(|_| at + 4 * n < table));
        for next in words {
            if !run.last().is_some_and(|&last| stride(last, next)) {
                break;
            }
            run.push(next);
        }
        if run.len() >= FEW {
            return Some((at, run));
        }
    }
    None
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
