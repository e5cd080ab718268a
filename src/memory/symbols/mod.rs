//! What the kernel says of itself: names and addresses (kallsyms), types (BTF); and what a symbol file says in its place.

pub mod btf;
pub mod isf;
pub mod kallsyms;

/// A hash for tables of names (FNV-1a): fast on short texts, and no secret is needed, since equal hashes are compared.
fn hash(name: &[u8]) -> u64 {
    name.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Numbers by the hash of their name, for a search by halves.
struct ByName(Vec<(u64, u32)>);

impl ByName {
    fn new(mut list: Vec<(u64, u32)>) -> Self {
        list.sort_unstable();
        Self(list)
    }

    /// Whatever has this hash, in ascending order.
    fn find(&self, name: &[u8]) -> impl Iterator<Item = u32> + '_ {
        let hash = hash(name);
        let from = self.0.partition_point(|(known, _)| *known < hash);
        self.0.iter().skip(from).take_while(move |(known, _)| *known == hash).map(|(_, number)| *number)
    }
}
