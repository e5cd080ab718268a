//! Ranges of a program's memory (`struct vm_area_struct`): from the list of older kernels, or the maple tree of newer ones.

use std::collections::HashSet;

use super::super::{MemoryError, Outcome};
use super::files::{self, FilePath};
use super::{Ask, Object, Task};

/// Ranges of one program, at most.
const MOST: usize = 1 << 18;

pub(super) const READ: u64 = 1;
pub(super) const WRITE: u64 = 2;
pub(super) const EXECUTE: u64 = 4;

/// One range.
#[derive(Clone, Copy)]
pub(super) struct Vma<'k> {
    pub(super) object: Object<'k>,
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) flags: u64,
}

/// All ranges of a process, in the order of their addresses.
pub(super) fn all<'k>(task: &Task<'k>, ask: &Ask) -> Vec<Vma<'k>> {
    match walk(task, ask) {
        Ok(list) => list,
        Err(MemoryError::Null(_)) => Vec::new(),
        Err(error) => {
            ask.note(format!("the memory of the task at {:#x}: {error}", task.0.at));
            Vec::new()
        }
    }
}

fn walk<'k>(task: &Task<'k>, ask: &Ask) -> Outcome<Vec<Vma<'k>>> {
    let mm = task.mm()?;
    let kernel = mm.kernel;
    let mut list = Vec::new();
    if mm.has("mm_mt") {
        for at in kernel.maple(mm.get("mm_mt")?)? {
            list.extend(vma(kernel.object("vm_area_struct", at)?));
        }
        return Ok(list);
    }
    let (mut next, mut seen) = (mm.perhaps("mmap")?, HashSet::new());
    while let Some(object) = next {
        if !seen.insert(object.at) || seen.len() > MOST {
            ask.note(format!("the memory of the task at {:#x}: its list leads back into itself", task.0.at));
            break;
        }
        list.extend(vma(object));
        next = object.perhaps("vm_next")?;
    }
    Ok(list)
}

/// What is no range of user memory is left out: a torn tree may lead anywhere.
fn vma(object: Object<'_>) -> Option<Vma<'_>> {
    let vma = Vma {
        object,
        start: object.u64("vm_start").ok()?,
        end: object.u64("vm_end").ok()?,
        flags: object.u64("vm_flags").ok()?,
    };
    (vma.start < vma.end && vma.end < 1 << 57).then_some(vma)
}

impl<'k> Vma<'k> {
    /// The file that it shows, if it does.
    pub(super) fn file(&self) -> Outcome<Object<'k>> {
        self.object.follow("vm_file")
    }

    /// Its length, bounded for reading.
    pub(super) fn len(&self, most: u64) -> usize {
        self.end.saturating_sub(self.start).min(most) as usize
    }

    /// `rwx` and whether it is shared.
    pub(super) fn protection(&self) -> String {
        let letter = |bit, letter| if self.flags & bit != 0 { letter } else { '-' };
        let sharing = if self.flags & 8 != 0 { 's' } else { 'p' };
        [letter(READ, 'r'), letter(WRITE, 'w'), letter(EXECUTE, 'x'), sharing].into_iter().collect()
    }

    /// Its path, or what else it is.
    pub(super) fn name(&self, mm: &Object<'_>) -> Outcome<FilePath> {
        let named = |text: &str| Ok(FilePath { text: text.to_owned(), deleted: false });
        match self.file() {
            Ok(file) => return files::path_of(&file),
            Err(MemoryError::Null(_)) => {}
            Err(error) => return Err(error),
        }
        let (brk, start_brk, stack) = (mm.u64("brk")?, mm.u64("start_brk")?, mm.u64("start_stack")?);
        if self.start <= brk && self.end >= start_brk && start_brk != 0 {
            return named("[heap]");
        }
        if (self.start..=self.end).contains(&stack) {
            return named("[stack]");
        }
        if mm.u64("context.vdso").is_ok_and(|vdso| vdso == self.start) {
            return named("[vdso]");
        }
        if self.object.follow("vm_ops").and_then(|ops| ops.u64("name")).is_ok_and(|name| name != 0) {
            return named("[vvar]");
        }
        named("Anonymous Mapping")
    }
}
