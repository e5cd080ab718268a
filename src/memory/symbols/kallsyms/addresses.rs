//! The addresses of symbols, as the kernel stores them: each is told when it is asked for.

use std::sync::Arc;

/// More bytes than any kernel's image has.
const LARGEST: u64 = 1 << 30;

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
    /// The same, but they were read from a symbol file.
    Listed,
}

impl Form {
    /// Bytes that an address takes.
    pub(super) fn width(self) -> usize {
        match self {
            Self::BasePercpu | Self::Base | Self::Relative => 4,
            Self::Full | Self::Listed => 8,
        }
    }
}

/// See the module.
#[derive(Clone)]
pub(super) struct Addresses {
    window: Arc<Vec<u8>>,
    stored: Stored,
    /// What is added to each.
    moved: u64,
}

/// Where so many stand in a window, in which form, and to which base.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stored {
    pub(super) form: Form,
    pub(super) at: usize,
    pub(super) count: usize,
    /// For [`Form::Relative`] the address of the first offset.
    pub(super) base: u64,
}

impl Stored {
    fn address(&self, window: &[u8], n: usize) -> Option<u64> {
        let begin = n.checked_mul(self.form.width())?.checked_add(self.at)?;
        if self.form.width() == 8 {
            return Some(u64::from_le_bytes(window.get(begin..begin.checked_add(8)?)?.try_into().ok()?));
        }
        let word = i32::from_le_bytes(window.get(begin..begin.checked_add(4)?)?.try_into().ok()?);
        Some(match self.form {
            Form::BasePercpu if word >= 0 => word as u64,
            Form::BasePercpu => self.base.wrapping_sub(1).wrapping_sub(i64::from(word) as u64),
            Form::Relative => self.base.wrapping_add(4 * n as u64).wrapping_add_signed(i64::from(word)),
            _ => self.base.wrapping_add(u64::from(word as u32)),
        })
    }

    /// Are all there, nearly all going up, and not all the same? And do they lie where a kernel's do: most in the upper half, or if
    /// it is not known where they are, together?
    pub(super) fn makes_sense(&self, window: &[u8]) -> bool {
        let end = self.count.checked_mul(self.form.width()).and_then(|len| len.checked_add(self.at));
        let all = || (0..self.count).map_while(|n| self.address(window, n));
        let (Some(_), Some(first), Some(last)) = (
            end.and_then(|end| window.get(self.at..end)),
            all().next(),
            self.address(window, self.count.wrapping_sub(1)),
        ) else {
            return false;
        };
        let falls = all().zip(all().skip(1)).filter(|(one, next)| one > next).count();
        let climbs = falls * 1000 <= self.count && first < last;
        climbs
            && match self.form {
                Form::Relative => last - first < LARGEST,
                _ => all().filter(|&address| address >= 1 << 63).count() * 2 > self.count,
            }
    }
}

impl Addresses {
    pub(super) fn new(window: Arc<Vec<u8>>, stored: Stored) -> Self {
        Self { window, stored, moved: 0 }
    }

    /// Addresses that are known from elsewhere.
    pub(super) fn listed(list: &[u64]) -> Self {
        let window = list.iter().flat_map(|address| address.to_le_bytes()).collect();
        let stored = Stored { form: Form::Listed, at: 0, count: list.len(), base: 0 };
        Self::new(Arc::new(window), stored)
    }

    pub(super) fn form(&self) -> Form {
        self.stored.form
    }

    /// The same with `by` added to each. Those of a symbol file that are no addresses but offsets, of what each CPU has its own, stay.
    pub(super) fn moved(self, by: u64) -> Self {
        Self { moved: self.moved.wrapping_add(by), ..self }
    }

    /// That of one symbol.
    pub(super) fn address(&self, n: usize) -> Option<u64> {
        let address = self.stored.address(&self.window, n).filter(|_| n < self.stored.count)?;
        let stays = self.stored.form == Form::Listed && address >> 63 == 0;
        Some(if stays { address } else { address.wrapping_add(self.moved) })
    }
}
