//! The kernel's linked structures, walked so that a torn or hostile one ends: lists, hash buckets, radix trees, maple trees.
//!
//! Layout: `include/linux/list.h`, `lib/radix-tree.c`, `include/linux/xarray.h`, `include/linux/maple_tree.h`. Each walk has a
//! set of what it has seen and a limit; what stops one early is told with the rows.

use std::collections::HashSet;

use super::super::{MemoryError, Outcome};
use super::{Kernel, Object};

/// The most members of one structure: pids end at four million.
const MOST: usize = 1 << 22;

/// What a walk has seen, and what ended it if that was not its end.
pub struct Walked<'k> {
    /// The members, in their order.
    pub members: Vec<Object<'k>>,
    /// Why the rest is missing.
    pub broken: Option<MemoryError>,
}

impl Kernel {
    /// The structures `of` that hang by their member `link` on the list that begins at `head`.
    pub fn list(&self, head: u64, of: &str, link: &'static str) -> Outcome<Walked<'_>> {
        let id = self.types.find(of).ok_or_else(|| MemoryError::NoType(of.to_owned()))?;
        let back = self.offset(of, link)?;
        let mut walked = Walked { members: Vec::new(), broken: None };
        let mut seen = HashSet::from([head]);
        let mut at = head;
        loop {
            let next = match self.space.u64(at) {
                Ok(next) => next,
                Err(fault) => {
                    walked.broken = Some(fault.into());
                    return Ok(walked);
                }
            };
            // What was freed and used again under the walk may lead to the list's end in silence.
            if self.live && self.space.u64(next.wrapping_add(8)).ok() != Some(at) {
                walked.broken = Some(MemoryError::corrupt(
                    "a list",
                    at,
                    "a member does not point back: it changed while it was read",
                ));
                return Ok(walked);
            }
            if next == head {
                return Ok(walked);
            }
            at = next;
            if !seen.insert(at) || seen.len() > MOST {
                walked.broken = Some(MemoryError::corrupt("a list", at, "it leads back into itself"));
                return Ok(walked);
            }
            walked.members.push(self.of_type(id, at.wrapping_sub(back)));
        }
    }

    /// The same for a list that ends with a null: hash buckets. The lowest bit marks an end, too (`hlist_nulls`).
    pub fn bucket(&self, first: u64, of: &str, link: &'static str) -> Outcome<Walked<'_>> {
        let id = self.types.find(of).ok_or_else(|| MemoryError::NoType(of.to_owned()))?;
        let back = self.offset(of, link)?;
        let mut walked = Walked { members: Vec::new(), broken: None };
        let (mut seen, mut at) = (HashSet::new(), first);
        while at != 0 && at & 1 == 0 {
            if !seen.insert(at) || seen.len() > MOST {
                walked.broken = Some(MemoryError::corrupt("a hash bucket", at, "it leads back into itself"));
                break;
            }
            walked.members.push(self.of_type(id, at.wrapping_sub(back)));
            match self.space.u64(at) {
                Ok(next) => at = next,
                Err(fault) => {
                    walked.broken = Some(fault.into());
                    break;
                }
            }
        }
        Ok(walked)
    }

    /// The structures `of` that stand by their member `link` in the red-black tree below `root`, in its order.
    pub fn tree(&self, root: u64, of: &str, link: &'static str) -> Outcome<Walked<'_>> {
        let id = self.types.find(of).ok_or_else(|| MemoryError::NoType(of.to_owned()))?;
        let back = self.offset(of, link)?;
        let mut walked = Walked { members: Vec::new(), broken: None };
        let (mut seen, mut above, mut at) = (HashSet::new(), Vec::new(), root);
        loop {
            while at != 0 {
                if !seen.insert(at) || seen.len() > MOST {
                    walked.broken = Some(MemoryError::corrupt("a tree", at, "it leads back into itself"));
                    return Ok(walked);
                }
                above.push(at);
                at = self.object("rb_node", at)?.u64("rb_left").unwrap_or_else(|error| {
                    walked.broken = Some(error);
                    0
                });
            }
            let Some(node) = above.pop() else { return Ok(walked) };
            walked.members.push(self.of_type(id, node.wrapping_sub(back)));
            at = self.object("rb_node", node)?.u64("rb_right").unwrap_or_else(|error| {
                walked.broken = Some(error);
                0
            });
        }
    }

    /// The entries of the radix tree or xarray `root`, with their numbers.
    pub fn xarray(&self, root: Object<'_>) -> Outcome<Vec<(u64, u64)>> {
        Ok(self.spans(root)?.into_iter().map(|span| (span.index, span.entry)).collect())
    }

    /// The same, with how many numbers each entry is for: one entry may stand for several.
    pub fn spans(&self, root: Object<'_>) -> Outcome<Vec<Span>> {
        let head = root.either(&["xa_head", "rnode"])?.value()?;
        let mut tree = Tree { kernel: self, found: Vec::new(), seen: HashSet::new() };
        tree.xa(head, 0, 0, 0)?;
        Ok(tree.found)
    }

    /// The entries of the maple tree `root`, in their order.
    pub fn maple(&self, root: Object<'_>) -> Outcome<Vec<u64>> {
        let top = root.u64("ma_root")?;
        let mut tree = Tree { kernel: self, found: Vec::new(), seen: HashSet::new() };
        if top & 3 == 2 {
            tree.maple(top, u64::MAX, 0)?;
        } else if top != 0 {
            tree.found.push(Span { index: 0, count: 1, entry: top });
        }
        Ok(tree.found.into_iter().map(|span| span.entry).collect())
    }
}

/// An entry of a tree: for which number, and how many from it on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// The first number.
    pub index: u64,
    /// Numbers.
    pub count: u64,
    /// What is kept there.
    pub entry: u64,
}

/// The most nodes of one tree: those of all four million pids, or of the ranges of any program, are less.
const NODES: usize = 1 << 17;

struct Tree<'k> {
    kernel: &'k Kernel,
    found: Vec<Span>,
    seen: HashSet<u64>,
}

impl Tree<'_> {
    fn enter(&mut self, node: u64, depth: u32) -> Outcome<()> {
        if depth > 24 || !self.seen.insert(node) || self.seen.len() > NODES || self.found.len() > MOST {
            return Err(MemoryError::corrupt("a tree", node, "it leads back into itself"));
        }
        Ok(())
    }

