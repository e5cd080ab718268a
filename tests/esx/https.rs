//! ESXi's files by its datastore browser, against a double of the host (`common/esx`, `browser.py`): what comes is what lay there,
//! who is believed to be the host, what an answer must be, and where the password is not.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::common::esx::browser::Browser;
use crate::common::esx::{DISK, Esx, MEMORY, NAME, STORE, content, said};
use crate::common::run::{Exhibit, Ran, holds, impound};

/// Whatever a password may hold.
const PASSWORD: &str = "pa:ss wörd+%2B\"'$(id)";
/// Its form in a header: printf 'root:…' | base64
const ENCODED: &str = "cm9vdDpwYTpzcyB3w7ZyZCslMkIiJyQoaWQp";

/// A host with its pages, and a case.
struct Bench {
    esx: Esx,
    browser: Browser,
    folder: TempDir,
}

impl Bench {
    fn new(style: u32) -> Self {
        let esx = Esx::start(style);
        let browser = Browser::start(&esx, PASSWORD);
        Self { esx, browser, folder: TempDir::new().unwrap() }
    }

    fn case(&self) -> PathBuf {
        self.folder.path().join("case")
    }

    /// An address with these words about certificates.
    fn address(&self, cert: &str) -> String {
        format!("esx+ssh://root@there?patience=20&files=https&https-port={}{cert}", self.browser.port)
    }

    fn pinned(&self) -> String {
        self.address(&format!("&cert={}", self.browser.fingerprint()))
    }

    fn run(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Result<Ran> {
        let mut command = impound();
        command.args(["--format", "json"]).args(arguments).arg("--ssh-config").arg(self.esx.sshd.config());
        // Nobody sits at a terminal, and no proxy knows this machine.
        command.env_remove("IMPOUND_ESX_PASSWORD").env("https_proxy", "http://127.0.0.1:9");
        Ok(Ran::of(&command.envs(environment.iter().copied()).output()?))
    }

    fn acquire(&self, arguments: &[&str]) -> Result<Ran> {
        self.acquire_from(&self.pinned(), arguments, &[("IMPOUND_ESX_PASSWORD", PASSWORD)])
    }

    fn acquire_from(&self, address: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Result<Ran> {
        let (case, target) = (self.case(), format!("{address}#{NAME}"));
        self.run(&[&["acquire", target.as_str(), "--case", case.to_str().unwrap()], arguments].concat(), environment)
    }

    fn exhibit(&self, item: &str) -> Exhibit {
        Exhibit::find(&self.case(), item).unwrap()
    }

    fn wrong(&self, what: &Value) {
        self.esx.control(&json!({ "browser": what }));
    }

    /// What was asked for of files that end so.
    fn asked(&self, ending: &str) -> Vec<Value> {
        let of = |entry: &Value| entry["path"].as_str().is_some_and(|path| path.ends_with(ending));
        self.browser.log().into_iter().filter(of).collect()
    }

    /// No snapshot is there, and none was asked for.
    fn untouched(&self) {
        assert_eq!(self.esx.snapshots(), []);
        assert!(!self.esx.journal().iter().any(|said| said.contains("snapshot.create")), "{:?}", self.esx.journal());
    }
}

impl Drop for Bench {
    /// Nothing but the documented commands, only parts of files, and the password in nobody's arguments.
    fn drop(&mut self) {
        if !std::thread::panicking() {
            said::only_what_is_listed(&self.esx.journal());
            for entry in self.browser.log() {
                assert_eq!(entry["seen"], false, "{entry}");
                assert!(entry["range"].is_string() || entry["path"] == "/folder", "{entry}");
            }
        }
    }
}

/// Files below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            found.extend(files(&entry.path()));
        } else {
            found.push(entry.path());
        }
    }
    found
}

