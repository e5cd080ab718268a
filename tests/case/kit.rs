//! A small real case, made through the library, and what tests do to it.
#![allow(unreachable_pub, reason = "only tests use it")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use impound::case::custody::NewEvent;
use impound::case::record::{CaseRef, Content, Digests, Gaps, TargetRef, Tool, Window};
use impound::case::{Case, CaseInfo, Outcome, Record, RunInfo, Signer, Stored};
use impound::progress::Silent;
use impound_backends::{Consistency, Facts, Item, ItemKind, Journal, Pause, Region, Undo, WireEntry, WireLog};
use jiff::Timestamp;
use serde_json::{Value, json};
use sha2::block_api::compress256;
use sha2::{Digest, Sha256};

/// Length of a block in the test maps, in bytes.
pub const BLOCK: usize = 1 << 20;

/// Makes a key without passphrase.
pub fn key(dir: &Path, name: &str) -> PathBuf {
    let path = dir.join(name);
    let status = Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-C", name, "-f"])
        .arg(&path)
        .status()
        .expect("the tests need ssh-keygen: apt install openssh-client");
    assert!(status.success());
    path
}

/// The data of the first exhibit: a bit more than two blocks, every block different.
pub fn memory() -> Vec<u8> {
    (0u64..(2 * BLOCK as u64 + 4096) / 8).flat_map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes()).collect()
}

pub fn info() -> CaseInfo {
    let mut info = CaseInfo::new("2026-17", "Ada Lovelace", "warrant 4711");
    info.goals = vec!["find the implant".to_owned()];
    info.organization = Some("Example CERT".to_owned());
    info
}

/// A case with a sealed memory image (with block map), a sealed disk (without), a note, and a run that ended.
pub fn build(dir: &Path, key: Option<&Path>) -> Case {
    let signer = key.map(|key| Signer::new(key).unwrap());
    let case = Case::create(dir, &info(), signer).unwrap();
    let run = RunInfo { run: "r1".to_owned(), target: "fake:#web01".to_owned(), who: "Ada Lovelace".to_owned() };
    let mut journal = case.journal(&run).unwrap();
    let wire = case.wire_log(&run).unwrap();
    wire.entry(WireEntry {
        sent: Timestamp::now(),
        answered: None,
        said: "stop".to_owned(),
        answer_len: 0,
        answer_digest: String::new(),
        error: None,
        http: None,
    });
    let act =
        journal.about_to("stop", Undo { say: "resume".to_owned(), holds_guest: false, how: Value::Null }).unwrap();
    seal(&case, "memory", &memory(), true, Outcome::Complete, wire.path());
    seal(&case, "vda", b"a small disk", false, Outcome::Complete, wire.path());
    journal.done(act).unwrap();
    wire.check().unwrap();
    journal.end().unwrap();
    case.note("seized the host", "Ada Lovelace").unwrap();
    case
}

/// Seals one exhibit of `web01`.
pub fn seal(case: &Case, item: &str, data: &[u8], map: bool, outcome: Outcome, wire: &Path) -> PathBuf {
    let draft = case.draft("web01", item, "2026-11-24T10:30:00Z".parse().unwrap()).unwrap();
    let file = format!("data/{item}.raw");
    fs::write(draft.dir().join(&file), data).unwrap();
    if map {
        fs::write(draft.dir().join("blocks.jsonl"), block_map(data)).unwrap();
    }
    let digests = Digests { sha256: hex(&Sha256::digest(data)), ..Digests::default() };
    let blocks = map.then(|| "blocks.jsonl".to_owned());
    let stored = Stored { path: file.into(), len: data.len() as u64, blocks, digests };
    draft.seal(record(case, item, data.len() as u64, outcome), vec![stored], Some(wire)).unwrap().dir
}

pub fn record(case: &Case, item: &str, len: u64, outcome: Outcome) -> Record {
    let now = Timestamp::now();
    let kind = if item == "memory" { ItemKind::Memory } else { ItemKind::Disk };
    Record {
        schema: String::new(),
        name: String::new(),
        tool: Tool::this("test"),
        run: "r1".to_owned(),
        case: CaseRef {
            number: case.info().number.clone(),
            evidence_number: Some("17-1".to_owned()),
            examiner: case.info().examiner.clone(),
            authority: case.info().authority.clone(),
            notes: None,
        },
        target: TargetRef { uri: "fake:#web01".to_owned(), facts: Some(facts()) },
        item: Item {
            kind,
            name: item.to_owned(),
            len: Some(len),
            source: "pc.ram".to_owned(),
            resumable: false,
            methods: Vec::new(),
            file: None,
        },
        method: "snapshot".to_owned(),
        consistency: Some(Consistency::QuasiInstantaneous),
        window: Window { begin: now, end: now },
        pauses: vec![Pause { stopped: now, resumed: Some(now) }],
        stall: None,
        quiesced: None,
        clocks: None,
        outcome,
        content: Content { len, format: "raw".to_owned(), block_size: BLOCK as u64, ..Content::default() },
        regions: vec![Region { at: 0, len, name: "pc.ram".to_owned() }],
        gaps: Gaps::default(),
        stored: Vec::new(),
        instant: json!({"cpus": [{"cr3": "0x0000000000001000"}]}),
        findings: Vec::new(),
        witnesses: Vec::new(),
        left: Vec::new(),
        plan: vec!["stop".to_owned(), "cont".to_owned()],
        custody: None,
    }
}

