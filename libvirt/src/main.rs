//! Reaches libvirt for impound, which starts it and talks to it by pipes; see `backends/src/qemu/libvirt.rs`.
//!
//! ```text
//! impound-libvirt version             the library's version
//! impound-libvirt list URI            one JSON object a line for each domain
//! impound-libvirt domain URI NAME     one JSON object: its XML, its state, its job
//! impound-libvirt dump URI NAME FILE  has the memory of a domain dumped into a file that libvirt opens, as ELF
//! impound-libvirt agent URI NAME      its guest's agent on stdin and stdout, an answer a line
//! impound-libvirt monitor URI NAME    its QEMU monitor on stdin and stdout, as QEMU itself speaks QMP
//! ```
//!
//! Errors are one line on stderr, and status 1. Nothing is kept between two runs, and no secret passes here: where libvirt
//! wants a password it is refused.

use std::io::{self, BufRead, Write};

use serde_json::{Value, json};
use virt::connect::Connect;
use virt::domain::Domain;
use virt::error::clear_error_callback;

type Outcome = Result<(), Box<dyn std::error::Error>>;

/// The longest command that is taken, in bytes.
const LINE: u64 = 32 << 20;

fn main() -> std::process::ExitCode {
    // The library prints errors by itself otherwise.
    clear_error_callback();
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let outcome = match words.as_slice() {
        ["version"] => version(),
        ["list", uri] => list(uri),
        ["domain", uri, name] => domain(uri, name),
        ["dump", uri, name, file] => dump(uri, name, file),
        ["agent", uri, name] => agent(uri, name),
        ["monitor", uri, name] => monitor(uri, name),
        _ => Err("it is started by impound, not by hand".into()),
    };
    match outcome {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}", error.to_string().escape_debug());
            std::process::ExitCode::FAILURE
        }
    }
}

fn say(value: &Value) -> Outcome {
    let mut out = io::stdout().lock();
    writeln!(out, "{value}")?;
    Ok(out.flush()?)
}

fn version() -> Outcome {
    let number = Connect::version()?;
    say(&json!({ "libvirt": format!("{}.{}.{}", number / 1_000_000, number / 1000 % 1000, number % 1000) }))
}

fn list(uri: &str) -> Outcome {
    let connection = Connect::open(Some(uri))?;
    for domain in connection.list_all_domains(0)? {
        say(&facts(&connection, &domain)?)?;
    }
    Ok(())
}