/// Everything, byte for byte, several parts at once, the host's own digest beside; and the password is nowhere.
#[test]
fn everything_comes_by_https_and_the_password_stays_nowhere() -> Result<()> {
    let bench = Bench::new(8);
    let large = content((9 << 20) + 1536, 3);
    bench.esx.add_disk(2001, "persistent", &large);
    bench.wrong(&json!({ "together": "_1-flat.vmdk", "busy": [".vmem", 2] }));
    let ran = bench.acquire(&[])?.expect(0)?;
    for (item, wanted) in [("disk0.1", content(DISK, 1)), ("disk1.1", large), ("memory.vmem", content(MEMORY, 7))] {
        let exhibit = bench.exhibit(item);
        assert!(fs::read(exhibit.image())? == wanted, "{item}");
        assert_eq!(
            (exhibit.outcome(), &exhibit.record["witnesses"][0]["sha256"]),
            ("complete", &json!(exhibit.sha256()))
        );
    }
    let transport = bench.exhibit("disk0.1").record["instant"]["transport"].clone();
    let hex = bench.browser.fingerprint().replace(':', "").to_lowercase();
    let from = format!("https://127.0.0.1:{}/folder", bench.browser.port);
    let wanted = json!({ "by": "https", "from": from, "user": "root", "certificate_sha256": hex, "trusted_by": "pin" });
    assert_eq!(transport, wanted);
    // Bytes of evidence came this way only, and each request is in the log.
    let dd = |said: &&String| said.starts_with("dd ") && (said.contains("-flat.vmdk") || said.contains(".vmem"));
    assert_eq!(bench.esx.journal().iter().find(dd), None);
    let wire = fs::read_to_string(bench.exhibit("disk1.1").dir.join("wire.jsonl"))?;
    let folder = "/folder/two%20words%20%28prod%29/two%20words%20%28prod%29";
    let store = "dcPath=ha-datacenter&dsName=ds%5D%20%281%29%20it%27s%20%24HOME";
    for part in ["bytes=0-4194303", "bytes=4194304-8388607", "bytes=8388608-9438719"] {
        let line = format!("GET https://127.0.0.1:{}{folder}_1-flat.vmdk?{store} Range: {part}\"", bench.browser.port);
        ensure!(wire.contains(&line), "{line} is not in {wire}");
    }
    ensure!(bench.asked(".vmx").iter().all(|entry| entry["store"] == STORE), "another datastore");
    assert_eq!(bench.asked(".vmem").iter().filter(|entry| entry["status"] == 503).count(), 2);
    assert_eq!(bench.esx.snapshots(), []);
    for secret in [PASSWORD, ENCODED, "wörd"] {
        for file in files(&bench.case()) {
            ensure!(!holds(&file, secret.as_bytes())?, "{secret} is in {}", file.display());
        }
        ensure!(!ran.stdout.contains(secret) && !ran.stderr.contains(secret), "{secret}: {}", ran.stderr);
    }
    Ok(())
}

/// A wrong password is said at once, and tried once: a host locks whoever tries often. Nothing was done to the VM.
#[test]
fn a_wrong_password_ends_it_before_anything_is_done() -> Result<()> {
    let bench = Bench::new(8);
    let wrong = [("IMPOUND_ESX_PASSWORD", "hunter2")];
    let ran =
        bench.acquire_from(&bench.pinned(), &[], &wrong)?.expect(1)?.says("neither this user nor this password")?;
    ensure!(!ran.stderr.contains("hunter2"), "{}", ran.stderr);
    assert_eq!(bench.browser.log().len(), 1);
    bench.acquire_from(&bench.pinned(), &[], &[])?.expect(1)?.says("set IMPOUND_ESX_PASSWORD")?;
    assert_eq!(bench.browser.log().len(), 1);
    bench.untouched();
    // From a file it is as good.
    let file = bench.folder.path().join("password");
    fs::write(&file, format!("{PASSWORD}\n"))?;
    let named = [("IMPOUND_ESX_PASSWORD_FILE", file.to_str().unwrap())];
    let told = bench.run(&["doctor", &bench.pinned()], &named)?.expect(0)?;
    ensure!(told.stdout.contains("datastore browser"), "{}", told.stdout);
    Ok(())
}

