//! `blocks.jsonl`: the hash of each block of a stored file, so that a mismatch names its range.
//!
//! One line a block, ascending and without holes:
//!
//! ```json
//! {"at":0,"len":16777216,"sha256":"<64 hex digits>","chain":"<64 hex digits>"}
//! ```
//!
//! - `at`, `len`: bytes. `len` is the same for all but the last line, a multiple of 1 MiB. An empty file has one line of
//!   length 0.
//! - `sha256`: digest of the block alone: `dd bs=1M skip=… count=… | sha256sum`.
//! - `chain`: the inner state of the SHA-256 of the whole file after this block, eight big-endian words (FIPS 180-4,
//!   section 6.2); on the last line the digest of the whole file itself.
//!
//! With `chain` the digest of record is checked on all cores: each block is run from the state before it to the state
//! after it, and if every link holds, from the standard's initial value to the padded end, the last one is the file's
//! SHA-256, whoever wrote the map.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::CaseError;
use super::digest::hex;
use super::sha256::{Chain, unhex};
use crate::progress::Task;

/// The usual length of a block in bytes.
pub const BLOCK: u64 = 16 << 20;
/// Blocks are a multiple of this, in bytes.
pub const STEP: u64 = 1 << 20;
/// The longest block a map may name. In bytes.
const MOST: u64 = 1 << 30;
/// The longest line a map may hold, its end included. In bytes.
const LINE: u64 = 512;

/// One line of the map.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Block {
    /// First byte.
    pub at: u64,
    /// Length in bytes.
    pub len: u64,
    /// Digest of the block alone.
    pub sha256: String,
    /// State of the whole file's digest after it, or the digest itself on the last line.
    pub chain: String,
}

impl Block {
    /// As a line with its end.
    pub(crate) fn line(at: u64, len: u64, sha256: &[u8; 32], chain: &[u8; 32]) -> String {
        format!("{{\"at\":{at},\"len\":{len},\"sha256\":\"{}\",\"chain\":\"{}\"}}\n", hex(sha256), hex(chain))
    }
}

/// A block with the state it starts from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Link {
    /// First byte.
    pub(crate) at: u64,
    /// Length in bytes.
    pub(crate) len: u64,
    /// Digest of the block alone.
    pub(crate) sha256: [u8; 32],
    /// State before it; `None` at the beginning of the file.
    pub(crate) before: Option<[u8; 32]>,
    /// State after it, or the digest if it is the last.
    pub(crate) after: [u8; 32],
    /// It is the last.
    pub(crate) last: bool,
}

/// Reads a map link by link. Memory stays the same however long the map is.
#[derive(Debug)]
pub(crate) struct Links<R> {
    from: R,
    path: PathBuf,
    line: u64,
    /// Read and not given out: a link is the last if no line follows.
    ahead: Option<Block>,
    at: u64,
    block: u64,
    before: Option<[u8; 32]>,
    failed: bool,
}

impl Links<BufReader<File>> {
    /// Opens the map at `path`.
    pub(crate) fn open(path: &Path) -> Result<Self, CaseError> {
        let file = File::open(path).map_err(CaseError::io("open the map of blocks", path))?;
        Ok(Self::new(BufReader::new(file), path))
    }
}

impl<R: BufRead> Links<R> {
    /// Reads from `from`; `path` is for messages.
    pub(crate) fn new(from: R, path: &Path) -> Self {
        let path = path.to_owned();
        Self { from, path, line: 0, ahead: None, at: 0, block: 0, before: None, failed: false }
    }

    fn damaged(&self, expected: impl Into<String>, found: impl Into<String>) -> CaseError {
        CaseError::Corrupt {
            on: self.path.clone(),
            at: format!("line {}", self.line),
            expected: expected.into(),
            found: found.into(),
        }
    }

