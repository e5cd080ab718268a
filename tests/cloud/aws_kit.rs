//! An account on loopback with one instance, a case beside it, and a search for secrets in all that a run leaves.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use rustix::fs::{FlockOperation, flock};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::common::run::{Exhibit, Ran, impound};

/// What is installed from PyPI, once, into the build folder.
const PACKAGES: &[&str] = &["moto[ec2,sts]==5.2.5", "flask==3.1.3", "flask-cors==6.0.5"];
/// The keys of the account. No file and no output may hold the second.
pub(crate) const KEY_ID: &str = "AKIDIMPOUNDTEST";
pub(crate) const SECRET: &str = "hunter2/hunter2+hunter2/hunter2/hunter2x";
/// What stands in every token that the server gives, encoded as it is there.
const TOKENS: &[&str] = &["c2Vrcml0", "sekrit-"];
/// Length of a block of EBS.
pub(crate) const BLOCK: u64 = 512 << 10;

/// A Python with the packages; made by the first test that needs it.
fn python() -> PathBuf {
    static MADE: OnceLock<PathBuf> = OnceLock::new();
    MADE.get_or_init(|| {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("python-aws");
        fs::create_dir_all(&dir).unwrap();
        let lock = fs::File::create(dir.join("lock")).unwrap();
        flock(&lock, FlockOperation::LockExclusive).unwrap();
        let (python, stamp) = (dir.join("venv/bin/python"), dir.join("installed"));
        let wanted = PACKAGES.join("\n");
        if fs::read_to_string(&stamp).is_ok_and(|there| there == wanted) {
            return python;
        }
        let run = |command: &mut Command| {
            let out = command.output().expect("the tests of aws need python3: apt install python3-venv");
            assert!(out.status.success(), "{command:?}: {}", String::from_utf8_lossy(&out.stderr));
        };
        run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(dir.join("venv")));
        run(Command::new(&python).args(["-m", "pip", "-q", "install", "--disable-pip-version-check"]).args(PACKAGES));
        fs::write(stamp, wanted).unwrap();
        python
    })
    .clone()
}

/// A disk of 1 GiB: ext4 with files that the tests look for, in its middle and at its end. Made once, never changed.
pub(crate) fn disk() -> PathBuf {
    static MADE: OnceLock<(TempDir, PathBuf)> = OnceLock::new();
    let (_, path) = MADE.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let (tree, image) = (folder.path().join("tree"), folder.path().join("disk.img"));
        fs::create_dir_all(tree.join("etc")).unwrap();
        fs::write(tree.join("etc/planted"), "planted in the cloud\n").unwrap();
        // More than a handful of blocks, none like another.
        let noise: Vec<u8> =
            (0_u64..(12 << 20) / 8).flat_map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes()).collect();
        fs::write(tree.join("noise"), noise).unwrap();
        let made = Command::new("mke2fs").args(["-q", "-t", "ext4", "-d"]).arg(&tree).arg(&image).arg("1G").output();
        let made = made.expect("the tests need mke2fs: apt install e2fsprogs");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        // The last block of the volume is written, and so its end.
        let file = fs::OpenOptions::new().write(true).open(&image).unwrap();
        file.write_all_at(b"ends.", (1 << 30) - 5).unwrap();
        (folder, image)
    });
    path.clone()
}

/// The server, with its instance.
pub(crate) struct Account {
    child: Child,
    pub port: u64,
    pub instance: String,
    pub group: String,
    pub volumes: Value,
    /// Where the run works: case and home.
    pub folder: TempDir,
    /// What must be found nowhere.
    pub secrets: Vec<String>,
}

impl Account {
    /// Starts one with these volumes, the root first.
    pub(crate) fn start(disks: &[PathBuf]) -> Self {
        let server = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cloud/aws_server.py");
        let mut child = Command::new(python())
            .arg(server)
            .args(disks)
            .env("TEST_KEY_ID", KEY_ID)
            .env("TEST_SECRET", SECRET)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let told: Value = serde_json::from_str(&line).expect("the server says where it is");
        let text = |name: &str| told[name].as_str().unwrap().to_owned();
        Self {
            port: told["port"].as_u64().unwrap(),
            instance: text("instance"),
            group: text("group"),
            volumes: told["volumes"].clone(),
            child,
            folder: tempfile::tempdir().unwrap(),
            secrets: TOKENS.iter().map(|token| (*token).to_owned()).chain([SECRET.to_owned()]).collect(),
        }
    }

