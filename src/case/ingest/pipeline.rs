//! The files of an item and the threads behind the receiver.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex};
use std::thread::{Scope, ScopedJoinHandle};

use super::allocation::Allocation;
use super::digests::{Digest, Stored};
use super::follow::{self, Source};
use super::frontier::Frontier;
use super::options::{IngestOptions, Plan};
use super::resume::{HEAD, MAP};
use super::space::{Log, Space, create, settle};
use super::zst::{self, Packed};
use crate::case::CaseError;
use crate::case::digest::hex;

/// How many blocks one of the two hashers of the map may be ahead of the other.
const AHEAD: usize = 1024;

/// The files of an item.
pub(super) struct Pipeline {
    /// What pieces are written to: the image, or the spool of its compression.
    pub(super) image: Source,
    /// What is kept in the end; the image itself, unless it is compressed.
    stored: Source,
    /// The spool again, as far as it is compressed.
    packed: Option<Source>,
    map: Mutex<Option<Log>>,
    name: String,
}

/// SHA-256 of the content, and others that are wanted too.
pub(super) type Content = (String, BTreeMap<Digest, String>);

/// What the threads found.
pub(super) struct Hashed {
    /// The stored image.
    pub(super) image: Stored,
    /// Digests of the content, if that is not the stored image.
    pub(super) content: Option<Content>,
    /// The map of blocks, to be finished.
    pub(super) map: Log,
    /// The content had to end here, and why.
    pub(super) cut: Option<(u64, String)>,
}

fn source(file: Arc<File>, path: &Path) -> Source {
    Source { file, path: path.to_owned(), frontier: Arc::new(Frontier::default()) }
}

impl Pipeline {
    /// Creates the files, or opens those of an interrupted copy.
    pub(super) fn open(plan: &Plan, draft: &Path, options: &IngestOptions, resumable: bool) -> Result<Self, CaseError> {
        let data = draft.join("data");
        std::fs::create_dir_all(&data).map_err(CaseError::io("create", &data))?;
        let path = data.join(&plan.image);
        let (file, map) = match &options.resume {
            Some(resume) => (reopen(&path, resume.at)?, Log::go_on(&draft.join(MAP), resume.keep)?),
            None => (create(&path)?, Log::create(&draft.join(MAP))?),
        };
        if resumable {
            // The boot may be another now, so the head is written again in any case.
            let _ = std::fs::remove_file(draft.join(HEAD));
            plan.head.write(draft)?;
        }
        file.set_len(plan.layout.len).map_err(CaseError::io(format!("make {} bytes long", plan.layout.len), &path))?;
        for (at, header) in &plan.layout.headers {
            file.write_all_at(header, *at).map_err(CaseError::io("write the header of", &path))?;
        }
        let image = source(Arc::new(file), &path);
        if plan.from > 0 {
            image.frontier.publish([(plan.from, true)]);
        }
        let (stored, packed) = if options.compress.is_some() {
            let path = data.join(format!("{}.part", plan.name));
            (source(Arc::new(create(&path)?), &path), Some(source(image.file.clone(), &image.path)))
        } else {
            (image.clone(), None)
        };
        Ok(Self { image, stored, packed, map: Mutex::new(Some(map)), name: plan.name.clone() })
    }

