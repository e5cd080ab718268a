//! Is a capture of one instant? The counter guest sweeps its memory with a counter, and writes another to memory, then to
//! one disk, then to the other, without end (`vm-fixtures/recipes/counter/counter.c`). Only a capture of one instant finds
//! the sweep with at most one step in it, and the three copies of the second counter in order and at most one apart.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::common::counter::{Memory, Record};
use crate::common::guest::{Guest, Spec};
use crate::common::run::{Exhibit, run};

/// Takes memory and both disks into a new case.
fn take(guest: &Guest, name: &str, method: &str) -> Result<PathBuf> {
    let (target, case) = (guest.target(), guest.folder().join(name));
    let case_text = case.display().to_string();
    run(&["acquire", &target, "--case", &case_text, "--memory", "--disk", "all", "--memory-method", method])?
        .expect(0)?;
    Ok(case)
}

/// Memory is of one instant, and the disks of the same.
fn is_coherent(case: &Path) -> Result<()> {
    let memory = Memory::read(&Exhibit::find(case, "memory")?.image())?;
    memory.one_instant()?;
    let disk = |item| Record::read(&Exhibit::find(case, item)?.image());
    memory.coherent(&disk("disk-vda")?, &disk("disk-vdb")?)
}

/// Takes a running guest several times; it goes on counting in between.
fn coherent_each_time(guest: &Guest, rounds: &[&str]) -> Result<()> {
    let before = guest.control().state()?;
    for (round, method) in rounds.iter().enumerate() {
        let case = take(guest, &format!("{round}-{method}"), method)?;
        is_coherent(&case).with_context(|| format!("round {round}, by {method}"))?;
        let record = Exhibit::find(&case, "memory")?.record;
        assert_eq!(record["pauses"].as_array().map(Vec::len), Some(1), "{}", record["pauses"]);
        assert_eq!(guest.control().state()?, before);
        std::fs::remove_dir_all(&case)?;
    }
    Ok(())
}

#[test]
fn memory_and_disks_of_a_running_guest_are_of_one_instant() -> Result<()> {
    let guest = Guest::boot(&Spec::new("counter"))?;
    coherent_each_time(&guest, &["snapshot", "snapshot", "snapshot", "snapshot", "snapshot", "paused", "pmemsave"])?;
    a_live_copy_is_not(&guest)
}

#[test]
fn memory_above_the_pci_hole_is_of_the_same_instant() -> Result<()> {
    let guest = Guest::boot(&Spec { machine: "q35", memory_mib: 3840, ..Spec::new("counter") })?;
    coherent_each_time(&guest, &["snapshot", "snapshot"])
}

/// The check can fail: a copy that makes no promise is torn, and says that it makes none.
fn a_live_copy_is_not(guest: &Guest) -> Result<()> {
    for round in 0..20 {
        let case = take(guest, &format!("{round}-live"), "live")?;
        let exhibit = Exhibit::find(&case, "memory")?;
        assert_eq!(exhibit.record["consistency"], "live");
        if Memory::read(&exhibit.image())?.one_instant().is_err() {
            return Ok(());
        }
        std::fs::remove_dir_all(&case)?;
    }
    ensure!(false, "twenty copies of a running guest, made piece by piece, were all of one instant");
    Ok(())
}
