//! A small synchronous QMP client: the test's own look at what impound left behind in QEMU.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

/// No command the tests send takes longer than this, unless QEMU hangs.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// A connection. Events that arrive between answers are kept in [`Control::events`].
#[derive(Debug)]
pub struct Control {
    stream: BufReader<UnixStream>,
    /// Every event so far, in order of arrival. Only reading an answer takes them in.
    pub events: Vec<Value>,
}

/// What a capture may not leave changed, to be compared before and after.
#[derive(Debug, Clone, PartialEq)]
pub struct State {
    pub status: String,
    pub jobs: Vec<String>,
    pub exports: Vec<String>,
    pub nodes: BTreeSet<String>,
    pub capabilities: BTreeSet<String>,
    pub parameters: Value,
    pub fd_sets: Vec<Value>,
}

impl Control {
    pub fn connect(socket: &Path) -> Result<Self> {
        let stream = UnixStream::connect(socket).with_context(|| format!("cannot connect to {}", socket.display()))?;
        stream.set_read_timeout(Some(ANSWER_WITHIN))?;
        let mut control = Self { stream: BufReader::new(stream), events: Vec::new() };
        let greeting = control.receive()?;
        ensure!(greeting.get("QMP").is_some(), "not a QMP greeting: {greeting}");
        control.execute("qmp_capabilities", &json!({}))?;
        Ok(control)
    }

    fn receive(&mut self) -> Result<Value> {
        let mut line = String::new();
        let length = self.stream.read_line(&mut line).context("no answer from QMP")?;
        ensure!(length > 0, "QEMU closed the control connection");
        serde_json::from_str(&line).with_context(|| format!("not JSON: {line}"))
    }

    /// Sends a command and gives what stands in `return`. An `error` answer is an error with QEMU's words.
    pub fn execute(&mut self, command: &str, arguments: &Value) -> Result<Value> {
        let mut request = json!({ "execute": command, "arguments": arguments }).to_string();
        request.push('\n');
        self.stream.get_mut().write_all(request.as_bytes())?;
        loop {
            let mut answer = self.receive()?;
            if answer.get("event").is_some() {
                self.events.push(answer);
            } else if let Some(result) = answer.get_mut("return") {
                return Ok(result.take());
            } else {
                bail!("{command}: {answer}");
            }
        }
    }

    /// A command of the human monitor, for what QMP does not have.
    pub fn human(&mut self, line: &str) -> Result<String> {
        let answer = self.execute("human-monitor-command", &json!({ "command-line": line }))?;
        Ok(answer.as_str().unwrap_or_default().to_owned())
    }

    /// `running`, `paused`, `postmigrate` …
    pub fn status(&mut self) -> Result<String> {
        let answer = self.execute("query-status", &json!({}))?;
        Ok(member(&answer, "status").to_owned())
    }

    /// `id (status)` of every job.
    pub fn jobs(&mut self) -> Result<Vec<String>> {
        let jobs = self.list("query-jobs")?;
        Ok(jobs.iter().map(|job| format!("{} ({})", member(job, "id"), member(job, "status"))).collect())
    }

    /// The ids of all block exports. A listening NBD server with no export does not show.
    pub fn exports(&mut self) -> Result<Vec<String>> {
        let exports = self.list("query-block-exports")?;
        Ok(exports.iter().map(|export| member(export, "id").to_owned()).collect())
    }

    /// `node (driver)` of every block node, generated names included, and the names of its dirty bitmaps.
    pub fn named_nodes(&mut self) -> Result<BTreeSet<String>> {
        let nodes = self.list("query-named-block-nodes")?;
        Ok(nodes
            .iter()
            .map(|node| {
                let mut name = format!("{} ({})", member(node, "node-name"), member(node, "drv"));
                for bitmap in node.get("dirty-bitmaps").and_then(Value::as_array).into_iter().flatten() {
                    let _infallible = write!(name, " +{}", member(bitmap, "name"));
                }
                name
            })
            .collect())
    }

    /// The migration capabilities that are on.
    pub fn migrate_capabilities(&mut self) -> Result<BTreeSet<String>> {
        let all = self.list("query-migrate-capabilities")?;
        let on = all.iter().filter(|one| one.get("state") == Some(&Value::Bool(true)));
        Ok(on.map(|one| member(one, "capability").to_owned()).collect())
    }

    /// All of the above at once: `assert_eq!(before, after)` says what a capture left behind.
    pub fn state(&mut self) -> Result<State> {
        Ok(State {
            status: self.status()?,
            jobs: self.jobs()?,
            exports: self.exports()?,
            nodes: self.named_nodes()?,
            capabilities: self.migrate_capabilities()?,
            parameters: self.execute("query-migrate-parameters", &json!({}))?,
            fd_sets: self.list("query-fdsets")?,
        })
    }

    fn list(&mut self, command: &str) -> Result<Vec<Value>> {
        match self.execute(command, &json!({}))? {
            Value::Array(list) => Ok(list),
            other => bail!("{command} did not answer with a list: {other}"),
        }
    }
}

fn member<'a>(object: &'a Value, name: &str) -> &'a str {
    object.get(name).and_then(Value::as_str).unwrap_or_default()
}
