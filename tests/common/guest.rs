//! A real guest under QEMU for the length of a test.
//!
//! [`Guest::boot`] starts QEMU on a fixture (`vm-fixtures/`), waits for its ready line and gives two QMP sockets: one
//! for impound, one ([`Guest::control`]) for the test to look at what impound left behind. Dropping the guest ends
//! QEMU and removes its folder. The disks are copies or overlays; a fixture is never written to.
//!
//! `IMPOUND_QEMU` names another QEMU, with arguments in front if need be (`/old/qemu-system-x86_64 -L /old/share`);
//! `IMPOUND_FIXTURES` the folder of the built fixtures.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use tempfile::TempDir;

use super::control::Control;

/// Three seconds on two quiet cores without KVM; a busy machine has been seen to take twenty times as long.
const READY_WITHIN: Duration = Duration::from_secs(150);
const READY: &str = "impound-guest ready";
/// How it is told that a boot came to nothing through no doing of ours: by QEMU, by the guest's kernel, or by nobody.
const ENDED_EARLY: [&str; 3] = ["Assertion", "IO-APIC + timer doesn't work", "the guest to be ready"];

/// What to boot. Start from [`Spec::new`] and change fields.
#[derive(Debug, Clone)]
pub struct Spec {
    /// A name in `vm-fixtures/manifest.toml`.
    pub fixture: &'static str,
    /// `pc` or `q35`, with options after a comma if need be.
    pub machine: &'static str,
    /// QEMU's `-cpu`: `qemu64` pages in four levels, `max` in five.
    pub cpu: &'static str,
    pub memory_mib: u64,
    pub smp: u32,
    /// In the order the guest sees them: the first is `/dev/vda`.
    pub disks: Vec<Disk>,
    /// A virtio card on QEMU's user network.
    pub network: bool,
    /// A second serial port: the counter guest beats on it, see [`Guest::beat`].
    pub beat: bool,
    /// Appended to QEMU's arguments.
    pub extra: Vec<String>,
}

/// One disk: its block node's name, and where its bytes come from.
#[derive(Debug, Clone)]
pub struct Disk {
    pub node: String,
    pub source: Source,
}

