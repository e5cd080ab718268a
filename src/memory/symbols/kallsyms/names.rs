//! Names as the kernel keeps them: each its length, then so many tokens, the letter of its kind in front. They are decoded when they are asked
//! for: to find a name, a number for each token is enough.

use std::sync::Arc;

use super::super::{ByName, MIX};

/// Names a marker apart.
pub(super) const STEP: usize = 256;
/// Bytes that most tokens take, and the most that one does.
const SHORT: usize = 16;
pub(super) const LONGEST: usize = 256;
/// Bytes that one name takes at most (`KSYM_NAME_LEN` is 512), and that all do; and what is left for one on an average.
const LONGEST_NAME: usize = 4096;
const MOST_BYTES: usize = 1 << 28;
const ROOM: usize = 32;
/// What a letter counts for in a name's number, times that of the one behind it.
const STRIDE: u64 = MIX;

/// Length of a name in tokens, and where the first stands.
pub(super) fn head(bytes: &[u8], at: usize) -> Option<(usize, usize)> {
    match *bytes.get(at)? {
        first if first < 0x80 => Some((first as usize, at + 1)),
        first => Some(((first & 0x7f) as usize | (*bytes.get(at + 1)? as usize) << 7, at + 2)),
    }
}

/// The tokens of the name at `at`, and where the next name begins.
fn name_at(bytes: &[u8], at: usize) -> Option<(&[u8], usize)> {
    let (len, begin) = head(bytes, at)?;
    let end = begin.checked_add(len)?;
    Some((bytes.get(begin..end)?, end))
}

/// The number of a name or a part of one.
fn number(text: &[u8]) -> u64 {
    text.iter().fold(0, |number: u64, &byte| number.wrapping_mul(STRIDE).wrapping_add(u64::from(byte)))
}

/// What a token adds to a name's number.
#[derive(Clone, Copy, Default)]
struct Part {
    number: u64,
    /// What the letters before it are multiplied by.
    stride: u64,
    /// What the first letter adds.
    letter: u64,
    len: usize,
}

impl Part {
    fn of(text: &[u8]) -> Self {
        let stride_of = |len: usize| (0..len).fold(1, |stride: u64, _| stride.wrapping_mul(STRIDE));
        let letter = text.first().map_or(0, |&letter| stride_of(text.len() - 1).wrapping_mul(u64::from(letter)));
        Self { number: number(text), stride: stride_of(text.len()), letter, len: text.len() }
    }

    /// Without the letter of a kind, which the first token begins with.
    fn behind_letter(self) -> Self {
        Self { number: self.number.wrapping_sub(self.letter), ..self }
    }

    fn with(self, more: Self) -> Self {
        let number = self.number.wrapping_mul(more.stride).wrapping_add(more.number);
        Self { number, len: self.len + more.len, ..self }
    }
}

/// See the module.
pub(super) struct Names {
    bytes: Arc<Vec<u8>>,
    /// Where the first begins in `bytes`, and from there on every 256th.
    begin: usize,
    markers: Vec<u32>,
    tokens: Vec<Box<[u8]>>,
    count: usize,
}

/// All names, decoded.
pub(super) struct Plain {
    pub(super) text: String,
    /// Of each: where it begins in `text`, its length, its letter.
    pub(super) list: Vec<(u32, u16, u8)>,
}

impl Names {
    /// So many names in `bytes` from `begin` on. `markers` tell where every 256th begins.
    pub(super) fn new(
        bytes: Arc<Vec<u8>>,
        begin: usize,
        count: usize,
        markers: Vec<u32>,
        tokens: Vec<Box<[u8]>>,
    ) -> Self {
        Self { bytes, begin, markers, tokens, count }
    }