    /// The entry of a slot that is for `1 << above` numbers.
    fn xa(&mut self, entry: u64, index: u64, above: u32, depth: u32) -> Outcome<()> {
        if entry & 3 != 2 {
            if entry != 0 {
                self.found.push(Span { index, count: 1 << above, entry });
            }
            return Ok(());
        }
        self.enter(entry, depth)?;
        let name = if self.kernel.types.find("xa_node").is_some() { "xa_node" } else { "radix_tree_node" };
        let node = self.kernel.object(name, entry & !3)?;
        let shift = node.u64("shift")?.min(60) as u32;
        let (slots, mut whole) = (node.get("slots")?, None);
        for n in 0..slots.count().min(64) {
            // A slot that does not read loses its entries, not its neighbours.
            let Ok(slot) = slots.element(n).value() else { continue };
            // Internal entries that are no nodes: siblings, which belong to the entry whose slot they name; retries, zeros.
            if slot & 3 == 2 && slot < 4096 {
                if whole == Some(slot >> 2)
                    && let Some(last) = self.found.last_mut()
                {
                    last.count = last.count.saturating_add(1 << shift);
                }
                continue;
            }
            whole = (slot & 3 != 2 && slot != 0).then_some(n);
            self.xa(slot, index.wrapping_add(n.wrapping_shl(shift)), shift, depth + 1)?;
        }
        Ok(())
    }

    /// The node `entry`, which is for indexes up to `most`. Its type is in bits 3 to 6 (`enum maple_type`): dense, leaf, range,
    /// allocation range.
    fn maple(&mut self, entry: u64, most: u64, depth: u32) -> Outcome<()> {
        self.enter(entry, depth)?;
        let (kind, node) = (entry >> 3 & 15, entry & !0xff);
        let node = self.kernel.object("maple_node", node)?;
        let (pivots, slots, end) = match kind {
            0 => (None, node.get("slot")?, None),
            3 => (Some(node.get("ma64.pivot")?), node.get("ma64.slot")?, Some(node.u64("ma64.meta.end")?)),
            1 | 2 => (Some(node.get("mr64.pivot")?), node.get("mr64.slot")?, last_of(&node)?),
            _ => return Err(MemoryError::corrupt("a maple tree", entry, "a node of an unknown type")),
        };
        // Behind its end stand others' remains, or the node's own notes.
        let count = slots.count().min(64).min(end.map_or(64, |end| end.saturating_add(1)));
        for n in 0..count {
            let pivot = match pivots {
                Some(pivots) if n < pivots.count() => pivots.element(n).value()?,
                _ => most,
            };
            // The last one need not say how far it goes.
            let pivot = if pivot == 0 && n > 0 { most } else { pivot };
            let slot = slots.element(n).value()?;
            if kind >= 2 && slot != 0 {
                self.maple(slot, pivot, depth + 1)?;
            } else if slot != 0 && slot.is_multiple_of(4) {
                self.found.push(Span { index: pivot, count: 1, entry: slot });
            }
            if pivot >= most {
                break;
            }
        }
        Ok(())
    }
}

/// The number of the last entry of a node of ranges, if it is not full: then the node's last slot says it.
fn last_of(node: &Object<'_>) -> Outcome<Option<u64>> {
    let pivots = node.get("mr64.pivot")?;
    let last = pivots.element(pivots.count().saturating_sub(1)).value()?;
    if last == 0 { Ok(Some(node.u64("mr64.meta.end")?)) } else { Ok(None) }
}
