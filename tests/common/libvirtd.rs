//! A real libvirtd of the test's own: private folders in a mount namespace, its socket where the test wants it. It runs as root
//! and starts guests by TCG. Dropping it ends its guests and the daemon.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tempfile::TempDir;

use super::guest::{fixture, wait_until};

const STARTS: Duration = Duration::from_secs(60);
const BOOTS: Duration = Duration::from_secs(180);

/// Where a guest's agent listens.
const CHANNEL: &str = "<controller type='virtio-serial'/><channel type='unix'>\
                       <target type='virtio' name='org.qemu.guest_agent.0'/></channel>";

/// See the module.
pub struct Libvirtd {
    folder: TempDir,
    daemon: Child,
}

/// What libvirt says of a domain, to be compared.
#[derive(Debug, PartialEq, Eq)]
pub struct Seen {
    pub xml: String,
    pub state: String,
    pub job: String,
    pub checkpoints: String,
    pub snapshots: String,
}

// The daemon wants its user to exist, and the files of the machine stay as they are.
const START: &str = r#"
set -eu
for d in /run/libvirt /var/lib/libvirt /etc/libvirt /var/cache/libvirt /var/log/libvirt; do
    mkdir -p "$d"
    mount -t tmpfs none "$d"
done
{ cat /etc/passwd; echo 'libvirt-qemu:x:64055:64055::/nonexistent:/usr/sbin/nologin'; } >"$1/passwd"
{ cat /etc/group; echo 'libvirt-qemu:x:64055:'; grep -q '^kvm:' /etc/group || echo 'kvm:x:64056:'; } >"$1/group"
mount --bind "$1/passwd" /etc/passwd
mount --bind "$1/group" /etc/group
cat >/etc/libvirt/qemu.conf <<END
user = "root"
group = "root"
dynamic_ownership = 0
security_driver = "none"
namespaces = []
cgroup_controllers = []
stdio_handler = "file"
END
cat >/etc/libvirt/libvirtd.conf <<END
unix_sock_dir = "$1"
auth_unix_rw = "none"
auth_unix_ro = "none"
END
# As systemd does: one that breaks is started again.
until libvirtd -f /etc/libvirt/libvirtd.conf -p "$1/pid"; do sleep 0.2; done
"#;

