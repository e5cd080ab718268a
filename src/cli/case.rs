//! `impound case …`: the folder that holds exhibits and their custody log.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::Subcommand;
use impound_backends::{Access, BackendError, for_uri};

use super::Exit;
use super::access::AccessArgs;
use super::context::{self, Context, block_on, somebody};
use super::exit::UsageError;
use crate::case::custody::Head;
use crate::case::{Case, CaseInfo, Drafts, OpenRun, Signer, close_run, open_runs, recover};
use crate::report::{Absent, Cell, Column, printable};

/// Which case, and what a new one is opened with.
#[derive(Debug, clap::Args)]
pub(super) struct CaseArgs {
    /// Folder of the case; a new one is made if it is not there
    #[arg(long = "case", value_name = "DIR", env = "IMPOUND_CASE", help_heading = "Case")]
    dir: Option<PathBuf>,
    /// Number of a new case; the folder's name unless said
    #[arg(long, value_name = "NUMBER", help_heading = "Case")]
    number: Option<String>,
    /// Who takes the evidence; user@host unless said
    #[arg(long, value_name = "NAME", env = "IMPOUND_EXAMINER", help_heading = "Case")]
    pub(super) examiner: Option<String>,
    /// By what right: a warrant, an order, a ticket
    #[arg(long, value_name = "TEXT", help_heading = "Case")]
    authority: Option<String>,
    /// Key to sign with: a private key file, or the public key of one in the agent
    #[arg(long, value_name = "FILE", env = "IMPOUND_KEY", help_heading = "Case")]
    key: Option<PathBuf>,
}

impl CaseArgs {
    pub(super) fn dir(&self) -> &Path {
        self.dir.as_deref().unwrap_or(Path::new("."))
    }

    pub(super) fn open_or_create(&self, context: &Context) -> Result<Case> {
        let dir = self.dir.as_ref();
        let dir = dir.ok_or_else(|| {
            UsageError("--case DIR is missing: name the folder of the case (a new one is made)".to_owned())
        })?;
        let signer = self.key.as_ref().map(Signer::new).transpose()?;
        let case = Case::open_or_create(dir, &self.info(dir)?, signer)?;
        context.warn_of_open_runs(&case)?;
        Ok(case)
    }

    /// A case that nothing is written to.
    pub(super) fn throwaway(&self, dir: &Path) -> Result<Case> {
        Ok(Case::create(dir.join("plan"), &self.info(dir)?, None)?)
    }

    fn info(&self, dir: &Path) -> Result<CaseInfo> {
        let name = std::path::absolute(dir)?.file_name().map(|name| name.to_string_lossy().into_owned());
        let number = self.number.clone().or(name).context("the case needs a --number")?;
        let examiner = self.examiner.clone().unwrap_or_else(somebody);
        Ok(CaseInfo::new(number, examiner, self.authority.clone().unwrap_or_else(|| "not stated".to_owned())))
    }
}

/// The arguments.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Open a case in a new folder
    New(NewArgs),
    /// Say what a case holds
    Show(DirArgs),
    /// Print the custody log
    Log(DirArgs),
    /// Write something into the custody log
    Note(NoteArgs),
    /// Hash everything again and write down that the case is handed over
    Transfer(TransferArgs),
    /// Sign all of the log up to here
    Seal(SealArgs),
    /// After a killed run: undo what it left on the hypervisor, and put the case in order
    Recover(RecoverArgs),
}

#[derive(Debug, clap::Args)]
struct DirArgs {
    /// Folder of the case
    dir: PathBuf,
}