/// A certificate is taken if it is pinned or if the system vouches for it; else it is named, and nothing is said to who shows it.
#[test]
fn a_certificate_is_pinned_or_vouched_for_or_refused() -> Result<()> {
    let bench = Bench::new(8);
    let hex = bench.browser.fingerprint().replace(':', "").to_lowercase();
    let password = ("IMPOUND_ESX_PASSWORD", PASSWORD);
    let unknown = bench.acquire_from(&bench.address(""), &[], &[password])?.expect(1)?;
    unknown.says(&format!("?files=https&cert={hex}"))?.says("only if they are equal")?;
    let other = "ab".repeat(32);
    let pinned = bench.acquire_from(&bench.address(&format!("&cert={other}")), &[], &[password])?.expect(1)?;
    pinned.says(&hex)?.says(&format!("not the one that is pinned, {other}"))?;
    bench.untouched();
    assert_eq!(bench.browser.log(), Vec::<Value>::new());
    let roots = ("SSL_CERT_FILE", bench.browser.certificate());
    let roots = (roots.0, roots.1.to_str().unwrap());
    bench.acquire_from(&bench.address(""), &["--disk", "disk0"], &[password, roots])?.expect(0)?;
    assert_eq!(bench.exhibit("disk0").record["instant"]["transport"]["trusted_by"], "the system's roots");
    bench.acquire_from("esx+ssh://root@there?cert=00", &[], &[password])?.expect(1)?.says("SHA-256")?;
    Ok(())
}

/// A connection that is cut in the middle of an answer: only that part is asked for again.
#[test]
fn a_cut_answer_is_asked_for_again() -> Result<()> {
    let bench = Bench::new(8);
    let large = content((13 << 20) + 512, 3);
    bench.esx.add_disk(2001, "persistent", &large);
    bench.wrong(&json!({ "cut": ["_1-flat.vmdk", [1_000_000, 0, 1, 999_999]] }));
    bench.acquire(&["--disk", "disk1"])?.expect(0)?;
    assert!(fs::read(bench.exhibit("disk1.1").image())? == large);
    let asked = bench.asked("_1-flat.vmdk");
    let cut: Vec<_> = asked.iter().filter(|entry| entry["cut"] == true).collect();
    assert_eq!((cut.len(), asked.len()), (4, 4 + 4), "{asked:?}");
    for entry in cut {
        ensure!(asked.iter().any(|other| other["range"] == entry["range"] && other["cut"] == false), "{entry}");
    }
    assert_eq!(bench.esx.snapshots(), []);
    Ok(())
}

/// A block that the host cannot read is a gap with its words; a file that it gives nothing of is none.
#[test]
fn a_block_that_cannot_be_read_is_a_gap() -> Result<()> {
    let bench = Bench::new(7);
    bench.wrong(&json!({ "bad_block": ["-flat.vmdk", 1] }));
    bench.acquire(&["--disk", "disk0"])?.expect(3)?;
    let flat = bench.exhibit("disk0.1");
    assert_eq!((flat.outcome(), &flat.record["gaps"]["unreadable"]), ("partial", &json!(1 << 20)));
    ensure!(flat.record["gaps"]["listed"].to_string().contains("Input/output error"), "{}", flat.record["gaps"]);
    let mut wanted = content(DISK, 1);
    wanted[1 << 20..2 << 20].fill(0);
    assert!(fs::read(flat.image())? == wanted);
    bench.wrong(&json!({ "locked": "-flat.vmdk" }));
    let rows = bench.acquire(&["--disk", "disk0"])?.expect(3)?.rows()?;
    let row = rows.iter().find(|row| row["item"] == "disk0.1").unwrap();
    ensure!(row["outcome"] == "failed" && row["why"].to_string().contains("it is locked"), "{row}");
    assert_eq!(bench.esx.snapshots(), []);
    Ok(())
}

/// What is not the part that was asked for is refused, whatever its status says, and not asked for again.
#[test]
fn an_answer_that_is_not_the_part_is_refused() -> Result<()> {
    let bench = Bench::new(8);
    for (what, words) in [
        ("whole", "gives no parts of it"),
        ("moved", "bytes=512-3146239 in place of bytes=0-3145727"),
        ("short", "3145727 bytes in place of 3145728"),
        ("shrunk", "the Content-Range"),
    ] {
        bench.wrong(&json!({ what: "-flat.vmdk" }));
        let rows = bench.acquire(&["--disk", "disk0"])?.expect(3)?.rows()?;
        let row = rows.iter().find(|row| row["item"] == "disk0.1").unwrap();
        ensure!(row["outcome"] == "failed" && row["why"].to_string().contains(words), "{what}: {row}");
        assert_eq!(bench.esx.snapshots(), []);
    }
    assert_eq!(bench.asked("-flat.vmdk").len(), 4);
    Ok(())
}