#[derive(Debug, Clone)]
pub enum Source {
    /// A qcow2 file of the fixture's folder, as backing file of a fresh overlay.
    Overlay(&'static str),
    /// A raw file of the fixture's folder, copied.
    Copy(&'static str),
    /// A raw file of zeros.
    Blank { bytes: u64 },
    /// An existing file, which the guest will write to.
    File { path: PathBuf, format: &'static str },
}

impl Spec {
    /// 256 MiB, two CPUs, machine `pc`, a network card, and the fixture's disks `vda` (qcow2) and `vdb` (raw).
    pub fn new(fixture: &'static str) -> Self {
        Self {
            fixture,
            machine: "pc",
            cpu: "qemu64",
            memory_mib: 256,
            smp: 2,
            disks: vec![
                Disk { node: "vda".into(), source: Source::Overlay("vda.qcow2") },
                Disk { node: "vdb".into(), source: Source::Copy("vdb.raw") },
            ],
            network: true,
            beat: false,
            extra: Vec::new(),
        }
    }
}

/// A running guest. Dropping it ends QEMU.
#[derive(Debug)]
pub struct Guest {
    qemu: Mutex<Child>,
    control: Mutex<Control>,
    console: Mutex<UnixStream>,
    folder: TempDir,
}

impl Guest {
    /// Boots and waits until everything the fixture promises is in place.
    ///
    /// QEMU 10.0 without KVM was seen to abort while a guest boots (`iotlb_to_section`, a race of its own, before impound has
    /// said a word to it), kernels to give up because the timer of a busy machine came too late for them, and a guest to stand still
    /// before its first word; a boot that ends so is begun anew, twice at most, and said.
    pub fn boot(spec: &Spec) -> Result<Self> {
        for _ in 0..2 {
            match Self::boot_once(spec) {
                Err(error) if ENDED_EARLY.iter().any(|words| format!("{error:#}").contains(words)) => {
                    eprintln!("the guest did not boot, beginning anew: {error:#}");
                }
                other => return other,
            }
        }
        Self::boot_once(spec)
    }

    fn boot_once(spec: &Spec) -> Result<Self> {
        let fixture = fixture(spec.fixture)?;
        let folder = tempfile::Builder::new().prefix("impound-guest-").tempdir()?;
        let (program, first) = qemu_command(&fixture)?;
        let mut command = Command::new(&program);
        command.args(first).args(arguments(spec, &fixture, folder.path())?);
        let log = File::create(folder.path().join("qemu.log"))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().with_context(|| format!("cannot start {program}: run scripts/install test"))?;
        Booting { child: Some(child), folder: Some(folder) }.finish()
    }

    /// The socket for impound.
    pub fn qmp(&self) -> PathBuf {
        self.folder.path().join("qmp.sock")
    }

    /// The same as a target for impound's command line.
    pub fn target(&self) -> String {
        format!("qmp:{}", self.qmp().display())
    }

    /// The guest's folder; what a test puts there goes away with the guest.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// QEMU's process, for signals and `/proc`.
    pub fn pid(&self) -> u32 {
        lock(&self.qemu).id()
    }

    /// The test's own QMP connection, on the second socket.
    pub fn control(&self) -> MutexGuard<'_, Control> {
        lock(&self.control)
    }

    /// What the guest's own kernel said of `name` before it was ready (`truth` in linux-small's init), in lines.
    pub fn truth(&self, name: &str) -> Result<Vec<String>> {
        let serial = self.serial();
        let mut lines = serial.lines().map(|line| line.trim_end_matches('\r'));
        let begin = format!("impound-truth begin {name}");
        lines.find(|line| *line == begin).with_context(|| format!("the guest said nothing of {name}"))?;
        Ok(lines.take_while(|line| *line != "impound-truth end").map(str::to_owned).collect())
    }

    /// Ends QEMU at once, as a crash of the hypervisor would.
    pub fn kill(&self) -> Result<()> {
        let mut qemu = lock(&self.qemu);
        qemu.kill()?;
        qemu.wait()?;
        Ok(())
    }

    /// True until QEMU has ended.
    pub fn alive(&self) -> bool {
        matches!(lock(&self.qemu).try_wait(), Ok(None))
    }

    /// All the guest has written to its serial console so far.
    pub fn serial(&self) -> String {
        text(&self.folder.path().join("serial.log"))
    }

    /// The last lines of the console and of what QEMU itself said, for a failure's message.
    pub fn serial_tail(&self) -> String {
        tail(self.folder.path())
    }

    /// Types on the serial console: a shell in `linux-small`, a reset in `counter`.
    pub fn type_in(&self, bytes: &[u8]) -> Result<()> {
        lock(&self.console).write_all(bytes).context("cannot reach the guest's console")?;
        Ok(())
    }

    /// Starts to measure, from outside, how long the counter guest is held up, stopped time included.
    /// Needs [`Spec::beat`]. Good to about 10 ms on a quiet machine.
    pub fn beat(&self) -> Result<Beat> {
        let port = UnixStream::connect(self.folder.path().join("beat.sock"))
            .context("no beat: was the guest booted with Spec::beat?")?;
        Beat::listen(port)
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // It may have ended already, which is as good.
        let _ended = self.kill();
    }
}

/// A QEMU that may yet fail to boot: dropped, it is ended.
struct Booting {
    child: Option<Child>,
    folder: Option<TempDir>,
}

impl Booting {
    fn finish(mut self) -> Result<Guest> {
        let (Some(mut child), Some(folder)) = (self.child.take(), self.folder.take()) else {
            bail!("nothing to boot");
        };
        let ready = wait_for(READY_WITHIN, "the guest to be ready", || {
            if text(&folder.path().join("serial.log")).contains(READY) {
                return Ok(Some(()));
            }
            match child.try_wait()? {
                Some(status) => bail!("QEMU ended before the guest was ready: {status}"),
                None => Ok(None),
            }
        });
        match ready.and_then(|()| connect(folder.path())) {
            Ok((control, console)) => {
                let (control, console) = (Mutex::new(control), Mutex::new(console));
                Ok(Guest { qemu: Mutex::new(child), control, console, folder })
            }
            Err(error) => {
                let said = tail(folder.path());
                (self.child, self.folder) = (Some(child), Some(folder));
                Err(error.context(said))
            }
        }
    }
}

impl Drop for Booting {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _killed = child.kill();
            let _reaped = child.wait();
        }
    }
}