#[derive(Debug, clap::Args)]
struct NewArgs {
    /// Folder of the case; must be new or empty
    dir: PathBuf,
    /// Number of the case
    #[arg(long)]
    number: String,
    /// Who is in charge
    #[arg(long, env = "IMPOUND_EXAMINER")]
    examiner: String,
    /// By what right: a warrant, an order, a ticket
    #[arg(long)]
    authority: String,
    /// What the case is about, in a line
    #[arg(long)]
    title: Option<String>,
    /// The organization in charge
    #[arg(long)]
    organization: Option<String>,
    /// A question that the evidence is to answer; may be given several times
    #[arg(long)]
    goal: Vec<String>,
    /// Key to sign with: a private key file, or the public key of one in the agent
    #[arg(long, env = "IMPOUND_KEY")]
    key: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct NoteArgs {
    #[command(flatten)]
    signed: SignedArgs,
    /// What to write down
    text: String,
}

#[derive(Debug, clap::Args)]
struct TransferArgs {
    #[command(flatten)]
    signed: SignedArgs,
    /// Who receives it
    #[arg(long)]
    to: String,
    /// What for
    #[arg(long)]
    purpose: String,
}

#[derive(Debug, clap::Args)]
struct SealArgs {
    #[command(flatten)]
    signed: SignedArgs,
}

#[derive(Debug, clap::Args)]
struct RecoverArgs {
    #[command(flatten)]
    signed: SignedArgs,
    /// Keep unfinished exhibits as they are, to resume them
    #[arg(long)]
    keep_drafts: bool,
    /// Leave the hypervisor alone: it is gone, or was put in order by hand
    #[arg(long)]
    hypervisor_is_gone: bool,
    #[command(flatten)]
    access: AccessArgs,
}

/// A case, and the key to sign with.
#[derive(Debug, clap::Args)]
struct SignedArgs {
    /// Folder of the case
    dir: PathBuf,
    /// Key to sign with: a private key file, or the public key of one in the agent
    #[arg(long, env = "IMPOUND_KEY")]
    key: Option<PathBuf>,
    /// Who does it; user@host unless said
    #[arg(long = "by", value_name = "NAME", env = "IMPOUND_EXAMINER")]
    who: Option<String>,
}

impl SignedArgs {
    fn who(&self) -> String {
        self.who.clone().unwrap_or_else(somebody)
    }

