//! `custody.jsonl` as somebody else may have written it: every break is named, and a chain without one counts 1, 2, 3 ….
#![no_main]

use impound::case::custody::{check_chain, read_log};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(log) = read_log(bytes) else { return };
    let breaks = check_chain(&log);
    for found in &breaks {
        assert!(!found.to_string().chars().any(char::is_control), "it would steer a terminal");
    }
    if breaks.is_empty() {
        let mut events = 0;
        for event in log.events() {
            events += 1;
            assert_eq!(event.n, events);
        }
        assert_eq!(events as usize, log.entries.len());
    }
});
