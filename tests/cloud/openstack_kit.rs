//! A cloud on loopback with one server.

use std::fs;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;

use crate::common::run::{Ran, impound};
use crate::kit::{self, Servers, Tools, ext4, source, without};

/// What is installed from PyPI, once, into the build folder: all of it by version, and nothing that the list does not name.
const PACKAGES: &str = include_str!("openstack_requirements.txt");
/// What makes the databases, once.
const REAL: &str = include_str!("openstack_real.py");
/// The password of all users. No file and no output may hold it.
pub(crate) const SECRET: &str = "hunter2-hunter2-hunter2";
/// How every token of Keystone begins: Fernet, version 0x80, and the first bytes of a time of this century.
const TOKENS: &str = "gAAAAAB";

/// A Python with the packages and a folder with databases; made by the first test that needs them.
fn made() -> (PathBuf, PathBuf) {
    let tools = Tools::in_folder("python-openstack");
    tools.once("installed", PACKAGES, || {
        let list = source("openstack_requirements.txt").display().to_string();
        tools.make_python(&["--no-deps", "--no-compile", "-r", &list]);
    });
    let cloud = tools.dir.join("cloud");
    tools.once("prepared", &format!("{PACKAGES}{REAL}"), || {
        let _ = fs::remove_dir_all(&cloud);
        fs::create_dir(&cloud).unwrap();
        let mut prepare = Command::new(tools.python());
        kit::run(prepare.arg(source("openstack_real.py")).arg("prepare").arg(&cloud).env("TEST_SECRET", SECRET));
    });
    (tools.python(), cloud)
}

/// A disk of 48 MiB.
pub(crate) fn small() -> PathBuf {
    ext4(48, "planted in the image\n", 20)
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

/// The servers, with one of Nova's. Keystone and Glance end when their parent is gone.
pub(crate) struct Cloud {
    servers: Servers,
    /// Id of the server.
    pub server: String,
}

impl Deref for Cloud {
    type Target = Servers;

    fn deref(&self) -> &Servers {
        &self.servers
    }
}

impl Cloud {
    pub(crate) fn start(wanted: &Wanted) -> Self {
        let ((python, cloud), folder) = (made(), tempfile::tempdir().unwrap());
        let work = folder.path().join("servers");
        fs::create_dir(&work).unwrap();
        let disks = json!({
            "own": wanted.own.map(|(path, _)| path), "format": wanted.own.map_or("raw", |(_, format)| format),
            "volumes": wanted.volumes, "group": wanted.group,
        });
        let mut server = Command::new(python);
        server.arg(source("openstack_server.py")).arg(cloud).arg(disks.to_string());
        server.env("TEST_SECRET", SECRET).env("TEST_WORK", &work).envs(wanted.vars.iter().copied());
        let servers = Servers::start(&mut server, folder);
        let cloud = Self { server: servers.text("server"), servers };
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

    /// The program, with an environment of its own.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = impound();
        without(&mut command, &["OS_"]);
        command.env("HOME", self.folder.path()).env_remove("XDG_CONFIG_HOME");
        command.current_dir(self.folder.path()).args(["--format", "json"]).args(arguments);
        command
    }

    /// Runs a command to its end and looks for secrets in all it said and left.
    pub(crate) fn end(&self, command: &mut Command) -> Ran {
        let ran = kit::end(command);
        self.no_secrets(&[SECRET.to_owned(), TOKENS.to_owned()], &ran);
        ran
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Ran {
        self.end(&mut self.command(arguments))
    }

    pub(crate) fn acquire(&self, more: &[&str]) -> Ran {
        let case = self.case().display().to_string();
        self.run(&[&["acquire", "openstack://lab#web01", "--case", case.as_str()], more].concat())
    }
}