fn domain(uri: &str, name: &str) -> Outcome {
    let connection = Connect::open(Some(uri))?;
    let domain = find(&connection, name)?;
    let mut facts = facts(&connection, &domain)?;
    // Secrets in it are left out unless they are asked for, which they are not.
    let xml = domain.xml_desc(0)?;
    // Zero is none (VIR_DOMAIN_JOB_NONE). `job_stats` of virt 0.5 reads a null pointer where there is no job.
    let job = domain.job_info().map_or_else(|error| error.to_string(), |job| format!("kind {}", job.r#type));
    if let Some(map) = facts.as_object_mut() {
        map.insert("xml".to_owned(), json!(xml));
        map.insert("job".to_owned(), json!(job));
    }
    say(&facts)
}

/// A domain that runs stands still meanwhile and runs on then; one that stands still stays so.
fn dump(uri: &str, name: &str, file: &str) -> Outcome {
    let connection = Connect::open(Some(uri))?;
    let domain = find(&connection, name)?;
    let format = virt::sys::VIR_DOMAIN_CORE_DUMP_FORMAT_RAW;
    Ok(domain.core_dump_with_format(file, format, virt::sys::VIR_DUMP_MEMORY_ONLY)?)
}

/// By its name or its UUID.
fn find(connection: &Connect, name: &str) -> Result<Domain, virt::error::Error> {
    let named = connection.lookup_domain_by_name(name);
    named.or_else(|error| connection.lookup_domain_by_uuid_string(name).map_err(|_| error))
}

fn facts(connection: &Connect, domain: &Domain) -> Result<Value, virt::error::Error> {
    let info = domain.info()?;
    let (state, reason) = domain.state()?;
    Ok(json!({
        "driver": connection.driver_type()?,
        "name": domain.name()?,
        "uuid": domain.uuid_string()?,
        "state": plain(&format!("{state:?}")),
        "reason": plain(&format!("{reason:?}")),
        "memory": info.max_mem.saturating_mul(1024),
        "cpus": info.nr_virt_cpu,
    }))
}

/// `Known(Running)` as `running`.
fn plain(name: &str) -> String {
    let last = name.rsplit('(').next().unwrap_or(name);
    last.trim_end_matches(')').to_ascii_lowercase()
}

/// The guest's agent, by `virDomainQemuAgentCommand`. libvirt keeps questions and answers together, and holds what the agent says to
/// its own bounds; beside the command each line has the seconds that it may take. The crate has no safe way to `virDomainFSFreeze`.
fn agent(uri: &str, name: &str) -> Outcome {
    let connection = Connect::open(Some(uri))?;
    let domain = find(&connection, name)?;
    let mut input = io::stdin().lock();
    loop {
        let mut line = String::new();
        if io::Read::take(&mut input, LINE).read_line(&mut line)? == 0 {
            return Ok(());
        }
        say(&answer_of_agent(&domain, &line))?;
    }
}

fn answer_of_agent(domain: &Domain, line: &str) -> Value {
    let refuse = |why: String| json!({ "error": { "class": "GenericError", "desc": why } });
    let mut command: Value = match serde_json::from_str(line) {
        Ok(command) => command,
        Err(error) => return refuse(format!("no JSON: {error}")),
    };
    let seconds = command.as_object_mut().and_then(|map| map.remove("seconds")).and_then(|seconds| seconds.as_i64());
    // Without a number it is libvirt's own time.
    let seconds = seconds.and_then(|seconds| i32::try_from(seconds).ok()).unwrap_or(-1);
    match domain.qemu_agent_command(&command.to_string(), seconds, 0) {
        Ok(text) => serde_json::from_str(&text).unwrap_or_else(|error| refuse(error.to_string())),
        Err(error) => refuse(error.to_string()),
    }
}

/// A monitor made of `virDomainQemuMonitorCommand`. It has no events: libvirt keeps them to itself.
fn monitor(uri: &str, name: &str) -> Outcome {
    let connection = Connect::open(Some(uri))?;
    let domain = find(&connection, name)?;
    let version: Value = serde_json::from_str(&domain.qemu_monitor_command(r#"{"execute":"query-version"}"#, 0)?)?;
    let version = version.get("return").cloned().ok_or("QEMU does not tell its version")?;
    say(&json!({ "QMP": { "version": version, "capabilities": [] } }))?;
    let mut input = io::stdin().lock();
    loop {
        let mut line = String::new();
        if io::Read::take(&mut input, LINE).read_line(&mut line)? == 0 {
            return Ok(());
        }
        if !line.trim().is_empty() {
            let answer = answer(&domain, &line);
            // Without its daemon this is no monitor any more, and whoever listens has to know.
            if answer.get("error").is_some() && !connection.is_alive()? {
                return Err("the connection to libvirt broke".into());
            }
            say(&answer)?;
        }
    }
}

/// Hands one command on. What libvirt itself refuses becomes an error as QEMU would word it.
fn answer(domain: &Domain, line: &str) -> Value {
    let refuse = |why: String, id: Option<Value>| {
        let mut answer = json!({ "error": { "class": "GenericError", "desc": why } });
        if let (Some(map), Some(id)) = (answer.as_object_mut(), id) {
            map.insert("id".to_owned(), id);
        }
        answer
    };
    let mut command: Value = match serde_json::from_str(line) {
        Ok(command) => command,
        Err(error) => return refuse(format!("no JSON: {error}"), None),
    };
    // libvirt gives each command an id of its own.
    let id = command.as_object_mut().and_then(|map| map.remove("id"));
    if command.get("execute") == Some(&json!("qmp_capabilities")) {
        return json!({ "return": {}, "id": id });
    }
    let answered = match domain.qemu_monitor_command(&command.to_string(), 0) {
        Ok(text) => serde_json::from_str::<Value>(&text).map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    match answered {
        Err(why) => refuse(why, id),
        Ok(mut answer) => {
            if let Some(map) = answer.as_object_mut() {
                map.remove("id");
                map.extend(id.map(|id| ("id".to_owned(), id)));
            }
            answer
        }
    }
}
