//! `impound acquire TARGET… --case DIR`.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use impound_backends::{Consistency, NoLog, Plan};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Semaphore;

use super::Exit;
use super::access::AccessArgs;
use super::case::CaseArgs;
use super::context::{self, Context, block_on};
use super::{several, units};
use crate::acquire::{AcquireError, Acquired, Disks, Request, Stop, Store, Wanted, acquire, plan};
use crate::case::Outcome;
use crate::case::ingest::{Digest, Format, Zstd};
use crate::progress::Progress;
use crate::report::{Absent, Cell, Column, Rows, human_bytes, printable};

/// The arguments.
#[derive(Debug, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own on the command line")]
pub(super) struct Args {
    /// Addresses of VMs, as qmp:/run/web01.qmp or libvirt+qemu+ssh://root@kvm1/system#web01
    #[arg(required_unless_present = "hosts")]
    target: Vec<String>,
    /// Take these too: a file with an address a line; # begins a comment
    #[arg(long, value_name = "FILE")]
    hosts: Option<PathBuf>,
    /// How many VMs are taken at the same time
    #[arg(long, value_name = "NUMBER", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    parallel: u16,
    #[command(flatten)]
    case: CaseArgs,
    /// Take memory
    #[arg(long, help_heading = "What to take (memory, all disks and configuration unless said)")]
    memory: bool,
    /// Take this disk; `all` takes every disk
    #[arg(long, value_name = "NAME", help_heading = "What to take (memory, all disks and configuration unless said)")]
    disk: Vec<String>,
    /// Take the configuration
    #[arg(long, help_heading = "What to take (memory, all disks and configuration unless said)")]
    config: bool,
    /// Take the files that hold the disks too: they keep what the guest cannot see any more
    #[arg(long, help_heading = "What to take (memory, all disks and configuration unless said)")]
    container: bool,
    /// Say what would be done, command by command, and do nothing
    #[arg(long, help_heading = "How to take it")]
    plan: bool,
    /// How to take memory: snapshot, paused, pmemsave, live, suspend, as `show` lists them; the best that fits unless said
    #[arg(long, alias = "method", value_name = "METHOD", help_heading = "How to take it")]
    memory_method: Option<String>,
    /// Take memory while the guest runs on: of no single instant, and labelled so. Short for --memory-method live
    #[arg(long, conflicts_with = "memory_method", help_heading = "How to take it")]
    live: bool,
    /// Refuse methods that promise less
    #[arg(long, value_enum, value_name = "CLASS", default_value_t = Require::Any, help_heading = "How to take it")]
    require: Require,
    /// Refuse methods that must stop the guest for longer, and let the guest go if it comes to that
    #[arg(long, value_name = "TIME", value_parser = units::duration, help_heading = "How to take it")]
    max_pause: Option<Duration>,
    /// Where to keep what the guest overwrites meanwhile, on the hypervisor's machine; the case's folder unless said, or
    /// /var/tmp over there if that is another machine
    #[arg(long, value_name = "DIR", help_heading = "How to take it")]
    scratch: Option<PathBuf>,
    /// Leave the snapshot on the hypervisor, where one is made that lasts
    #[arg(long, help_heading = "How to take it")]
    keep_snapshot: bool,
    /// Have the guest's own agent freeze its file systems around the instant; nothing is begun unless it answers and can
    #[arg(long, help_heading = "How to take it")]
    quiesce: bool,
    /// Go on with what an interrupted run left, for sources that can be read again
    #[arg(long, help_heading = "How to take it")]
    resume: bool,
    /// Lock the snapshots that are made: governance:DAYS, or compliance:DAYS, which nobody can undo
    #[arg(long, value_name = "MODE:DAYS", help_heading = "In a cloud")]
    lock: Option<String>,
    /// After the capture, let this account, one for evidence, copy the snapshots
    #[arg(long, value_name = "ACCOUNT", help_heading = "In a cloud")]
    share: Option<String>,
    /// After the capture, copy the snapshots to the account of this profile of the AWS tools, one for evidence, and wait for it
    #[arg(long, value_name = "PROFILE", help_heading = "In a cloud")]
    copy_to: Option<String>,
    /// The region that the copies go to, if not that of the snapshots
    #[arg(long, value_name = "REGION", requires = "copy_to", help_heading = "In a cloud")]
    copy_region: Option<String>,
    /// The key of that account that the copies are encrypted with
    #[arg(long, value_name = "ARN", requires = "copy_to", help_heading = "In a cloud")]
    copy_key: Option<String>,
    /// After the capture, give the VM this security group, one without rules, instead of its own
    #[arg(long, value_name = "GROUP", help_heading = "In a cloud")]
    isolate: Option<String>,
    /// Fetch only what changed since this exhibit of the same disk; the rest comes from its image, hashed before
    #[arg(long, value_name = "EXHIBIT", help_heading = "In a cloud")]
    since: Vec<PathBuf>,
    /// The bucket that snapshots are exported to, where a cloud gives their bytes in no other way
    #[arg(long, value_name = "NAME", help_heading = "In a cloud")]
    bucket: Option<String>,
    /// Remove from the bucket what was exported, once all of it came and is what the cloud says of it
    #[arg(long, requires = "bucket", help_heading = "In a cloud")]
    remove_export: bool,
    /// Form of the memory image: raw (sparse, addresses one to one), lime, elf
    #[arg(long, value_enum, value_name = "FORM", default_value_t = Form::Raw, help_heading = "How to store it")]
    memory_format: Form,
    /// Compress images: zstd or zstd:LEVEL (1 to 19), in frames that plain `zstd -d` opens
    #[arg(long, value_name = "HOW", value_parser = compression, help_heading = "How to store it")]
    compress: Option<Zstd>,
    /// Further digests beside SHA-256
    #[arg(long, value_enum, value_name = "NAME", value_delimiter = ',', help_heading = "How to store it")]
    digest: Vec<DigestName>,
    /// Length of a block of the hash map
    #[arg(long, value_name = "SIZE", value_parser = units::bytes, default_value = "16M", help_heading = "How to store it")]
    block_size: u64,
    /// Leave this much space free
    #[arg(long, value_name = "SIZE", value_parser = units::bytes, default_value = "64M", help_heading = "How to store it")]
    min_free: u64,
    /// Number of this piece of evidence
    #[arg(long, value_name = "NUMBER", help_heading = "For the record")]
    evidence_number: Option<String>,
    /// Free text for the manifest
    #[arg(long, value_name = "TEXT", help_heading = "For the record")]
    note: Option<String>,
    #[command(flatten)]
    access: AccessArgs,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Require {
    /// Whatever the method gives
    Any,
    /// All bytes as of one instant
    Instant,
    /// All bytes read while the guest stood still
    Stopped,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Form {
    Raw,
    Lime,
    Elf,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum DigestName {
    Sha512,
    Blake3,
    Sha1,
    Md5,
}

fn compression(text: &str) -> Result<Zstd, String> {
    let (name, level) = text.split_once(':').unwrap_or((text, "3"));
    let level = level.parse().ok().filter(|level| (1..=19).contains(level));
    match (name, level) {
        ("zstd", Some(level)) => Ok(Zstd { level }),
        _ => Err("write zstd or zstd:LEVEL, with a level of 1 to 19".to_owned()),
    }
}

pub(super) fn run(args: &Args, context: &Context) -> Result<Exit> {
    let uris = several::addresses(&args.target, args.hosts.as_deref())?;
    if args.plan {
        let plans = uris.into_iter().map(|uri| show_plan(args, context, uri)).collect::<Result<Vec<_>>>()?;
        return Ok(Exit::of_several(&plans));
    }
    let only = uris.len() == 1;
    let requests = uris.into_iter().map(|uri| Ok(request(args, uri, args.case.open_or_create(context)?)));
    let requests = requests.collect::<Result<Vec<_>>>()?;
    let stop = Stop::default();
    let ended = block_on(async {
        listen(&stop)?;
        Ok::<_, anyhow::Error>(take_all(requests, args.parallel, &context.progress(), &stop).await)
    })??;
    let mut rows = context.table(ITEMS);
    let mut exits = Vec::new();
    for (uri, outcome) in ended {
        match outcome {
            Ok(acquired) => {
                print(&uri, &acquired, rows.as_mut())?;
                exits.push(told(&acquired, args, &stop, context));
            }
            Err(error) if only => return Err(error.into()),
            Err(error) => {
                context.say(&format!("{}: {}", printable(&uri), printable(&error.to_string())));
                exits.push(super::exit::of(&error.into()));
            }
        }
    }
    rows.end()?;
    Ok(Exit::of_several(&exits))
}

/// Takes all, so many at a time, in any order; answers in the order of the requests. One that fails stops no other.
async fn take_all(
    requests: Vec<Request>,
    parallel: u16,
    progress: &Arc<dyn Progress>,
    stop: &Stop,
) -> Vec<(String, Result<Acquired, AcquireError>)> {
    // One alone stays on this thread: what it sends is then sent by one.
    if let [request] = requests.as_slice() {
        return vec![(request.uri.to_string(), acquire(request, progress, stop).await)];
    }
    let places = Arc::new(Semaphore::new(usize::from(parallel)));
    let mut work = Vec::new();
    for request in requests {
        let (places, progress, stop) = (Arc::clone(&places), Arc::clone(progress), stop.clone());
        let uri = request.uri.to_string();
        let task = tokio::spawn(async move {
            // The places are never closed.
            let _place = places.acquire().await;
            if stop.said() { Err(AcquireError::Interrupted) } else { acquire(&request, &progress, &stop).await }
        });
        work.push((uri, task));
    }
    let mut ended = Vec::new();
    for (uri, task) in work {
        let outcome = task.await.unwrap_or_else(|error| {
            let why = format!("the capture broke: {error}");
            Err(AcquireError::GuestUnsure { why, problems: "its guest may still be stopped".to_owned() })
        });
        ended.push((uri, outcome));
    }
    ended
}

fn request(args: &Args, uri: impound_backends::Uri, case: crate::case::Case) -> Request {
    let disks = match args.disk.as_slice() {
        [] if args.container && !args.memory && !args.config => Disks::All,
        [] => Disks::None,
        names if names.iter().any(|name| name == "all") => Disks::All,
        names => Disks::Named(names.to_vec()),
    };
    let digest = |name: &DigestName| match name {
        DigestName::Sha512 => Digest::Sha512,
        DigestName::Blake3 => Digest::Blake3,
        DigestName::Sha1 => Digest::Sha1,
        DigestName::Md5 => Digest::Md5,
    };
    Request {
        uri,
        access: args.access.access(),
        who: args.case.examiner.clone().unwrap_or_else(|| case.info().examiner.clone()),
        case,
        build: context::build(),
        wanted: Wanted { memory: args.memory, disks, config: args.config, containers: args.container },
        memory_method: args.memory_method.clone().or_else(|| args.live.then(|| "live".to_owned())),
        require: match args.require {
            Require::Any => Consistency::Live,
            Require::Instant => Consistency::QuasiInstantaneous,
            Require::Stopped => Consistency::Instantaneous,
        },
        max_pause: args.max_pause,
        scratch: args.scratch.clone(),
        store: Store {
            format: match args.memory_format {
                Form::Raw => Format::Raw,
                Form::Lime => Format::Lime,
                Form::Elf => Format::Elf,
            },
            compress: args.compress,
            block: args.block_size,
            digests: args.digest.iter().map(digest).collect(),
            min_free: args.min_free,
        },
        evidence_number: args.evidence_number.clone(),
        notes: args.note.clone(),
        guardian: std::env::current_exe().ok(),
        resume: args.resume,
        since: args.since.clone(),
        options: options(args),
    }
}

/// What only some backends know; others refuse it.
fn options(args: &Args) -> BTreeMap<String, String> {
    let given = |flag: bool| flag.then(String::new);
    let (kept, quiet, removed) = (given(args.keep_snapshot), given(args.quiesce), given(args.remove_export));
    let (lock, share, isolate, bucket) = (&args.lock, &args.share, &args.isolate, &args.bucket);
    let copy = [("copy-to", &args.copy_to), ("copy-region", &args.copy_region), ("copy-key", &args.copy_key)];
    let named = [("lock", lock), ("share", share), ("isolate", isolate), ("bucket", bucket)].into_iter().chain(copy);
    let flags = [("keep-snapshot", &kept), ("quiesce", &quiet), ("remove-export", &removed)];
    named.chain(flags).filter_map(|(name, value)| Some((name.to_owned(), value.clone()?))).collect()
}

/// The first signal ends the run in order; further ones change nothing, since an end without order may leave the guest
/// stopped.
fn listen(stop: &Stop) -> Result<()> {
    for kind in [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()] {
        let (mut signals, stop) = (signal(kind)?, stop.clone());
        tokio::spawn(async move {
            while signals.recv().await.is_some() {
                stop.now();
            }
        });
    }
    Ok(())
}

const ITEMS: &[Column] = &[
    Column("item"),
    Column("method"),
    Column("outcome"),
    Column("bytes"),
    Column("sha256"),
    Column("exhibit"),
    Column("why"),
    Column("target"),
];

fn print(uri: &str, acquired: &Acquired, rows: &mut dyn Rows) -> Result<()> {
    for taken in &acquired.items {
        let sealed = taken.sealed.as_ref();
        rows.row(vec![
            Cell::text(&taken.item.name),
            Cell::text(taken.method),
            Cell::text(taken.outcome.name()),
            Cell::Bytes(taken.bytes),
            Cell::or_absent(taken.sha256.clone(), Absent::NotApplicable, Cell::Text),
            Cell::or_absent(sealed.map(|sealed| sealed.name.clone()), Absent::NotApplicable, Cell::Text),
            Cell::or_absent(taken.outcome.why(), Absent::NotApplicable, Cell::text),
            Cell::text(uri),
        ])?;
    }
    Ok(())
}

/// Says what a responder must know now, and with which code to end.
fn told(acquired: &Acquired, args: &Args, stop: &Stop, context: &Context) -> Exit {
    context.detail(&format!("run {}: everything said to the hypervisor is in journal/{0}.wire.jsonl", acquired.run));
    for pause in &acquired.finished.pauses {
        let resumed = pause.resumed.map_or("not resumed".to_owned(), |at| at.to_string());
        context.detail(&format!("stopped {}, resumed {resumed}", pause.stopped));
    }
    for problem in &acquired.finished.problems {
        context.say(&format!("warning: {}", printable(problem)));
    }
    for left in &acquired.finished.left {
        context.say(&format!("left on the hypervisor: {}", printable(left)));
    }
    for draft in acquired.items.iter().filter_map(|taken| taken.resumable.as_ref()) {
        context.say(&format!("{draft} is not finished; the same command with --resume goes on with it"));
    }
    let dir = args.case.dir().display();
    if acquired.finished.guest_unsure {
        context.say(&format!("THE GUEST MAY STILL BE STOPPED. Run now: impound case recover {dir}"));
        return Exit::GuestUnsure;
    }
    let sealed = acquired.items.iter().filter(|taken| taken.sealed.is_some()).count();
    let complete = acquired.items.iter().all(|taken| taken.outcome == Outcome::Complete);
    if sealed > 0 && std::io::stderr().is_terminal() | context.for_eyes() {
        context.say(&format!("{sealed} exhibits sealed in {dir}; check them with: impound verify {dir}"));
    }
    match (stop.said(), complete, sealed) {
        (true, _, _) => Exit::Interrupted,
        (_, true, _) if acquired.finished.problems.is_empty() => Exit::Complete,
        (_, true, _) | (_, false, 0) => Exit::Error,
        (_, false, _) => Exit::Partial,
    }
}

const PLAN: &[Column] = &[Column("step"), Column("what"), Column("method"), Column("consistency"), Column("bytes")];

fn show_plan(args: &Args, context: &Context, uri: impound_backends::Uri) -> Result<Exit> {
    let scratch = tempfile::tempdir()?;
    // A plan writes nothing, so it needs no case; a request does.
    let case = args.case.throwaway(scratch.path())?;
    let (facts, plan) = block_on(async { plan(&request(args, uri, case), Arc::new(NoLog)).await })??;
    let mut rows = context.table(PLAN);
    for item in &plan.items {
        let class = item.consistency.name();
        rows.row(vec![
            Cell::text("item"),
            Cell::text(&item.item),
            Cell::text(&item.method),
            Cell::text(class),
            Cell::Bytes(item.bytes),
        ])?;
    }
    let mut line = |step: &str, what: &str, bytes: Option<u64>| {
        let none = Cell::Absent(Absent::NotApplicable);
        let bytes = Cell::or_absent(bytes, Absent::NotApplicable, Cell::Bytes);
        rows.row(vec![Cell::text(step), Cell::text(what), none.clone(), none, bytes])
    };
    line("pause", &plan.pause, None)?;
    line("space", "in the case, at worst", Some(plan.items.iter().map(|item| item.bytes).sum()))?;
    line("space", "for what the guest overwrites, at worst", Some(plan.scratch_bytes))?;
    for command in &plan.commands {
        line("command", command, None)?;
    }
    for warning in &plan.warnings {
        line("warning", warning, None)?;
    }
    rows.end()?;
    drop(rows);
    context.say(&summary(&facts.name, &plan));
    Ok(Exit::Complete)
}

fn summary(name: &str, plan: &Plan) -> String {
    let bytes = human_bytes(plan.items.iter().map(|item| item.bytes).sum());
    format!(
        "nothing was done; {} would give {} items of {bytes} at most, with a pause of {}",
        printable(name),
        plan.items.len(),
        plan.pause
    )
}
