//! What clouds have in common: a snapshot is the instant and holds nobody, what the cloud says of a machine is an exhibit, and who
//! asks proves it by a secret.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;
use tokio::time::timeout;

use crate::{
    ActId, BackendError, Capture, Consistency, How, Item, ItemKind, Journal, Method, PieceStream, PlannedItem, Secret,
    Undo,
};

/// The most that a document takes, in bytes, and far more than any was seen to.
pub(crate) const DOCUMENT_MAX: u64 = 16 << 20;
/// How long a document may hold up the snapshots.
const WITHIN: Duration = Duration::from_secs(20);
/// The longest answer that holds a token or keys, in bytes.
#[cfg(any(feature = "aws", feature = "azure", feature = "gcp"))]
pub(crate) const SECRET_MAX: u64 = 64 << 10;
/// What a snapshot promises.
const PROMISED: Consistency = Consistency::QuasiInstantaneous;

/// A refusal, with the provider's own word for it.
#[derive(Debug)]
pub(crate) struct Refused {
    /// `UnauthorizedOperation`, `AuthorizationFailed`; empty if the provider did not speak at all.
    #[cfg_attr(
        not(any(feature = "aws", feature = "azure", feature = "gcp")),
        expect(dead_code, reason = "OpenStack has none")
    )]
    pub(crate) code: String,
    pub(crate) error: Box<BackendError>,
}

impl From<BackendError> for Refused {
    fn from(error: BackendError) -> Self {
        Self { code: String::new(), error: Box::new(error) }
    }
}

impl From<Refused> for BackendError {
    fn from(refused: Refused) -> Self {
        *refused.error
    }
}

/// A document, or why there is none.
pub(crate) type Document = Result<Bytes, BackendError>;

/// Documents that a cloud gives of a machine: names, and how each is asked for, in the order in which they are taken: what lasts
/// least comes first.
pub(crate) struct Documents(pub(crate) &'static [(&'static str, &'static str)]);

impl Documents {
    /// How one is asked for.
    pub(crate) fn method(&self, name: &str) -> &'static str {
        self.0.iter().find(|(known, _)| *known == name).map_or("describe", |(_, method)| method)
    }

    /// Those that are offered, of this machine.
    pub(crate) fn items(&self, of: &str, offered: impl Fn(&str) -> bool) -> Vec<Item> {
        let item = |(name, method): &(&str, &str)| Item {
            kind: ItemKind::Config,
            name: (*name).to_owned(),
            len: None,
            source: of.to_owned(),
            resumable: false,
            file: None,
            methods: vec![Method {
                name: (*method).to_owned(),
                consistency: Consistency::Live,
                pause: "none".to_owned(),
                holds_guest: false,
                unusable: None,
            }],
        };
        self.0.iter().filter(|(name, _)| offered(name)).map(item).collect()
    }

    /// Takes all that are wanted, none of which may hold up the snapshots for long.
    pub(crate) async fn take<R: Future<Output = Document>>(
        &self,
        of: &str,
        wanted: &[Item],
        one: impl Fn(&'static str) -> R,
    ) -> BTreeMap<String, Document> {
        let mut documents = BTreeMap::new();
        let is_wanted = |name: &str| wanted.iter().any(|item| item.kind == ItemKind::Config && item.name == name);
        for (name, method) in self.0.iter().filter(|(name, _)| is_wanted(name)) {
            let late = || {
                let why = format!("no answer within {} s, and the disks could not wait", WITHIN.as_secs());
                Err(BackendError::unsupported(*method, of, why))
            };
            let document = timeout(WITHIN, one(name)).await.unwrap_or_else(|_| late());
            documents.insert((*name).to_owned(), document);
        }
        documents
    }

    /// One as a capture.
    pub(crate) fn capture(&self, item: &Item, document: Option<Document>, facts: Value) -> Capture {
        let missing =
            || Err(BackendError::caller("capture", &item.source, format!("`{}` was not asked for", item.name)));
        Capture::document(item.clone(), self.method(&item.name), document.unwrap_or_else(missing), facts)
    }
}

/// The environment, as far as the tools of one cloud look at it. Every value is held as a secret, since some of them are.
#[derive(Debug, Default)]
pub(crate) struct Vars(BTreeMap<String, Secret>);

impl Vars {
    /// Variables of this process.
    pub(crate) fn load(wanted: impl Fn(&str) -> bool) -> Self {
        let text = |(name, value): (OsString, OsString)| Some((name.into_string().ok()?, value.into_string().ok()?));
        Self::of(std::env::vars_os().filter_map(text).filter(|(name, _)| wanted(name)))
    }

    /// Variables by name and value. An empty one is none.
    pub(crate) fn of(vars: impl Iterator<Item = (String, String)>) -> Self {
        let vars = vars.filter(|(_, value)| !value.is_empty()).map(|(name, value)| (name, Secret::new(value)));
        Self(vars.collect())
    }

    /// A variable.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(Secret::reveal)
    }

    /// All of them.
    #[cfg(feature = "openstack")]
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &Secret)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value))
    }
}