fn facts() -> Facts {
    Facts {
        name: "web\u{1b}[2J01".to_owned(),
        id: None,
        hypervisor: "fake".to_owned(),
        version: "1".to_owned(),
        state: "running".to_owned(),
        cpus: Some(2),
        memory: Some(1 << 30),
        clocks: None,
        warnings: Vec::new(),
        details: Value::Null,
    }
}

/// `blocks.jsonl` of some bytes.
pub fn block_map(data: &[u8]) -> String {
    let mut state: [u32; 8] =
        [0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19];
    let blocks: Vec<&[u8]> = data.chunks(BLOCK).collect();
    let mut text = String::new();
    for (n, block) in blocks.iter().enumerate() {
        let chain = if n + 1 == blocks.len() {
            hex(&Sha256::digest(data))
        } else {
            compress256(&mut state, block.as_chunks::<64>().0);
            hex(&state.iter().flat_map(|word| word.to_be_bytes()).collect::<Vec<_>>())
        };
        let line = json!({"at": n * BLOCK, "len": block.len(), "sha256": hex(&Sha256::digest(block)), "chain": chain});
        text.push_str(&line.to_string());
        text.push('\n');
    }
    text
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

/// Copies a folder with its modes, and gives the copies of links their targets' names.
pub fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// Changes the bytes of a file, read-only or not.
pub fn edit(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mode = fs::metadata(path).unwrap().permissions();
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
    fs::set_permissions(path, mode).unwrap();
}

/// Changes the lines of a text file.
pub fn edit_lines(path: &Path, change: impl FnOnce(&mut Vec<String>)) {
    edit(path, |bytes| {
        let mut lines: Vec<String> = String::from_utf8_lossy(bytes).lines().map(str::to_owned).collect();
        change(&mut lines);
        *bytes = lines.iter().flat_map(|line| format!("{line}\n").into_bytes()).collect();
    });
}

/// Changes one text in a file; it must be there.
pub fn replace(path: &Path, from: &str, to: &str) {
    edit(path, |bytes| {
        let text = String::from_utf8(bytes.clone()).unwrap();
        assert!(text.contains(from), "{from} is not in {}", path.display());
        *bytes = text.replacen(from, to, 1).into_bytes();
    });
}

/// A shell to run `verify.sh` in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shell {
    /// Debian's, with GNU tools.
    Dash,
    /// busybox for the shell and every tool but ssh-keygen.
    Busybox,
}

/// Runs the case's own `verify.sh`. Nothing is skipped: without the shell the test fails.
pub fn verify_sh(shell: Shell, script: &Path, args: &[&str], case: &Path) -> Output {
    let path = std::env::var_os("PATH").unwrap();
    let program = |name: &str, package: &str| {
        let mut found = std::env::split_paths(&path).map(|dir| dir.join(name));
        found.find(|path| path.is_file()).unwrap_or_else(|| panic!("this test needs {name}: apt install {package}"))
    };
    let mut command = match shell {
        Shell::Dash => Command::new(program("dash", "dash")),
        Shell::Busybox => {
            let busybox = program("busybox", "busybox");
            let mut command = Command::new(&busybox);
            command.arg("sh");
            // Beside the case, so that it goes when the case goes.
            let tools = case.with_file_name("busybox-tools");
            fs::create_dir(&tools).unwrap();
            let applets = Command::new(&busybox).arg("--list").output().unwrap();
            let wanted = "sha256sum find sed awk sort uniq cmp tr grep ls tail dirname mktemp rm cat comm";
            let wanted: Vec<_> = wanted.split(' ').collect();
            for name in String::from_utf8(applets.stdout).unwrap().lines().filter(|name| wanted.contains(name)) {
                std::os::unix::fs::symlink(&busybox, tools.join(name)).unwrap();
            }
            std::os::unix::fs::symlink(program("ssh-keygen", "openssh-client"), tools.join("ssh-keygen")).unwrap();
            command.env("PATH", &tools);
            command
        }
    };
    command.arg(script).args(args).arg(case).output().unwrap()
}

/// Verifies with the library and names the findings.
pub fn findings(case: &Path, options: &impound::case::verify::Options) -> (u8, Vec<(String, String)>) {
    let report = impound::case::verify::verify(case, options, &Silent).unwrap();
    (report.exit_code(), report.findings.iter().map(|f| (f.name().to_owned(), f.to_string())).collect())
}

/// An event without subject.
pub fn event(kind: impound::case::custody::EventKind) -> NewEvent {
    NewEvent::new(kind, "Mallory")
}
