//! Does the chain of a custody log hold? And where it does not, what was done to it?

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use super::event::NOTHING_BEFORE;
use super::{Event, Log};
use crate::case::names::plain;

/// A place where the chain does not hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Break {
    /// This line of the file (from 1) is no event.
    #[error("line {line} of the custody log is no event: {}", plain(why))]
    Malformed {
        /// Line of the file, from 1.
        line: u64,
        /// Why.
        why: String,
    },
    /// Event `n` is not what the event after it was chained to.
    #[error("event {n} of the custody log was altered: the event after it was chained to another")]
    Altered {
        /// Its number.
        n: u64,
    },
    /// The events `from..=to` are not there.
    #[error("events {from} to {to} were removed from the custody log")]
    Removed {
        /// The first that is missing.
        from: u64,
        /// The last that is missing.
        to: u64,
    },
    /// Event `n` stands in another place than its number says, or twice.
    #[error("event {n} of the custody log does not stand in its place")]
    Reordered {
        /// Its number.
        n: u64,
    },
    /// The file ends in the middle of a line.
    #[error("the custody log ends in the middle of a line ({bytes} bytes): cut, or a run was killed while writing it")]
    Torn {
        /// Bytes after the last newline.
        bytes: u64,
    },
}

/// Finds every break; none means that each line follows from the one before.
pub fn check(log: &Log) -> Vec<Break> {
    let mut breaks = order(log);
    breaks.extend(links(log));
    if let Some(torn) = &log.torn {
        breaks.push(Break::Torn { bytes: torn.len() as u64 });
    }
    breaks
}

/// Do the numbers count 1, 2, 3 …?
fn order(log: &Log) -> Vec<Break> {
    let mut breaks = Vec::new();
    let present: HashSet<u64> = log.events().map(|event| event.n).collect();
    let mut early = HashSet::new();
    let mut expected = 1u64;
    for (line, entry) in (1u64..).zip(&log.entries) {
        let n = match &entry.event {
            Ok(event) => event.n,
            // A line that is none still takes the place of the one that was there.
            Err(why) => {
                breaks.push(Break::Malformed { line, why: why.clone() });
                expected
            }
        };
        if n > expected && !any_in(expected..n, &present) {
            breaks.push(Break::Removed { from: expected, to: n.saturating_sub(1) });
            expected = n;
        }
        if n == expected {
            expected = expected.saturating_add(1);
        } else {
            breaks.push(Break::Reordered { n });
            early.insert(n);
        }
        while early.remove(&expected) {
            expected = expected.saturating_add(1);
        }
    }
    breaks
}

/// Does each event carry the hash of the one before it by number, wherever that stands?
fn links(log: &Log) -> Vec<Break> {
    let mut hashes = HashMap::from([(0, NOTHING_BEFORE)]);
    for entry in &log.entries {
        if let Ok(event) = &entry.event {
            hashes.entry(event.n).or_insert(&entry.hash);
        }
    }
    let fits = |event: &&Event| {
        event.n.checked_sub(1).and_then(|before| hashes.get(&before)).is_none_or(|hash| *hash == event.prev)
    };
    let broken = log.events().filter(|event| !fits(event));
    // A first line that is chained to something is itself what was altered.
    broken.map(|event| Break::Altered { n: event.n.saturating_sub(1).max(1) }).collect()
}

/// Is any number of the range in the set? Walks the smaller of the two: a hostile line may claim any number.
fn any_in(mut range: Range<u64>, set: &HashSet<u64>) -> bool {
    if range.end.saturating_sub(range.start) < set.len() as u64 {
        range.any(|n| set.contains(&n))
    } else {
        set.iter().any(|n| range.contains(n))
    }
}

#[cfg(test)]
mod tests {
    use super::super::event::tests::event;
    use super::super::lines::read;
    use super::*;
    use crate::case::digest::sha256;

    fn lines() -> Vec<String> {
        let mut before = NOTHING_BEFORE.to_owned();
        (1..=5)
            .map(|n| {
                let line = event(n, &before).line().unwrap();
                before = sha256(&line);
                String::from_utf8(line).unwrap()
            })
            .collect()
    }

    fn breaks(lines: &[String]) -> Vec<Break> {
        let text: String = lines.iter().flat_map(|line| [line.as_str(), "\n"]).collect();
        check(&read(text.as_bytes()).unwrap())
    }

    #[test]
    fn each_damage_has_its_own_name() {
        let good = lines();
        assert_eq!(breaks(&good), []);
        let mut removed = good.clone();
        removed.drain(1..3);
        assert_eq!(breaks(&removed), [Break::Removed { from: 2, to: 3 }]);
        assert_eq!(breaks(&good[1..]), [Break::Removed { from: 1, to: 1 }]);
        let mut altered = good.clone();
        altered[2] = altered[2].replace("10:30", "10:31");
        assert_eq!(breaks(&altered), [Break::Altered { n: 3 }]);
        let mut swapped = good.clone();
        swapped.swap(1, 2);
        assert_eq!(breaks(&swapped), [Break::Reordered { n: 3 }]);
        let mut broken = good.clone();
        broken[1] = "{}".to_owned();
        assert!(matches!(breaks(&broken)[..], [Break::Malformed { line: 2, .. }]));
        let mut twice = good.clone();
        twice.insert(3, good[2].clone());
        assert_eq!(breaks(&twice), [Break::Reordered { n: 3 }]);
    }

    #[test]
    fn a_cut_tail_is_for_the_head_to_see() {
        assert_eq!(breaks(&lines()[..3]), []);
    }

    #[test]
    fn a_line_that_claims_a_huge_number_costs_nothing() {
        let line = String::from_utf8(event(u64::MAX, NOTHING_BEFORE).line().unwrap()).unwrap();
        assert_eq!(breaks(&[line]), [Break::Removed { from: 1, to: u64::MAX - 1 }]);
    }
}
