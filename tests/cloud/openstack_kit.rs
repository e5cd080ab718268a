//! A cloud on loopback with one server, a case beside it, and a search for secrets in all that a run leaves.

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

/// What is installed from PyPI, once, into the build folder: all of it by version, and nothing that the list does not name.
const PACKAGES: &str = include_str!("openstack_requirements.txt");
/// What makes the databases, once.
const REAL: &str = include_str!("openstack_real.py");
/// The password of all users. No file and no output may hold it.
pub(crate) const SECRET: &str = "hunter2-hunter2-hunter2";
/// How every token of Keystone begins: Fernet, version 0x80, and the first bytes of a time of this century.
const TOKENS: &str = "gAAAAAB";

/// A Python with the packages and a folder with databases; made by the first test that needs them.
fn made() -> &'static (PathBuf, PathBuf) {
    static MADE: OnceLock<(PathBuf, PathBuf)> = OnceLock::new();
    MADE.get_or_init(|| {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("python-openstack");
        fs::create_dir_all(&dir).unwrap();
        let lock = fs::File::create(dir.join("lock")).unwrap();
        flock(&lock, FlockOperation::LockExclusive).unwrap();
        let (python, cloud) = (dir.join("venv/bin/python"), dir.join("cloud"));
        let run = |command: &mut Command| {
            let out = command.output().expect("the tests of openstack need python3: apt install python3-venv");
            assert!(out.status.success(), "{command:?}: {}", String::from_utf8_lossy(&out.stderr));
        };
        let once = |name: &str, wanted: &str, make: &dyn Fn()| {
            let stamp = dir.join(name);
            if !fs::read_to_string(&stamp).is_ok_and(|there| there == wanted) {
                make();
                fs::write(stamp, wanted).unwrap();
            }
        };
        once("installed", PACKAGES, &|| {
            run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(dir.join("venv")));
            let pip = ["-m", "pip", "-q", "install", "--disable-pip-version-check", "--no-deps", "--no-compile", "-r"];
            run(Command::new(&python).args(pip).arg(source("openstack_requirements.txt")));
        });
        once("prepared", &format!("{PACKAGES}{REAL}"), &|| {
            let _ = fs::remove_dir_all(&cloud);
            fs::create_dir(&cloud).unwrap();
            let mut prepare = Command::new(&python);
            run(prepare.arg(source("openstack_real.py")).arg("prepare").arg(&cloud).env("TEST_SECRET", SECRET));
        });
        (python, cloud)
    })
}

fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cloud").join(name)
}

/// A disk of 48 MiB: ext4 with files that the tests look for. Made once, never changed.
pub(crate) fn small() -> PathBuf {
    static MADE: OnceLock<(TempDir, PathBuf)> = OnceLock::new();
    let (_, path) = MADE.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let (tree, image) = (folder.path().join("tree"), folder.path().join("small.img"));
        fs::create_dir_all(tree.join("etc")).unwrap();
        fs::write(tree.join("etc/planted"), "planted in the image\n").unwrap();
        let noise: Vec<u8> =
            (0_u64..(20 << 20) / 8).flat_map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes()).collect();
        fs::write(tree.join("noise"), noise).unwrap();
        let made = Command::new("mke2fs").args(["-q", "-t", "ext4", "-d"]).arg(&tree).arg(&image).arg("48M").output();
        let made = made.expect("the tests need mke2fs: apt install e2fsprogs");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        // The last bytes are written, and so the end of the image.
        fs::OpenOptions::new().write(true).open(&image).unwrap().write_all_at(b"ends.", (48 << 20) - 5).unwrap();
        (folder, image)
    });
    path.clone()
}

/// What the cloud is to be.
#[derive(Default)]
pub(crate) struct Wanted<'a> {
    /// The server's own disk, if it boots from an image, and its format.
    pub own: Option<(&'a Path, &'a str)>,
    /// Volumes by device.
    pub volumes: &'a [(&'a str, &'a Path)],
    /// The volumes are in one group.
    pub group: bool,
    /// For the servers' environment.
    pub vars: &'a [(&'a str, &'a str)],
}

