//! What the kernel says of itself: names and addresses (kallsyms), types (BTF); and what a symbol file says in its place.

pub mod btf;
pub mod isf;
pub mod kallsyms;

use std::iter;

/// An odd number whose bits have no order: what is multiplied by it is mixed. Any other would do as well, since what is found is compared.
const MIX: u64 = 0x9e37_79b9_7f4a_7c15;

/// A hash for tables of names: of the length and of three words, which tell nearly all names of a kernel apart for less than all bytes
/// would cost. No secret is needed, since equal hashes are compared.
fn hash(name: &[u8]) -> u64 {
    let word = |at: usize| name.get(at..at + 8).and_then(|word| word.try_into().ok()).map_or(0, u64::from_le_bytes);
    let words = match name.len().checked_sub(8) {
        Some(last) => [word(0), word(last / 2), word(last)],
        None => [name.iter().fold(0, |word, byte| word << 8 | u64::from(*byte)), 0, 0],
    };
    let mix = |hash: u64, word: u64| (hash.rotate_left(23) ^ word).wrapping_mul(MIX);
    words.into_iter().fold(name.len() as u64, mix)
}

/// Places in a list by the hash of the name that is there: those that share a slot are a chain, the last one first.
#[derive(Clone)]
struct ByName {
    /// The last place of each slot, counted from one: most slots have none.
    slots: Vec<u32>,
    /// The same, of each place: the one before it in its chain.
    before: Vec<u32>,
}

impl ByName {
    /// Good for so many names; more only take longer to find.
    fn for_about(count: usize) -> Self {
        let slots = count.clamp(1 << 8, 1 << 20).next_power_of_two() / 2;
        Self { slots: vec![0; slots], before: Vec::with_capacity(count) }
    }

    /// The upper bits, to which all others have contributed.
    fn slot(&self, hash: u64) -> usize {
        (hash.wrapping_mul(MIX) >> (64 - self.slots.len().trailing_zeros())) as usize
    }

    /// The name of the next place.
    fn add(&mut self, hash: u64) {
        let slot = self.slot(hash);
        if let Some(last) = self.slots.get_mut(slot) {
            self.before.push(*last);
            *last = self.before.len() as u32;
        }
    }

    /// Whatever may have a name of this hash, in ascending order.
    fn find(&self, hash: u64) -> impl Iterator<Item = usize> + use<> {
        let place = |counted: u32| (counted as usize).checked_sub(1);
        let last = self.slots.get(self.slot(hash)).and_then(|&last| place(last));
        let before = |&at: &usize| place(*self.before.get(at)?);
        iter::successors(last, before).collect::<Vec<_>>().into_iter().rev()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_any_length_are_found_among_others_that_are_like_them() {
        let names: Vec<String> = (0..40)
            .flat_map(|len| (0..8).map(move |n| format!("{}{n}{}", "a".repeat(len), "b".repeat(len % 7))))
            .collect();
        let mut index = ByName::for_about(10);
        for name in &names {
            index.add(hash(name.as_bytes()));
        }
        for name in &names {
            let found: Vec<_> = index.find(hash(name.as_bytes())).filter(|&n| names[n] == *name).collect();
            let wanted: Vec<_> = (0..).zip(&names).filter(|(_, one)| *one == name).map(|(n, _)| n).collect();
            assert_eq!(found, wanted, "{name}");
        }
        assert_eq!(ByName::for_about(0).find(hash(b"c")).next(), None);
    }
}
