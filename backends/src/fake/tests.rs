//! The fake does what its script says, and nothing is left of it.

use std::collections::BTreeMap;
use std::sync::Mutex;

use super::*;
use crate::{Access, ActId, Capture, Consistency, Forgetful, How, Journal, Piece, Undo, Why};

fn how() -> How {
    How {
        memory_method: None,
        require: Consistency::Live,
        max_pause: None,
        scratch: std::env::temp_dir(),
        scratch_there: None,
        holder: "a test".into(),
        run: "r1".into(),
        start_at: BTreeMap::new(),
        begun_by: BTreeMap::new(),
        options: BTreeMap::new(),
        since: BTreeMap::new(),
    }
}

async fn target(address: &str) -> Result<Box<dyn Target>, BackendError> {
    Fake.connect(&format!("fake:{address}").parse().unwrap(), &Access::default()).await?.open(None).await
}

/// Begins with everything there is.
async fn begin(target: &mut dyn Target, journal: &mut dyn Journal) -> Result<Vec<Capture>, BackendError> {
    let items = target.items().await?;
    target.prepare(&items, &how(), journal).await?;
    target.begin(journal).await
}

/// A journal that keeps what is open.
#[derive(Default)]
struct Kept(Mutex<Vec<(ActId, Undo)>>);

impl Journal for Kept {
    fn about_to(&mut self, _act: &str, undo: Undo) -> std::io::Result<ActId> {
        let open = self.0.get_mut().unwrap();
        let id = ActId(open.last().map_or(1, |(id, _)| id.0 + 1));
        open.push((id, undo));
        Ok(id)
    }
    fn done(&mut self, act: ActId) -> std::io::Result<()> {
        self.0.get_mut().unwrap().retain(|(id, _)| *id != act);
        Ok(())
    }
}

/// Every byte that came, where it came, and how often; `None` where nothing did.
async fn drain(capture: &mut Capture) -> Vec<(u64, u64, &'static str)> {
    let mut out = Vec::new();
    while let Some(piece) = capture.pieces.recv().await {
        let (at, len, kind) = match piece.unwrap() {
            Piece::Data { at, bytes } => {
                assert_eq!(bytes, content::bytes(&capture.item.name, at, bytes.len()));
                (at, bytes.len() as u64, "data")
            }
            Piece::Zero { at, len } => (at, len, "zero"),
            Piece::Gap { at, len, why: Why::NotRam } => (at, len, "not-ram"),
            Piece::Gap { at, len, why: Why::Sparse } => (at, len, "sparse"),
            Piece::Gap { at, len, why: Why::Unreadable(_) } => (at, len, "unreadable"),
            Piece::Aside { name, bytes } => {
                assert_eq!((name, bytes.len()), ("device-state.bin", 4096));
                continue;
            }
        };
        assert!(at % 4096 == 0 && len > 0);
        out.push((at, len, kind));
    }
    out
}

#[tokio::test]
async fn every_address_comes_once_in_every_order() {
    for order in ["ascending", "descending", "random"] {
        let address =
            format!("order-{order}?memory=3M&hole=1M+512K&disk=1000001&order={order}&gap=vda:128K+8K&piece=96K");
        let mut target = target(&address).await.unwrap();
        let captures = begin(&mut *target, &mut Forgetful::default()).await.unwrap();
        for mut capture in captures {
            let len = capture.len;
            let mut pieces = drain(&mut capture).await;
            if order != "ascending" {
                assert!(!pieces.is_sorted());
            }
            pieces.sort_unstable();
            let end = pieces.iter().fold(0, |end, (at, len, _)| {
                assert_eq!(end, *at, "{order}");
                at + len
            });
            assert_eq!(end, len);
            let sum = |kind| pieces.iter().filter(|piece| piece.2 == kind).map(|piece| piece.1).sum::<u64>();
            match capture.item.name.as_str() {
                "memory" => assert_eq!((sum("not-ram"), sum("sparse")), (512 << 10, 0)),
                _ => assert_eq!((sum("unreadable"), sum("zero")), (8192, 0)),
            }
        }
    }
}

