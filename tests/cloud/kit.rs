//! What the tests of all clouds need: servers in one process that says where it is, and is told how to fail; a case beside it; tools that are
//! installed once; a search for secrets in all that a run leaves.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::fs::{FlockOperation, flock};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::common::run::{Exhibit, Ran};

/// The servers of a cloud. Dropping it ends their process; what hangs in it is not waited for.
pub(crate) struct Servers {
    child: Child,
    pub port: u64,
    /// What they said of themselves.
    pub told: Value,
    /// Where the run works: case and home.
    pub folder: TempDir,
}

impl Servers {
    /// Starts them, and waits for the line that says where they are.
    pub(crate) fn start(command: &mut Command, folder: TempDir) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let told: Value = serde_json::from_str(&line).expect("the servers say where they are");
        Self { child, port: told["port"].as_u64().unwrap(), told, folder }
    }

    /// Something that they said of themselves.
    pub(crate) fn text(&self, name: &str) -> String {
        self.told[name].as_str().unwrap().to_owned()
    }

    pub(crate) fn address(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub(crate) fn case(&self) -> PathBuf {
        self.folder.path().join("case")
    }

    /// Tells the servers something and hears how they are.
    pub(crate) fn control(&self, what: &Value) -> Value {
        let body = what.to_string();
        let mut stream = TcpStream::connect(("127.0.0.1", u16::try_from(self.port).unwrap())).unwrap();
        let head = format!("POST /control HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}", body.len());
        write!(stream, "{head}\r\n\r\n{body}").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
    }

    /// From now on they fail like this.
    pub(crate) fn fault(&self, fault: &Value) {
        self.control(&json!({ "fault": fault }));
    }

    pub(crate) fn state(&self) -> Value {
        self.control(&json!({}))
    }

    /// What was asked for, a line each.
    pub(crate) fn log(&self) -> Vec<String> {
        self.state()["log"].as_array().unwrap().iter().map(|line| line.as_str().unwrap().to_owned()).collect()
    }

    /// How often something was asked for.
    pub(crate) fn asked(&self, what: &str) -> usize {
        self.log().iter().filter(|line| line.contains(what)).count()
    }

    pub(crate) fn exhibit(&self, item: &str) -> Exhibit {
        Exhibit::find(&self.case(), item).unwrap()
    }

    /// Secrets in what was said, and in every file of the case but the guest's own.
    pub(crate) fn no_secrets(&self, secrets: &[String], ran: &Ran) {
        let found = |text: &[u8]| {
            let hit = |secret: &&String| text.windows(secret.len()).any(|part| part == secret.as_bytes());
            secrets.iter().find(hit).cloned()
        };
        for text in [&ran.stdout, &ran.stderr] {
            assert_eq!(found(text.as_bytes()), None, "{text}");
        }
        let mut folders = vec![self.case()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                let path = entry.path();
                if path.is_dir() {
                    folders.push(path);
                } else if !path.parent().unwrap().ends_with("data") {
                    // An image is the guest's own, all else is ours.
                    assert_eq!(found(&fs::read(&path).unwrap()), None, "{}", path.display());
                }
            }
        }
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What `doctor` found of something.
pub(crate) fn found(rows: &[Value], what: &str) -> String {
    rows.iter().find(|row| row["what"] == what).unwrap_or_else(|| panic!("no {what}: {rows:?}"))["found"].to_string()
}

/// Runs the program's command to its end.
pub(crate) fn end(command: &mut Command) -> Ran {
    Ran::of(&command.output().unwrap())
}

/// Takes what begins with `prefix`, and proxies, out of a command's environment.
pub(crate) fn without(command: &mut Command, prefixes: &[&str]) {
    let strange = |name: &str| {
        prefixes.iter().any(|prefix| name.starts_with(prefix)) || name.to_ascii_lowercase().ends_with("_proxy")
    };
    for (name, _) in std::env::vars().filter(|(name, _)| strange(name)) {
        command.env_remove(name);
    }
    command.env("NO_PROXY", "127.0.0.1");
}

/// A file of the tests' own.
pub(crate) fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cloud").join(name)
}

/// A folder of the build's in which tools are installed once, by one test at a time.
pub(crate) struct Tools {
    pub dir: PathBuf,
    _lock: fs::File,
}

impl Tools {
    pub(crate) fn in_folder(name: &str) -> Self {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::create_dir_all(&dir).unwrap();
        let lock = fs::File::create(dir.join("lock")).unwrap();
        flock(&lock, FlockOperation::LockExclusive).unwrap();
        Self { dir, _lock: lock }
    }

    /// Does it if it was not done for the same `wanted` already.
    pub(crate) fn once(&self, stamp: &str, wanted: &str, make: impl FnOnce()) {
        let stamp = self.dir.join(stamp);
        if !fs::read_to_string(&stamp).is_ok_and(|there| there == wanted) {
            make();
            fs::write(stamp, wanted).unwrap();
        }
    }

    pub(crate) fn python(&self) -> PathBuf {
        self.dir.join("venv/bin/python")
    }

    /// A new Python with packages of PyPI: what follows `pip install`.
    pub(crate) fn make_python(&self, packages: &[&str]) {
        run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(self.dir.join("venv")));
        let pip = ["-m", "pip", "-q", "install", "--disable-pip-version-check"];
        run(Command::new(self.python()).args(pip).args(packages));
    }
}

/// Runs a tool, which must end well.
pub(crate) fn run(command: &mut Command) {
    let out = command.output().expect("the tests of clouds need python3: apt install python3-venv");
    assert!(out.status.success(), "{command:?}: {}", String::from_utf8_lossy(&out.stderr));
}

/// A disk of so many MiB: ext4 with a file that the tests look for, and `noise` MiB of which no block is like another; the last bytes are
/// written, too. Made once for all tests, and never changed.
pub(crate) fn ext4(mib: u64, planted: &str, noise: u64) -> PathBuf {
    let tools = Tools::in_folder("cloud-disks");
    let name = format!("disk-{mib}");
    let image = tools.dir.join(format!("{name}.img"));
    tools.once(&name, &format!("{planted}{noise}"), || {
        let (folder, _) = (tempfile::tempdir().unwrap(), fs::remove_file(&image));
        let tree = folder.path().join("tree");
        fs::create_dir_all(tree.join("etc")).unwrap();
        fs::write(tree.join("etc/planted"), planted).unwrap();
        let noise: Vec<u8> =
            (0..(noise << 20) / 8).flat_map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes()).collect();
        fs::write(tree.join("noise"), noise).unwrap();
        let mut make = Command::new("mke2fs");
        let made = make.args(["-q", "-t", "ext4", "-d"]).arg(&tree).arg(&image).arg(format!("{mib}M")).output();
        let made = made.expect("the tests need mke2fs: apt install e2fsprogs");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let file = fs::OpenOptions::new().write(true).open(&image).unwrap();
        file.write_all_at(b"ends.", (mib << 20) - 5).unwrap();
    });
    image
}

/// A disk of 1 GiB.
pub(crate) fn disk() -> PathBuf {
    ext4(1024, "planted in the cloud\n", 12)
}

/// Are two files the same, byte by byte? By a tool that is not ours.
pub(crate) fn same(one: &Path, other: &Path) -> bool {
    Command::new("cmp").arg("-s").arg(one).arg(other).status().unwrap().success()
}
