//! The EBS direct APIs: which blocks of a snapshot were written, and their bytes.
//!
//! After "Amazon EBS direct APIs" (ListSnapshotBlocks, GetSnapshotBlock): blocks of 512 KiB, ascending; a page may be empty while
//! another follows; tokens run out (`ExpiryTime`) and change when listed anew; each block comes with its SHA-256. A block that is not
//! listed was never written and reads as zeros.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Deserialize;

use super::api::{Api, BLOCK, Refused};
use crate::wire::http::{Answer, Text};
use crate::{BackendError, GRAIN, Secret};

/// Most blocks in a page, and the least that may be asked for.
pub(super) const PAGE: (u32, u32) = (10_000, 100);
/// Longest page, in bytes: ten thousand blocks with their tokens.
const PAGE_MAX: u64 = 32 << 20;

/// One block of a list.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Listed {
    /// Its number; times [`BLOCK`] its address.
    #[serde(rename = "BlockIndex")]
    pub(super) index: u64,
    /// What it is asked for with. In a list of what changed there is none if the later snapshot does not have the block.
    #[serde(rename = "BlockToken", alias = "SecondBlockToken")]
    token: Option<String>,
}

impl Listed {
    /// Whoever has it, and the right to read, gets the block.
    pub(super) fn token(&self) -> Option<Secret> {
        self.token.clone().map(Secret::new)
    }
}

/// A page of a list.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Page {
    /// `ChangedBlocks` in a list of what changed.
    #[serde(default, alias = "ChangedBlocks")]
    pub(super) blocks: Vec<Listed>,
    pub(super) next_token: Option<String>,
    /// In GiB.
    pub(super) volume_size: u64,
    /// In bytes.
    block_size: u64,
}

/// A token is none of a time that is past, or was made for another list.
pub(super) fn has_run_out(refused: &Refused) -> bool {
    refused.code == "ValidationException"
}

/// Which blocks are listed.
#[derive(Debug, Clone, Copy)]
pub(super) enum List<'a> {
    /// Those that were written (ListSnapshotBlocks).
    Written,
    /// Those that differ from this earlier snapshot of the same volume (ListChangedBlocks).
    ChangedSince(&'a str),
}

impl Api {
    /// Blocks of a snapshot from `from` on, or from a page's token on.
    pub(super) async fn list_blocks(
        &self,
        snapshot: &str,
        list: List<'_>,
        from: u64,
        next: Option<&str>,
        most: u32,
    ) -> Result<Page, Refused> {
        const PURPOSE: &str = "list the blocks of the snapshot";
        let mut query: Vec<(&str, Text)> = vec![("maxResults", most.to_string().into())];
        let path = match list {
            List::Written => format!("/snapshots/{snapshot}/blocks"),
            List::ChangedSince(earlier) => {
                query.push(("firstSnapshotId", earlier.into()));
                format!("/snapshots/{snapshot}/changedblocks")
            }
        };
        match next {
            Some(token) => query.push(("pageToken", Secret::new(token.to_owned()).into())),
            None => query.push(("startingBlockIndex", from.to_string().into())),
        }
        let answer = self.ebs(PURPOSE, path, query, PAGE_MAX, &|_| Ok(())).await?;
        let page: Page = answer.json(PURPOSE, snapshot)?;
        if page.block_size != BLOCK {
            let wrong = BackendError::corrupt(PURPOSE, snapshot, "BlockSize", BLOCK, page.block_size);
            return Err(wrong.into());
        }
        Ok(page)
    }

    /// The bytes of a block, checked against the SHA-256 that EBS gives with them.
    pub(super) async fn block(&self, snapshot: &str, index: u64, token: Secret) -> Result<Bytes, Refused> {
        let path = format!("/snapshots/{snapshot}/blocks/{index}");
        let answer =
            self.ebs("read a block of the snapshot", path, vec![("blockToken", token.into())], BLOCK, &whole).await?;
        Ok(answer.body)
    }
}

/// Is it a whole block, and the one that its checksum speaks of?
fn whole(answer: &Answer) -> Result<(), String> {
    if answer.body.len() as u64 != BLOCK || !BLOCK.is_multiple_of(GRAIN) {
        return Err(format!("a block has {BLOCK} bytes, this one {}", answer.body.len()));
    }
    match answer.header("x-amz-checksum-algorithm") {
        Some("SHA256") => {}
        other => return Err(format!("its checksum is no SHA256 but {}", other.unwrap_or("none"))),
    }
    let told = answer.header("x-amz-checksum").and_then(|text| STANDARD.decode(text).ok());
    if told.as_deref() == Some(answer.sha256.as_slice()) {
        return Ok(());
    }
    Err("its SHA-256 is not the one that EBS gives with it".to_owned())
}