    fn open(&self) -> Result<Case> {
        let case = Case::open(&self.dir)?;
        match &self.key {
            Some(key) => Ok(case.signed_by(Signer::new(key)?, &self.who())?),
            None => Ok(case),
        }
    }
}

pub(super) fn run(args: Args, context: &Context) -> Result<Exit> {
    match args.verb {
        Verb::New(args) => new(args, context),
        Verb::Show(args) => show(&args, context),
        Verb::Log(args) => log(&args, context),
        Verb::Note(args) => Ok(said(&args.signed.open()?.note(&args.text, &args.signed.who())?, context)),
        Verb::Transfer(args) => {
            let case = args.signed.open()?;
            let head = case.transfer(&args.to, &args.purpose, &args.signed.who(), context.progress().as_ref())?;
            Ok(said(&head, context))
        }
        Verb::Seal(args) => {
            if args.signed.key.is_none() {
                return Err(UsageError("--key FILE is missing: a seal is a signature".to_owned()).into());
            }
            Ok(said(&args.signed.open()?.note("sealed: all of the log up to here", &args.signed.who())?, context))
        }
        Verb::Recover(args) => recover_all(&args, context),
    }
}

/// The head is what the receiver of a case should keep apart from it.
fn said(head: &Head, context: &Context) -> Exit {
    context.say(&format!("written down as entry {}; keep this apart from the case, it shows later that nothing was rolled back: --head {0}:{}", head.count, head.hash));
    Exit::Complete
}

fn new(args: NewArgs, context: &Context) -> Result<Exit> {
    let mut info = CaseInfo::new(args.number, args.examiner, args.authority);
    info.title = args.title;
    info.organization = args.organization;
    info.goals = args.goal;
    let signer = args.key.map(Signer::new).transpose()?;
    let signed = if signer.is_some() { "signed" } else { "not signed" };
    let case = Case::create(&args.dir, &info, signer)?;
    context.say(&format!("case {} is open in {} ({signed})", printable(&case.info().number), case.dir().display()));
    Ok(Exit::Complete)
}

const CASE: &[Column] = &[Column("what"), Column("name"), Column("value")];

fn show(args: &DirArgs, context: &Context) -> Result<Exit> {
    let case = context.open_case(&args.dir)?;
    let info = case.info();
    let mut rows = context.table(CASE);
    let mut line =
        |what: &str, name: &str, value: &str| rows.row(vec![Cell::text(what), Cell::text(name), Cell::text(value)]);
    line("case", "number", &info.number)?;
    line("case", "examiner", &info.examiner)?;
    line("case", "authority", &info.authority)?;
    line("case", "opened", &info.opened.to_string())?;
    for (name, value) in [("title", &info.title), ("organization", &info.organization)] {
        if let Some(value) = value {
            line("case", name, value)?;
        }
    }
    for goal in &info.goals {
        line("case", "goal", goal)?;
    }
    let log = case.custody().read()?;
    for event in log.events().filter(|event| event.event.to_string() == "sealed") {
        line("exhibit", event.subject.as_deref().unwrap_or_default(), event.digest.as_deref().unwrap_or_default())?;
    }
    for name in case.unfinished()? {
        line("unfinished", &name, "resume it with acquire --resume, or close it with case recover")?;
    }
    let head = case.custody().head()?;
    line("log", "entries", &head.count.to_string())?;
    line("log", "head", &head.hash)?;
    rows.end()?;
    Ok(Exit::Complete)
}

const LOG: &[Column] = &[
    Column("n"),
    Column("time"),
    Column("event"),
    Column("subject"),
    Column("who"),
    Column("digest"),
    Column("signer"),
    Column("details"),
];

fn log(args: &DirArgs, context: &Context) -> Result<Exit> {
    let case = context.open_case(&args.dir)?;
    let log = case.custody().read()?;
    let mut rows = context.table(LOG);
    for event in log.events() {
        let details = if event.details.is_null() {
            Cell::Absent(Absent::NotApplicable)
        } else {
            Cell::text(event.details.to_string())
        };
        rows.row(vec![
            Cell::Int(i64::try_from(event.n).unwrap_or(i64::MAX)),
            Cell::Time(event.time),
            Cell::text(event.event.to_string()),
            Cell::or_absent(event.subject.clone(), Absent::NotApplicable, Cell::Text),
            Cell::text(&event.who),
            Cell::or_absent(event.digest.clone(), Absent::NotApplicable, Cell::Text),
            Cell::or_absent(event.signer.clone(), Absent::NotApplicable, Cell::Text),
            details,
        ])?;
    }
    rows.end()?;
    Ok(Exit::Complete)
}

/// Arguments of the guardian.
#[derive(Debug, clap::Args)]
pub(super) struct GuardianArgs {
    dir: PathBuf,
    run: String,
    #[command(flatten)]
    access: AccessArgs,
}

/// Waits for the end of the run that started it.
pub(super) fn stand_guard(args: &GuardianArgs, context: &Context) -> Result<Exit> {
    for did in crate::acquire::stand_guard(&args.dir, &args.run, &args.access.access())? {
        context.say(&format!("the run died while the guest stood still; did: {}", printable(&did)));
    }
    Ok(Exit::Complete)
}

/// The guest first, then the case: what it lacks is written down once its log is in order again.
fn recover_all(args: &RecoverArgs, context: &Context) -> Result<Exit> {
    let case = args.signed.open()?;
    let who = args.signed.who();
    let (mut open, mut ended) = (0, Vec::new());
    for run in open_runs(&case)? {
        if run.alive {
            context.say(&format!("run {} is alive (pid {}) and was left alone", printable(&run.run), run.pid));
            continue;
        }
        let undone = if args.hypervisor_is_gone { Ok(Vec::new()) } else { undo(&run, &args.access.access()) };
        match undone {
            Ok(undone) => {
                for did in &undone {
                    context.say(&format!("{}: {}", printable(&run.run), printable(did)));
                }
                ended.push((run.run, undone));
            }
            Err(error) => {
                open += 1;
                let (run, target) = (printable(&run.run), printable(&run.target));
                context.say(&format!("run {run} on {target} cannot be undone: {}", printable(&error.to_string())));
                context.say("if that VM is gone for good: impound case recover --hypervisor-is-gone");
            }
        }
    }
    let drafts = if args.keep_drafts { Drafts::Keep } else { Drafts::Seal };
    for did in recover(&case, &who, drafts, context.progress().as_ref())? {
        context.say(&printable(&did));
    }
    for (run, undone) in ended {
        close_run(&case, &run, &who, &undone)?;
    }
    if open > 0 {
        return Ok(Exit::GuestUnsure);
    }
    context.say("the case is in order");
    Ok(Exit::Complete)
}

fn undo(run: &OpenRun, access: &Access) -> Result<Vec<String>> {
    if run.undo.is_empty() {
        return Ok(Vec::new());
    }
    let uri = context::uri(&run.target)?;
    block_on(async {
        let mut host = for_uri(&uri)?.connect(&uri, access).await?;
        let mut target = host.open(uri.vm.as_deref()).await?;
        target.recover(&run.undo).await
    })?
    .map_err(|error: BackendError| error.into())
}
