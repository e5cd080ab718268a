//! The whole path on memory of a real guest: what was planted in a Linux is found in the exhibits of a VM that an ESXi has,
//! though only a double of it (`common/esx`): the guest's memory was taken from QEMU and wrapped as VMware saves it.

use std::fs;
use std::io::Read;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::common::esx::{Esx, NAME};
use crate::common::guest::{Guest, Spec};
use crate::common::memory::{Memory, pid_of, texts};
use crate::common::run::{Exhibit, run};
use crate::common::vmsn::{regions_of, tag, vmsn};

/// The registers that VMware's own readers want, as QEMU told them.
fn registers(record: &Value) -> Result<Vec<u8>> {
    let cpu = &record["instant"]["registers"]["cpus"][0];
    let number = |name: &str| {
        let text = cpu[name].as_str().and_then(|text| text.strip_prefix("0x")).with_context(|| format!("no {name}"))?;
        Ok::<_, anyhow::Error>(u64::from_str_radix(text, 16)?.to_le_bytes())
    };
    let mut tags = tag("numVCPUs", &[], &1_u32.to_le_bytes());
    for (index, name) in [(0, "cr0"), (3, "cr3"), (4, "cr4")] {
        tags.extend(tag("CR64", &[0, index], &number(name)?));
    }
    tags.extend(tag("rip", &[0], &number("rip")?));
    tags.extend([0, 0]);
    Ok(tags)
}

#[test]
fn what_was_planted_is_found_in_memory_that_an_esxi_saved() -> Result<()> {
    let guest = Guest::boot(&Spec::new("linux-small"))?;
    let folder = tempfile::tempdir()?;
    let (first, second) = (folder.path().join("qemu"), folder.path().join("esx"));
    run(&["acquire", &guest.target(), "--memory", "--memory-method", "paused", "--case", first.to_str().unwrap()])?
        .expect(0)?;
    guest.kill()?;
    let taken = Exhibit::find(&first, "memory")?;

    let esx = Esx::start(8);
    let (vmem, meta) = (esx.home().join("memory.vmem"), esx.home().join("memory.vmsn"));
    // The guest's RAM; what lies above it is the firmware's.
    let len = 256 << 20;
    std::io::copy(&mut fs::File::open(taken.image())?.take(len), &mut fs::File::create(&vmem)?)?;
    fs::write(&meta, vmsn(0xbed3_bed3, &registers(&taken.record)?, &regions_of(&[(0, len)]), None))?;
    esx.change(|state| state["vms"][0]["memory_mb"] = json!(len >> 20));
    let (target, config) = (format!("esx+ssh://there#{NAME}"), esx.sshd.config());
    run(&[
        "acquire",
        &target,
        "--memory",
        "--case",
        second.to_str().unwrap(),
        "--ssh-config",
        config.to_str().unwrap(),
    ])?
    .expect(0)?;
    assert_eq!(esx.snapshots(), []);

    let (theirs, ours) = (Exhibit::find(&first, "memory")?, Exhibit::find(&second, "memory")?);
    let list = Memory(&ours.dir).rows("linux.pslist")?;
    assert_eq!(list, Memory(&theirs.dir).rows("linux.pslist")?);
    for comm in ["init", "planted-shell", "nc", "kthreadd"] {
        assert!(texts(&list, "comm").contains(&comm), "{comm} is not listed");
    }
    assert!(pid_of(&list, "planted-shell")? > 1);
    if let Some(kept) = std::env::var_os("IMPOUND_KEEP_ESX_CASE") {
        // For scripts/oracle-memory.
        fs::rename(&second, kept)?;
    }
    Ok(())
}
