//! The writer: takes a capture's pieces in any order and makes stored, hashed files of them in a draft exhibit.
//!
//! ```text
//! pieces → receiver → image file ─┬→ SHA-256 of the whole, chained ─┬→ blocks.jsonl
//!                        │        ├→ SHA-256 of each block ─────────┘
//!                     frontier    └→ other digests, a thread each
//! with zstd:             └→ spool → compressor → .zst file → the same hashers; content digest from the spool
//! ```
//!
//! The receiver writes each piece to its place (`layout`), notes that it came (`coverage`) and publishes how far the
//! beginning is filled (`frontier`); everything else follows behind through the page cache (`follow`, `zst`). Files
//! are created under temporary names (`data/memory.raw.part`), made durable and renamed; nothing is overwritten.
//!
//! It blocks, and runs on a thread of its own. `stop` is noticed within 100 ms even when no piece comes.

mod allocation;
mod aside;
mod coverage;
mod digests;
mod follow;
mod frontier;
mod gaps;
pub(crate) mod layout;
mod options;
mod pipeline;
mod receive;
mod resume;
mod sample;
mod space;
mod zst;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, PoisonError};

use impound_backends::{Capture, ItemKind};
use jiff::Timestamp;

pub use digests::{Digest, Stored};
pub use gaps::{Gap, GapTotals, MOST as MOST_GAPS};
pub use options::{Format, IngestOptions, Zstd};
pub use resume::{Head, ResumePoint};
pub use sample::{Sample, Verdict};
pub use zst::FRAME as ZSTD_FRAME;

use crate::case::CaseError;
use crate::progress::Task;
use allocation::{Allocation, Run};
use aside::Asides;
use gaps::Gaps;
use pipeline::{Hashed, Pipeline};
use receive::{End, Receiver, Tally};
use space::{Log, Space};

/// How an item ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Everything came.
    Complete,
    /// Everything came that could be read; the gaps say what could not.
    Partial,
    /// It broke off; what came is kept and the gaps say what did not.
    Failed(String),
    /// Somebody stopped it; what came is kept and the gaps say what did not.
    Interrupted,
}

/// What became of a capture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ingested {
    /// The files under `data/`: the image first, then what lies beside it. Empty if a draft was left to be resumed.
    pub stored: Vec<Stored>,
    /// Files written beside `data/`: `blocks.jsonl`, `allocation.jsonl`, `gaps.jsonl`.
    pub tags: Vec<String>,
    /// Length of the content in bytes: of the image before compression.
    pub content_len: u64,
    /// SHA-256 of the content in hex: of the image before compression.
    pub content_sha256: Option<String>,
    /// The digests of the content in hex that are to be compared with another's.
    pub content_others: BTreeMap<Digest, String>,
    /// What it does not hold, up to [`MOST_GAPS`] ranges.
    pub gaps: Vec<Gap>,
    /// All that it does not hold.
    pub gap_totals: GapTotals,
    /// How it ended.
    pub outcome: Outcome,
    /// When the first piece came.
    pub first_piece: Option<Timestamp>,
    /// When the last piece came.
    pub last_piece: Option<Timestamp>,
    /// What memory looked like.
    pub sample: Option<Sample>,
    /// Bytes that came as bytes, those of an earlier run included.
    pub bytes_data: u64,
    /// Bytes of which the source said that they are zero.
    pub bytes_zero: u64,
    /// What a reader of the manifest should know, a sentence each.
    pub notes: Vec<String>,
}

/// Writes a capture into `draft`, a folder for one exhibit that no one else writes to.
///
/// Blocks until the source ended or `stop` was set, and all is hashed and durable. A source that breaks, breaks its
/// contract, or fills the disk gives [`Outcome::Failed`], not an error: what came is kept, hashed and marked.
///
/// # Errors
/// `Caller` if options and capture do not fit, `Corrupt` if the target's ranges make no sense, `Io` if files cannot be
/// created or read back: then the `.part` files stay for an expert to look at.
pub fn ingest(
    mut capture: Capture,
    draft: &Path,
    options: &IngestOptions,
    task: &dyn Task,
    stop: &AtomicBool,
) -> Result<Ingested, CaseError> {
    let plan = options::Plan::new(&capture, draft, options)?;
    let space = Space::new(draft, options.min_free, plan.layout.len / options.block)?;
    let (allocation, gaps, tally) = begin_maps(&capture, draft, options, &space)?;
    let pipeline = Pipeline::open(&plan, draft, options, plan.resumable)?;
    let mut receiver = Receiver::new(&capture, &plan, &pipeline.image, &space, task, gaps, tally);
    receiver.allocation = allocation.as_ref();
    receiver.asides = Asides::new(&draft.join("data"), options.digests.iter().copied().collect());
    task.phase("copying");
    task.add(plan.from);
    let live = allocation.as_ref().filter(|_| plan.resumable);
    let (hashed, end, content) = std::thread::scope(|scope| {
        let _guard = pipeline.image.frontier.guard();
        let running = pipeline.start(scope, options, &space, live);
        let end = receiver.run(&mut capture.pieces, stop);
        capture.pieces.close();
        let keep = plan.resumable && options.keep_draft && end != End::Closed;
        let content = if keep { Ok(None) } else { receiver.finish(capture.len).map(Some) };
        if !matches!(content, Ok(Some(_))) {
            receiver.publish();
            pipeline.image.frontier.abandon();
        }
        task.phase("hashing");
        let hashed = running.join();
        Ok::<_, CaseError>((hashed?, end, content?))
    })?;
    let done = Done { draft, plan: &plan, space: &space, end };
    match content.zip(hashed) {
        None => done.leave(&receiver),
        Some(((len, missing), hashed)) => done.settle(receiver, &pipeline, hashed, len, missing),
    }
}

