//! The datastore browser of the double: real TLS with a certificate that it signed itself, login, parts, and what may go wrong.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use super::{Esx, executable};

/// The pages. Dropping it ends them.
pub struct Browser {
    child: Child,
    pub port: u16,
    home: PathBuf,
}

impl Browser {
    /// Pages of this host, for root with this password.
    pub fn start(esx: &Esx, password: &str) -> Self {
        let home = esx.home().to_owned();
        certify(&home);
        fs::write(home.join("browser.py"), include_str!("browser.py")).unwrap();
        executable(&home.join("browser"), &super::calls_host(&home));
        let mut command = Command::new(home.join("browser"));
        command.env("ESX", &home).env("PASSWORD", password).env("PYTHONDONTWRITEBYTECODE", "1");
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("python3 is needed");
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Self { child, port: line.trim().parse().expect("no port"), home }
    }

    /// Its certificate (PEM).
    pub fn certificate(&self) -> PathBuf {
        self.home.join("rui.crt")
    }

    /// SHA-256 of that, as openssl prints it: `AB:CD:…`.
    pub fn fingerprint(&self) -> String {
        let mut openssl = Command::new("openssl");
        openssl.args(["x509", "-noout", "-fingerprint", "-sha256", "-in"]).arg(self.certificate());
        let text = String::from_utf8(openssl.output().unwrap().stdout).unwrap();
        text.trim().split_once('=').expect("no fingerprint").1.to_owned()
    }

    /// What it was asked for, in order.
    pub fn log(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.home.join("browser.log")).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn certify(home: &std::path::Path) {
    let mut openssl = Command::new("openssl");
    openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]);
    openssl.args(["-subj", "/O=VMware, Inc/CN=localhost.localdomain", "-addext", "subjectAltName=IP:127.0.0.1"]);
    openssl.args(["-addext", "basicConstraints=critical,CA:FALSE", "-keyout"]).arg(home.join("rui.key"));
    let made = openssl.arg("-out").arg(home.join("rui.crt")).output().expect("openssl is needed");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}