    /// Of names that are known from elsewhere: each letter is its own token. One that is longer than any is cut.
    pub(super) fn listed<'a>(names: impl Iterator<Item = &'a str>) -> Self {
        let (mut bytes, mut markers, mut count) = (Vec::new(), Vec::new(), 0);
        for name in names {
            if count % STEP == 0 {
                markers.push(bytes.len() as u32);
            }
            let name = name.as_bytes().get(..name.len().min(LONGEST_NAME - 1)).unwrap_or_default();
            let len = name.len() + 1;
            bytes.extend([(len & 0x7f) as u8 | 0x80, (len >> 7) as u8, b'?']);
            bytes.extend_from_slice(name);
            count += 1;
        }
        let tokens = (0..=255).map(|letter| Box::from([letter])).collect();
        Self::new(Arc::new(bytes), 0, count, markers, tokens)
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// Where each is found by its name. None if one is cut short, or longer than any is.
    pub(super) fn index(&self) -> Option<ByName> {
        let mut parts = [Part::default(); 256];
        parts.iter_mut().zip(&self.tokens).for_each(|(part, text)| *part = Part::of(text));
        let part = |token: u8| parts.get(usize::from(token)).copied().unwrap_or_default();
        let mut index = ByName::for_about(self.count);
        let (mut at, mut all) = (self.begin, 0);
        for _ in 0..self.count {
            let (tokens, next) = name_at(&self.bytes, at)?;
            let (first, rest) = tokens.split_first()?;
            let first = Some(part(*first)).filter(|first| first.len > 0)?.behind_letter();
            let name = rest.iter().fold(first, |name, &token| name.with(part(token)));
            all += name.len;
            if name.len > LONGEST_NAME || all > MOST_BYTES {
                return None;
            }
            index.add(name.number);
            at = next;
        }
        Some(index)
    }

    /// The first of this name.
    pub(super) fn find(&self, index: &ByName, name: &str) -> Option<usize> {
        let (mut here, mut at) = (0, self.begin);
        // They ascend, so that the names in between are passed over once, however many candidates somebody made.
        index.find(number(name.as_bytes())).find(|&n| {
            if n / STEP > here / STEP {
                let marker = self.markers.get(n / STEP).map_or(usize::MAX, |&marker| self.begin + marker as usize);
                (here, at) = (n / STEP * STEP, marker);
            }
            while here < n {
                (here, at) = (here + 1, name_at(&self.bytes, at).map_or(usize::MAX, |(_, next)| next));
            }
            name_at(&self.bytes, at).is_some_and(|(tokens, _)| self.is(tokens, name))
        })
    }

    /// Are these the tokens of the name?
    fn is(&self, tokens: &[u8], name: &str) -> bool {
        let mut texts = tokens.iter().filter_map(|&token| self.tokens.get(usize::from(token)));
        let first = texts.next().and_then(|text| text.get(1..));
        let rest = first.and_then(|first| name.as_bytes().strip_prefix(first));
        texts.try_fold(rest, |rest, text| Some(rest?.strip_prefix(&**text))).flatten().is_some_and(<[u8]>::is_empty)
    }

    /// All of them, decoded.
    pub(super) fn plain(&self) -> Plain {
        let table: Vec<Token<'_>> = self.tokens.iter().map(|text| Token::of(text)).collect();
        let mut list = Vec::with_capacity(self.count);
        // Room that is not used costs nothing.
        let (mut text, mut end, mut at) = (vec![0; self.count.saturating_mul(ROOM)], 0_usize, self.begin);
        while let Some((tokens, next)) = name_at(&self.bytes, at).filter(|_| list.len() < self.count) {
            let (first, room) = (end, tokens.len() * LONGEST);
            if text.len() - end < room {
                text.resize(text.len() * 2 + room, 0);
            }
            for token in tokens.iter().filter_map(|&token| table.get(usize::from(token))) {
                end = token.put(&mut text, end);
            }
            let kind = text.get(first).copied().unwrap_or(b'?');
            list.push((first as u32 + 1, (end - first).saturating_sub(1) as u16, kind));
            at = next;
        }
        text.truncate(end);
        Plain { text: ascii(text), list }
    }
}

