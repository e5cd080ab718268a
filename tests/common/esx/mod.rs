//! A double of an ESXi host: a real OpenSSH on loopback, a POSIX shell with tools of a real BusyBox, and `vim-cmd`, `esxcli` and a `dd` of
//! ours (`host.py`) that keep VMs in a folder of datastores.
//!
//! Real are login and host keys, quoting, streams and how they break, digests, chains of disks, saved memory. Ours are the texts
//! (after public captures of 5.0 to 8.0), how long tasks take, which files are locked, and what a snapshot does to files. What
//! the host was told is in a journal, each command as it came.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "this is test code")]

pub mod browser;
pub mod said;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::deltas::{Grain, cowd, descriptor, put, sesparse};
use super::sshd::Sshd;
use super::vmsn::{cpu_tags, regions, vmsn};

/// Name of the datastore of the first VM: everything that a name may hold.
pub const STORE: &str = "ds] (1) it's $HOME";
/// Name of the first VM.
pub const NAME: &str = "two words (prod)";
/// Bytes of its disk.
pub const DISK: usize = 3 << 20;
/// Bytes of its memory.
pub const MEMORY: usize = 4 << 20;

/// The host.
pub struct Esx {
    pub sshd: Sshd,
    folder: TempDir,
}

/// Bytes that are neither noise nor zeros, and nowhere the same.
pub fn content(len: usize, seed: u32) -> Vec<u8> {
    let line = |n: usize| format!("{:>8x} line {n:>10} of content {seed}\n", n * 31 + seed as usize).into_bytes();
    (0..).flat_map(line).take(len).collect()
}

