//! SSH against a real server on loopback: what it carries, whom it trusts, and what happens when the wire breaks.

#![cfg(feature = "ssh")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

#[path = "../../tests/common/sshd.rs"]
#[allow(dead_code, unreachable_pub, reason = "others use the rest")]
mod sshd;

use std::fs;
use std::path::Path;
use std::process::Command as Process;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use impound_backends::wire::ssh::{Command, Destination, Ssh};
use impound_backends::{Access, Ask, BackendError, NoLog, Secret, WireEntry, WireLog};
use sha2::{Digest, Sha256};
use sshd::{Sshd, keygen};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn access(sshd: &Sshd) -> Access {
    Access { ssh_config: Some(sshd.config()), ..Access::logged(Arc::new(NoLog)) }
}

async fn there(access: &Access) -> Result<Ssh, BackendError> {
    Ssh::connect(&Destination::of("there").unwrap(), access).await
}

async fn refused(access: &Access) -> String {
    there(access).await.err().expect("should be refused").to_string()
}

#[derive(Default)]
struct Log(Mutex<Vec<WireEntry>>);

impl WireLog for Log {
    fn entry(&self, entry: WireEntry) {
        self.0.lock().unwrap().push(entry);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_say_what_they_say_and_how_they_ended() {
    let sshd = Sshd::start("");
    let log = Arc::new(Log::default());
    let ssh = there(&Access { wire: log.clone(), ..access(&sshd) }).await.unwrap();
    let answer =
        ssh.run(&Command::script("printf %s \"$1\"; echo woe >&2; exit 3").arg("it's $HOME; `id`\n")).await.unwrap();
    assert_eq!((answer.text().as_str(), answer.ending.status), ("it's $HOME; `id`\n", Some(3)));
    assert_eq!(answer.ending.told(), "woe (status 3)");
    let killed = ssh.run(&Command::script("kill -TERM $$")).await.unwrap().ending;
    assert_eq!((killed.status, killed.signal.as_deref()), (None, Some("TERM")));
    // Without standard input it is at its end; with it, it ends when we go.
    assert_eq!(ssh.run(&Command::new("cat")).await.unwrap().stdout, b"");
    let mut echo = ssh.stream(&Command::new("cat").with_stdin()).await.unwrap();
    echo.write_all(b"back and forth").await.unwrap();
    let mut back = [0; 14];
    echo.read_exact(&mut back).await.unwrap();
    echo.shutdown().await.unwrap();
    assert_eq!(echo.read(&mut [0; 8]).await.unwrap(), 0);
    assert!(echo.end().await.unwrap().good() && &back == b"back and forth");
    let entries = log.0.lock().unwrap();
    assert!(
        entries.iter().any(|entry| entry.said.contains("kill -TERM") && entry.error.as_deref() == Some("signal TERM"))
    );
    let streamed = entries.iter().find(|entry| entry.said.ends_with(" cat") && entry.answer_len == 14).unwrap();
    assert_eq!(streamed.answer_digest, format!("blake3:{}", blake3::hash(&back).to_hex()));
}

/// Many bytes over several channels at once, while the server asks for new keys all the time.
#[tokio::test(flavor = "multi_thread")]
async fn streams_side_by_side_come_through_whole() {
    let sshd = Sshd::start("RekeyLimit 3M");
    let ssh = there(&access(&sshd)).await.unwrap();
    let script = "for i in 1 2 3 4 5 6; do head -c 2000000 \"$1\"; done";
    let source = sshd.folder().join("bytes");
    let bytes: Vec<u8> =
        (0..2_000_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).take(2_000_000).collect();
    fs::write(&source, &bytes).unwrap();
    let wanted = Sha256::digest(bytes.repeat(6));
    let mut tasks = Vec::new();
    for _ in 0..4 {
        let (ssh, path) = (ssh.clone(), source.to_str().unwrap().to_owned());
        tasks.push(tokio::spawn(async move {
            let mut stream = ssh.stream(&Command::script(script).arg(path)).await.unwrap();
            let mut all = Vec::new();
            stream.read_to_end(&mut all).await.unwrap();
            assert!(stream.end().await.unwrap().good());
            Sha256::digest(&all)
        }));
    }
    for number in 0..10 {
        let answer = ssh.run(&Command::new("echo").arg(number.to_string())).await.unwrap();
        assert_eq!(answer.text(), format!("{number}\n"));
    }
    for task in tasks {
        assert_eq!(task.await.unwrap(), wanted);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sockets_lead_there_and_one_port_leads_back() {
    let sshd = Sshd::start("");
    let ssh = there(&access(&sshd)).await.unwrap();
    let path = sshd.folder().join("a socket's name");
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    let mut stream = ssh.socket(path.to_str().unwrap()).await.unwrap();
    let (mut accepted, _) = listener.accept().await.unwrap();
    stream.write_all(b"to").await.unwrap();
    let mut got = [0; 2];
    accepted.read_exact(&mut got).await.unwrap();
    accepted.write_all(b"fro").await.unwrap();
    drop(accepted);
    let mut back = Vec::new();
    stream.read_to_end(&mut back).await.unwrap();
    assert_eq!((&got, back.as_slice()), (b"to", &b"fro"[..]));
    let error = ssh.socket("/nowhere").await.unwrap_err().to_string();
    assert!(error.contains("/nowhere") && error.contains("AllowStreamLocalForwarding"), "{error}");

    let waiting = ssh.listen().await.unwrap();
    let port = waiting.port;
    let mut first = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let mut taken = waiting.accept().await.unwrap();
    first.write_all(b"memory").await.unwrap();
    first.shutdown().await.unwrap();
    let mut all = Vec::new();
    taken.read_to_end(&mut all).await.unwrap();
    assert_eq!(all, b"memory");
    // Nobody else gets in afterwards.
    let mut second = Ok(());
    if let Ok(mut stream) = tokio::net::TcpStream::connect(("127.0.0.1", port)).await {
        second = stream.read(&mut [0; 1]).await.map(|len| assert_eq!(len, 0));
    }
    let _ = second;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_is_trusted_by_its_key_only() {
    let sshd = Sshd::start("");
    let known = sshd.folder().join("known_hosts");
    let shown = Process::new("ssh-keygen").arg("-lf").arg(sshd.folder().join("host.pub")).output().unwrap();
    let fingerprint = String::from_utf8(shown.stdout).unwrap().split(' ').nth(1).unwrap().to_owned();

    fs::write(&known, "").unwrap();
    let error = refused(&access(&sshd)).await;
    assert!(error.contains(&fingerprint) && error.contains("--accept-new"), "{error}");
    assert_eq!(fs::read(&known).unwrap(), b"", "refusing wrote something");
    there(&Access { accept_new: true, ..access(&sshd) }).await.unwrap();
    assert_eq!(fs::read_to_string(&known).unwrap().trim_end(), sshd.known_line().rsplit_once(' ').unwrap().0);
    there(&access(&sshd)).await.unwrap();

    keygen(&sshd.folder().join("other"), "");
    let other = fs::read_to_string(sshd.folder().join("other.pub")).unwrap();
    fs::write(&known, format!("\n[127.0.0.1]:{} {other}", sshd.port())).unwrap();
    for accept_new in [false, true] {
        let error = refused(&Access { accept_new, ..access(&sshd) }).await;
        assert!(error.contains("known_hosts:2") && error.contains("somebody may be in between"), "{error}");
    }
    fs::write(&known, format!("@revoked * {}{}", sshd.known_line().split_once(' ').unwrap().1, sshd.known_line()))
        .unwrap();
    let error = refused(&access(&sshd)).await;
    assert!(error.contains("revoked"), "{error}");
}

struct Knows(&'static str);

impl Ask for Knows {
    fn secret(&self, _what: &str) -> Option<Secret> {
        Some(Secret::new(self.0.to_owned()))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_with_a_passphrase_are_asked_for_and_refusals_explained() {
    let sshd = Sshd::start("");
    let locked = sshd.folder().join("locked");
    keygen(&locked, "the-pass-word");
    fs::copy(sshd.folder().join("locked.pub"), sshd.folder().join("authorized")).unwrap();
    fs::write(sshd.config(), sshd.client(&format!("IdentityFile {}", locked.display()))).unwrap();
    there(&Access { ask: Arc::new(Knows("the-pass-word")), ..access(&sshd) }).await.unwrap();
    let error = refused(&access(&sshd)).await;
    assert!(error.contains("locked has a passphrase, and nobody could be asked"), "{error}");
    let error = refused(&Access { ask: Arc::new(Knows("another-word")), ..access(&sshd) }).await;
    assert!(error.contains("locked") && !error.contains("another-word"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_agent_and_certificates_count() {
    let sshd = Sshd::start("");
    let (folder, log) = (sshd.folder(), |name: &str| sshd.folder().join(name));
    keygen(&log("held"), "");
    fs::copy(log("held.pub"), log("authorized")).unwrap();
    let agent = Agent::start(folder);
    agent.add(&log("held"));
    fs::remove_file(log("held")).unwrap();
    fs::write(sshd.config(), sshd.client(&format!("IdentityAgent {}", agent.socket.display()))).unwrap();
    there(&access(&sshd)).await.unwrap();
    // The agent has more keys than a server is patient with; the one that is named comes first.
    fs::write(sshd.config(), sshd.client(&format!("IdentityAgent {}\nIdentitiesOnly yes", agent.socket.display())))
        .unwrap();
    refused(&access(&sshd)).await;
    fs::write(
        sshd.config(),
        sshd.client(&format!(
            "IdentityAgent {}\nIdentitiesOnly yes\nIdentityFile {}",
            agent.socket.display(),
            log("held").display()
        )),
    )
    .unwrap();
    there(&access(&sshd)).await.unwrap();

    keygen(&log("ca"), "");
    let authority = format!("TrustedUserCAKeys {}", log("ca.pub").display());
    let signed = Sshd::start(&authority);
    keygen(&log("member"), "");
    let user = whoami();
    let mut sign = Process::new("ssh-keygen");
    sign.args(["-q", "-I", "member", "-n", &user, "-s"]).arg(log("ca")).arg(log("member.pub"));
    assert!(sign.status().unwrap().success());
    fs::write(signed.config(), signed.client(&format!("IdentityFile {}", log("member").display()))).unwrap();
    fs::write(signed.folder().join("authorized"), "").unwrap();
    there(&access(&signed)).await.unwrap();
    fs::remove_file(log("member-cert.pub")).unwrap();
    refused(&access(&signed)).await;
}

fn whoami() -> String {
    String::from_utf8(Process::new("id").arg("-un").output().unwrap().stdout).unwrap().trim().to_owned()
}

struct Agent {
    process: std::process::Child,
    socket: std::path::PathBuf,
}

impl Agent {
    fn start(folder: &Path) -> Self {
        let socket = folder.join("agent");
        let process =
            Process::new("ssh-agent").arg("-D").arg("-a").arg(&socket).stdout(std::process::Stdio::null()).spawn();
        let agent = Self { process: process.expect("openssh-client is needed"), socket };
        let late = Instant::now() + Duration::from_secs(60);
        while std::os::unix::net::UnixStream::connect(&agent.socket).is_err() {
            assert!(Instant::now() < late, "ssh-agent does not come up");
            std::thread::sleep(Duration::from_millis(10));
        }
        agent
    }

    fn add(&self, key: &Path) {
        let added = Process::new("ssh-add").arg("-q").arg(key).env("SSH_AUTH_SOCK", &self.socket).status().unwrap();
        assert!(added.success());
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn machines_on_the_way_are_passed_and_each_is_checked() {
    let (near, far) = (Sshd::start(""), Sshd::start(""));
    let (near_known, far_known) = (near.folder().join("known_hosts"), far.folder().join("known_hosts"));
    let text = format!("{}{}", far.client("ProxyJump near"), near.client("").replace("Host there", "Host near"));
    fs::write(far.config(), text).unwrap();
    let ssh = there(&access(&far)).await.unwrap();
    assert_eq!(ssh.run(&Command::new("echo").arg("far")).await.unwrap().text(), "far\n");
    // A stream through both, cut at the near one.
    let mut stream = ssh.stream(&Command::script("cat /dev/zero")).await.unwrap();
    stream.read_exact(&mut vec![0; 1 << 20]).await.unwrap();
    near.cut_after(0);
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest).await;
    assert!(stream.end().await.unwrap_err().to_string().contains("connection broke"));
    near.mend();
    for known in [near_known, far_known] {
        let before = fs::read(&known).unwrap();
        fs::write(&known, "").unwrap();
        let error = refused(&access(&far)).await;
        assert!(error.contains("not known"), "{error}");
        fs::write(&known, before).unwrap();
    }
    there(&access(&far)).await.unwrap();
}

/// Cut at many places: there is always an error, never a short stream that looks whole, and never a wait without end.
#[tokio::test(flavor = "multi_thread")]
async fn a_cut_wire_is_an_error_wherever_it_is_cut() {
    let sshd = Sshd::start("");
    for round in 0..40_i64 {
        sshd.cut_after(round * 997 + if round > 20 { round * 40_000 } else { 0 });
        let outcome = async {
            let ssh = there(&access(&sshd)).await?;
            let mut stream = ssh.stream(&Command::script("head -c 3000000 /dev/zero")).await?;
            let mut all = Vec::new();
            stream.read_to_end(&mut all).await.map_err(|error| BackendError::io("read", "stream", &error))?;
            stream.end().await.map(|_| all.len())
        };
        let outcome = tokio::time::timeout(Duration::from_secs(120), outcome).await.expect("it hangs");
        assert!(outcome.is_err(), "round {round}: {outcome:?}");
        sshd.mend();
    }
    let ssh = there(&access(&sshd)).await.unwrap();
    assert!(ssh.run(&Command::new("true")).await.unwrap().ending.good());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_wire_is_noticed() {
    let sshd = Sshd::start("");
    fs::write(sshd.config(), sshd.client("ServerAliveInterval 1\nServerAliveCountMax 2")).unwrap();
    let ssh = there(&access(&sshd)).await.unwrap();
    sshd.hold(true);
    let error = ssh.run(&Command::new("true")).await.unwrap_err().to_string();
    assert!(error.contains("imed out") || error.contains("in time"), "{error}");
    sshd.hold(false);
    // Under way: between one byte and the next.
    let ssh = there(&access(&sshd)).await.unwrap();
    let mut stream = ssh.stream(&Command::script("cat /dev/zero")).await.unwrap();
    stream.read_exact(&mut vec![0; 1 << 20]).await.unwrap();
    sshd.hold(true);
    let mut rest = Vec::new();
    let _ = (&mut stream).take(1 << 30).read_to_end(&mut rest).await;
    let error = stream.end().await.unwrap_err().to_string();
    assert!(error.contains("nothing was heard of it"), "{error}");
    sshd.hold(false);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_read_holds_only_himself_and_who_goes_ends_the_command() {
    let sshd = Sshd::start("");
    let ssh = there(&access(&sshd)).await.unwrap();
    let pid = sshd.folder().join("pid");
    let endless = Command::script("echo $$ >\"$1\"; exec cat /dev/zero").arg(pid.to_str().unwrap());
    let stream = ssh.stream(&endless).await.unwrap();
    for _ in 0..20 {
        assert!(ssh.run(&Command::new("true")).await.unwrap().ending.good());
    }
    let pid: u32 = fs::read_to_string(&pid).unwrap().trim().parse().unwrap();
    assert!(Path::new(&format!("/proc/{pid}")).exists());
    drop(stream);
    let late = Instant::now() + Duration::from_secs(120);
    while Path::new(&format!("/proc/{pid}")).exists() {
        assert!(Instant::now() < late, "the command runs on");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(ssh.run(&Command::new("true")).await.unwrap().ending.good());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_is_kept() {
    let sshd = Sshd::start("");
    let ssh = there(&Access { rate: Some(4 << 20), ..access(&sshd) }).await.unwrap();
    let begun = Instant::now();
    let mut stream = ssh.stream(&Command::script("head -c 16777216 /dev/zero")).await.unwrap();
    let mut all = Vec::new();
    stream.read_to_end(&mut all).await.unwrap();
    assert!(stream.end().await.unwrap().good());
    // At most one buffer of 4 MiB goes ahead of the rate.
    assert!(all.len() == 16 << 20 && begun.elapsed() >= Duration::from_secs(2), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_is_explained() {
    let sshd = Sshd::start("");
    fs::write(sshd.config(), sshd.client("Port 1\nConnectTimeout 5")).unwrap();
    let error = refused(&access(&sshd)).await;
    assert!(error.contains("127.0.0.1 port 1") && error.contains("firewall"), "{error}");
    fs::write(sshd.config(), sshd.client("HostName no-such-host.invalid")).unwrap();
    let error = refused(&access(&sshd)).await;
    assert!(error.contains("no-such-host.invalid"), "{error}");
    fs::write(sshd.config(), format!("{}Host hop\nProxyJump there\n", sshd.client("ProxyJump hop"))).unwrap();
    let error = refused(&access(&sshd)).await;
    assert!(error.contains("circle"), "{error}");
}
