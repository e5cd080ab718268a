//! From a target to sealed exhibits: the only place that knows the order of a capture, and the only caller of freeze and
//! thaw.
//!
//! ```text
//! connect → describe → plan → prepare → freeze → begin all → drain what holds the guest → thaw
//!         → drain the rest → finish (the hypervisor is as it was found) → hash to the end → seal
//! ```
//!
//! Every way out of this, errors and interrupts included, passes `finish`: the guest ends in the run state it was found in.
//! One item's failure does not stop the others.

mod drain;
mod guardian;
mod record;
mod request;
mod since;
mod stop;
mod streams;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use impound_backends::{Access, BackendError, Check, Facts, Finished, Host, How, Item, Plan, Target, WireLog, for_uri};
use jiff::Timestamp;

pub use guardian::stand_guard;
pub use request::{Disks, Request, Store, Wanted, select};
pub use stop::Stop;

use crate::case::ingest::{Digest, Format, Ingested, ResumePoint};
use crate::case::{CaseError, Draft, Outcome, RunInfo, RunJournal, Sealed, WireFile};
use crate::progress::Progress;
use guardian::Guardian;
use streams::{Captured, Streams};

/// How long a thaw may take before the pieces that wait are taken all the same.
const THAW_ALONE: Duration = Duration::from_millis(50);
/// How long to wait before it is asked again whether what goes on elsewhere has ended: at first, and at most.
const SETTLE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(15));

/// What came of a capture.
#[derive(Debug)]
pub struct Acquired {
    /// One for each item, in order.
    pub items: Vec<Taken>,
    /// What the hypervisor said in the end.
    pub finished: Finished,
    /// The VM.
    pub facts: Facts,
    /// The run's id: names its journal.
    pub run: String,
}

/// What came of one item.
#[derive(Debug)]
pub struct Taken {
    /// The item.
    pub item: Item,
    /// The method that took it.
    pub method: &'static str,
    /// How it ended.
    pub outcome: Outcome,
    /// The exhibit, unless nothing could be sealed or the draft was left to be resumed.
    pub sealed: Option<Sealed>,
    /// The draft's name, if it was left to be resumed.
    pub resumable: Option<String>,
    /// Bytes of content.
    pub bytes: u64,
    /// SHA-256 of the image as it is stored, in hex.
    pub sha256: Option<String>,
}

