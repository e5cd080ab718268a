//! An account on loopback with one instance.

use std::fs;
use std::io::Read;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::common::run::{Ran, impound};
use crate::kit::{self, Servers, Tools, source, without};

/// What is installed from PyPI, once, into the build folder.
const PACKAGES: &[&str] = &["moto[ec2,sts]==5.2.5", "flask==3.1.3", "flask-cors==6.0.5"];
/// The keys of the account. No file and no output may hold the second.
pub(crate) const KEY_ID: &str = "AKIDIMPOUNDTEST";
pub(crate) const SECRET: &str = "hunter2/hunter2+hunter2/hunter2/hunter2x";
/// What stands in every token that the server gives, encoded as it is there.
const TOKENS: &[&str] = &["c2Vrcml0", "sekrit-", "X-Amz-Signature"];
/// The account for evidence, as the server has it.
pub(crate) const EVIDENCE: &str = "210987654321";
/// A key of either account's own, and the one that AWS keeps.
pub(crate) const KEYS: [&str; 3] = [
    "arn:aws:kms:eu-west-1:123456789012:key/0a0a0a0a-suspect",
    "arn:aws:kms:eu-central-1:210987654321:key/0b0b0b0b-evidence",
    "arn:aws:kms:eu-west-1:123456789012:key/0c0c0c0c-of-aws",
];
/// Length of a block of EBS.
pub(crate) const BLOCK: u64 = 512 << 10;

/// A Python with the packages; made by the first test that needs it.
fn python() -> PathBuf {
    let tools = Tools::in_folder("python-aws");
    tools.once("installed", &PACKAGES.join("\n"), || tools.make_python(PACKAGES));
    tools.python()
}

/// The server, with its instance.
pub(crate) struct Account {
    servers: Servers,
    pub instance: String,
    pub group: String,
    pub volumes: Value,
    /// What must be found nowhere.
    pub secrets: Vec<String>,
}

impl Deref for Account {
    type Target = Servers;

    fn deref(&self) -> &Servers {
        &self.servers
    }
}

impl Account {
    /// Starts one with these volumes, the root first.
    pub(crate) fn start(disks: &[PathBuf]) -> Self {
        let mut server = Command::new(python());
        server.arg(source("aws_server.py")).args(disks).env("TEST_KEY_ID", KEY_ID).env("TEST_SECRET", SECRET);
        let servers = Servers::start(&mut server, tempfile::tempdir().unwrap());
        Self {
            instance: servers.text("instance"),
            group: servers.text("group"),
            volumes: servers.told["volumes"].clone(),
            servers,
            secrets: TOKENS.iter().map(|token| (*token).to_owned()).chain([SECRET.to_owned()]).collect(),
        }
    }

    /// One with a profile of the account for evidence (`evidence`), one of its own (`own`), and [`KEYS`], which these accounts may use.
    pub(crate) fn with_evidence(disks: &[PathBuf]) -> Self {
        let account = Self::start(disks);
        let aws = account.folder.path().join(".aws");
        fs::create_dir(&aws).unwrap();
        let role = format!("arn:aws:iam::{EVIDENCE}:role/keeper");
        let config = format!("[profile evidence]\nrole_arn = {role}\nsource_profile = own\n");
        fs::write(aws.join("config"), config).unwrap();
        let keys = format!("[own]\naws_access_key_id = {KEY_ID}\naws_secret_access_key = {SECRET}\n");
        fs::write(aws.join("credentials"), keys).unwrap();
        let own = account.text("account");
        account.key(0, "CUSTOMER", &[&own, EVIDENCE], "Enabled");
        account.key(1, "CUSTOMER", &[EVIDENCE], "Enabled");
        account.key(2, "AWS", &[&own], "Enabled");
        account
    }

    /// One of [`KEYS`] is like this from now on.
    pub(crate) fn key(&self, key: usize, manager: &str, accounts: &[&str], state: &str) {
        let about = serde_json::json!({ "manager": manager, "accounts": accounts, "state": state });
        self.control(&serde_json::json!({ "keys": { KEYS[key]: about } }));
    }

    /// The volume of this device is encrypted with one of [`KEYS`].
    pub(crate) fn encrypt(&self, device: &str, key: usize) {
        let volume = self.volumes[device].as_str().unwrap();
        self.control(&serde_json::json!({ "encrypt": { volume: KEYS[key] } }));
    }

    /// How often a copy was asked for.
    pub(crate) fn copies_asked(&self) -> usize {
        self.log().iter().filter(|line| *line == "CopySnapshot").count()
    }

    pub(crate) fn target(&self) -> String {
        format!("aws://eu-west-1#{}", self.instance)
    }

    /// The program, with an environment of its own.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = impound();
        without(&mut command, &["AWS_"]);
        command
            .env("HOME", self.folder.path())
            .env("AWS_ENDPOINT_URL", self.address())
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .env("AWS_ACCESS_KEY_ID", KEY_ID)
            .env("AWS_SECRET_ACCESS_KEY", SECRET)
            .args(["--format", "json"])
            .args(arguments);
        command
    }

    /// Runs a command to its end and looks for secrets in all it said and left.
    pub(crate) fn end(&self, command: &mut Command) -> Ran {
        let ran = kit::end(command);
        self.no_secrets(&self.secrets, &ran);
        ran
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Ran {
        self.end(&mut self.command(arguments))
    }

    pub(crate) fn acquire(&self, more: &[&str]) -> Ran {
        let (target, case) = (self.target(), self.case().display().to_string());
        self.run(&[&["acquire", target.as_str(), "--case", case.as_str()], more].concat())
    }
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
