//! The contract that a hypervisor or cloud fulfils: connect, list, open, describe, begin, finish, recover.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Access, BackendError, Capture, Consistency, Journal, Live, Undo, Uri};

/// One kind of hypervisor or cloud.
#[async_trait]
pub trait Backend: Sync {
    /// The scheme of its addresses.
    fn scheme(&self) -> &'static str;
    /// Is this an address of its?
    fn answers_to(&self, scheme: &str) -> bool {
        scheme == self.scheme()
    }
    /// One line: what it reaches, with an example address.
    fn about(&self) -> &'static str;
    /// What it was tested against, for the support table.
    fn tested_against(&self) -> &'static str;
    /// Names of the options that it knows besides what all know, as `How::options` has them. Any other is refused.
    fn options(&self) -> &'static [&'static str] {
        &[]
    }
    /// Opens a connection.
    async fn connect(&self, uri: &Uri, access: &Access) -> Result<Box<dyn Host>, BackendError>;
    /// What must be there for it to work, each with the command that mends it. `uri` narrows it to one host.
    async fn checkup(&self, uri: Option<&Uri>, access: &Access) -> Vec<Finding>;
}

/// One connection: a hypervisor, a cloud region.
#[async_trait]
pub trait Host: Send {
    /// The VMs behind it.
    async fn targets(&mut self) -> Result<Vec<TargetSummary>, BackendError>;
    /// Opens one of them; without a name the only one there is.
    async fn open(&mut self, vm: Option<&str>) -> Result<Box<dyn Target>, BackendError>;
}

/// One VM.
#[async_trait]
pub trait Target: Send {
    /// What it is. Goes into the manifest. Changes nothing.
    async fn describe(&mut self) -> Result<Facts, BackendError>;
    /// What can be captured of it, and how. Changes nothing.
    async fn items(&mut self) -> Result<Vec<Item>, BackendError>;
    /// The format, if an item is taken as a file in one of the hypervisor's own, which is kept as it is: by the name that
    /// `impound::image` has for it (`xen-core`). Addresses are then places in this file.
    fn form(&self, _item: &Item) -> Option<&'static str> {
        None
    }
    /// What the host may keep of this item besides SHA-256, so that ours is wanted too, to be compared with its
    /// ([`Finished::witnesses`]).
    fn keeps(&self, _item: &Item) -> &'static [Check] {
        &[]
    }
    /// Does `begin` make things that take hours? Then it may be given up at any time, and what it had made until then is found again
    /// by the run that goes on with it.
    fn begins_slowly(&self) -> bool {
        false
    }
    /// What `begin` would do for these items. Changes nothing; refuses what `begin` would refuse, as far as that can be
    /// known beforehand.
    async fn plan(&mut self, items: &[Item], how: &How) -> Result<Plan, BackendError>;
    /// Takes the VM for this run, so that no second run can (refuses, naming the holder, if one has it), and makes ready
    /// everything that needs no instant yet, so that the guest stands still as briefly as possible.
    async fn prepare(&mut self, items: &[Item], how: &How, journal: &mut dyn Journal) -> Result<(), BackendError>;
    /// Fixes one instant for all items that were prepared, in their order; one capture each. After an error nothing is
    /// left to read, and `finish` still has to be called. The guest may be standing still: what can be written into the
    /// journal before, in `prepare`, is.
    async fn begin(&mut self, journal: &mut dyn Journal) -> Result<Vec<Capture>, BackendError>;
    /// Takes away what `prepare` and `begin` made, whatever happened, and puts the run state back; says what stays.
    async fn finish(&mut self, journal: &mut dyn Journal) -> Result<Finished, BackendError>;
    /// Looks after what `finish` has set going and nobody reads, as copies in another account, and adds to `finished` what came of
    /// it. Asked again and again until it answers none; else it says what is waited for. The `last` time nothing is waited for any
    /// more, and it says what has not ended.
    async fn settled(&mut self, _journal: &mut dyn Journal, _finished: &mut Finished, _last: bool) -> Option<String> {
        None
    }
    /// Undoes, last first, what a killed run had begun. Answers what it did, a line each; what is already gone is fine.
    async fn recover(&mut self, undo: &[Undo]) -> Result<Vec<String>, BackendError>;
    /// Stopping and resuming, where the target can.
    fn freezer(&mut self) -> Option<&mut dyn Freeze> {
        None
    }
    /// Reading memory in place while the guest runs, where the target can.
    fn live(&mut self) -> Option<&mut dyn Live> {
        None
    }
}