    fn read(&mut self) -> Result<Option<Block>, CaseError> {
        let mut line = Vec::new();
        let mut bounded = (&mut self.from).take(LINE);
        bounded.read_until(b'\n', &mut line).map_err(CaseError::io("read the map of blocks", &self.path))?;
        self.line += 1;
        match line.pop() {
            None => Ok(None),
            Some(b'\n') => serde_json::from_slice(&line).map(Some).map_err(|e| self.damaged("a block", e.to_string())),
            Some(_) => Err(self.damaged("a line with its end", format!("{} bytes without", line.len() + 1))),
        }
    }

    /// Checks `block` against what came before it.
    fn link(&mut self, block: &Block, last: bool) -> Result<Link, CaseError> {
        if block.at != self.at {
            return Err(self.damaged(format!("a block at {}", self.at), format!("one at {}", block.at)));
        }
        if self.at == 0 {
            self.block = block.len;
        }
        let whole = block.len == self.block && block.len != 0 && block.len.is_multiple_of(STEP);
        let fits = if last { block.len <= self.block && (block.len > 0 || self.at == 0) } else { whole };
        if !fits || block.len > MOST {
            return Err(self.damaged("a length as the blocks before it", block.len.to_string()));
        }
        let digest = |text: &str| unhex(text).ok_or_else(|| self.damaged("64 hex digits", "something else"));
        let (sha256, after) = (digest(&block.sha256)?, digest(&block.chain)?);
        self.at = self.at.checked_add(block.len).ok_or_else(|| self.damaged("a length below 2^64", "more"))?;
        Ok(Link { at: block.at, len: block.len, sha256, before: self.before.replace(after), after, last })
    }

    fn advance(&mut self) -> Result<Option<Link>, CaseError> {
        let block = match self.ahead.take() {
            Some(block) => block,
            None if self.line == 0 => self.read()?.ok_or_else(|| self.damaged("at least one block", "nothing"))?,
            None => return Ok(None),
        };
        self.ahead = self.read()?;
        self.link(&block, self.ahead.is_none()).map(Some)
    }
}

impl<R: BufRead> Iterator for Links<R> {
    type Item = Result<Link, CaseError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let next = self.advance();
        self.failed = next.is_err();
        next.transpose()
    }
}

/// Can a block be this long?
pub(crate) fn is_block(len: u64) -> bool {
    len > 0 && len.is_multiple_of(STEP) && len <= MOST
}

/// Is the block of `link` in `open` as the map says?
pub(crate) fn unchanged(
    open: &File,
    path: &Path,
    link: &Link,
    actual_len: u64,
    buffer: &mut [u8],
    task: &dyn Task,
) -> Result<bool, CaseError> {
    judge(open, path, link, actual_len, buffer, task).map(|state| state == State::Unchanged)
}

/// What a check of a file against its map found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlocksCheck {
    /// Length that the map describes, in bytes.
    pub expected_len: u64,
    /// Length of the file, in bytes.
    pub actual_len: u64,
    /// SHA-256 of the file, proven by the whole chain; `None` if anything changed.
    pub sha256: Option<String>,
    /// What is not as it was: ascending, apart, in whole blocks, bytes missing or added at the end included.
    pub changed: Vec<Range<u64>>,
}

/// What one thread keeps between blocks.
const BUFFER: usize = 1 << 20;

/// Checks `file` against the map at `map` on all cores.
///
/// # Errors
/// `Corrupt` if the map is not a map, or contradicts itself (a block's digest holds and its link does not); `Io` if
/// the file cannot be read. A file that differs is no error: see [`BlocksCheck::changed`].
pub fn check(file: &Path, map: &Path, task: &dyn Task) -> Result<BlocksCheck, CaseError> {
    let open = File::open(file).map_err(CaseError::io("open for checking", file))?;
    let actual_len = open.metadata().map_err(CaseError::io("measure", file))?.len();
    let seen = Mutex::new(Seen::default());
    Links::open(map)?.par_bridge().try_for_each_init(
        || vec![0; BUFFER],
        |buffer, link| {
            let link = link?;
            let state = judge(&open, file, &link, actual_len, buffer, task)?;
            if state == State::MapWrong {
                return Err(CaseError::Corrupt {
                    on: map.to_owned(),
                    at: format!("the block at byte {}", link.at),
                    expected: "a chain that follows from the line before".into(),
                    found: "another, although the block is unchanged".into(),
                });
            }
            seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner).note(&link, state);
            Ok(())
        },
    )?;
    Ok(seen.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner).sum_up(actual_len))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Unchanged,
    Changed,
    MapWrong,
}

