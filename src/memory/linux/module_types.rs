//! Types of modules, as the kernel keeps them: a list of the modules that brought some (`btf_modules`, `kernel/bpf/btf.c`, since 5.11).
//!
//! A module's own `btf_data` is gone once it is loaded; the kernel's copy of it stays, with the numbers that its types have there.

use std::sync::Arc;

use super::super::{MemoryError, Outcome};
use super::Kernel;

/// The most bytes of one module's types: those of graphics cards have less than two million.
const MOST: u64 = 16 << 20;
/// The most bytes of all of them.
const MOST_OF_ALL: usize = 48 << 20;

/// Modules with their types, and modules whose types cannot be had, with why.
type Copies = Vec<(String, Vec<u8>)>;
type Refused = Vec<(String, String)>;

impl Kernel {
    /// The same kernel, with the types of its modules besides its own.
    pub(super) fn with_module_types(mut self) -> Self {
        let (found, mut refused) = match self.types_of_modules() {
            Ok(found) => found,
            Err(MemoryError::NoSymbol(_) | MemoryError::NoType(_) | MemoryError::NoMember { .. }) => return self,
            Err(error) => (Vec::new(), vec![("all".to_owned(), error.to_string())]),
        };
        // Nobody else has them yet, so that nothing is copied.
        let more = Arc::make_mut(&mut self.types).add_modules(&found);
        self.typed_modules = found.len().saturating_sub(more.len());
        refused.extend(more);
        self.refused_types = refused;
        self
    }

    /// Each module with its types, and those that cannot be had.
    fn types_of_modules(&self) -> Outcome<(Copies, Refused)> {
        let (base, names) = (u64::from(self.types.count()), self.types.names_len() as u64);
        let walked = self.list(self.symbol("btf_modules")?, "btf_module", "list")?;
        let (mut found, mut refused, mut sum) = (Vec::new(), Vec::new(), 0);
        if let Some(broken) = walked.broken {
            refused.push(("the rest of the list".to_owned(), broken.to_string()));
        }
        for module in walked.members {
            let name = module.text("module.name").unwrap_or_default();
            match self.types_at(&module.follow("btf")?, base, names) {
                Ok(bytes) if sum + bytes.len() <= MOST_OF_ALL => {
                    sum += bytes.len();
                    found.push((name, bytes));
                }
                Ok(_) => refused.push((name, format!("all have more than {} MiB", MOST_OF_ALL >> 20))),
                Err(error) => refused.push((name, error.to_string())),
            }
        }
        Ok((found, refused))
    }

    fn types_at(&self, btf: &super::Object<'_>, base: u64, names: u64) -> Outcome<Vec<u8>> {
        let wrong = |why: String| MemoryError::corrupt("a module's types (struct btf)", btf.at, why);
        let (first, text) = (btf.u64("start_id")?, btf.u64("start_str_off")?);
        if (first, text) != (base, names) {
            return Err(wrong(format!(
                "they go on from type {first} and name {text}, the kernel's end at {base} and {names}"
            )));
        }
        let len = btf.u64("data_size")?;
        if len > MOST {
            return Err(wrong(format!("they claim {len} bytes")));
        }
        Ok(self.space.vec(btf.u64("data")?, len as usize)?)
    }
}
