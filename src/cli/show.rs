//! `impound show TARGET`: what a VM is, and what can be captured of it.

use anyhow::Result;
use impound_backends::{Facts, Item, ItemKind, for_uri};
use serde_json::Value;

use super::Exit;
use super::access::AccessArgs;
use super::context::{self, Context, Stdout, block_on};
use crate::report::{Absent, Cell, Column, Rows, human_bytes};

/// The arguments.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Address of a VM, as qmp:/run/web01.qmp
    target: String,
    /// Everything the hypervisor tells, as JSON
    #[arg(long)]
    details: bool,
    #[command(flatten)]
    access: AccessArgs,
}

const COLUMNS: &[Column] = &[
    Column("what"),
    Column("name"),
    Column("value"),
    Column("size"),
    Column("method"),
    Column("consistency"),
    Column("pause"),
    Column("usable"),
];

pub(super) fn run(args: &Args, context: &Context) -> Result<Exit> {
    let uri = context::uri(&args.target)?;
    let (facts, items) = block_on(async {
        let mut host = for_uri(&uri)?.connect(&uri, &args.access.access()).await?;
        let mut target = host.open(uri.vm.as_deref()).await?;
        Ok::<_, impound_backends::BackendError>((target.describe().await?, target.items().await?))
    })??;
    if args.details {
        use std::io::Write as _;
        writeln!(Stdout::lock(), "{}", serde_json::to_string_pretty(&facts)?)?;
        return Ok(Exit::Complete);
    }
    let mut rows = context.table(COLUMNS);
    about_vm(rows.as_mut(), &facts)?;
    for item in &items {
        about_item(rows.as_mut(), item)?;
    }
    for warning in &facts.warnings {
        fact(rows.as_mut(), "warning", "warning", warning)?;
    }
    rows.end()?;
    Ok(Exit::Complete)
}

fn about_vm(rows: &mut dyn Rows, facts: &Facts) -> Result<()> {
    fact(rows, "vm", "name", &facts.name)?;
    let known = [
        ("id", facts.id.clone()),
        ("hypervisor", Some(format!("{} {}", facts.hypervisor, facts.version))),
        ("state", Some(facts.state.clone())),
        ("cpus", facts.cpus.map(|n| n.to_string())),
        ("memory", facts.memory.map(human_bytes)),
        (
            "guest_clock",
            facts.clocks.as_ref().map(|c| format!("{} ({:+} s against this machine)", c.guest, c.offset_seconds)),
        ),
    ];
    for (name, value) in known {
        if let Some(value) = value {
            fact(rows, "vm", name, &value)?;
        }
    }
    for (name, detail) in [("machine", "machine"), ("guest_agent", "guest-agent")] {
        if let Some(value) = facts.details.get(detail).and_then(Value::as_str) {
            fact(rows, "vm", name, value)?;
        }
    }
    for row in facts.details.get("shown").and_then(Value::as_array).into_iter().flatten() {
        let text = |at: usize| row.get(at).and_then(Value::as_str).unwrap_or_default();
        fact(rows, text(0), text(1), text(2))?;
    }
    for range in facts.details.pointer("/memory-map/ranges").and_then(Value::as_array).into_iter().flatten() {
        let text = |key: &str| range.get(key).and_then(Value::as_str).unwrap_or("unknown");
        let len = human_bytes(range.get("len").and_then(Value::as_u64).unwrap_or(0));
        fact(rows, "map", text("name"), &format!("{} at {} ({})", len, text("at"), text("kind")))?;
    }
    for (question, what) in [("query-vnc", "vnc"), ("query-spice", "spice")] {
        let answer = facts.details.get(question);
        if answer.and_then(|answer| answer.get("enabled")) == Some(&Value::Bool(true)) {
            fact(rows, "port", what, &answer.map_or(String::new(), Value::to_string))?;
        }
    }
    for (at, card) in list(&facts.details, "query-rx-filter") {
        let name = card.get("name").and_then(Value::as_str).unwrap_or("nic");
        let mac = card.get("main-mac").and_then(Value::as_str).unwrap_or("address unknown");
        fact(rows, "nic", name, &format!("{mac} (card {at})"))?;
    }
    for (_, port) in list(&facts.details, "query-chardev") {
        let label = port.get("label").and_then(Value::as_str).unwrap_or("port");
        fact(rows, "port", label, port.get("filename").and_then(Value::as_str).unwrap_or("unknown"))?;
    }
    Ok(())
}

fn list<'a>(details: &'a Value, question: &str) -> impl Iterator<Item = (usize, &'a Value)> {
    details.get(question).and_then(Value::as_array).into_iter().flatten().enumerate()
}

fn fact(rows: &mut dyn Rows, what: &str, name: &str, value: &str) -> Result<()> {
    let none = Cell::Absent(Absent::NotApplicable);
    let cells = vec![
        Cell::text(what),
        Cell::text(name),
        Cell::text(value),
        none.clone(),
        none.clone(),
        none.clone(),
        none.clone(),
        none,
    ];
    Ok(rows.row(cells)?)
}

fn about_item(rows: &mut dyn Rows, item: &Item) -> Result<()> {
    let what = match item.kind {
        ItemKind::Memory => "memory",
        ItemKind::Disk => "disk",
        ItemKind::Container => "container",
        ItemKind::Config => "config",
    };
    for method in &item.methods {
        rows.row(vec![
            Cell::text(what),
            Cell::text(&item.name),
            Cell::text(&item.source),
            Cell::or_absent(item.len, Absent::Unknown, Cell::Bytes),
            Cell::text(&method.name),
            Cell::text(method.consistency.name()),
            Cell::text(&method.pause),
            Cell::text(method.unusable.as_ref().map_or("yes".to_owned(), |why| format!("no: {why}"))),
        ])?;
    }
    Ok(())
}