impl Plain {
    /// One of them, and its letter.
    pub(super) fn name(&self, n: usize) -> Option<(&str, char)> {
        let &(begin, len, kind) = self.list.get(n)?;
        let begin = begin as usize;
        Some((self.text.get(begin..begin.saturating_add(usize::from(len))).unwrap_or_default(), char::from(kind)))
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

    /// Writes it at `end`; answers the new end.
    fn put(&self, all: &mut [u8], end: usize) -> usize {
        // Nearly all are short: a copy whose length is known beforehand costs a tenth of one that is not.
        let len = self.text.len();
        if len > SHORT {
            all.iter_mut().skip(end).zip(self.text).for_each(|(byte, of)| *byte = *of);
        } else if let Some(room) = all.get_mut(end..end + SHORT) {
            room.copy_from_slice(&self.short);
        }
        end + len
    }
}

/// Names are ASCII: what else is there, is damage.
fn ascii(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap_or_else(|error| {
        let bytes = error.into_bytes().into_iter();
        bytes.map(|byte| if byte.is_ascii() { char::from(byte) } else { '?' }).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names of these tokens, by their numbers.
    fn names(of: &[&[u8]], tokens: &[(u8, &str)]) -> Names {
        let (mut bytes, mut markers) = (b"before".to_vec(), Vec::new());
        for (n, name) in of.iter().enumerate() {
            if n % STEP == 0 {
                markers.push(bytes.len() as u32 - 6);
            }
            bytes.push(name.len() as u8);
            bytes.extend_from_slice(name);
        }
        let text = |number: u8| tokens.iter().find(|(n, _)| *n == number).map_or("", |(_, text)| text);
        let tokens = (0..=255).map(|number| Box::from(text(number).as_bytes())).collect();
        Names::new(Arc::new(bytes), 6, of.len(), markers, tokens)
    }

    #[test]
    fn a_name_is_found_however_it_is_cut_into_tokens_and_the_first_of_several_is() {
        let tokens = [(1, "Ta"), (2, "T"), (3, "a_long_part_of_many_names"), (4, "b"), (5, "_end"), (6, "Tab_end")];
        let different: [&[u8]; 6] = [&[1], &[1, 4], &[2, 3], &[2, 3, 5], &[1, 3, 4], &[2]];
        let same: [&[u8]; 2] = [&[1, 4, 5], &[6]];
        let mut all: Vec<&[u8]> = vec![&[2, 5]; 700];
        all.splice(300..300, different.into_iter().chain(same));
        let names = names(&all, &tokens);
        let (index, plain) = (names.index().unwrap(), names.plain());
        for (n, _) in all.iter().enumerate() {
            let (name, kind) = plain.name(n).unwrap();
            let first = (0..n).find(|&before| plain.name(before).unwrap().0 == name).unwrap_or(n);
            assert_eq!((names.find(&index, name), kind), (Some(first), 'T'), "{n} {name}");
        }
        assert_eq!(plain.name(303), Some(("a_long_part_of_many_names_end", 'T')));
        assert_eq!((plain.name(306).unwrap().0, names.find(&index, "ab_end")), ("ab_end", Some(306)));
        assert_eq!((names.find(&index, "ab_en"), names.find(&index, "Tab_end")), (None, None));
        assert_eq!(names.find(&index, ""), Some(305));
    }

    #[test]
    fn names_that_are_none_are_refused() {
        let long = "x".repeat(200);
        let tokens = [(1, "T"), (2, long.as_str())];
        assert!(names(&[&[1, 2], &[1; 4]], &tokens).index().is_some());
        // Without a letter, without a token, longer than any.
        for bad in [&[3, 1][..], &[], &[2; 100]] {
            assert!(names(&[&[1, 2], bad], &tokens).index().is_none(), "{bad:?}");
        }
        let cut = names(&[&[1, 2]], &tokens);
        assert!(Names { count: 2, ..cut }.index().is_none());
    }
}