    /// Starts the threads. `live` is the allocation map of a copy that can be resumed.
    pub(super) fn start<'scope, 'env>(
        &'env self,
        scope: &'scope Scope<'scope, 'env>,
        options: &'env IngestOptions,
        space: &'env Space,
        live: Option<&'env Mutex<Allocation>>,
    ) -> Running<'scope, 'env> {
        let before = options.resume.as_ref().and_then(|resume| resume.last.as_ref());
        let ((marks, marked), (sums, summed)) = (sync_channel(AHEAD), sync_channel(AHEAD));
        let (stored, block) = (&self.stored, options.block);
        let map = self.map.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        Running {
            of: self,
            packer: options.compress.zip(self.packed.as_ref()).map(|(zstd, packed)| {
                scope.spawn(move || zst::compress(&self.image, stored, packed, zstd.level, space))
            }),
            content: self.packed.as_ref().map(|packed| scope.spawn(move || follow::content(packed, &options.compared))),
            chain: scope.spawn(move || follow::chain(stored, block, before, &marks)),
            blocks: scope.spawn(move || follow::blocks(stored, block, before, &sums)),
            map: map.map(|log| scope.spawn(move || follow::map(log, &marked, &summed, space, live))),
            others: options.stored_digests().map(|d| (d, scope.spawn(move || follow::other(stored, d)))).collect(),
        }
    }

    /// Makes the image durable under its name, and removes the spool.
    pub(super) fn settle(&self, data: &Path, plan: &Plan) -> Result<(), CaseError> {
        settle(&self.stored.file, &self.stored.path, &data.join(&plan.name))?;
        if self.packed.is_some() {
            std::fs::remove_file(&self.image.path).map_err(CaseError::io("remove the spool", &self.image.path))?;
        }
        Ok(())
    }
}

/// The beginning of an interrupted copy: what came after the part that is kept is forgotten, so that a hole there is one.
fn reopen(path: &Path, keep: u64) -> Result<File, CaseError> {
    let file =
        OpenOptions::new().read(true).write(true).open(path).map_err(CaseError::io("open the copy so far", path))?;
    file.set_len(keep).map_err(CaseError::io("cut", path))?;
    Ok(file)
}

type Thread<'scope, T> = ScopedJoinHandle<'scope, Result<T, CaseError>>;

/// The threads at work.
pub(super) struct Running<'scope, 'env> {
    of: &'env Pipeline,
    packer: Option<Thread<'scope, Option<Packed>>>,
    content: Option<Thread<'scope, Option<Content>>>,
    chain: Thread<'scope, Option<[u8; 32]>>,
    blocks: Thread<'scope, ()>,
    map: Option<Thread<'scope, Log>>,
    others: BTreeMap<Digest, Thread<'scope, Option<String>>>,
}

impl Running<'_, '_> {
    /// Waits for all of them. `None` if the receiver gave the copy up, to be resumed.
    pub(super) fn join(self) -> Result<Option<Hashed>, CaseError> {
        let path = &self.of.stored.path;
        let packed = self.packer.map(|thread| wait(thread, path)).transpose();
        let content = self.content.map(|thread| wait(thread, path)).transpose();
        let (chain, blocks) = (wait(self.chain, path), wait(self.blocks, path));
        let map = self.map.map(|thread| wait(thread, path)).transpose();
        let others: Vec<_> = self.others.into_iter().map(|(digest, thread)| (digest, wait(thread, path))).collect();
        // The compressor's own error comes first: the others only found that it was gone.
        let (packed, content) = (packed?.flatten(), content?.flatten());
        let (chain, map) = (chain?, map?);
        blocks?;
        let mut digests = BTreeMap::new();
        for (digest, hash) in others {
            digests.extend(hash?.map(|hash| (digest, hash)));
        }
        let (Some(chain), Some(map)) = (chain, map) else { return Ok(None) };
        let len = self.of.stored.file.metadata().map_err(CaseError::io("measure", path))?.len();
        let image = Stored { path: format!("data/{}", self.of.name), len, sha256: hex(&chain), others: digests };
        let cut = packed.and_then(|packed| Some((packed.content_len, packed.failed?)));
        Ok(Some(Hashed { image, content, map, cut }))
    }
}

/// Waits for one thread; a thread that died is an error like any other.
fn wait<T>(thread: Thread<'_, T>, path: &Path) -> Result<T, CaseError> {
    thread.join().unwrap_or_else(|_| {
        let died = std::io::Error::other("a hashing thread died: this is a bug, please report it");
        Err(CaseError::io("hash", path)(died))
    })
}
