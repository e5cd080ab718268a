//! The tables of kallsyms in a stretch of memory: where each begins, and how it is decoded.

/// What the token table holds for the ten digits: nobody abbreviates with them, so they stand for themselves.
pub const TOKENS: &[u8] = b"0\x001\x002\x003\x004\x005\x006\x007\x008\x009\x00";

/// What is said of ten digits that begin no token table.
pub const DECOY: &str = "its token table and its index disagree";

/// More symbols than any kernel has.
const MOST: usize = 4_000_000;
/// Names a marker apart.
const STEP: usize = 256;
/// Bytes that 256 names take, at least and at most.
const STRIDE: std::ops::RangeInclusive<u32> = 512..=32_768;
/// More bytes than any kernel's image has.
const LARGEST: u64 = 1 << 30;
/// The fewest markers that are taken for a table.
const FEW: usize = 100;
/// Bytes that most names take on an average, at most; that one takes at most (`KSYM_NAME_LEN` is 512); and that all do.
const ROOM: usize = 32;
const LONGEST_NAME: usize = 4096;
const MOST_BYTES: usize = 1 << 28;
/// Bytes that most tokens take, and the most that one does.
const SHORT: usize = 16;
const LONGEST: usize = 256;

/// How addresses are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Offsets to a base; what each CPU has its own is positive, all else negative.
    BasePercpu,
    /// Offsets to a base.
    Base,
    /// Offsets to the place they stand at: addresses are told as if the table were mapped where it was read from.
    Relative,
    /// Full addresses.
    Full,
    /// None: they were read from a symbol file.
    Listed,
}

pub(super) struct Tables<'a> {
    window: &'a [u8],
    tokens: Vec<&'a [u8]>,
    names: usize,
    markers: Vec<u32>,
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

    /// Length of a name and where its tokens begin.
    fn name(&self, at: usize) -> Option<(usize, usize)> {
        let first = *self.window.get(at)?;
        if first < 0x80 {
            return Some((first as usize, at + 1));
        }
        let second = *self.window.get(at + 1)?;
        Some(((first & 0x7f) as usize | (second as usize) << 7, at + 2))
    }

    fn markers_agree(&self, most: usize, end: usize) -> bool {
        let mut at = self.names;
        for n in 0..self.count {
            if n % STEP == 0 && self.markers.get(n / STEP).is_none_or(|marker| self.names + *marker as usize != at) {
                return false;
            }
            let Some((len, begin)) = self.name(at).filter(|(len, _)| *len > 0) else { return false };
            at = begin + len;
        }
        self.count.div_ceil(STEP) == most && at <= end && end - at < 16
    }

    /// Every name, one behind the other and each with its letter in front; `take` gets the letter and where the name ends. None if one
    /// is cut short, or longer than any is.
    pub(super) fn names(&self, mut take: impl FnMut(u8, usize)) -> Option<Vec<u8>> {
        let table: Vec<Token<'_>> = self.tokens.iter().map(|text| Token::of(text)).collect();
        // Room that is not used costs nothing.
        let (mut all, mut end, mut at) = (vec![0; self.count.saturating_mul(ROOM)], 0_usize, self.names);
        for _ in 0..self.count {
            let (len, begin) = self.name(at)?;
            at = begin.checked_add(len)?;
            let tokens = self.window.get(begin..at)?;
            let (first, room) = (end, tokens.len() * LONGEST);
            if all.len() - end < room {
                all.resize(all.len() * 2 + room, 0);
            }
            for token in tokens.iter().filter_map(|&token| table.get(usize::from(token))) {
                // Nearly all are short: a copy whose length is known beforehand costs a tenth of one that is not.
                if token.text.len() <= SHORT {
                    all.get_mut(end..end + SHORT)?.copy_from_slice(&token.short);
                } else {
                    all.get_mut(end..end + token.text.len())?.copy_from_slice(token.text);
                }
                end += token.text.len();
            }
            if end - first > LONGEST_NAME || end > MOST_BYTES {
                return None;
            }
            let kind = all.get(first).filter(|_| end > first)?;
            take(*kind, end);
        }
        all.truncate(end);
        Some(all)
    }

    /// All addresses, in whichever form is there. `at` is where the window begins.
    pub(super) fn addresses(&self, at: u64) -> Option<(Form, Vec<u64>)> {
        let len = self.count.checked_mul(4)?;
        let aligned = len.next_multiple_of(8);
        let after = self.index_end.next_multiple_of(self.aligned);
        let before = self.num_syms.checked_sub(8).and_then(|base| Some((base.checked_sub(aligned)?, base)));
        for (offsets, base) in before.into_iter().chain([(after, after + aligned)]) {
            let (Some(offsets), Some(base)) = (self.window.get(offsets..offsets + len), u64_at(self.window, base))
            else {
                continue;
            };
            let relative = |decode: fn(u64, i32) -> u64| ascending(offsets, |_, word| decode(base, word));
            if base < super::KERNEL_MAP >> 16 || !base.is_multiple_of(4096) {
                continue;
            }
            if let Some(list) = relative(percpu) {
                return Some((Form::BasePercpu, list));
            }
            if let Some(list) = relative(|base, word| base.wrapping_add(u64::from(word as u32))) {
                return Some((Form::Base, list));
            }
        }
        if let Some(offsets) = self.window.get(after..after + len) {
            let begin = at.wrapping_add(after as u64);
            let decode = |n: usize, word: i32| begin.wrapping_add(4 * n as u64).wrapping_add_signed(i64::from(word));
            let list = words(offsets, decode);
            if climbs(&list) && list.last()?.wrapping_sub(*list.first()?) < LARGEST {
                return Some((Form::Relative, list));
            }
        }
        let begin = self.num_syms.checked_sub(self.count.checked_mul(8)?)?;
        let words = self.window.get(begin..self.num_syms)?.chunks_exact(8);
        let list: Vec<u64> = words.map(|word| word.try_into().map_or(0, u64::from_le_bytes)).collect();
        is_ascending(&list).then_some((Form::Full, list))
    }
}

/// A token, and its first bytes with nothing behind them.
struct Token<'a> {
    text: &'a [u8],
    short: [u8; SHORT],
}

impl<'a> Token<'a> {
    fn of(text: &'a [u8]) -> Self {
        let mut short = [0; SHORT];
        for (byte, of) in short.iter_mut().zip(text) {
            *byte = *of;
        }
        Self { text, short }
    }
}

fn percpu(base: u64, word: i32) -> u64 {
    if word >= 0 { word as u64 } else { base.wrapping_sub(1).wrapping_sub(i64::from(word) as u64) }
}

fn words(offsets: &[u8], decode: impl Fn(usize, i32) -> u64) -> Vec<u64> {
    let words = offsets.chunks_exact(4).map(|word| word.try_into().map_or(0, i32::from_le_bytes));
    words.enumerate().map(|(n, word)| decode(n, word)).collect()
}

fn ascending(offsets: &[u8], decode: impl Fn(usize, i32) -> u64) -> Option<Vec<u64>> {
    let list = words(offsets, decode);
    is_ascending(&list).then_some(list)
}

/// They climb, and most lie in the kernel's part.
fn is_ascending(list: &[u64]) -> bool {
    let high = list.iter().filter(|&&address| address >= 1 << 63).count();
    climbs(list) && high * 2 > list.len()
}

/// Nearly all go up, and they are not all the same.
fn climbs(list: &[u64]) -> bool {
    let falls = list.iter().zip(list.iter().skip(1)).filter(|(one, next)| one > next).count();
    falls * 1000 <= list.len() && list.first() < list.last()
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