#[tokio::test]
async fn the_guest_is_as_it_was_found_and_nothing_is_left() {
    for run in ["running", "paused"] {
        let name = format!("tidy-{run}");
        let mut target = target(&format!("{name}?memory=64K&run={run}")).await.unwrap();
        let mut journal = Kept::default();
        let items = target.items().await.unwrap();
        target.prepare(&items, &how(), &mut journal).await.unwrap();
        target.freezer().unwrap().freeze(&mut journal).await.unwrap();
        assert_eq!(state(&name).unwrap().run, "paused");
        target.begin(&mut journal).await.unwrap();
        let finished = target.finish(&mut journal).await.unwrap();
        let after = state(&name).unwrap();
        assert_eq!((after.run.as_str(), after.holder, after.snapshots), (run, None, vec![]));
        assert_eq!(finished.pauses.len(), usize::from(run == "running"));
        assert!(journal.0.get_mut().unwrap().is_empty());
        assert_eq!(after.calls, ["connect", "open", "items", "prepare", "freeze", "begin", "finish"]);
    }
}

#[tokio::test]
async fn a_killed_run_is_undone_from_its_journal_and_the_state_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vm.json");
    let address = format!("vm?memory=64K&disk=64K&late=begin:1&state={}", path.display());
    let mut journal = Kept::default();
    {
        let mut killed = target(&address).await.unwrap();
        let items = killed.items().await.unwrap();
        killed.prepare(&items, &how(), &mut journal).await.unwrap();
        killed.freezer().unwrap().freeze(&mut journal).await.unwrap();
        killed.begin(&mut journal).await.unwrap_err();
    }
    let mut next = target(&address).await.unwrap();
    let refused = next.prepare(&[], &how(), &mut Forgetful::default()).await.unwrap_err();
    assert!(refused.to_string().contains("held by a test (run r1)"), "{refused}");
    let open: Vec<Undo> = journal.0.get_mut().unwrap().iter().map(|(_, undo)| undo.clone()).collect();
    assert_eq!(open.len(), 4);
    assert_eq!(next.recover(&open).await.unwrap().len(), 4);
    next.recover(&open).await.unwrap();
    let state: State = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    assert_eq!((state.run.as_str(), state.holder, state.snapshots), ("running", None, vec![]));
}

#[tokio::test]
async fn it_fails_at_the_call_it_is_told_and_only_there() {
    let error = target("fails?fail=open:1").await.err().unwrap();
    assert!(error.to_string().contains("call 1 fails"));
    let mut second = target("fails?fail=open:1&memory=64K").await.unwrap();
    assert_eq!(second.items().await.unwrap().len(), 1);
    assert!(
        second
            .recover(&[Undo { say: String::new(), holds_guest: false, how: serde_json::json!({"act": "rm"}) }])
            .await
            .is_err()
    );
    let mut hangs = target("hangs?hang=items:1").await.unwrap();
    let wait = tokio::time::timeout(std::time::Duration::from_millis(50), hangs.items()).await;
    assert!(wait.is_err());
}

#[tokio::test]
async fn streams_end_early_break_and_repeat_as_told() {
    let address = "mishaps?disk=1M&disk=1M&disk=1M&short=vda:256K&error=vdb:256K&double=vdc:512K";
    let mut target = target(address).await.unwrap();
    let mut captures = begin(&mut *target, &mut Forgetful::default()).await.unwrap();
    let twice = drain(&mut captures[2]).await;
    assert_eq!(twice.iter().filter(|piece| piece.0 == 512 << 10).count(), 2);
    assert_eq!(drain(&mut captures[0]).await.iter().map(|piece| piece.1).sum::<u64>(), 256 << 10);
    let mut last = None;
    while let Some(piece) = captures[1].pieces.recv().await {
        last = Some(piece);
    }
    assert!(last.unwrap().is_err());
}
