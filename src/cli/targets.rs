//! `impound targets URI…`: the VMs behind one connection or several, asked at the same time.

use std::path::PathBuf;

use anyhow::Result;
use impound_backends::{BackendError, TargetSummary, Uri, for_uri};
use tokio::task::JoinSet;

use super::Exit;
use super::access::AccessArgs;
use super::context::{Context, block_on};
use super::several;
use crate::report::{Absent, Cell, Column, printable};

/// The arguments.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Addresses of hypervisors, as qmp:/run/web01.qmp or libvirt+qemu+ssh://root@kvm1/system
    #[arg(required_unless_present = "hosts")]
    uri: Vec<String>,
    /// Ask these too: a file with an address a line; # begins a comment
    #[arg(long, value_name = "FILE")]
    hosts: Option<PathBuf>,
    #[command(flatten)]
    access: AccessArgs,
}

const COLUMNS: &[Column] =
    &[Column("name"), Column("id"), Column("state"), Column("cpus"), Column("memory"), Column("target")];

pub(super) fn run(args: &Args, context: &Context) -> Result<Exit> {
    let uris = several::addresses(&args.uri, args.hosts.as_deref())?;
    let answers = block_on(ask(&uris, args))??;
    let only = uris.len() == 1;
    let mut exits = Vec::new();
    let mut rows = context.table(COLUMNS);
    for (uri, answer) in answers {
        match answer {
            Ok(found) => {
                exits.push(Exit::Complete);
                for target in found {
                    rows.row(row(&uri, target))?;
                }
            }
            Err(error) if only => return Err(error.into()),
            Err(error) => {
                exits.push(Exit::Error);
                context.say(&format!("{}: {}", printable(&uri.to_string()), printable(&error.to_string())));
            }
        }
    }
    rows.end()?;
    Ok(Exit::of_several(&exits))
}

/// All at once: a host that does not answer holds up nobody.
async fn ask(uris: &[Uri], args: &Args) -> Result<Vec<(Uri, Result<Vec<TargetSummary>, BackendError>)>> {
    let mut asked = JoinSet::new();
    for (number, uri) in uris.iter().cloned().enumerate() {
        let access = args.access.access();
        asked.spawn(async move {
            let answer = async {
                let mut host = for_uri(&uri)?.connect(&uri, &access).await?;
                host.targets().await
            };
            let answer = answer.await;
            (number, uri, answer)
        });
    }
    let mut answers = Vec::new();
    while let Some(answer) = asked.join_next().await {
        answers.push(answer?);
    }
    answers.sort_by_key(|(number, ..)| *number);
    Ok(answers.into_iter().map(|(_, uri, answer)| (uri, answer)).collect())
}

fn row(uri: &Uri, target: TargetSummary) -> Vec<Cell> {
    vec![
        Cell::text(&target.name),
        Cell::or_absent(target.id, Absent::Unknown, Cell::Text),
        Cell::text(target.state),
        Cell::or_absent(target.cpus, Absent::Unknown, |n| Cell::Int(i64::from(n))),
        Cell::or_absent(target.memory, Absent::Unknown, Cell::Bytes),
        Cell::text(format!("{}:{}#{}", uri.scheme, uri.rest, target.name)),
    ]
}