/// The ability to hold a guest still. Only `acquire` uses it.
#[async_trait]
pub trait Freeze: Send {
    /// Stops the guest, unless it was found stopped.
    async fn freeze(&mut self, journal: &mut dyn Journal) -> Result<(), BackendError>;
    /// Puts the guest back into the run state it was found in.
    async fn thaw(&mut self, journal: &mut dyn Journal) -> Result<(), BackendError>;
}

/// A VM in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TargetSummary {
    /// What to write behind `#`; the guest's operator chose it, so it is escaped before it is shown.
    pub name: String,
    /// UUID, instance id or the like.
    pub id: Option<String>,
    /// `running`, `paused`, … in the hypervisor's words.
    pub state: String,
    /// Memory in bytes.
    pub memory: Option<u64>,
    /// Number of CPUs.
    pub cpus: Option<u32>,
}

/// What a VM is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Facts {
    /// Name of the VM.
    pub name: String,
    /// UUID or instance id.
    pub id: Option<String>,
    /// `QEMU`, `Xen`, ….
    pub hypervisor: String,
    /// Its version.
    pub version: String,
    /// Run state at the time of asking, in the hypervisor's words.
    pub state: String,
    /// Number of CPUs.
    pub cpus: Option<u32>,
    /// Memory in bytes.
    pub memory: Option<u64>,
    /// The guest's clock against ours.
    pub clocks: Option<Clocks>,
    /// What a responder must know before capturing: encrypted memory, passed-through devices, a backup that runs.
    pub warnings: Vec<String>,
    /// Everything else, as the hypervisor tells it.
    pub details: Value,
}

/// Two clocks read together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clocks {
    /// This machine's clock.
    pub host: Timestamp,
    /// The guest's hardware clock, read as UTC.
    pub guest: Timestamp,
    /// Guest minus host, in seconds; the precision of a hardware clock is one second.
    pub offset_seconds: i64,
}

/// What kind of thing an item is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ItemKind {
    /// Guest-physical memory.
    Memory,
    /// A disk as the guest sees it.
    Disk,
    /// The file that holds a disk, as it lies on the host: keeps what the guest view hides.
    Container,
    /// The VM's configuration.
    Config,
}

/// Something that can be captured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    /// What it is.
    pub kind: ItemKind,
    /// Its name on the command line and in file names: `memory`, `vda`. Made safe by the backend: `[a-z0-9._-]+`.
    pub name: String,
    /// Length of its address space in bytes, if known.
    pub len: Option<u64>,
    /// Where it comes from, in the hypervisor's words.
    pub source: String,
    /// Can be read again from the middle, so an interrupted capture can be resumed.
    pub resumable: bool,
    /// The ways to take it, best first.
    pub methods: Vec<Method>,
    /// Set if what is taken is a file as it lies on the host, not the guest's view: it is opened before it is read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<HostFile>,
}

/// A file that is taken as it lies on the host, perhaps to be opened together with others of the same run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostFile {
    /// Its whole path there; files that need it name it relative to their own folder, or by this.
    pub path: String,
    /// What it is wrapped in, as `impound image formats` calls it; `raw` for nothing.
    pub wrapping: String,
    /// The item that cannot be opened without it, and that it is chosen with; none if it is that item itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<String>,
}

/// A way to take an item.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Method {
    /// Its name on the command line.
    pub name: String,
    /// What it promises.
    pub consistency: Consistency,
    /// What the guest notices, in words with numbers.
    pub pause: String,
    /// Holds the guest for as long as it takes to copy the item.
    pub holds_guest: bool,
    /// Why it cannot be used here, if so.
    pub unusable: Option<String>,
}

/// How to capture.
#[derive(Debug, Clone)]
pub struct How {
    /// The memory method asked for by name; `None` lets probing choose.
    pub memory_method: Option<String>,
    /// The worst class to accept.
    pub require: Consistency,
    /// The longest stop of the guest to accept.
    pub max_pause: Option<Duration>,
    /// A folder with space for what the guest overwrites meanwhile; only unlinked files are put there.
    pub scratch: PathBuf,
    /// The same on the machine that the hypervisor runs on, where that is another; none leaves it to the backend.
    pub scratch_there: Option<PathBuf>,
    /// Who takes it, why and from where; a second run is told this.
    pub holder: String,
    /// Short id of this run, `[a-z0-9]{1,12}`: in every name made on the hypervisor.
    pub run: String,
    /// Where to go on, for resumable items, by item name. In bytes.
    pub start_at: BTreeMap<String, u64>,
    /// The run that began what is gone on with, by item name: it finds what that run left on purpose, as a snapshot.
    pub begun_by: BTreeMap<String, String>,
    /// What only some backends know ([`Backend::options`]), by name.
    pub options: BTreeMap<String, String>,
    /// Earlier copies of the same disks, by item name, for backends that can tell what changed (option `since`).
    pub since: BTreeMap<String, Since>,
}

