//! `impound targets URI`: the VMs behind a connection.

use anyhow::Result;
use impound_backends::for_uri;

use super::Exit;
use super::access::AccessArgs;
use super::context::{self, Context, block_on};
use crate::report::{Absent, Cell, Column};

/// The arguments.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Address of a hypervisor, as qmp:/run/web01.qmp
    uri: String,
    #[command(flatten)]
    access: AccessArgs,
}

const COLUMNS: &[Column] =
    &[Column("name"), Column("id"), Column("state"), Column("cpus"), Column("memory"), Column("target")];

pub(super) fn run(args: &Args, context: &Context) -> Result<Exit> {
    let uri = context::uri(&args.uri)?;
    let found = block_on(async {
        let mut host = for_uri(&uri)?.connect(&uri, &args.access.access()).await?;
        host.targets().await
    })??;
    let mut rows = context.table(COLUMNS);
    for target in found {
        rows.row(vec![
            Cell::text(&target.name),
            Cell::or_absent(target.id, Absent::Unknown, Cell::Text),
            Cell::text(target.state),
            Cell::or_absent(target.cpus, Absent::Unknown, |n| Cell::Int(i64::from(n))),
            Cell::or_absent(target.memory, Absent::Unknown, Cell::Bytes),
            Cell::text(format!("{}:{}#{}", uri.scheme, uri.rest, target.name)),
        ])?;
    }
    rows.end()?;
    Ok(Exit::Complete)
}
