//! `impound doctor [TARGET]`: what is missing, and the command that mends it.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;
use impound_backends::{ALL, Finding, for_uri};

use super::Exit;
use super::access::AccessArgs;
use super::context::{self, Context, block_on};
use crate::report::{Absent, Cell, Column, human_bytes};

/// The arguments.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Address of a hypervisor or VM to look at too
    target: Option<String>,
    /// The folder where evidence will go
    #[arg(long, value_name = "DIR", default_value = ".")]
    case: PathBuf,
    #[command(flatten)]
    access: AccessArgs,
}

const COLUMNS: &[Column] = &[Column("what"), Column("good"), Column("found"), Column("fix")];

pub(super) fn run(args: &Args, context: &Context) -> Result<Exit> {
    let uri = args.target.as_deref().map(context::uri).transpose()?;
    let mut findings = vec![tool("ssh-keygen", "apt-get install openssh-client"), agent(), space(&args.case)];
    let access = args.access.access();
    findings.extend(block_on(async {
        let mut found = Vec::new();
        match &uri {
            Some(uri) => match for_uri(uri) {
                Ok(backend) => found.extend(backend.checkup(Some(uri), &access).await),
                Err(error) => context.say(&error.to_string()),
            },
            None => {
                for backend in ALL {
                    found.extend(backend.checkup(None, &access).await);
                }
            }
        }
        found
    })?);
    let all_good = findings.iter().all(|finding| finding.good);
    let mut rows = context.table(COLUMNS);
    for finding in findings {
        rows.row(vec![
            Cell::Text(finding.what),
            Cell::Bool(finding.good),
            Cell::Text(finding.found),
            Cell::or_absent(finding.fix, Absent::NotApplicable, Cell::Text),
        ])?;
    }
    rows.end()?;
    Ok(if all_good { Exit::Complete } else { Exit::Error })
}

/// Is a tool of the system there?
fn tool(name: &str, fix: &str) -> Finding {
    // Any answer will do: ssh-keygen has no --version, it complains and exits.
    let there = Command::new(name).arg("-?").output().is_ok();
    Finding {
        what: format!("{name} (signs and checks signatures)"),
        good: there,
        found: if there { "there" } else { "not found in PATH" }.to_owned(),
        fix: (!there).then(|| fix.to_owned()),
    }
}

/// Has an agent a key to sign with? Not having one is fine: cases may be unsigned, or signed by a key file.
fn agent() -> Finding {
    let keys = Command::new("ssh-add").arg("-l").output();
    let loaded = keys.as_ref().is_ok_and(|output| output.status.success());
    let count =
        keys.map_or(0, |output| output.stdout.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).count());
    Finding {
        what: "key to sign with".to_owned(),
        good: true,
        found: if loaded {
            format!("{count} in the agent")
        } else {
            "none in the agent; --key FILE signs with a file".to_owned()
        },
        fix: (!loaded).then(|| "ssh-add ~/.ssh/id_ed25519".to_owned()),
    }
}

fn space(dir: &Path) -> Finding {
    let what = format!("space in {}", dir.display());
    match rustix::fs::statvfs(dir) {
        Ok(state) => {
            let free = state.f_bavail.saturating_mul(state.f_frsize);
            let good = free > 1 << 30;
            let fix = (!good).then(|| "name a larger file system with --case".to_owned());
            Finding { what, good, found: format!("{} free", human_bytes(free)), fix }
        }
        Err(error) => {
            Finding { what, good: false, found: error.to_string(), fix: Some("name a folder that exists".to_owned()) }
        }
    }
}