/// Why nothing was taken at all.
#[derive(Debug, thiserror::Error)]
pub enum AcquireError {
    /// The hypervisor's side.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// The case's side.
    #[error(transparent)]
    Case(#[from] CaseError),
    /// It failed, and tidying up failed too: the guest may still be stopped.
    #[error("{why}; {problems}")]
    GuestUnsure {
        /// What failed first.
        why: String,
        /// What failed while tidying up.
        problems: String,
    },
    /// Stopped before anything was captured; the guest is as it was found.
    #[error("interrupted before anything was captured; the guest is as it was found")]
    Interrupted,
}

/// A target that was opened, and what is known of it.
struct Opened {
    _host: Box<dyn Host>,
    target: Box<dyn Target>,
    facts: Facts,
    items: Vec<Item>,
}

async fn open(request: &Request, wire: Arc<dyn WireLog>) -> Result<Opened, BackendError> {
    let access = Access { wire, ..request.access.clone() };
    let backend = for_uri(&request.uri)?;
    request.check_options(backend)?;
    let mut host = backend.connect(&request.uri, &access).await?;
    let mut target = host.open(request.uri.vm.as_deref()).await?;
    let facts = target.describe().await?;
    let items = select(&request.wanted, target.items().await?)?;
    Ok(Opened { _host: host, target, facts, items })
}

/// What a capture would do, without doing it.
pub async fn plan(request: &Request, wire: Arc<dyn WireLog>) -> Result<(Facts, Plan), BackendError> {
    let mut opened = open(request, wire).await?;
    let how = request.how("plan", BTreeMap::new(), BTreeMap::new());
    let plan = opened.target.plan(&opened.items, &how).await?;
    Ok((opened.facts, plan))
}

/// Takes what is asked for into the case.
pub async fn acquire(request: &Request, progress: &Arc<dyn Progress>, stop: &Stop) -> Result<Acquired, AcquireError> {
    let run = RunInfo { run: request::run_id(), target: request.uri.to_string(), who: request.who.clone() };
    let mut journal = request.case.journal(&run)?;
    let wire = Arc::new(request.case.wire_log(&run)?);
    let outcome = run_it(request, &run, &mut journal, &wire, progress, stop).await;
    // A journal with acts that were not undone stays open: the next command on this case says so.
    if journal.open_acts() == 0 {
        wire.check()?;
        journal.end()?;
    } else {
        progress.note(&format!("not all could be undone; run: impound case recover {}", request.case.dir().display()));
    }
    outcome
}

async fn run_it(
    request: &Request,
    run: &RunInfo,
    journal: &mut RunJournal,
    wire: &Arc<WireFile>,
    progress: &Arc<dyn Progress>,
    stop: &Stop,
) -> Result<Acquired, AcquireError> {
    let mut opened = open(request, Arc::clone(wire) as Arc<dyn WireLog>).await?;
    let drafts = drafts(request, run, &mut opened)?;
    let with_items = || drafts.iter().zip(&opened.items);
    let starts = with_items().filter_map(|(d, item)| Some((item.name.clone(), d.resume.as_ref()?.at)));
    let begun = with_items().filter_map(|(d, item)| Some((item.name.clone(), d.begun_by.clone()?)));
    let how = request.how(&run.run, starts.collect(), begun.collect());
    // It hashes, which takes its time.
    let since = tokio::task::block_in_place(|| since::find(request, &opened.items, progress))?;
    let how = How { since, ..how };
    let outcome = plan_and_capture(&mut opened, &how, journal, request, &drafts, progress, stop).await;
    let (plan, started, captured) = match outcome {
        Ok(captured) => captured,
        Err(error) => {
            // What takes long to prepare, and was given up, can be gone on with.
            let slow = opened.target.begins_slowly() && matches!(error, AcquireError::Interrupted);
            let drafts = drafts.into_iter().zip(&opened.items);
            drafts.filter(|(_, item)| !(slow && item.resumable)).for_each(|(opening, _)| opening.discard());
            return Err(tidy_after(error, opened.target.as_mut(), journal, progress).await);
        }
    };
    let mut finished = opened.target.finish(journal).await.unwrap_or_else(|error| unfinished(&error));
    progress.note(&record::pause_line(&finished));
    settle(opened.target.as_mut(), journal, &mut finished, progress, stop).await;
    let mut items = Vec::new();
    for (captured, opening) in captured.into_iter().zip(drafts) {
        let ingested = captured.ingested.await;
        let about = record::About { request, run, facts: &opened.facts, plan: &plan, finished: &finished, started };
        items.push(seal(&about, &captured.about, &opening, ingested, wire, progress));
    }
    Ok(Acquired { items, finished, facts: opened.facts, run: run.run.clone() })
}

/// Waits for what goes on elsewhere by itself, until it has ended or the run is to.
async fn settle(
    target: &mut dyn Target,
    journal: &mut RunJournal,
    finished: &mut Finished,
    progress: &Arc<dyn Progress>,
    stop: &Stop,
) {
    let (mut wait, mut said) = (SETTLE.0, String::new());
    while let Some(open) = target.settled(journal, finished, stop.said()).await {
        if open != said {
            progress.note(&open);
            said = open;
        }
        tokio::select! { () = stop.wait() => {}, () = tokio::time::sleep(wait) => {} }
        wait = (wait * 2).min(SETTLE.1);
    }
}

/// What is to be assumed when the hypervisor's side cannot be put right: the worst.
fn unfinished(error: &BackendError) -> Finished {
    let state = "unknown".to_owned();
    Finished { state, problems: vec![error.to_string()], guest_unsure: true, ..Finished::default() }
}

/// A draft, new or taken up again.
struct Opening {
    draft: Draft,
    resume: Option<ResumePoint>,
    /// The hypervisor's own format that it is kept in.
    form: Option<&'static str>,
    /// What the host may keep of it, to be compared.
    compared: BTreeSet<Digest>,
    /// The run that began it, if that was another.
    begun_by: Option<String>,
}

impl Opening {
    /// Takes away a draft that nothing was written to.
    fn discard(self) {
        if self.resume.is_none() && self.begun_by.is_none() {
            // What cannot be removed is an empty draft, which verify names.
            let _ = self.draft.discard();
        }
    }
}

/// A draft for each item. Where an interrupted run left any that can be gone on with, these and no others: what it took whole is
/// sealed, and would only come of another instant.
fn drafts(request: &Request, run: &RunInfo, opened: &mut Opened) -> Result<Vec<Opening>, CaseError> {
    let mut left = Vec::new();
    for item in opened.items.iter().filter(|item| request.resume && item.resumable) {
        if let Some((draft, resume)) = request.unfinished(item, opened.target.begins_slowly())? {
            let (begun_by, form, compared) =
                (draft.begun_by(), opened.target.form(item), compared(opened.target.keeps(item)));
            left.push((item.clone(), Opening { draft, resume, form, compared, begun_by }));
        }
    }
    if !left.is_empty() {
        let (items, openings) = left.into_iter().unzip();
        opened.items = items;
        return Ok(openings);
    }
    let new = |item: &Item| {
        let form = opened.target.form(item);
        let draft = request.case.draft(&opened.facts.name, &item.name, Timestamp::now())?;
        draft.intend(&record::intent(request, run, &opened.facts, item, form))?;
        Ok(Opening { draft, resume: None, form, compared: compared(opened.target.keeps(item)), begun_by: None })
    };
    opened.items.iter().map(new).collect()
}

fn compared(kept: &[Check]) -> BTreeSet<Digest> {
    let digest = |check: &Check| match check {
        Check::Sha512 => Digest::Sha512,
        Check::Md5 => Digest::Md5,
        Check::Crc32c => Digest::Crc32c,
    };
    kept.iter().map(digest).collect()
}

/// The hypervisor is asked once more, now with everything known, before it is touched.
async fn plan_and_capture(
    opened: &mut Opened,
    how: &How,
    journal: &mut RunJournal,
    request: &Request,
    drafts: &[Opening],
    progress: &Arc<dyn Progress>,
    stop: &Stop,
) -> Result<(Plan, Timestamp, Vec<Captured>), AcquireError> {
    let plan = opened.target.plan(&opened.items, how).await?;
    request.check_space(&plan)?;
    plan.warnings.iter().for_each(|warning| progress.note(warning));
    let own = drafts.iter().find_map(|opening| opening.form).filter(|_| request.store.format != Format::Raw);
    if let Some(own) = own {
        progress.note(&format!(
            "memory is kept as the hypervisor writes it ({own}); `impound export` makes other forms of it"
        ));
    }
    let (started, captured) = capture(opened, how, journal, request, drafts, progress, stop).await?;
    Ok((plan, started, captured))
}

/// From prepare to the last piece.
async fn capture(
    opened: &mut Opened,
    how: &How,
    journal: &mut RunJournal,
    request: &Request,
    drafts: &[Opening],
    progress: &Arc<dyn Progress>,
    stop: &Stop,
) -> Result<(Timestamp, Vec<Captured>), AcquireError> {
    let target = opened.target.as_mut();
    target.prepare(&opened.items, how, journal).await?;
    stop.check()?;
    // A source that is of no single instant needs no stop.
    let freezes = request.needs_instant(&opened.items);
    let guardian = match (&request.guardian, target.freezer()) {
        (Some(program), Some(_)) if freezes => guardian(program, request, &how.run, progress),
        _ => None,
    };
    let froze = Instant::now();
    if let Some(freezer) = target.freezer().filter(|_| freezes) {
        freezer.freeze(journal).await?;
    }
    let started = Timestamp::now();
    let captures = if target.begins_slowly() {
        tokio::select! {
            biased;
            () = stop.wait() => return Err(AcquireError::Interrupted),
            begun = target.begin(journal) => begun?,
        }
    } else {
        target.begin(journal).await?
    };
    if captures.len() != drafts.len() {
        let why = format!("{} captures came for {} items", captures.len(), drafts.len());
        return Err(BackendError::caller("begin the capture", &opened.facts.name, why).into());
    }
    let mut streams = Streams::new(captures, drafts, request, progress, stop);
    streams.start(|capture| capture.holds_guest);
    streams.holders(how.max_pause.map(|max| max.saturating_sub(froze.elapsed()))).await;
    let thawed = if freezes { thaw(target, journal, &mut streams).await } else { Ok(()) };
    streams.start(|_| true);
    match thawed {
        Ok(()) => guardian.into_iter().for_each(Guardian::dismiss),
        // `finish` has to let the guest go, by a new connection if need be, and so it must not wait for anything.
        Err(error) => {
            progress.note(&error.to_string());
            streams.give_up("the guest could not be let go, so the run was ended at once");
        }
    }
    Ok((started, streams.drained().await))
}

/// Lets the guest go. Until it runs, its hypervisor has the processors to itself, but not for long: a snapshot whose pipe
/// stays full makes QEMU itself wait, and then it does not even hear that it should let the guest go.
async fn thaw(
    target: &mut dyn Target,
    journal: &mut RunJournal,
    streams: &mut Streams<'_>,
) -> Result<(), BackendError> {
    let Some(freezer) = target.freezer() else { return Ok(()) };
    let thaw = freezer.thaw(journal);
    tokio::pin!(thaw);
    if let Ok(thawed) = tokio::time::timeout(THAW_ALONE, &mut thaw).await {
        return thawed;
    }
    streams.start(|_| true);
    thaw.await
}

/// Without a guardian the capture goes on: it guards against the death of this program, which is rare, and says so.
fn guardian(program: &Path, request: &Request, run: &str, progress: &Arc<dyn Progress>) -> Option<Guardian> {
    match Guardian::start(program, request, run) {
        Ok(guardian) => Some(guardian),
        Err(error) => {
            progress.note(&format!("nobody stands guard while the guest stands still: {error}"));
            None
        }
    }
}

/// After a failure: the hypervisor's side is put right, and what failed is told with what that brought.
async fn tidy_after(
    error: AcquireError,
    target: &mut dyn Target,
    journal: &mut RunJournal,
    progress: &Arc<dyn Progress>,
) -> AcquireError {
    let finished = target.finish(journal).await.unwrap_or_else(|error| unfinished(&error));
    finished.left.iter().for_each(|left| progress.note(&format!("left on the hypervisor: {left}")));
    let (problems, unsure) = (finished.problems, finished.guest_unsure);
    if unsure { AcquireError::GuestUnsure { why: error.to_string(), problems: problems.join("; ") } } else { error }
}

fn seal(
    about: &record::About<'_>,
    captured: &record::Captured,
    opening: &Opening,
    ingested: Result<Result<Ingested, CaseError>, tokio::task::JoinError>,
    wire: &WireFile,
    progress: &Arc<dyn Progress>,
) -> Taken {
    let mut taken = Taken {
        item: captured.item.clone(),
        method: captured.method,
        outcome: Outcome::Failed { why: "the writer stopped".to_owned() },
        sealed: None,
        resumable: None,
        bytes: 0,
        sha256: None,
    };
    let ingested = match ingested {
        Ok(Ok(ingested)) => ingested,
        Ok(Err(error)) => {
            taken.outcome = Outcome::Failed { why: error.to_string() };
            return not_sealed(about, taken, progress);
        }
        Err(_) => return not_sealed(about, taken, progress),
    };
    taken.bytes = ingested.content_len;
    taken.sha256 = ingested.stored.first().map(|image| image.sha256.clone());
    taken.outcome = record::outcome(captured, &ingested, about.finished);
    if ingested.stored.is_empty() {
        taken.resumable = Some(opening.draft.name().to_owned());
        return not_sealed(about, taken, progress);
    }
    let stored = record::stored(&ingested);
    let record = record::make(about, captured, &ingested, taken.outcome.clone(), opening.form);
    match opening.draft.seal(record, stored, Some(wire.path())) {
        Ok(sealed) => taken.sealed = Some(sealed),
        Err(error) => {
            taken.outcome = Outcome::Failed { why: format!("it was captured and could not be sealed: {error}") };
            return not_sealed(about, taken, progress);
        }
    }
    taken
}

/// An item without an exhibit is in the log all the same.
fn not_sealed(about: &record::About<'_>, taken: Taken, progress: &Arc<dyn Progress>) -> Taken {
    let why = taken.outcome.why().unwrap_or("it was left to be resumed").to_owned();
    let case = &about.request.case;
    if let Err(error) = case.not_taken(&about.run.run, &taken.item.name, &why, &about.request.who) {
        progress.note(&format!("could not write into the custody log that {} was not taken: {error}", taken.item.name));
    }
    taken
}