/// JSON as a document, for people to read.
pub(crate) fn pretty(document: &Value) -> Bytes {
    serde_json::to_vec_pretty(document).unwrap_or_default().into()
}

/// How a snapshot is taken.
#[cfg(any(feature = "aws", feature = "azure", feature = "gcp"))]
pub(crate) fn snapshot(name: &str, pause: &str) -> Method {
    Method { name: name.to_owned(), consistency: PROMISED, pause: pause.to_owned(), holds_guest: false, unusable: None }
}

/// Refuses what no snapshot promises. `machine` is what this cloud calls one.
pub(crate) fn allowed(how: &How, on: &str, machine: &str) -> Result<(), BackendError> {
    if PROMISED <= how.require {
        return Ok(());
    }
    let (has, asked) = (PROMISED.name(), how.require.name());
    Err(BackendError::unsupported("promise that nothing moves", on, format!("a snapshot is {has}, not {asked}"))
        .advise(format!("ask for --require instant, or stop the {machine} first")))
}

/// What a plan says of an item: a disk of this length in bytes, or a document.
pub(crate) fn planned(item: &Item, disk: Option<u64>, how: &How) -> PlannedItem {
    let bytes = disk.unwrap_or(DOCUMENT_MAX);
    PlannedItem {
        item: item.name.clone(),
        method: item.methods.first().map(|method| method.name.clone()).unwrap_or_default(),
        consistency: disk.map_or(Consistency::Live, |_| PROMISED),
        bytes: bytes - how.start_at.get(&item.name).copied().unwrap_or(0).min(bytes),
        // What was written only the snapshot tells.
        allocated: 0,
    }
}

/// The disk of a machine that an item is; none if it is one of these documents.
#[cfg(any(feature = "azure", feature = "gcp", feature = "openstack"))]
pub(crate) fn disk_of<'a, D>(
    item: &Item,
    machine: &str,
    disks: &'a [D],
    name: impl Fn(&D) -> &str,
    documents: &[Item],
) -> Result<Option<&'a D>, BackendError> {
    if item.kind == ItemKind::Config && documents.iter().any(|known| known.name == item.name) {
        return Ok(None);
    }
    let found = disks.iter().find(|disk| item.kind == ItemKind::Disk && name(disk) == item.name);
    found.map(Some).ok_or_else(|| BackendError::caller("capture", machine, format!("it has no `{}`", item.name)))
}

/// A disk as it was at its snapshot's instant.
pub(crate) fn disk(item: Item, method: &'static str, len: u64, facts: Value, pieces: PieceStream) -> Capture {
    Capture { item, method, len, regions: Vec::new(), consistency: PROMISED, holds_guest: false, facts, pieces }
}

/// A stream that says only why there is nothing.
#[cfg(any(feature = "azure", feature = "gcp"))]
pub(crate) fn nothing(error: BackendError) -> PieceStream {
    let (to, pieces) = tokio::sync::mpsc::channel(1);
    // It fits into an empty channel of one.
    let _ = to.try_send(Err(error));
    pieces
}

/// A place to go on with? What is copied begins at multiples of `grain` bytes.
pub(crate) fn check_start(name: &str, from: u64, grain: u64) -> Result<(), BackendError> {
    if from.is_multiple_of(grain) {
        return Ok(());
    }
    Err(BackendError::caller("go on", name, format!("byte {from} is not a multiple of {grain}")))
}

/// Writes down that an act with this inverse comes next.
pub(crate) fn note(journal: &mut dyn Journal, act: &str, undo: Undo) -> Result<ActId, BackendError> {
    journal.about_to(act, undo).map_err(|error| BackendError::io("write the journal", act, &error))
}

/// Writes down that nothing of an act is left to be undone.
#[cfg(any(feature = "aws", feature = "azure", feature = "gcp"))]
pub(crate) fn ended(journal: &mut dyn Journal, act: ActId) -> Result<(), BackendError> {
    journal.done(act).map_err(|error| BackendError::io("write the journal", "an act that ended", &error))
}

/// A token that somebody has put into a file.
#[cfg(any(feature = "aws", feature = "azure", feature = "gcp"))]
pub(crate) fn read_token(file: &str) -> Result<Secret, BackendError> {
    use std::io::Read as _;
    let failed = |error: &std::io::Error| BackendError::io("read the token", file, error);
    let mut text = String::new();
    let opened = std::fs::File::open(file).map_err(|error| failed(&error))?;
    opened.take(SECRET_MAX).read_to_string(&mut text).map_err(|error| failed(&error))?;
    Ok(Secret::new(text.trim().to_owned()))
}
