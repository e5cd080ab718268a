//! A real Xen host for the length of a test: `scripts/live-xen` boots it under QEMU, dom0 answers SSH on a port of its own.
//!
//! `IMPOUND_XEN_HOST` names the folder of a host that was started by hand; it is then used and left running.
//!
//! dom0 is asked by OpenSSH's own client, over one connection that stays: a login takes seconds where the processor is emulated.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

use super::guest::{absent, wait_until};
use super::killer::kill_with_guardian;
use super::run::{Ran, impound};

/// Long enough for any run here on a slow machine; a run that takes longer hangs.
pub const WITHIN: Duration = Duration::from_secs(300);

/// The host. Dropping it ends QEMU.
pub struct XenHost {
    folder: TempDir,
    /// Started by somebody else.
    theirs: Option<PathBuf>,
}

impl XenHost {
    /// Boots it. None if this machine cannot: no mirror offers Xen, too little memory, or not ready in time, and nothing else.
    /// That is said on stderr and left in `target/tmp/skipped`, which `scripts/check` counts and prints.
    pub fn boot() -> Result<Option<Self>> {
        let folder = tempfile::Builder::new().prefix("impound-xen-").tempdir()?;
        let theirs = std::env::var_os("IMPOUND_XEN_HOST").map(PathBuf::from);
        let host = Self { folder, theirs };
        if host.theirs.is_some() {
            return Ok(Some(host));
        }
        if let Some(why) = absent("xen-host") {
            return skipped(why.trim());
        }
        let output = host.script("start").output().context("scripts/live-xen")?;
        let ran = Ran::of(&output);
        match ran.code {
            Some(0) => Ok(Some(host)),
            // The script's own word for a machine that cannot; every other failure is one.
            Some(3) => skipped(ran.stderr.lines().last().unwrap_or_default()),
            _ => bail!("the Xen host did not start: {ran:?}"),
        }
    }

    fn script(&self, verb: &str) -> Command {
        let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/live-xen"));
        command.args([verb, "--dir"]).arg(self.dir()).stdin(Stdio::null());
        command
    }

    fn dir(&self) -> PathBuf {
        self.theirs.clone().unwrap_or_else(|| self.folder.path().join("host"))
    }

    /// A path that goes away with the host.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The address of a domain.
    pub fn target(vm: &str) -> String {
        format!("xen+ssh://dom0#{vm}")
    }