    pub(crate) fn address(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub(crate) fn target(&self) -> String {
        format!("aws://eu-west-1#{}", self.instance)
    }

    pub(crate) fn case(&self) -> PathBuf {
        self.folder.path().join("case")
    }

    /// Tells the server something and hears how it is.
    pub(crate) fn control(&self, what: &Value) -> Value {
        let body = what.to_string();
        let mut stream = TcpStream::connect(("127.0.0.1", u16::try_from(self.port).unwrap())).unwrap();
        let head = format!("POST /control HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}", body.len());
        write!(stream, "{head}\r\n\r\n{body}").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
    }

    /// From now on the server fails like this.
    pub(crate) fn fault(&self, fault: &Value) {
        self.control(&json!({ "fault": fault }));
    }

    pub(crate) fn state(&self) -> Value {
        self.control(&json!({}))
    }

    /// The program, with an environment of its own.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = impound();
        let strange = std::env::vars().filter(|(name, _)| name.starts_with("AWS_") || name.ends_with("_proxy"));
        for (name, _) in strange {
            command.env_remove(name);
        }
        command
            .env("HOME", self.folder.path())
            .env("AWS_ENDPOINT_URL", self.address())
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .env("NO_PROXY", "127.0.0.1")
            .env("AWS_ACCESS_KEY_ID", KEY_ID)
            .env("AWS_SECRET_ACCESS_KEY", SECRET)
            .args(["--format", "json"])
            .args(arguments);
        command
    }

    /// Runs a command to its end and looks for secrets in all it said and left.
    pub(crate) fn end(&self, command: &mut Command) -> Ran {
        let ran = Ran::of(&command.output().unwrap());
        self.no_secrets(&ran);
        ran
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Ran {
        self.end(&mut self.command(arguments))
    }

    pub(crate) fn acquire(&self, more: &[&str]) -> Ran {
        let (target, case) = (self.target(), self.case().display().to_string());
        self.run(&[&["acquire", target.as_str(), "--case", case.as_str()], more].concat())
    }

    pub(crate) fn exhibit(&self, item: &str) -> Exhibit {
        Exhibit::find(&self.case(), item).unwrap()
    }

    fn no_secrets(&self, ran: &Ran) {
        search(&self.case(), &self.secrets, ran);
    }
}

/// Secrets in what was said, and in every file of the case but the guest's own.
pub(crate) fn search(case: &Path, secrets: &[String], ran: &Ran) {
    let found = |text: &[u8]| {
        let hit = |secret: &&String| text.windows(secret.len()).any(|part| part == secret.as_bytes());
        secrets.iter().find(hit).cloned()
    };
    for text in [&ran.stdout, &ran.stderr] {
        assert_eq!(found(text.as_bytes()), None, "{text}");
    }
    let mut folders = vec![case.to_owned()];
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

impl Drop for Account {
    fn drop(&mut self) {
        // It ends when its stdin is closed; what hangs in it is not waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Are two files the same, byte by byte? By a tool that is not ours.
pub(crate) fn same(one: &Path, other: &Path) -> bool {
    Command::new("cmp").arg("-s").arg(one).arg(other).status().unwrap().success()
}

/// Numbers of the blocks of an image that are not all zero.
pub(crate) fn written(image: &Path) -> Vec<u64> {
    let mut file = fs::File::open(image).unwrap();
    let mut block = vec![0; usize::try_from(BLOCK).unwrap()];
    let mut found = Vec::new();
    for n in 0..file.metadata().unwrap().len() / BLOCK {
        file.read_exact(&mut block).unwrap();
        if block.iter().any(|byte| *byte != 0) {
            found.push(n);
        }
    }
    found
}
