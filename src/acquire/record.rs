//! What `exhibit.json` says of a capture.

use impound_backends::{Capture, Consistency, Facts, Finished, Item, ItemKind, Plan, Quiesced, Region, Witness};
use jiff::Timestamp;
use serde_json::Value;

use super::Request;
use crate::case::ingest::{self, Digest, Ingested, Verdict};
use crate::case::record::{CaseRef, Content, Digests, Gap, Gaps, TargetRef, Tool, Window};
use crate::case::{Outcome, Record, RunInfo, Stored};
use crate::report::human_bytes;

/// What all exhibits of a run share.
pub(super) struct About<'a> {
    pub(super) request: &'a Request,
    pub(super) run: &'a RunInfo,
    pub(super) facts: &'a Facts,
    pub(super) plan: &'a Plan,
    pub(super) finished: &'a Finished,
    pub(super) started: Timestamp,
}

/// What is known of a capture apart from its pieces.
pub(super) struct Captured {
    pub(super) item: Item,
    pub(super) method: &'static str,
    consistency: Consistency,
    regions: Vec<Region>,
    len: u64,
    facts: Value,
}

impl Captured {
    pub(super) fn of(capture: &Capture) -> Self {
        Self {
            item: capture.item.clone(),
            method: capture.method,
            consistency: capture.consistency,
            regions: capture.regions.clone(),
            len: capture.len,
            facts: capture.facts.clone(),
        }
    }
}

/// What a draft becomes if this program is killed before it can say more.
pub(super) fn intent(
    request: &Request,
    run: &RunInfo,
    facts: &Facts,
    item: &Item,
    own_form: Option<&'static str>,
) -> Record {
    Record {
        method: item.methods.first().map_or_else(String::new, |method| method.name.clone()),
        outcome: Outcome::Interrupted { why: "the program was killed".to_owned() },
        content: Content {
            len: item.len.unwrap_or(0),
            format: form(request, item, own_form),
            block_size: request.store.block,
            ..Content::default()
        },
        findings: facts.warnings.clone(),
        ..frame(request, run, facts, item)
    }
}

/// What every record of a run says, whatever came of it.
fn frame(request: &Request, run: &RunInfo, facts: &Facts, item: &Item) -> Record {
    let info = request.case.info();
    let now = Timestamp::now();
    Record {
        schema: String::new(),
        name: String::new(),
        tool: Tool::this(&request.build),
        run: run.run.clone(),
        case: CaseRef {
            number: info.number.clone(),
            evidence_number: request.evidence_number.clone(),
            examiner: info.examiner.clone(),
            authority: info.authority.clone(),
            notes: request.notes.clone(),
        },
        target: TargetRef { uri: request.uri.to_string(), facts: Some(facts.clone()) },
        item: item.clone(),
        method: String::new(),
        consistency: None,
        window: Window { begin: now, end: now },
        pauses: Vec::new(),
        stall: None,
        quiesced: None,
        clocks: facts.clocks.clone(),
        outcome: Outcome::Complete,
        content: Content::default(),
        regions: Vec::new(),
        gaps: Gaps::default(),
        stored: Vec::new(),
        instant: Value::Null,
        findings: Vec::new(),
        witnesses: Vec::new(),
        left: Vec::new(),
        plan: Vec::new(),
        custody: None,
    }
}

/// `raw`, `lime` or `elf`, or the hypervisor's own.
fn form(request: &Request, item: &Item, own_form: Option<&'static str>) -> String {
    if let Some(own) = own_form {
        return own.to_owned();
    }
    let memory = item.kind == ItemKind::Memory && item.file.is_none();
    let form = if memory { request.store.format } else { ingest::Format::Raw };
    form.extension().to_owned()
}

