//! The link to another machine drops at random moments of a capture. Whatever else comes of it, the guest runs, nothing stays over there,
//! and what did not come whole is called so.
//!
//! `IMPOUND_DROPS` is how often (12 unless said), `IMPOUND_SEED` where chance begins; a failure names its seed.

use std::fs;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::common::control::State;
use crate::common::guest::{Spec, wait_until};
use crate::common::killer::complete_is_complete;
use crate::common::run::Ran;
use crate::common::there::There;

const WITHIN: Duration = Duration::from_secs(300);
/// What is taken, and by which ways; each has moments of its own.
const TAKEN: &[&[&str]] = &[
    &["--memory", "--disk", "disk-vdb"],
    &["--memory", "--memory-method", "paused"],
    &["--disk", "all"],
    &["--memory", "--disk", "all", "--memory-method", "paused"],
];

/// Chance that comes again with its seed. xorshift64*.
struct Chance(u64);

impl Chance {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % end.max(1)
    }
}

/// How a link drops.
#[derive(Debug)]
enum Cut {
    /// All connections end after so many bytes; new ones live once the run has seen it.
    All(i64),
    /// One connection of several ends after so many bytes, the others live.
    One { before: u64, bytes: i64 },
    /// After so many bytes nothing moves any more, and nobody is told, until the guest runs.
    Silence(i64),
}

impl Cut {
    fn chosen(chance: &mut Chance, whole: u64) -> Self {
        // Most of the talking is in the first 200 KB; after that come the bytes.
        let most = if chance.below(2) == 0 { 200_000 } else { whole };
        let bytes = i64::try_from(1 + chance.below(most)).unwrap_or(i64::MAX);
        match chance.below(8) {
            0 => Self::Silence(bytes),
            1..=3 => Self::One { before: chance.below(4), bytes },
            _ => Self::All(bytes),
        }
    }

    /// Lets it happen to a run.
    fn happen(&self, there: &There, child: &mut Child, before: &State) -> Result<()> {
        let mut ended = || matches!(child.try_wait(), Ok(Some(_)));
        match self {
            Self::One { .. } => Ok(()),
            Self::All(_) => {
                wait_until(|| there.sshd.is_cut() || ended(), WITHIN, "the link to break")?;
                there.sshd.mend();
                Ok(())
            }
            Self::Silence(bytes) => {
                let came = || i64::MAX - there.sshd.left() >= *bytes;
                wait_until(|| came() || ended(), WITHIN, "the bytes before the silence")?;
                there.sshd.hold(true);
                let outcome = there.runs_again(before);
                there.sshd.hold(false);
                outcome
            }
        }
    }

    fn prepare(&self, there: &There) {
        match self {
            Self::All(bytes) => there.sshd.cut_after(*bytes),
            Self::One { before, bytes } => {
                let lives = (0..*before).map(|_| i64::MAX).chain([*bytes]);
                there.sshd.cut_each(lives);
            }
            Self::Silence(_) => there.sshd.cut_after(i64::MAX),
        }
    }
}

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

#[test]
fn a_link_that_drops_at_random_leaves_a_running_guest_and_says_what_came_whole() -> Result<()> {
    let there = There::boot(&Spec::new("linux-small"))?;
    let before = there.guest.control().state()?;
    let mut whole = Vec::new();
    for (number, more) in TAKEN.iter().enumerate() {
        there.sshd.cut_after(i64::MAX);
        let case = there.case(&format!("whole-{number}"));
        there.take(&case, more)?.expect(0)?;
        whole.push(u64::try_from(i64::MAX - there.sshd.left())?);
        fs::remove_dir_all(&case)?;
    }
    let boots = there.boots();
    let (runs, seed) = (number("IMPOUND_DROPS", 12), number("IMPOUND_SEED", 6));
    let mut codes = std::collections::BTreeMap::new();
    for run in 0..runs {
        // Each run has its own chance, so that one can be had again alone.
        let mut chance = Chance((seed + run + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let which = usize::try_from(chance.below(TAKEN.len() as u64))?;
        let cut = Cut::chosen(&mut chance, whole[which]);
        let what = format!("seed {}, {cut:?} of {} bytes, {:?}", seed + run, whole[which], TAKEN[which]);
        let code = drops(&there, &before, &cut, TAKEN[which]).with_context(|| what.clone())?;
        eprintln!("{what}: {code}");
        *codes.entry(code).or_insert(0) += 1;
    }
    eprintln!("{runs} runs: {codes:?}");
    ensure!(codes.keys().any(|code| *code != 0), "no drop broke anything");
    ensure!(boots == there.boots(), "the guest booted anew");
    // The VM can be taken as if nothing had happened, and a run that could go on finds nothing to go on with.
    there.take(&there.case("after"), &["--memory", "--disk", "disk-vdb", "--resume"])?.expect(0)?;
    there.is_as_found(&before, "after all")
}

/// One run whose link drops. Answers how it ended.
fn drops(there: &There, before: &State, cut: &Cut, more: &[&str]) -> Result<i32> {
    let case = there.case("case");
    cut.prepare(there);
    let mut command = there.acquire(&case, more);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let happened = cut.happen(there, &mut child, before);
    let ran = Ran::of(&child.wait_with_output()?);
    there.sshd.mend();
    there.sshd.forget_cuts();
    happened.with_context(|| format!("{ran:?}"))?;
    let code = ran.code.context("it was killed")?;
    ensure!([0, 1, 3, 4].contains(&code), "{ran:?}");
    // What QEMU gives is of one instant, and cannot be gone on with.
    ensure!(!ran.stderr.contains("--resume"), "{ran:?}");
    there.runs_again(before).with_context(|| format!("{ran:?}"))?;
    if case.join("exhibits").is_dir() {
        is_marked(&case, &ran)?;
        there.run(&["case", "recover", &case.display().to_string()])?.expect(0)?;
        there.run(&["verify", &case.display().to_string()])?;
        fs::remove_dir_all(&case)?;
    }
    there.is_as_found(before, &format!("{ran:?}"))?;
    Ok(code)
}

/// What is called complete is so, and what is not has a reason.
fn is_marked(case: &Path, ran: &Ran) -> Result<()> {
    complete_is_complete(case, "a drop")?;
    let mut complete = 0;
    let mut all = 0;
    for entry in fs::read_dir(case.join("exhibits"))? {
        let Ok(text) = fs::read(entry?.path().join("exhibit.json")) else { continue };
        let record: Value = serde_json::from_slice(&text)?;
        ensure!(record["item"]["resumable"] == false, "{}", record["item"]);
        all += 1;
        match record["outcome"]["state"].as_str() {
            Some("complete") => complete += 1,
            Some("partial" | "interrupted" | "failed" | "missing") => {
                ensure!(record["outcome"]["why"].as_str().is_some_and(|why| !why.is_empty()), "{}", record["outcome"]);
            }
            _ => anyhow::bail!("{}", record["outcome"]),
        }
    }
    ensure!(ran.code != Some(0) || complete == all, "{complete} of {all} are complete, and the run says all: {ran:?}");
    Ok(())
}