impl Esx {
    /// A host of this release (5, 6, 7, 8) with one running VM, a disk and memory.
    pub fn start(style: u32) -> Self {
        let folder = TempDir::new().unwrap();
        let home = folder.path().to_owned();
        let enter = home.join("enter");
        let sshd = Sshd::start(&format!("ForceCommand {}", enter.display()));
        let esx = Self { sshd, folder };
        Self::tools(&home, &enter);
        let volume = |id: &str, name: &str, kind: &str| {
            let mount = home.join("vmfs/volumes").join(id);
            fs::create_dir_all(&mount).unwrap();
            json!({ "name": name, "mount": mount, "type": kind, "free": 50_u64 << 30, "size": 99_u64 << 30 })
        };
        let volumes = [
            volume("65aa0001-1111", STORE, "VMFS-6"),
            volume("65aa0002-2222", "other, \"b\"", "NFS"),
            volume("vsan:5233", "vsanDatastore", "vsan"),
        ];
        fs::write(home.join("memory.vmem"), content(MEMORY, 7)).unwrap();
        fs::write(home.join("memory.vmsn"), vmsn(0xbed3_bed3, &cpu_tags(), &regions(&[(0, content(MEMORY, 7))]), None))
            .unwrap();
        let vm = json!({
            "id": 12, "name": NAME, "vmx": format!("[{STORE}] {NAME}/{NAME}.vmx"), "uuid": "564d36cf-6988-c91d-0f5f-a62628d46553",
            "instance": "52d2a0a2-0000-0000-0000-000000000001", "memory_mb": MEMORY >> 20, "cpus": 2, "power": "poweredOn",
            "annotation": "a note\n\n   of two paragraphs\n\n99     fake   [ds1] fake/fake.vmx   otherGuest   vmx-13   ",
            "snapshots": [], "current": null, "next_snapshot": 15, "disks": [],
        });
        let version = format!("{style}.0.2");
        esx.write(&json!({ "style": style, "version": version, "vms": [vm], "volumes": volumes, "tasks": [], "next_task": 182_550_283 }));
        let folder = esx.vm_folder();
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(format!("{NAME}.vmx")), format!("displayName = \"{NAME}\"\nuuid.bios = \"56 4d\"\n"))
            .unwrap();
        fs::write(folder.join(format!("{NAME}.vmsd")), ".encoding = \"UTF-8\"\n").unwrap();
        fs::write(
            folder.join("vmware.log"),
            "2023-01-01T00:00:00.000Z In(05) vcpu-0 - Checkpoint_Unstun: vm stopped for 77 us\n",
        )
        .unwrap();
        esx.add_disk(2000, "persistent", &content(DISK, 1));
        esx
    }

    fn tools(home: &Path, enter: &Path) {
        let bin = home.join("bin");
        fs::create_dir_all(&bin).unwrap();
        let busybox = found("busybox");
        for applet in ["stat", "sha256sum"] {
            symlink(&busybox, bin.join(applet)).unwrap();
        }
        // Not BusyBox's: that takes its own `dd` and `sha256sum`, whatever PATH says.
        let shell = found("sh");
        symlink(&shell, bin.join("sh")).unwrap();
        // A module, which Python compiles once.
        fs::write(home.join("host.py"), include_str!("host.py")).unwrap();
        let host = calls_host(home);
        for tool in ["vim-cmd", "esxcli", "dd"] {
            executable(&bin.join(tool), &host);
        }
        let text = format!(
            "#!/bin/sh\nprintf '%s\\0' \"$SSH_ORIGINAL_COMMAND\" >>{0}/journal\n\
             exec env -i ESX={0} BUSYBOX={1} HOME=/ PATH={0}/bin {2} -c \"$SSH_ORIGINAL_COMMAND\"\n",
            home.display(),
            busybox.display(),
            shell.display()
        );
        executable(enter, &text);
    }

    fn write(&self, state: &Value) {
        fs::write(self.folder.path().join("state.json"), state.to_string()).unwrap();
    }

    /// Folder of the first VM.
    pub fn vm_folder(&self) -> PathBuf {
        self.folder.path().join("vmfs/volumes/65aa0001-1111").join(NAME)
    }

    pub fn home(&self) -> &Path {
        self.folder.path()
    }

    /// What the host knows.
    pub fn state(&self) -> Value {
        serde_json::from_slice(&fs::read(self.folder.path().join("state.json")).unwrap()).unwrap()
    }

    /// Changes it behind the host's back.
    pub fn change(&self, change: impl FnOnce(&mut Value)) {
        let mut state = self.state();
        change(&mut state);
        self.write(&state);
    }

    /// What is to go wrong, see `host.py`.
    pub fn control(&self, control: &Value) {
        fs::write(self.folder.path().join("control.json"), control.to_string()).unwrap();
    }

    /// A tool is not there.
    pub fn without(&self, tool: &str) {
        fs::remove_file(self.folder.path().join("bin").join(tool)).unwrap();
    }

    /// A flat disk of the first VM.
    pub fn add_disk(&self, key: u64, mode: &str, bytes: &[u8]) {
        let stem = if key == 2000 { NAME.to_owned() } else { format!("{NAME}_{}", key - 2000) };
        let (top, flat) = (format!("{stem}.vmdk"), format!("{stem}-flat.vmdk"));
        let line = format!("RW {} VMFS \"{flat}\"", bytes.len() / 512);
        fs::write(self.vm_folder().join(&top), descriptor("7475b330", None, &[line])).unwrap();
        fs::write(self.vm_folder().join(&flat), bytes).unwrap();
        let name = |file: &str| format!("[{STORE}] {NAME}/{file}");
        let mut bases = serde_json::Map::new();
        bases.insert(name(&top), json!([name(&flat)]));
        let number = key - 1999;
        self.change(|state| {
            state["vms"][0]["disks"].as_array_mut().unwrap().push(json!({
                "key": key, "label": format!("Hard disk {number}"), "backing": "FlatVer2", "file": name(&top), "mode": mode,
                "capacity": bytes.len(), "extents": [name(&flat)], "bases": bases,
            }));
        });
    }

    /// Snapshots of the owner's: two, with a delta each, in which the guest has written. Answers the disk as it is now.
    pub fn owners_snapshots(&self) -> Vec<u8> {
        let mut disk = content(DISK, 1);
        let sectors = DISK / 512;
        let cow = cowd(u32::try_from(sectors).unwrap(), &[(100, [0xc0; 512])]);
        put(&mut disk, 100 * 512, &[0xc0; 512]);
        let sparse = sesparse(sectors as u64, &[(20, Grain::Bytes(0x5e)), (21, Grain::Zero)]);
        put(&mut disk, 20 * 4096, &[0x5e; 4096]);
        put(&mut disk, 21 * 4096, &[0; 4096]);
        let mut below = (format!("{NAME}.vmdk"), "7475b330");
        let name = |file: &str| format!("[{STORE}] {NAME}/{file}");
        let deltas = [(13, "delta", "VMFSSPARSE", cow, "0e3c9a12"), (14, "sesparse", "SESPARSE", sparse, "0e3c9a13")];
        for (id, ending, kind, bytes, cid) in deltas {
            let (top, extent) = (format!("{NAME}-{id:06}.vmdk"), format!("{NAME}-{id:06}-{ending}.vmdk"));
            let line = format!("RW {sectors} {kind} \"{extent}\"");
            fs::write(self.vm_folder().join(&top), descriptor(cid, Some((below.1, &below.0)), &[line])).unwrap();
            fs::write(self.vm_folder().join(&extent), bytes).unwrap();
            let vmsn = name(&format!("{NAME}-Snapshot{id}.vmsn"));
            fs::write(self.vm_folder().join(format!("{NAME}-Snapshot{id}.vmsn")), b"\xd3\xbe\xd3\xbe").unwrap();
            self.change(|state| {
                let vm = &mut state["vms"][0];
                let parent = vm["current"].take();
                vm["disks"][0]["file"] = name(&top).into();
                vm["disks"][0]["extents"] = json!([name(&extent)]);
                vm["disks"][0]["bases"][name(&top)] = json!([name(&extent)]);
                vm["current"] = id.into();
                vm["snapshots"].as_array_mut().unwrap().push(json!({
                    "id": id, "name": format!("owner's {id}"), "about": "before\nthe patch", "state": "poweredOff", "memory": false,
                    "parent": parent, "deltas": [[2000, name(&below.0)]], "files": [vmsn],
                }));
            });
            below = (top, cid);
        }
        disk
    }

    /// What was said to the host, in order.
    pub fn journal(&self) -> Vec<String> {
        let text = fs::read(self.folder.path().join("journal")).unwrap_or_default();
        text.split(|byte| *byte == 0)
            .filter(|part| !part.is_empty())
            .map(|part| String::from_utf8_lossy(part).into_owned())
            .collect()
    }

    /// Names of the VM's snapshots, with their ids.
    pub fn snapshots(&self) -> Vec<(u64, String)> {
        let state = self.state();
        let all = state["vms"][0]["snapshots"].as_array().unwrap();
        all.iter().map(|one| (one["id"].as_u64().unwrap(), one["name"].as_str().unwrap().to_owned())).collect()
    }

    /// Files in the VM's folder.
    pub fn files(&self) -> Vec<String> {
        let list = fs::read_dir(self.vm_folder()).unwrap();
        let mut names: Vec<_> = list.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }
}

fn found(tool: &str) -> PathBuf {
    let paths = std::env::var_os("PATH").unwrap();
    let mut all = std::env::split_paths(&paths).map(|path| path.join(tool));
    all.find(|path| path.is_file()).unwrap_or_else(|| panic!("{tool} is needed: scripts/install test"))
}

/// The interpreter itself: what is in PATH may be a script that needs a PATH of its own.
fn python() -> String {
    let told = Command::new("python3").args(["-c", "import sys; print(sys.executable)"]).output();
    String::from_utf8(told.expect("python3 is needed").stdout).unwrap().trim().to_owned()
}

/// A program of the host: `host.py` sees by which name it was called.
fn calls_host(home: &Path) -> String {
    let home = home.display().to_string();
    format!("#!{} -SE\nimport sys\nsys.path.insert(0, {home:?})\nimport host\n", python())
}

fn executable(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}
