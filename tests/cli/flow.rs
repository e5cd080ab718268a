//! The whole way of a capture on the scripted VM: whatever call fails, and wherever the program dies, the guest ends as it
//! was found, nothing is left behind, and nothing looks more complete than it is.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tempfile::TempDir;

use crate::common::guest::wait_until;
use crate::common::run::{Exhibit, run, sha256sum};

/// A fake VM, with a case beside it.
struct Scene {
    folder: TempDir,
}

impl Scene {
    fn new() -> Result<Self> {
        Ok(Self { folder: tempfile::tempdir()? })
    }

    fn target(&self, more: &str) -> String {
        format!("fake:web01?memory=3M&disk=2M&state={}{more}", self.folder.path().join("vm.json").display())
    }

    fn case(&self) -> PathBuf {
        self.folder.path().join("case")
    }

    fn case_text(&self) -> String {
        self.case().display().to_string()
    }

    fn acquire(&self, more: &str, arguments: &[&str]) -> Result<crate::common::run::Ran> {
        let (target, case) = (self.target(more), self.case_text());
        let mut all = vec!["acquire", target.as_str(), "--case", case.as_str(), "--memory", "--disk", "all"];
        all.extend_from_slice(arguments);
        run(&all)
    }

    fn state(&self) -> Result<Value> {
        Ok(serde_json::from_slice(&fs::read(self.folder.path().join("vm.json"))?)?)
    }

    /// Running, free, and nothing left on it.
    fn is_as_found(&self) -> Result<bool> {
        let state = self.state()?;
        Ok(state["run"] == "running" && state["holder"].is_null() && state["snapshots"] == serde_json::json!([]))
    }
}

/// What verifies as complete holds the VM's bytes, all of them.
fn complete_is_complete(case: &Path) -> Result<()> {
    for item in ["memory", "vda"] {
        let Ok(exhibit) = Exhibit::find(case, item) else { continue };
        if exhibit.outcome() != "complete" {
            continue;
        }
        let len = exhibit.record["content"]["len"].as_u64().context("no length")?;
        let bytes = impound_backends::fake::content::bytes(item, 0, usize::try_from(len)?);
        ensure!(fs::read(exhibit.image())? == bytes, "{item} is called complete and is not");
        ensure!(sha256sum(&exhibit.image())? == exhibit.sha256());
    }
    Ok(())
}

const CALLS: &[&str] =
    &["connect", "open", "describe", "items", "plan", "prepare", "freeze", "begin", "thaw", "finish"];

#[test]
fn a_capture_without_mishap_is_complete() -> Result<()> {
    let scene = Scene::new()?;
    let ran = scene.acquire("", &[])?.expect(0)?;
    assert_eq!(ran.rows()?.len(), 2);
    assert!(scene.is_as_found()?);
    complete_is_complete(&scene.case())?;
    run(&["verify", &scene.case_text()])?.expect(0)?;
    Ok(())
}

#[test]
fn whatever_call_fails_the_guest_ends_as_it_was_found() -> Result<()> {
    for call in CALLS {
        // Before it has any effect, and after it had.
        for mode in ["fail", "late"] {
            let what = format!("{mode}={call}:1");
            let scene = Scene::new()?;
            let ran = scene.acquire(&format!("&{what}"), &[])?;
            let unsure = ran.code == Some(4);
            ensure!(matches!(ran.code, Some(1 | 3 | 4)), "{what}: ended with {:?}\n{}", ran.code, ran.stderr);
            // Only a tidy-up that fails leaves the guest's state unknown.
            ensure!(unsure == (call == &"finish"), "{what}: ended with {:?}\n{}", ran.code, ran.stderr);
            if unsure {
                run(&["case", "recover", &scene.case_text()])?.expect(0)?;
            }
            // A call that fails before the VM was ever touched leaves no state to look at.
            if scene.folder.path().join("vm.json").exists() {
                ensure!(scene.is_as_found()?, "{what}: {}\n{}", scene.state()?, ran.stderr);
            }
            ends_well(&scene, &what)?;
        }
    }
    Ok(())
}

#[test]
fn wherever_the_program_dies_the_guest_goes_on_and_recovery_puts_all_in_order() -> Result<()> {
    for call in CALLS {
        let what = format!("abort={call}:1");
        let scene = Scene::new()?;
        let ran = scene.acquire(&format!("&{what}"), &[])?;
        ensure!(ran.code.is_none(), "{what}: it did not die\n{}", ran.stderr);
        let lives = || scene.state().is_ok_and(|state| state["run"] == "running");
        if scene.folder.path().join("vm.json").exists() {
            wait_until(lives, Duration::from_secs(60), &format!("{what}: the guardian to let the guest go"))?;
        }
        run(&["case", "recover", &scene.case_text()])?.expect(0)?.says("the case is in order")?;
        ensure!(scene.is_as_found()?, "{what}: {}", scene.state()?);
        ends_well(&scene, &what)?;
    }
    Ok(())
}

/// The case is intact and honest, and the next capture into it works.
fn ends_well(scene: &Scene, what: &str) -> Result<()> {
    let verified = run(&["verify", &scene.case_text()])?;
    ensure!(matches!(verified.code, Some(0 | 3)), "{what}: verify ended with {:?}\n{}", verified.code, verified.stdout);
    complete_is_complete(&scene.case())?;
    scene.acquire("", &[])?.expect(0).with_context(|| what.to_owned())?;
    ensure!(scene.is_as_found()?, "{what}: after the next capture: {}", scene.state()?);
    complete_is_complete(&scene.case())
}

#[test]
fn what_goes_wrong_in_one_stream_is_named_and_does_not_stop_the_other() -> Result<()> {
    for (mishap, outcome) in [
        ("gap=memory:1M+64K", "partial"),
        ("double=memory:1M", "failed"),
        ("short=memory:1M", "failed"),
        ("error=memory:1M", "failed"),
    ] {
        let scene = Scene::new()?;
        scene.acquire(&format!("&{mishap}"), &[])?.expect(3).context(mishap)?;
        ensure!(scene.is_as_found()?, "{mishap}");
        let memory = Exhibit::find(&scene.case(), "memory")?;
        assert_eq!(memory.outcome(), outcome, "{mishap}");
        assert!(memory.record["outcome"]["why"].as_str().is_some_and(|why| why.len() > 10), "{mishap}");
        assert_eq!(Exhibit::find(&scene.case(), "vda")?.outcome(), "complete", "{mishap}");
        complete_is_complete(&scene.case())?;
        run(&["verify", &scene.case_text()])?.expect(3).context(mishap)?;
    }
    Ok(())
}

#[test]
fn a_guest_that_is_held_too_long_is_let_go() -> Result<()> {
    let scene = Scene::new()?;
    // Memory that stops coming while the guest stands still.
    let ran = scene.acquire("&stuck=memory:1M", &["--memory-method", "paused", "--max-pause", "300ms"])?.expect(3)?;
    drop(ran);
    assert!(scene.is_as_found()?);
    let memory = Exhibit::find(&scene.case(), "memory")?;
    assert_eq!(memory.outcome(), "failed");
    assert!(
        memory.record["outcome"]["why"].as_str().is_some_and(|why| why.contains("--max-pause")),
        "{}",
        memory.record["outcome"]
    );
    Ok(())
}

#[test]
fn a_guest_found_paused_stays_paused() -> Result<()> {
    let scene = Scene::new()?;
    scene.acquire("&run=paused", &[])?.expect(0)?;
    assert_eq!(scene.state()?["run"], "paused");
    Ok(())
}
