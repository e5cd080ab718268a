//! What to make of a capture, checked against the capture before anything is written.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::Path;

use impound_backends::Capture;
use serde::{Deserialize, Serialize};

use super::digests::Digest;
use super::layout::{self, Layout};
use super::resume::{Head, ResumePoint, boot};
use crate::case::{CaseError, blocks};

/// The form of the image.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// A sparse file, addresses one to one.
    #[default]
    Raw,
    /// `LiME` version 1.
    Lime,
    /// ELF64 core.
    Elf,
}

impl Format {
    /// What ends the file's name: `raw`, `lime`, `elf`.
    pub fn extension(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Lime => "lime",
            Self::Elf => "elf",
        }
    }
}

/// Compression with zstd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Zstd {
    /// 1 (fast) to 19 (small).
    pub level: i32,
}

/// How to store an item.
#[derive(Debug, Clone)]
pub struct IngestOptions {
    /// Name of the image without ending: `memory`, `vda`. `[a-z0-9._-]+`, not beginning with a dot.
    pub stem: String,
    /// Its form.
    pub format: Format,
    /// The bytes are a file in this format, and are kept as they are (`format` is raw): the ending of its name.
    pub own_form: Option<&'static str>,
    /// `e_machine` of an ELF file: 62 is `EM_X86_64`.
    pub machine: u16,
    /// Compress it.
    pub compress: Option<Zstd>,
    /// Length of a block of the map in bytes, a multiple of 1 MiB up to 1 GiB.
    pub block: u64,
    /// Digests besides SHA-256.
    pub digests: BTreeSet<Digest>,
    /// Digests of the content, to be compared with another's.
    pub compared: BTreeSet<Digest>,
    /// Space to be left free on the file system, in bytes.
    pub min_free: u64,
    /// Go on where an interrupted copy in the same draft stopped.
    pub resume: Option<ResumePoint>,
    /// If the source can be resumed: leave a copy that is stopped or fails as a draft, not as a finished exhibit.
    pub keep_draft: bool,
}

impl Default for IngestOptions {
    fn default() -> Self {
        Self {
            stem: "image".into(),
            format: Format::Raw,
            own_form: None,
            machine: 62,
            compress: None,
            block: blocks::BLOCK,
            digests: BTreeSet::new(),
            compared: BTreeSet::new(),
            min_free: 64 << 20,
            resume: None,
            keep_draft: false,
        }
    }
}

impl IngestOptions {
    /// The digests to be taken of the stored image: where that is the content itself, those of the content too.
    pub(super) fn stored_digests(&self) -> impl Iterator<Item = Digest> {
        let mut digests = self.digests.clone();
        if self.compress.is_none() {
            digests.extend(&self.compared);
        }
        digests.into_iter()
    }
}

/// Options and capture together, found to fit.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) layout: Layout,
    pub(super) regions: Vec<Range<u64>>,
    /// Name of the stored image in `data/`.
    pub(super) name: String,
    /// Name of the file that pieces are written to, while they are.
    pub(super) image: String,
    /// The copy can be taken up after a kill.
    pub(super) resumable: bool,
    /// Bytes that are there from an earlier run.
    pub(super) from: u64,
    /// What is to be written down if it can be resumed.
    pub(super) head: Head,
    /// What a reader of the manifest should know.
    pub(super) notes: Vec<String>,
}

impl Plan {
    pub(super) fn new(capture: &Capture, draft: &Path, options: &IngestOptions) -> Result<Self, CaseError> {
        let refuse = |why: String| CaseError::caller("store an item", draft, why);
        check(options).map_err(refuse)?;
        let on_target = |why: String| CaseError::Corrupt {
            on: capture.item.source.clone().into(),
            at: "the list of its ranges".into(),
            expected: "ranges that ascend, lie apart, inside and on pages".into(),
            found: why,
        };
        let regions = layout::ranges(&capture.regions, capture.len).map_err(on_target)?;
        let layout = Layout::new(options.format, &regions, capture.len, options.machine).map_err(on_target)?;
        let plain = format!("{}.{}", options.stem, options.own_form.unwrap_or(options.format.extension()));
        let (name, image) = match options.compress {
            Some(_) => (format!("{plain}.zst"), format!("{plain}.spool")),
            None => (plain.clone(), format!("{plain}.part")),
        };
        let resumable = capture.item.resumable && options.compress.is_none() && options.format == Format::Raw;
        let head = Head {
            version: 1,
            item: capture.item.name.clone(),
            source: capture.item.source.clone(),
            method: capture.method.to_owned(),
            len: capture.len,
            block: options.block,
            image: image.clone(),
            boot: boot(),
        };
        let mut whole = Self { layout, regions, name, image, resumable, from: 0, head, notes: Vec::new() };
        whole.take_up(options).map_err(refuse)?;
        Ok(whole)
    }

    /// Checks that an interrupted copy is one of the same.
    fn take_up(&mut self, options: &IngestOptions) -> Result<(), String> {
        let Some(resume) = &options.resume else { return Ok(()) };
        if !self.resumable {
            return Err("only a raw, uncompressed copy of a source that can be read again can be resumed".into());
        }
        let (mine, mut theirs) = (&self.head, Head { boot: self.head.boot.clone(), ..resume.head.clone() });
        if resume.at == 0 {
            // Of what broke off before its length was known nothing is kept.
            theirs.len = mine.len;
        }
        if *mine != theirs {
            return Err(format!("the draft holds another copy: {theirs:?}, not {mine:?}; begin anew in a new draft"));
        }
        self.from = resume.at;
        self.notes.push(format!("resumed at byte {}: what lies below was copied by an earlier run", resume.at));
        if resume.at > 0 && !options.digests.is_empty() {
            let names: Vec<_> = options.digests.iter().map(|digest| digest.name()).collect();
            let names = names.join(", ");
            self.notes.push(format!("{names} of the first {} bytes were read from the local copy again", resume.at));
        }
        Ok(())
    }
}

fn check(options: &IngestOptions) -> Result<(), String> {
    let plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, b'.' | b'_' | b'-');
    let stem = &options.stem;
    if stem.is_empty() || stem.len() > 100 || stem.starts_with('.') || !stem.bytes().all(plain) {
        return Err(format!("`{stem}` is no name for an image: use [a-z0-9._-]"));
    }
    if !blocks::is_block(options.block) {
        return Err(format!("a block of {} bytes is not a multiple of 1 MiB up to 1 GiB", options.block));
    }
    match options.compress {
        Some(Zstd { level }) if !(1..=19).contains(&level) => Err(format!("zstd has no level {level}: use 1 to 19")),
        _ => Ok(()),
    }
}