/// The test's QMP connection, and the console's with its output drained: it is read from the log.
fn connect(folder: &Path) -> Result<(Control, UnixStream)> {
    let control = Control::connect(&folder.join("control.sock"))?;
    let console = UnixStream::connect(folder.join("serial.sock")).context("no console")?;
    let mut output = console.try_clone()?;
    // Closed too early, QEMU would drop what was typed; unread, the guest would wait. Ends with QEMU.
    thread::spawn(move || std::io::copy(&mut output, &mut std::io::sink()));
    Ok((control, console))
}

/// Measures the longest gap between two beats of the counter guest.
#[derive(Debug)]
pub struct Beat {
    port: UnixStream,
    listener: thread::JoinHandle<Duration>,
}

impl Beat {
    fn listen(mut port: UnixStream) -> Result<Self> {
        let mut some = [0; 256];
        port.set_read_timeout(Some(Duration::from_secs(5)))?;
        ensure!(port.read(&mut some).context("the guest does not beat")? > 0, "the beat ended");
        port.set_read_timeout(None)?;
        let mut ours = port.try_clone()?;
        let listener = thread::spawn(move || {
            let (mut last, mut worst) = (Instant::now(), Duration::ZERO);
            loop {
                let ended = matches!(ours.read(&mut some), Ok(0) | Err(_));
                worst = worst.max(last.elapsed());
                last = Instant::now();
                if ended {
                    return worst;
                }
            }
        });
        Ok(Self { port, listener })
    }

    /// Stops listening: the longest time without a beat since [`Guest::beat`], up to and including now.
    pub fn worst(self) -> Result<Duration> {
        self.port.shutdown(std::net::Shutdown::Both)?;
        self.listener.join().map_err(|_panicked| anyhow!("the beat's listener panicked"))
    }
}

/// Where a built fixture is; an error that says how to build it.
pub fn fixture(name: &str) -> Result<PathBuf> {
    let fixture = place_of(name);
    ensure!(fixture.join("stamp").is_file(), "no fixture in {}: run scripts/fixtures {name}", fixture.display());
    Ok(fixture)
}

fn place_of(name: &str) -> PathBuf {
    let folder = std::env::var_os("IMPOUND_FIXTURES").map(PathBuf::from);
    folder.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("target/vm-fixtures")).join(name)
}

/// Waits until `condition` holds; an error names `what` was waited for and how long.
pub fn wait_until(mut condition: impl FnMut() -> bool, timeout: Duration, what: &str) -> Result<()> {
    wait_for(timeout, what, || Ok(condition().then_some(())))
}