/// What all threads found together.
#[derive(Debug, Default)]
struct Seen {
    changed: Vec<Range<u64>>,
    expected_len: u64,
    digest: Option<[u8; 32]>,
}

impl Seen {
    fn note(&mut self, link: &Link, state: State) {
        if state == State::Changed && link.len > 0 {
            self.changed.push(link.at..link.at.saturating_add(link.len));
            // An image changed all over must not fill the memory: neighbours are merged before the list grows large.
            if self.changed.len().is_multiple_of(4096) {
                self.changed = merged(std::mem::take(&mut self.changed));
            }
        }
        if link.last {
            self.expected_len = link.at.saturating_add(link.len);
            self.digest = Some(link.after);
        }
    }

    fn sum_up(mut self, actual_len: u64) -> BlocksCheck {
        if actual_len > self.expected_len {
            self.changed.push(self.expected_len..actual_len);
        }
        let changed = merged(self.changed);
        let whole = changed.is_empty() && actual_len == self.expected_len;
        let sha256 = self.digest.filter(|_| whole).map(|digest| hex(&digest));
        BlocksCheck { expected_len: self.expected_len, actual_len, sha256, changed }
    }
}

/// Sorts ranges and joins those that touch.
fn merged(mut ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    ranges.sort_by_key(|range| range.start);
    let mut out: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        match out.last_mut() {
            Some(last) if last.end >= range.start => last.end = last.end.max(range.end),
            _ => out.push(range),
        }
    }
    out
}

/// Runs one block from the state before it to the state after it.
fn judge(
    open: &File,
    path: &Path,
    link: &Link,
    actual_len: u64,
    buffer: &mut [u8],
    task: &dyn Task,
) -> Result<State, CaseError> {
    if link.at.checked_add(link.len).is_none_or(|end| end > actual_len) {
        task.add(link.len);
        return Ok(State::Changed);
    }
    let from = |state: Option<[u8; 32]>| match state {
        Some(state) => Chain::taken_up(link.at, &state),
        None => Some(Chain::new()),
    };
    // Blocks begin on a multiple of STEP, so taking up cannot fail; if it did, the block would count as changed.
    let Some(chain) = from(link.before) else { return Ok(State::Changed) };
    let Some(chain) = run(open, path, link, chain, buffer, task)? else { return Ok(State::Changed) };
    let after = if link.last { chain.finish() } else { chain.state() };
    if after == link.after {
        return Ok(State::Unchanged);
    }
    let alone = run(open, path, link, Chain::new(), buffer, &crate::progress::Silent)?;
    Ok(if alone.is_some_and(|chain| chain.finish() == link.sha256) { State::MapWrong } else { State::Changed })
}

