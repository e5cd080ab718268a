//! What the kernel says of itself: names and addresses (kallsyms), types (BTF); and what a symbol file says in its place.

pub mod btf;
pub mod isf;
pub mod kallsyms;

/// A hash for tables of names (FNV-1a): fast on short texts, and no secret is needed, since equal hashes are compared.
fn hash(name: &[u8]) -> u64 {
    name.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
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