/// One line for the responder: how long the guest stood still.
pub(super) fn pause_line(finished: &Finished) -> String {
    let of = |pause: &impound_backends::Pause| match pause.resumed {
        Some(resumed) => format!("{:.1} ms", resumed.duration_since(pause.stopped).as_secs_f64() * 1000.0),
        None => "until now".to_owned(),
    };
    let pauses: Vec<_> = finished.pauses.iter().map(of).collect();
    let at_most = finished.stall.as_ref().is_some_and(|stall| stall.how.starts_with("at most"));
    let stopped = if pauses.is_empty() && at_most {
        "for how long the guest stood still is not known".to_owned()
    } else if pauses.is_empty() {
        "the guest was not stopped".to_owned()
    } else {
        format!("the guest stood still for {}", pauses.join(", "))
    };
    let micros = |us: u64| format!("{}.{} ms", us / 1000, us % 1000 / 100);
    let stall = finished.stall.as_ref().map_or(String::new(), |stall| {
        format!("; the longest wait of a CPU was {}{}", if at_most { "at most " } else { "" }, micros(stall.worst_us))
    });
    let quiesced = finished.quiesced.as_ref().map_or(String::new(), quiesced_line);
    format!("{stopped}{stall}{quiesced}; it is {} now", finished.state)
}

fn quiesced_line(quiesced: &Quiesced) -> String {
    let number = quiesced.file_systems;
    match quiesced.thawed {
        Some(thawed) => {
            let time = thawed.duration_since(quiesced.begun).as_secs_f64() * 1000.0;
            format!("; its agent held {number} file systems frozen for {time:.1} ms")
        }
        None => format!("; its agent froze {number} file systems and was not heard to thaw them"),
    }
}

/// How the item ended, with what memory looked like taken into account.
pub(super) fn outcome(captured: &Captured, ingested: &Ingested, finished: &Finished) -> Outcome {
    let missing = ingested.gap_totals.unreadable;
    match &ingested.outcome {
        ingest::Outcome::Failed(why) => Outcome::Failed { why: why.clone() },
        ingest::Outcome::Interrupted => Outcome::Interrupted { why: "the run was told to stop".to_owned() },
        ingest::Outcome::Partial => {
            Outcome::Partial { why: format!("{} could not be read", human_bytes(missing)), missing }
        }
        ingest::Outcome::Complete => {
            match contradiction(captured, ingested, finished).or(suspicion(captured, ingested)) {
                Some(why) => Outcome::Partial { why, missing: 0 },
                None if finished.guest_unsure => {
                    Outcome::Partial { why: "the run could not be brought to its end".to_owned(), missing: 0 }
                }
                None => Outcome::Complete,
            }
        }
    }
}

/// The host's own digest of the item, if it took one.
fn witnesses<'a>(captured: &'a Captured, finished: &'a Finished) -> impl Iterator<Item = &'a Witness> {
    finished.witnesses.iter().filter(|witness| witness.item == captured.item.name)
}

/// The host's own digest is another one: what came is not what lies there.
fn contradiction(captured: &Captured, ingested: &Ingested, finished: &Finished) -> Option<String> {
    let compare = |by: &str, theirs: Option<&String>, ours: Option<&String>| {
        let theirs = theirs?;
        let ours = ours.map_or("a digest that was not taken", String::as_str);
        (theirs != ours).then(|| format!("{by} says {theirs} of it, and {ours} was captured"))
    };
    let ours = |digest: Digest| ingested.content_others.get(&digest);
    witnesses(captured, finished).find_map(|witness| {
        let by = &witness.by;
        compare(by, witness.sha256.as_ref(), ingested.content_sha256.as_ref())
            .or_else(|| compare(by, witness.sha512.as_ref(), ours(Digest::Sha512)))
            .or_else(|| compare(by, witness.md5.as_ref(), ours(Digest::Md5)))
            .or_else(|| compare(by, witness.crc32c.as_ref(), ours(Digest::Crc32c)))
    })
}