/// The servers, with one of Nova's.
pub(crate) struct Cloud {
    child: Child,
    pub port: u64,
    /// Id of the server.
    pub server: String,
    /// Where the run works: case and home; and the servers, in a folder of their own.
    pub folder: TempDir,
}

impl Cloud {
    pub(crate) fn start(wanted: &Wanted) -> Self {
        let (python, cloud) = made();
        let folder = tempfile::tempdir().unwrap();
        let work = folder.path().join("servers");
        fs::create_dir(&work).unwrap();
        let disks = json!({
            "own": wanted.own.map(|(path, _)| path), "format": wanted.own.map_or("raw", |(_, format)| format),
            "volumes": wanted.volumes, "group": wanted.group,
        });
        let mut child = Command::new(python)
            .arg(source("openstack_server.py"))
            .arg(cloud)
            .arg(disks.to_string())
            .env("TEST_SECRET", SECRET)
            .env("TEST_WORK", &work)
            .envs(wanted.vars.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let told: Value = serde_json::from_str(&line).expect("the servers say where they are");
        let (port, server) = (told["port"].as_u64().unwrap(), told["server"].as_str().unwrap().to_owned());
        let cloud = Self { child, port, server, folder };
        cloud.write_clouds();
        cloud
    }

    /// `lab` by password, `reader` who may only read; the password stands in `secure.yaml`.
    fn write_clouds(&self) {
        let config = self.folder.path().join(".config/openstack");
        fs::create_dir_all(&config).unwrap();
        let auth = |user: &str| {
            format!(
                "{{auth_url: 'http://127.0.0.1:{}/identity', username: {user}, user_domain_name: Default, project_name: lab, project_domain_id: default}}",
                self.port
            )
        };
        let clouds = format!(
            "clouds:\n  lab:\n    region_name: RegionOne\n    auth: {}\n  reader:\n    auth: {}\n",
            auth("responder"),
            auth("reader")
        );
        fs::write(config.join("clouds.yaml"), clouds).unwrap();
        let secure = ["lab", "reader"].map(|name| format!("  {name}: {{auth: {{password: {SECRET}}}}}\n")).concat();
        fs::write(config.join("secure.yaml"), format!("clouds:\n{secure}")).unwrap();
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

    /// From now on the servers fail like this.
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

    /// The program, with an environment of its own.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = impound();
        let strange = std::env::vars().filter(|(name, _)| name.starts_with("OS_") || name.ends_with("_proxy"));
        for (name, _) in strange {
            command.env_remove(name);
        }
        command.env("HOME", self.folder.path()).env_remove("XDG_CONFIG_HOME").env("NO_PROXY", "127.0.0.1");
        command.current_dir(self.folder.path()).args(["--format", "json"]).args(arguments);
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
        let case = self.case().display().to_string();
        self.run(&[&["acquire", "openstack://lab#web01", "--case", case.as_str()], more].concat())
    }

    pub(crate) fn exhibit(&self, item: &str) -> Exhibit {
        Exhibit::find(&self.case(), item).unwrap()
    }

    /// Secrets in what was said, and in every file of the case but what is the guest's own.
    pub(crate) fn no_secrets(&self, ran: &Ran) {
        let found = |text: &[u8]| {
            let hit = |secret: &&str| text.windows(secret.len()).any(|part| part == secret.as_bytes());
            [SECRET, TOKENS].into_iter().find(hit)
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
                    assert_eq!(found(&fs::read(&path).unwrap()), None, "{}", path.display());
                }
            }
        }
    }
}

impl Drop for Cloud {
    fn drop(&mut self) {
        // Keystone and Glance end when their parent is gone, and what hangs in them is not waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