    /// The program under test, with this host's `ssh_config`.
    pub fn program(&self, arguments: &[&str]) -> Command {
        let mut command = impound();
        command.env("IMPOUND_SSH_CONFIG", self.dir().join("ssh_config")).current_dir(self.folder.path());
        command.args(["--format", "json"]).args(arguments);
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Result<Ran> {
        Ok(Ran::of(&self.program(arguments).output().context("start impound")?))
    }

    /// Takes what is said into a case.
    pub fn acquire(&self, vm: &str, case: &str, more: &[&str]) -> Result<(Ran, PathBuf)> {
        let (target, case) = (Self::target(vm), self.path(case));
        let place = case.display().to_string();
        let ran = self.run(&[&["acquire", &target, "--case", &place], more].concat())?;
        Ok((ran, case))
    }

    /// The same, under way.
    pub fn begin(&self, case: &str, more: &[&str]) -> Result<Run> {
        let (target, case) = (Self::target("web01"), self.path(case));
        let place = case.display().to_string();
        let mut command = self.program(&[&["acquire", &target, "--case", &place], more].concat());
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().context("start impound")?;
        Ok(Run { child, case })
    }

    /// Runs a line of shell on dom0; its output if it ended well.
    pub fn dom0(&self, line: &str) -> Result<String> {
        let output = self.ssh().arg("dom0").arg(line).output().context("openssh-client is needed")?;
        let ran = Ran::of(&output);
        ensure!(ran.code == Some(0), "`{line}` on dom0: {ran:?}");
        Ok(ran.stdout.trim().to_owned())
    }

    /// Puts the program under test, without what only a debugger reads, in a new folder of dom0, and the libraries that dom0 lacks.
    pub fn bring_the_program(&self, folder: &str) -> Result<()> {
        let (program, small) = (env!("CARGO_BIN_EXE_impound"), self.path("impound"));
        let stripped =
            Command::new("strip").arg("-o").arg(&small).arg(program).status().context("binutils is needed")?;
        ensure!(stripped.success(), "strip failed");
        self.dom0(&format!("mkdir {folder}"))?;
        self.bring(&small, folder)?;
        let missing = self.dom0(&format!("/lib64/ld-linux-x86-64.so.2 --list {folder}/impound"))?;
        let here = Command::new("ldd").arg(program).output().context("ldd")?;
        let here = String::from_utf8_lossy(&here.stdout).into_owned();
        for name in missing.lines().filter_map(|line| line.trim().strip_suffix(" => not found")) {
            let line =
                here.lines().find(|line| line.trim().starts_with(name)).context("a library that is not here either")?;
            let path = line.split_whitespace().nth(2).context("no path of a library")?;
            self.bring(&fs::canonicalize(path)?, folder)?;
            self.dom0(&format!("cd {folder} && {{ [ -e {name} ] || mv {name}* {name}; }}"))?;
        }
        Ok(())
    }

    /// Copies a file into a folder of dom0.
    fn bring(&self, file: &Path, folder: &str) -> Result<()> {
        let name = file.file_name().context("no name")?.to_string_lossy();
        let line = format!("cat >{folder}/{name} && chmod +x {folder}/{name}");
        let ran = self.ssh().arg("dom0").arg(line).stdin(fs::File::open(file)?).output()?;
        ensure!(ran.status.success(), "{name} did not come to dom0: {ran:?}");
        Ok(())
    }

    fn ssh(&self) -> Command {
        let control = format!("ControlPath={}", self.path("control").display());
        let mut command = Command::new("ssh");
        command.arg("-F").arg(self.dir().join("ssh_config"));
        command.args(["-o", "ControlMaster=auto", "-o", "ControlPersist=600", "-o", &control]).stdin(Stdio::null());
        command
    }

    /// Does the domain run, and nothing of impound's is left on dom0?
    pub fn is_as_it_was(&self, paused: bool, what: &str) -> Result<()> {
        let left = self.dom0("ls /run; lvs --noheadings -o lv_name vg0; ps axww -o args | grep '[d]ump-core'; true")?;
        ensure!(!left.contains("impound") && !left.contains("dump-core"), "{what}: left on dom0: {left}");
        ensure!(self.paused("web01")? == paused, "{what}: paused is not {paused}");
        Ok(())
    }

    pub fn paused(&self, vm: &str) -> Result<bool> {
        let line = self.dom0(&format!("xl list '{vm}' | tail -n 1"))?;
        let state = line.split_whitespace().rev().nth(1).context("no state")?;
        ensure!(!state.contains(['s', 'c', 'd']), "the guest has ended: {line}");
        Ok(state.contains('p'))
    }
}

impl Drop for XenHost {
    fn drop(&mut self) {
        // They may have ended already, which is as good.
        let _closed = self.ssh().args(["-O", "exit", "dom0"]).stderr(Stdio::null()).status();
        if self.theirs.is_none() {
            let _stopped = self.script("stop").status();
        }
    }
}

fn skipped(why: &str) -> Result<Option<XenHost>> {
    skip(why).map(|()| None)
}

/// Says on stderr, and to `scripts/check`, what was not tested and why.
pub fn skip(why: &str) -> Result<()> {
    let line = format!("skipped: xen: {why}");
    eprintln!("{line}");
    let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join("skipped");
    writeln!(fs::File::options().create(true).append(true).open(place)?, "{line}")?;
    Ok(())
}

/// A capture under way.
pub struct Run {
    child: Child,
    pub case: PathBuf,
}

impl Run {
    /// Waits until bytes of memory have come, while the guest stands still.
    pub fn wait_until_held(&mut self) -> Result<()> {
        use std::os::unix::fs::MetadataExt;
        let case = self.case.clone();
        let wrote = || {
            let Ok(drafts) = fs::read_dir(case.join("exhibits")) else { return false };
            let data = drafts.flatten().filter_map(|draft| fs::read_dir(draft.path().join("data")).ok());
            let mut files = data.flatten().flatten();
            files.any(|file| {
                file.file_name().to_string_lossy().starts_with("memory")
                    && file.metadata().is_ok_and(|meta| meta.blocks() > 2048)
            })
        };
        let mut ended = false;
        wait_until(
            || {
                ended = matches!(self.child.try_wait(), Ok(Some(_)));
                ended || wrote()
            },
            WITHIN,
            "memory to come",
        )?;
        ensure!(!ended, "it ended before memory came");
        Ok(())
    }

    /// Kills it, and the guardian that it has started, so that only dom0's own watchdog is left.
    pub fn kill(mut self) -> Result<PathBuf> {
        kill_with_guardian(&mut self.child)?;
        Ok(self.case)
    }

    pub fn end(self) -> Result<(Ran, PathBuf)> {
        let output = self.child.wait_with_output()?;
        Ok((Ran::of(&output), self.case))
    }
}