impl Libvirtd {
    pub fn start() -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("impound-libvirtd-").tempdir()?;
        let log = fs::File::create(folder.path().join("log"))?;
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", START, "sh"]).arg(folder.path()).stdin(Stdio::null());
        let daemon =
            command.stdout(log.try_clone()?).stderr(log).spawn().context("run unshare; this test needs root")?;
        let mut libvirtd = Self { folder, daemon };
        let socket = libvirtd.socket();
        wait_until(|| socket.exists() || !libvirtd.alive(), STARTS, "libvirtd's socket")?;
        let mut answers = || libvirtd.virsh(&["list"]).is_ok();
        wait_until(&mut answers, STARTS, "libvirtd to answer; scripts/install test installs it")?;
        Ok(libvirtd)
    }

    /// Kills the daemon as a fault would, and waits until another is in its place. Guests live on.
    pub fn kill_daemon(&self) -> Result<()> {
        let pid = || fs::read_to_string(self.folder.path().join("pid")).unwrap_or_default().trim().to_owned();
        let first = pid();
        let killed = Command::new("kill").args(["-KILL", &first]).status()?;
        ensure!(killed.success(), "no daemon {first:?}");
        wait_until(|| pid() != first && self.virsh(&["list"]).is_ok(), STARTS, "libvirtd to answer again")
    }

    fn alive(&mut self) -> bool {
        matches!(self.daemon.try_wait(), Ok(None))
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("libvirt-sock")
    }

    /// As a target: `#NAME` follows.
    pub fn uri(&self) -> String {
        format!("libvirt+qemu:///system?socket={}", self.socket().display())
    }

    /// What the outside oracle says.
    pub fn virsh(&self, words: &[&str]) -> Result<String> {
        let uri = format!("qemu+unix:///system?socket={}", self.socket().display());
        let output = Command::new("virsh").args(["-q", "-c", &uri]).args(words).stdin(Stdio::null()).output();
        let output = output.context("run virsh; scripts/install test installs it")?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        ensure!(output.status.success(), "virsh {words:?}: {}", text(&output.stderr));
        Ok(text(&output.stdout))
    }

    /// Defines and starts a guest of a fixture, with its two disks, and waits until it is ready.
    pub fn boot(&self, name: &str, kind: &str) -> Result<()> {
        let from = fixture(kind)?;
        let at = |file: &str| self.folder.path().join(format!("{name}-{file}"));
        let vda = from.join("vda.qcow2").canonicalize()?;
        let made = Command::new("qemu-img")
            .args(["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b"])
            .args([&vda, &at("vda.qcow2")])
            .status()?;
        ensure!(made.success(), "qemu-img made no overlay");
        fs::copy(from.join("vdb.raw"), at("vdb.raw"))?;
        let disk = |format: &str, file: &str, target: &str| {
            format!(
                "<disk type='file' device='disk'><driver name='qemu' type='{format}'/><source file='{}'/>\
                 <target dev='{target}' bus='virtio'/><serial>{target}</serial></disk>",
                at(file).display()
            )
        };
        let xml = format!(
            "<domain type='qemu'><name>{name}</name><memory unit='MiB'>256</memory><vcpu>2</vcpu>\
             <os><type arch='x86_64' machine='pc'>hvm</type><kernel>{kernel}</kernel><initrd>{initrd}</initrd>\
             <cmdline>{cmdline}</cmdline></os><features><acpi/></features>\
             <cpu mode='custom' match='exact'><model>qemu64</model></cpu>\
             <devices>{vda}{vdb}{channel}<serial type='file'><source path='{serial}'/></serial>\
             <memballoon model='none'/></devices></domain>",
            kernel = from.join("kernel").canonicalize()?.display(),
            initrd = from.join("initramfs").canonicalize()?.display(),
            cmdline = fs::read_to_string(from.join("cmdline"))?.trim(),
            vda = disk("qcow2", "vda.qcow2", "vda"),
            vdb = disk("raw", "vdb.raw", "vdb"),
            serial = at("serial").display(),
            channel = if kind == "linux-agent" { CHANNEL } else { "" },
        );
        fs::write(at("xml"), xml)?;
        self.virsh(&["define", &at("xml").display().to_string()])?;
        self.virsh(&["start", name])?;
        let ready = || fs::read_to_string(at("serial")).is_ok_and(|text| text.contains("impound-guest ready"));
        wait_until(ready, BOOTS, "the guest to be ready")
    }

    /// As libvirt sees a domain now.
    pub fn seen(&self, name: &str) -> Result<Seen> {
        Ok(Seen {
            xml: self.virsh(&["dumpxml", name])?,
            state: self.virsh(&["domstate", name])?,
            job: self.virsh(&["domjobinfo", name])?,
            checkpoints: self.virsh(&["checkpoint-list", name])?,
            snapshots: self.virsh(&["snapshot-list", name])?,
        })
    }

    /// A question to the domain's QEMU.
    pub fn ask(&self, name: &str, command: &str) -> Result<Value> {
        let text = self.virsh(&["qemu-monitor-command", name, &format!(r#"{{"execute":"{command}"}}"#)])?;
        Ok(serde_json::from_str::<Value>(&text)?["return"].take())
    }
}

impl Drop for Libvirtd {
    fn drop(&mut self) {
        for name in self.virsh(&["list", "--name"]).unwrap_or_default().split_whitespace() {
            let _ = self.virsh(&["destroy", name]);
        }
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
        // The daemon itself, and guests that one which broke has left: their command lines name this folder.
        let _ = Command::new("pkill").args(["-KILL", "-f"]).arg(self.folder.path()).status();
    }
}

/// The helper program, built once into a folder of its own.
pub fn helper() -> Result<PathBuf> {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("libvirt");
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/libvirt");
    let built = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--locked", "--manifest-path"])
        .arg(sources.join("Cargo.toml"))
        .arg("--target-dir")
        .arg(&target)
        .status()
        .context("run cargo")?;
    ensure!(built.success(), "impound-libvirt cannot be built: scripts/install test installs libvirt-dev");
    Ok(target.join("debug/impound-libvirt"))
}