/// An earlier copy of a disk, hashed and found to be as it was sealed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Since {
    /// The snapshot it was taken from, in the backend's words.
    pub from: String,
    /// The raw image.
    pub image: PathBuf,
    /// Name of the exhibit.
    pub exhibit: String,
}

/// What a capture would do.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Plan {
    /// One for each item.
    pub items: Vec<PlannedItem>,
    /// What to expect of the guest, in words.
    pub pause: String,
    /// Every act on the hypervisor, in order.
    pub commands: Vec<String>,
    /// Space needed in the scratch folder at worst, in bytes: what the guest may overwrite meanwhile.
    pub scratch_bytes: u64,
    /// What a responder must know before saying yes.
    pub warnings: Vec<String>,
}

/// One item of a plan.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PlannedItem {
    /// The item's name.
    pub item: String,
    /// The method chosen.
    pub method: String,
    /// What it promises.
    pub consistency: Consistency,
    /// Bytes that will be written to the case at worst.
    pub bytes: u64,
    /// Bytes that will be written for sure, as far as the source tells what is allocated.
    pub allocated: u64,
}

/// What was seen and what stays after a capture.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Finished {
    /// Each time the guest stood still, by the hypervisor's own clock.
    pub pauses: Vec<Pause>,
    /// The longest time one virtual CPU waited for the capture, if it could be measured.
    pub stall: Option<Stall>,
    /// The guest's file systems were frozen around the instant, if that was asked for.
    #[serde(default)]
    pub quiesced: Option<Quiesced>,
    /// What stays on the hypervisor on purpose, and how to remove it.
    pub left: Vec<String>,
    /// Run state in the end, in the hypervisor's words.
    pub state: String,
    /// What went wrong while tidying up; the guest's state is right unless `guest_unsure`.
    pub problems: Vec<String>,
    /// The guest may still be stopped although it was found running.
    pub guest_unsure: bool,
    /// Digests that the host itself took of what was captured.
    #[serde(default)]
    pub witnesses: Vec<Witness>,
}

/// A digest that a host keeps besides SHA-256.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Check {
    /// FIPS 180-4.
    Sha512,
    /// RFC 1321.
    Md5,
    /// The checksum of RFC 3720, appendix B.4.
    Crc32c,
}

/// A digest of an item that the host took by a tool of its own.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Witness {
    /// The item's name.
    pub item: String,
    /// The tool: `sha256sum of esx01`.
    pub by: String,
    /// SHA-256 in lower-case hex, if it is this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// SHA-512 in lower-case hex, if it is this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha512: Option<String>,
    /// MD5 in lower-case hex, if it is this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub md5: Option<String>,
    /// CRC32C in lower-case hex, its first digit that of the highest power, if it is this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crc32c: Option<String>,
}

impl Witness {
    /// A digest by SHA-256.
    pub fn sha256(item: &str, by: String, digest: String) -> Self {
        Self { item: item.to_owned(), by, sha256: Some(digest), ..Self::default() }
    }

    /// A digest by SHA-512.
    pub fn sha512(item: &str, by: String, digest: String) -> Self {
        Self { item: item.to_owned(), by, sha512: Some(digest), ..Self::default() }
    }
}

/// The guest stood still from `stopped` to `resumed`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pause {
    /// When it was stopped.
    pub stopped: Timestamp,
    /// When it went on; `None` while it still stands.
    pub resumed: Option<Timestamp>,
}

/// The guest's file systems stood still, by its own agent. Times are by our clock, as the agent answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quiesced {
    /// When the agent was told to freeze them: from here on some of them may have stood still.
    pub begun: Timestamp,
    /// When it said that all are frozen.
    pub frozen: Timestamp,
    /// When it said that they are thawed; `None` if it never did.
    pub thawed: Option<Timestamp>,
    /// How many it froze.
    pub file_systems: u64,
    /// The agent's version. The guest wrote it: cut and escaped.
    pub agent: String,
}

/// The worst wait of one virtual CPU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stall {
    /// Microseconds.
    pub worst_us: u64,
    /// How it was measured.
    pub how: String,
}

/// One line of `impound doctor`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at.
    pub what: String,
    /// Is it as it should be?
    pub good: bool,
    /// What was found.
    pub found: String,
    /// The command that mends it.
    pub fix: Option<String>,
}
