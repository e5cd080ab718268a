//! What `xl list` and `xl info` print for people: `xm` has nothing else, and the run state is nowhere else.
//!
//! A name may hold anything, so a line is read from its end: time, state, CPUs, memory, number, and the rest is the name.

use crate::BackendError;

/// A line of `xl list`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row {
    /// Name, without the blanks that fill its column.
    pub(super) name: String,
    /// The domain's number.
    pub(super) id: u32,
    /// MiB.
    pub(super) memory: u64,
    /// CPUs.
    pub(super) cpus: u32,
    /// How it runs.
    pub(super) state: State,
}

/// Flags in a fixed order, a dash for each that is not set: running, blocked, paused, shut down, crashed, dying.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct State(String);

impl State {
    /// Reads `-b----`.
    fn parse(text: &str) -> Option<Self> {
        let fits = text.len() == 6 && text.chars().zip("rbpscd".chars()).all(|(c, flag)| c == '-' || c == flag);
        fits.then(|| Self(text.to_owned()))
    }

    /// Somebody holds it still.
    pub(super) fn paused(&self) -> bool {
        self.0.contains('p')
    }

    /// It has ended and waits to be taken away.
    pub(super) fn ended(&self) -> bool {
        self.0.contains(['s', 'c', 'd'])
    }

    /// In words. A domain that waits for a CPU has no flag at all, and one that waits for an event runs all the same.
    pub(super) fn words(&self) -> &'static str {
        match self {
            state if state.0.contains('d') => "dying",
            state if state.0.contains('c') => "crashed",
            state if state.0.contains('s') => "shut down",
            state if state.paused() => "paused",
            _ => "running",
        }
    }
}

/// The lines of `xl list` that are lines of a table. A name with a line feed makes lines that are none; what stands behind it
/// on the last of them is the domain's own.
pub(super) fn rows(text: &str) -> Vec<Row> {
    text.lines().filter_map(row).collect()
}

fn row(line: &str) -> Option<Row> {
    let mut rest = line.trim_end();
    let mut last = || {
        let from = rest.rfind(char::is_whitespace)?;
        let (before, word) = rest.split_at(from);
        rest = before.trim_end();
        Some(word.trim_start())
    };
    let time = last()?;
    time.parse::<f64>().ok()?;
    let state = State::parse(last()?)?;
    let cpus = last()?.parse().ok()?;
    let memory = last()?.parse().ok()?;
    let id = last()?.parse().ok()?;
    Some(Row { name: rest.to_owned(), id, memory, cpus, state })
}

/// The value of `key` in `xl info`: `xen_version            : 4.17.7`.
pub(super) fn info<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        (name.trim_end() == key).then(|| value.trim())
    })
}

/// The row of one domain: the last that has its number, see [`rows`].
pub(super) fn row_of(text: &str, id: u32) -> Result<Row, BackendError> {
    let found = rows(text).into_iter().rfind(|row| row.id == id);
    found.ok_or_else(|| BackendError::corrupt("read `xl list`", format!("domain {id}"), "its line", "a state", "none"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "Name                                        ID   Mem VCPUs\tState\tTime(s)\n\
        Domain-0                                     0   512     2     r-----     345.1\n\
        odd 'name' $(touch /tmp/injected)  9  9     12    32     1     --p---       0.0\n\
        (null)                                       1    96     1     --psc-      88.2\n\
        pvh01                                        3    95     1     ------       7.9\n";

    #[test]
    fn a_line_is_read_from_its_end_whatever_the_name_holds() {
        let rows = rows(LIST);
        assert_eq!(rows.len(), 4);
        assert_eq!((rows[1].name.as_str(), rows[1].id), ("odd 'name' $(touch /tmp/injected)  9  9", 12));
        assert_eq!((rows[1].memory, rows[1].cpus, rows[1].state.paused()), (32, 1, true));
        let words: Vec<_> = rows.iter().map(|row| row.state.words()).collect();
        assert_eq!(words, ["running", "paused", "crashed", "running"]);
        assert!(rows[2].state.ended() && !rows[3].state.ended());
    }

    #[test]
    fn a_name_with_a_line_feed_does_not_forge_the_state_of_its_domain() {
        let text = "Name ID Mem VCPUs State Time(s)\nx\ny 5 1 1 --p--- 0.0\nz                5    96     1     -b----    1.0\n";
        let row = row_of(text, 5).unwrap();
        assert!(!row.state.paused());
        assert!(row_of(text, 6).is_err());
    }

    #[test]
    fn damaged_lines_are_no_lines() {
        for bad in [
            "",
            "web01",
            "web01 1 96 1 ------",
            "web01 1 96 1 -----x 1.0",
            "web01 1 96 1 -p---- 1.0",
            "web01 -1 96 1 ------ 1.0",
            "web01 1 99999999999999999999999 1 ------ 1.0",
            "web01 1 96 1 ----- 1.0",
            "web01 1 96 1 r----- x",
            " 1 96 1 ------ ",
        ] {
            assert!(rows(bad).is_empty(), "{bad}");
        }
    }

    #[test]
    fn a_value_of_info_is_found_by_its_whole_name() {
        let text = "host                   : dom0\nxen_version            : 4.17.7\nxen_major : 4\n:\nx";
        assert_eq!(info(text, "xen_version"), Some("4.17.7"));
        assert_eq!((info(text, "xen"), info(text, "x")), (None, None));
    }
}