/// Waits until `attempt` gives something. Its own error ends the waiting.
pub fn wait_for<T>(timeout: Duration, what: &str, mut attempt: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let begun = Instant::now();
    loop {
        if let Some(found) = attempt()? {
            return Ok(found);
        }
        ensure!(begun.elapsed() < timeout, "waited {timeout:?} for {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Why a fixture could not be built on this machine, if that is so: no mirror offers what it is made of.
pub fn absent(name: &str) -> Option<String> {
    let folder = place_of(name);
    if folder.join("stamp").is_file() { None } else { fs::read_to_string(folder.join("absent")).ok() }
}

/// The program and the arguments that go before ours.
fn qemu_command(fixture: &Path) -> Result<(String, Vec<String>)> {
    if text(&fixture.join("arch")).trim() == "arm64" {
        return Ok(("qemu-system-aarch64".to_owned(), Vec::new()));
    }
    let command = std::env::var("IMPOUND_QEMU").unwrap_or_else(|_| "qemu-system-x86_64".into());
    let mut words = command.split_whitespace().map(str::to_owned);
    let program = words.next().context("IMPOUND_QEMU is empty")?;
    Ok((program, words.collect()))
}

fn arguments(spec: &Spec, fixture: &Path, folder: &Path) -> Result<Vec<String>> {
    let cmdline = fs::read_to_string(fixture.join("cmdline"))?;
    let at = |name: &str| folder.join(name).display().to_string();
    let of = |name: &str| fixture.join(name).display().to_string();
    let mut all: Vec<String> = Vec::new();
    let mut add = |words: &[&str]| all.extend(words.iter().map(|&word| word.to_owned()));
    add(&["-name", spec.fixture, "-machine", spec.machine, "-accel", "tcg,thread=multi", "-cpu", spec.cpu]);
    add(&["-m", &spec.memory_mib.to_string(), "-smp", &spec.smp.to_string()]);
    add(&["-display", "none", "-no-reboot", "-uuid", "6a2f1c7e-0d94-4b3e-9a51-2c8e7f40b6d3"]);
    add(&["-kernel", &of("kernel"), "-initrd", &of("initramfs"), "-append", cmdline.trim()]);
    add(&["-qmp", &format!("unix:{},server=on,wait=off", at("qmp.sock"))]);
    add(&["-qmp", &format!("unix:{},server=on,wait=off", at("control.sock"))]);
    let (console, log) = (at("serial.sock"), at("serial.log"));
    add(&["-chardev", &format!("socket,id=serial0,path={console},server=on,wait=off,logfile={log}")]);
    add(&["-serial", "chardev:serial0"]);
    if spec.beat {
        add(&["-chardev", &format!("socket,id=beat,path={},server=on,wait=off", at("beat.sock"))]);
        add(&["-serial", "chardev:beat"]);
    }
    if spec.network {
        add(&["-netdev", "user,id=net0", "-device", "virtio-net-pci,netdev=net0,romfile="]);
    } else {
        add(&["-nic", "none"]);
    }
    for disk in &spec.disks {
        let (path, format) = disk.prepare(fixture, folder)?;
        let (node, path) = (&disk.node, path.display());
        add(&["-blockdev", &format!("driver={format},node-name={node},file.driver=file,file.filename={path}")]);
        add(&["-device", &format!("virtio-blk-pci,drive={node},id=disk-{node},serial={node}")]);
    }
    all.extend(spec.extra.iter().cloned());
    Ok(all)
}

impl Disk {
    /// Makes the guest's own file for this disk; gives it and its format.
    fn prepare(&self, fixture: &Path, folder: &Path) -> Result<(PathBuf, &'static str)> {
        match &self.source {
            Source::Overlay(name) => {
                let path = folder.join(format!("{}.qcow2", self.node));
                overlay(&fixture.join(name), &path)?;
                Ok((path, "qcow2"))
            }
            Source::Copy(name) => {
                let path = folder.join(format!("{}.raw", self.node));
                fs::copy(fixture.join(name), &path).with_context(|| format!("cannot copy {name}"))?;
                Ok((path, "raw"))
            }
            Source::Blank { bytes } => {
                let path = folder.join(format!("{}.raw", self.node));
                File::create_new(&path)?.set_len(*bytes)?;
                Ok((path, "raw"))
            }
            Source::File { path, format } => Ok((path.clone(), format)),
        }
    }
}

fn overlay(base: &Path, path: &Path) -> Result<()> {
    let base = base.canonicalize().with_context(|| format!("no {}: run scripts/fixtures", base.display()))?;
    let made = Command::new("qemu-img")
        .args(["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b"])
        .args([&base, path])
        .output()
        .context("cannot run qemu-img: run scripts/install test")?;
    ensure!(made.status.success(), "qemu-img create: {}", String::from_utf8_lossy(&made.stderr));
    Ok(())
}

fn text(path: &Path) -> String {
    fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

fn tail(folder: &Path) -> String {
    let mut both = String::new();
    for name in ["serial.log", "qemu.log"] {
        let all = text(&folder.join(name));
        let lines: Vec<&str> = all.lines().collect();
        let last = lines.get(lines.len().saturating_sub(20)..).unwrap_or_default();
        let _infallible = write!(both, "{name}:\n{}\n", last.join("\n"));
    }
    both
}

/// A test that panicked while it held the lock has said so itself; the guest is still there to be ended.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
