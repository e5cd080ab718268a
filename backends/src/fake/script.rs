//! The script in the address: what the fake VM is and where it fails.

use std::path::PathBuf;

use crate::{BackendError, GRAIN};

/// The largest size a script may ask for, in bytes: addresses are summed up without overflow.
const MOST: u64 = 1 << 50;

/// How pieces come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    Ascending,
    Descending,
    /// Always the same mix.
    Random,
}

/// Something that happens to an item's stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mishap {
    pub(super) what: String,
    pub(super) item: String,
    pub(super) at: u64,
    pub(super) len: u64,
}

/// Something that happens at a call.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Trap {
    what: String,
    call: String,
    count: usize,
}

/// All that an address says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Script {
    pub(super) name: String,
    pub(super) memory: u64,
    pub(super) hole: Option<(u64, u64)>,
    pub(super) disks: Vec<u64>,
    pub(super) piece: u64,
    pub(super) order: Order,
    pub(super) slow_ms: u64,
    pub(super) run: String,
    pub(super) freezer: bool,
    pub(super) state: Option<PathBuf>,
    pub(super) mishaps: Vec<Mishap>,
    traps: Vec<Trap>,
}

impl Script {
    /// Reads what follows `fake:`.
    pub(super) fn parse(rest: &str) -> Result<Self, BackendError> {
        let (name, options) = rest.split_once('?').unwrap_or((rest, ""));
        let mut script = Self {
            name: name.to_owned(),
            memory: 0,
            hole: None,
            disks: Vec::new(),
            piece: 64 << 10,
            order: Order::Ascending,
            slow_ms: 0,
            run: "running".into(),
            freezer: true,
            state: None,
            mishaps: Vec::new(),
            traps: Vec::new(),
        };
        for option in options.split('&').filter(|option| !option.is_empty()) {
            let (key, value) = option.split_once('=').unwrap_or((option, ""));
            script.set(key, value).ok_or_else(|| {
                BackendError::caller("read the script of the fake VM", option, "this option or its value is unknown")
                    .advise("for example: fake:web01?memory=64M&disk=16M&fail=begin:1")
            })?;
        }
        match script.hole {
            Some((at, _)) if at > script.memory => {
                Err(BackendError::caller("read the script of the fake VM", rest, "the hole begins behind the memory"))
            }
            _ => Ok(script),
        }
    }

    fn set(&mut self, key: &str, value: &str) -> Option<()> {
        match key {
            "memory" => self.memory = size(value)?.next_multiple_of(GRAIN),
            "hole" => self.hole = Some(range(value)?),
            "disk" => self.disks.push(size(value)?),
            "piece" => self.piece = size(value)?.max(1).next_multiple_of(GRAIN),
            "order" => {
                self.order = match value {
                    "ascending" => Order::Ascending,
                    "descending" => Order::Descending,
                    "random" => Order::Random,
                    _ => return None,
                }
            }
            "slow" => self.slow_ms = value.parse().ok()?,
            "run" if matches!(value, "running" | "paused") => value.clone_into(&mut self.run),
            "freezer" if matches!(value, "yes" | "no") => self.freezer = value == "yes",
            "state" if value.starts_with('/') => self.state = Some(value.into()),
            "fail" | "late" | "hang" | "abort" => {
                let (call, count) = value.split_once(':')?;
                self.traps.push(Trap { what: key.into(), call: call.into(), count: count.parse().ok()? });
            }
            "gap" | "double" | "short" | "error" | "stuck" => {
                let (item, place) = value.split_once(':')?;
                let (at, len) = if key == "gap" { range(place)? } else { (size(place)?, 0) };
                self.mishaps.push(Mishap { what: key.into(), item: item.into(), at, len });
            }
            _ => return None,
        }
        Some(())
    }

    /// Does `what` happen at the `count`th call of `call`?
    pub(super) fn is(&self, what: &str, call: &str, count: usize) -> bool {
        self.traps.iter().any(|trap| trap.what == what && trap.call == call && trap.count == count)
    }

    /// The place of a mishap of an item's stream, if the script has one.
    pub(super) fn mishap(&self, what: &str, item: &str) -> Option<u64> {
        self.mishaps.iter().find(|mishap| mishap.what == what && mishap.item == item).map(|mishap| mishap.at)
    }
}

/// `64M` in bytes.
fn size(text: &str) -> Option<u64> {
    let (digits, shift) = match text.strip_suffix(['K', 'M', 'G']) {
        Some(digits) if text.ends_with('K') => (digits, 10),
        Some(digits) if text.ends_with('M') => (digits, 20),
        Some(digits) => (digits, 30),
        None => (text, 0),
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift).filter(|size| *size <= MOST)
}

/// `16M+4M` in bytes, on grains.
fn range(text: &str) -> Option<(u64, u64)> {
    let (at, len) = text.split_once('+')?;
    let (at, len) = (size(at)?, size(len)?);
    (at.is_multiple_of(GRAIN) && len.is_multiple_of(GRAIN) && len > 0).then_some((at, len))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_says_what_it_is_and_where_it_fails() {
        let script = Script::parse("vm?memory=1M&disk=5000&disk=2K&fail=begin:2&gap=vda:4K+8K&order=random").unwrap();
        assert_eq!((script.memory, script.disks.as_slice()), (1 << 20, [5000, 2048].as_slice()));
        assert!(script.is("fail", "begin", 2) && !script.is("fail", "begin", 1));
        let gap = Mishap { what: "gap".into(), item: "vda".into(), at: 4096, len: 8192 };
        assert_eq!(script.mishaps, [gap]);
    }

    #[test]
    fn what_it_does_not_know_is_named() {
        for bad in ["memory=1T", "memry=1M", "fail=begin", "order=up", "gap=vda:1+1", "state=x", "freezer=maybe"] {
            let error = Script::parse(&format!("vm?{bad}")).unwrap_err();
            assert!(error.to_string().contains(bad), "{error}");
        }
        assert!(Script::parse("vm?memory=1M&hole=2M+4K").is_err());
    }
}