/// Feeds the bytes of a block into `chain`; `None` if the file ends before the block does.
fn run(
    open: &File,
    path: &Path,
    link: &Link,
    mut chain: Chain,
    buffer: &mut [u8],
    task: &dyn Task,
) -> Result<Option<Chain>, CaseError> {
    let (mut at, mut left) = (link.at, link.len);
    while left > 0 {
        let want = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        let Some(into) = buffer.get_mut(..want) else { return Ok(None) };
        match open.read_exact_at(into, at) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(CaseError::io(format!("read {want} bytes at byte {at}"), path)(error)),
        }
        chain.update(into);
        task.add(want as u64);
        at = at.saturating_add(want as u64);
        left = left.saturating_sub(want as u64);
    }
    Ok(Some(chain))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Silent;
    use sha2::{Digest, Sha256};
    use std::fs;

    /// A file of `len` bytes with its map in blocks of 1 MiB.
    fn sample(len: usize) -> (tempfile::TempDir, PathBuf, PathBuf, Vec<u8>) {
        let folder = tempfile::tempdir().unwrap();
        let bytes: Vec<u8> = (0..len).map(|i| u8::try_from(i / 13 % 251).unwrap()).collect();
        let (file, map) = (folder.path().join("x"), folder.path().join("blocks.jsonl"));
        fs::write(&file, &bytes).unwrap();
        let (mut chain, mut text, mut at) = (Chain::new(), String::new(), 0);
        loop {
            let block = &bytes[at..len.min(at + (1 << 20))];
            chain.update(block);
            let last = at + block.len() == len;
            let after = if last { chain.clone().finish() } else { chain.state() };
            text += &Block::line(at as u64, block.len() as u64, &Sha256::digest(block).into(), &after);
            at += block.len();
            if last {
                break;
            }
        }
        fs::write(&map, text).unwrap();
        (folder, file, map, bytes)
    }

    #[test]
    fn an_unchanged_file_has_the_digest_of_sha256sum() {
        for len in [0, 1, 63, 64, 4096, 1 << 20, (1 << 20) + 1, (5 << 20) + 777] {
            let (_keep, file, map, bytes) = sample(len);
            let check = check(&file, &map, &Silent).unwrap();
            assert_eq!(check.sha256, Some(hex(&Sha256::digest(&bytes))), "{len}");
            assert_eq!((check.expected_len, check.actual_len), (len as u64, len as u64));
            assert!(check.changed.is_empty());
        }
    }

    #[test]
    fn one_bit_names_its_block_and_neighbours_are_merged() {
        let (_keep, file, map, mut bytes) = sample((5 << 20) + 777);
        bytes[(1 << 20) + 5] ^= 1;
        bytes[(2 << 20) + 5] ^= 0x80;
        let end = bytes.len();
        bytes[end - 1] ^= 1;
        fs::write(&file, &bytes).unwrap();
        let check = check(&file, &map, &Silent).unwrap();
        assert_eq!(check.changed, [1 << 20..3 << 20, 5 << 20..end as u64]);
        assert_eq!(check.sha256, None);
    }

    #[test]
    fn a_cut_and_a_grown_file_name_what_is_missing_and_what_is_new() {
        let (_keep, file, map, bytes) = sample(3 << 20);
        fs::write(&file, &bytes[..(2 << 20) + 9]).unwrap();
        let cut = check(&file, &map, &Silent).unwrap();
        assert_eq!(format!("{:?}", cut.changed), "[2097152..3145728]");
        assert_eq!(cut.sha256, None);
        let mut more = bytes.clone();
        more.push(0);
        fs::write(&file, &more).unwrap();
        let grown = check(&file, &map, &Silent).unwrap();
        assert_eq!(format!("{:?}", grown.changed), "[3145728..3145729]");
        assert_eq!(grown.sha256, None);
    }

    #[test]
    fn a_map_that_is_none_or_contradicts_itself_is_damaged() {
        let (_keep, file, map, _) = sample(3 << 20);
        let good = fs::read_to_string(&map).unwrap();
        let lines: Vec<_> = good.lines().collect();
        let chain = &lines[1][lines[1].find("chain").unwrap()..];
        let bad = [
            String::new(),
            good[..good.len() - 1].to_owned(),
            format!("{}\n{}\n", lines[0], lines[2]),
            format!("{good}{}\n", lines[2]),
            good.replacen("\"at\":0", "\"at\":18446744073709551615", 1),
            good.replacen("\"len\":1048576", "\"len\":1048577", 1),
            good.replacen("\"len\":1048576", "\"len\":4611686018427387904", 3),
            good.replacen(chain, &chain.replace('1', "2"), 1),
            "x".repeat(1 << 16),
            "{\"at\":0}\n".into(),
        ];
        for text in bad {
            fs::write(&map, &text).unwrap();
            let error = check(&file, &map, &Silent).unwrap_err();
            assert!(matches!(error, CaseError::Corrupt { .. }), "{text:.80}: {error}");
        }
    }
}