type Maps = (Option<Mutex<Allocation>>, Gaps, Tally);

/// Begins the maps beside the image, with what an earlier run knew of the part that is kept.
fn begin_maps(capture: &Capture, draft: &Path, options: &IngestOptions, space: &Space) -> Result<Maps, CaseError> {
    let (mut gaps, mut tally) = (Gaps::new(draft.join("gaps.jsonl.part")), Tally::default());
    if !matches!(capture.item.kind, ItemKind::Disk | ItemKind::Container) {
        return Ok((None, gaps, tally));
    }
    let path = allocation::part(draft);
    let Some(resume) = &options.resume else {
        return Ok((Some(Mutex::new(Allocation::create(&path)?)), gaps, tally));
    };
    let _ = std::fs::remove_file(draft.join("gaps.jsonl.part"));
    let fresh = draft.join("allocation.jsonl.new");
    let _ = std::fs::remove_file(&fresh);
    let mut kept = Allocation::create(&fresh)?;
    allocation::read(&path, |run| {
        let end = run.at.saturating_add(run.len).min(resume.at);
        let run = Run { len: end.saturating_sub(run.at), ..run };
        if run.len == 0 {
            return Ok(());
        }
        match run.gap() {
            Some(why) => gaps.add(Gap { at: run.at, len: run.len, why }, space)?,
            None if run.kind == allocation::Kind::Zero => tally.zero += run.len,
            None => tally.data += run.len,
        }
        kept.note(run, space)
    })?;
    kept.flush(space)?;
    std::fs::rename(&fresh, &path).map_err(CaseError::io("replace", &path))?;
    kept.moved_to(&path);
    Ok((Some(Mutex::new(kept)), gaps, tally))
}

/// The end of a copy: everything is written and hashed, or left to be resumed.
struct Done<'a> {
    draft: &'a Path,
    plan: &'a options::Plan,
    space: &'a Space,
    end: End,
}

impl Done<'_> {
    fn outcome(&self, missing: bool, unreadable: bool) -> Outcome {
        match &self.end {
            End::Stopped => Outcome::Interrupted,
            End::Failed(why) => Outcome::Failed(why.clone()),
            End::Closed if missing => Outcome::Failed("the source ended before everything came".into()),
            End::Closed if unreadable => Outcome::Partial,
            End::Closed => Outcome::Complete,
        }
    }

    fn report(&self, receiver: &Receiver<'_>, outcome: Outcome) -> Ingested {
        let tally = &receiver.tally;
        Ingested {
            stored: Vec::new(),
            tags: Vec::new(),
            content_len: receiver.coverage.high,
            content_sha256: None,
            content_others: BTreeMap::new(),
            gaps: Vec::new(),
            gap_totals: GapTotals::default(),
            outcome,
            first_piece: tally.first,
            last_piece: tally.last,
            sample: receiver.sample,
            bytes_data: tally.data,
            bytes_zero: tally.zero,
            notes: self.plan.notes.clone(),
        }
    }

    /// Leaves the draft as it is, to be resumed.
    fn leave(&self, receiver: &Receiver<'_>) -> Result<Ingested, CaseError> {
        let mut report = self.report(receiver, self.outcome(false, false));
        if let Some(allocation) = receiver.allocation {
            allocation.lock().unwrap_or_else(PoisonError::into_inner).flush(self.space)?;
        }
        report.notes.push("the draft was left to be resumed".into());
        Ok(report)
    }

    /// Gives every file its name.
    fn settle(
        &self,
        mut receiver: Receiver<'_>,
        pipeline: &Pipeline,
        hashed: Hashed,
        content_len: u64,
        missing: bool,
    ) -> Result<Ingested, CaseError> {
        let mut report = self.report(&receiver, Outcome::Complete);
        report.content_len = content_len;
        let mut end = self.end.clone();
        if let Some((len, why)) = hashed.cut {
            receiver.gaps.cut(len, self.plan.head.len, &why, self.space)?;
            report.content_len = len;
            end = End::Failed(why);
        }
        let unreadable = receiver.gaps.unreadable();
        let (gaps, totals, spilled) = receiver.gaps.finish(&self.draft.join("gaps.jsonl"), self.space)?;
        (report.gaps, report.gap_totals) = (gaps, totals);
        pipeline.settle(&self.draft.join("data"), self.plan)?;
        let stored = || (hashed.image.sha256.clone(), hashed.image.others.clone());
        let (sha256, others) = hashed.content.unwrap_or_else(stored);
        (report.content_sha256, report.content_others) = (Some(sha256), others);
        report.stored = vec![hashed.image];
        report.stored.extend(receiver.asides.finish()?);
        report.tags = self.settle_maps(hashed.map, receiver.allocation)?;
        report.tags.extend(spilled.then(|| "gaps.jsonl".into()));
        report.outcome = Done { end, ..*self }.outcome(missing, unreadable);
        Ok(report)
    }

    /// Gives the maps their names and takes away what a resumed copy would have needed.
    fn settle_maps(&self, mut map: Log, allocation: Option<&Mutex<Allocation>>) -> Result<Vec<String>, CaseError> {
        map.finish(&self.draft.join("blocks.jsonl"), self.space)?;
        let mut tags = vec!["blocks.jsonl".to_owned()];
        if let Some(map) = allocation {
            let mut map = map.lock().unwrap_or_else(PoisonError::into_inner);
            map.finish(&self.draft.join("allocation.jsonl"), self.space)?;
            tags.push("allocation.jsonl".into());
        }
        if self.plan.resumable {
            let path = self.draft.join(resume::HEAD);
            std::fs::remove_file(&path).map_err(CaseError::io("remove", &path))?;
        }
        Ok(tags)
    }
}