/// Memory that is no memory: everything came, and it may be worth nothing.
fn suspicion(captured: &Captured, ingested: &Ingested) -> Option<String> {
    if captured.item.kind != ItemKind::Memory {
        return None;
    }
    match ingested.sample?.verdict() {
        Verdict::AllZero => {
            Some("all sampled pages are zero: the hypervisor did not give the guest's memory".to_owned())
        }
        Verdict::LooksEncrypted => {
            Some("it looks like ciphertext: the guest's memory is probably encrypted".to_owned())
        }
        Verdict::Plausible | Verdict::Unknown => None,
    }
}

/// The files as `exhibit.json` and the manifests list them. The first is the image, which the block map covers.
pub(super) fn stored(ingested: &Ingested) -> Vec<Stored> {
    let blocks = ingested.tags.iter().find(|tag| *tag == "blocks.jsonl");
    let entry = |(number, file): (usize, &ingest::Stored)| Stored {
        path: file.path.clone().into(),
        len: file.len,
        blocks: blocks.filter(|_| number == 0).cloned(),
        digests: Digests {
            sha256: file.sha256.clone(),
            sha512: file.others.get(&Digest::Sha512).cloned(),
            sha1: file.others.get(&Digest::Sha1).cloned(),
            md5: file.others.get(&Digest::Md5).cloned(),
            blake3: file.others.get(&Digest::Blake3).cloned(),
        },
    };
    ingested.stored.iter().enumerate().map(entry).collect()
}

/// All of `exhibit.json`.
pub(super) fn make(
    about: &About<'_>,
    captured: &Captured,
    ingested: &Ingested,
    outcome: Outcome,
    own_form: Option<&'static str>,
) -> Record {
    let request = about.request;
    let mut findings = about.facts.warnings.clone();
    findings.extend(ingested.notes.iter().cloned());
    findings.extend(contradiction(captured, ingested, about.finished).or(suspicion(captured, ingested)));
    findings.extend(about.finished.problems.iter().cloned());
    let compressed = request.store.compress.is_some() && captured.item.kind != ItemKind::Config;
    let content = ingested.content_sha256.clone().filter(|_| compressed);
    Record {
        method: captured.method.to_owned(),
        consistency: Some(captured.consistency),
        window: window(about, ingested),
        pauses: about.finished.pauses.clone(),
        stall: about.finished.stall.clone(),
        quiesced: about.finished.quiesced.clone(),
        outcome,
        content: Content {
            len: captured.len,
            format: form(request, &captured.item, own_form),
            compression: compressed.then(|| "zstd".to_owned()),
            block_size: request.store.block,
            digests: content.map(|sha256| Digests { sha256, ..Digests::default() }),
        },
        regions: captured.regions.clone(),
        gaps: gaps(ingested),
        instant: captured.facts.clone(),
        findings,
        witnesses: witnesses(captured, about.finished).cloned().collect(),
        left: about.finished.left.clone(),
        plan: about.plan.commands.clone(),
        ..frame(request, about.run, about.facts, &captured.item)
    }
}

/// From the instant that was fixed (by the hypervisor's clock, where it tells) to the last piece.
fn window(about: &About<'_>, ingested: &Ingested) -> Window {
    let begin = about.finished.pauses.first().map_or(about.started, |pause| pause.stopped);
    Window { begin, end: ingested.last_piece.unwrap_or(begin).max(begin) }
}

fn gaps(ingested: &Ingested) -> Gaps {
    let totals = &ingested.gap_totals;
    let gap = |gap: &ingest::Gap| Gap { at: gap.at, len: gap.len, why: gap.why.clone() };
    Gaps {
        ranges: totals.ranges,
        sparse: totals.sparse,
        not_ram: totals.not_ram,
        unreadable: totals.unreadable,
        listed: ingested.gaps.iter().map(gap).collect(),
        all_in: ingested.tags.iter().find(|tag| *tag == "gaps.jsonl").cloned(),
    }
}
