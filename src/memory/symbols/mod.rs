//! What the kernel says of itself: names and addresses (kallsyms), types (BTF); and what a symbol file says in its place.

pub mod btf;
pub mod isf;
pub mod kallsyms;

/// A hash for tables of names: of the length and of three words, which tell nearly all names of a kernel apart for less than all bytes
/// would cost. No secret is needed, since equal hashes are compared.
fn hash(name: &[u8]) -> u64 {
    let word = |at: usize| name.get(at..at + 8).and_then(|word| word.try_into().ok()).map_or(0, u64::from_le_bytes);
    let words = match name.len().checked_sub(8) {
        Some(last) => [word(0), word(last / 2), word(last)],
        None => [name.iter().fold(0, |word, byte| word << 8 | u64::from(*byte)), 0, 0],
    };
    let mix = |hash: u64, word: u64| (hash.rotate_left(23) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    words.into_iter().fold(name.len() as u64, mix)
}

/// Numbers by the upper half of the hash of their name, each pair in one word, for a search by halves.
#[derive(Clone)]
struct ByName(Vec<u64>);

impl ByName {
    /// Of hashes and numbers.
    fn new(list: impl Iterator<Item = (u64, u32)>) -> Self {
        let mut names = Self(Vec::new());
        names.add(list);
        names
    }

    /// Those, too.
    fn add(&mut self, list: impl Iterator<Item = (u64, u32)>) {
        self.0.extend(list.map(|(hash, number)| hash >> 32 << 32 | u64::from(number)));
        self.0.sort_unstable();
    }

    /// Whatever may have this name, in ascending order.
    fn find(&self, name: &[u8]) -> impl Iterator<Item = u32> + '_ {
        let hash = hash(name) >> 32;
        let from = self.0.partition_point(|word| word >> 32 < hash);
        self.0.iter().skip(from).take_while(move |word| **word >> 32 == hash).map(|word| *word as u32)
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
        let index = ByName::new(names.iter().zip(0..).map(|(name, n)| (hash(name.as_bytes()), n)));
        for name in &names {
            let found: Vec<_> = index.find(name.as_bytes()).filter(|&n| names[n as usize] == *name).collect();
            let wanted: Vec<_> = (0..).zip(&names).filter(|(_, one)| *one == name).map(|(n, _)| n).collect();
            assert_eq!(found, wanted, "{name}");
        }
        assert_eq!(index.find(b"c").next(), None);
    }
}
