//! What any guest of linux-small's kind must tell of its pages: files in memory, what stands in the memory of programs, sockets, modules and
//! stacks. Asked by the program, with files written.

#![allow(clippy::unwrap_used, reason = "this is test code: what is not there should fail the test")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

use super::elf;
use super::memory::{Memory, has, pid_of, written};

/// All of it; `folder` is where files go.
pub fn all_is_found_and_written(memory: &Memory<'_>, folder: &Path) -> Result<()> {
    files_in_memory_are_listed_and_written(memory, folder)?;
    memory_of_programs_is_searched_and_written(memory, folder)?;
    sockets_modules_and_stacks_are_found(memory, folder)
}

fn files_in_memory_are_listed_and_written(memory: &Memory<'_>, folder: &Path) -> Result<()> {
    let (tmpfs, content) = ("/dev/shm/only-in-memory.txt", b"impound planted memory file: marker-tmpfs-6e41d8\n");
    let files = memory.rows("linux.pagecache.Files")?;
    let of =
        |path: &str| files.iter().find(|row| row["file_path"] == path).with_context(|| format!("no {path}: {files:?}"));
    let row = of(tmpfs)?;
    let told = [("file_type", "REG".into()), ("cached_pages", 1.into()), ("inode_size", content.len().into())];
    assert!(has(std::slice::from_ref(row), &told), "{row}");
    assert_eq!(of("/dev/shm")?["file_type"], "DIR");

    let inode = row["inode_addr"].as_str().context("no inode")?;
    let output = |name: &str| folder.join(name).display().to_string();
    for (name, by) in [("by-path", ["--path", tmpfs]), ("by-inode", ["--inode", inode])] {
        let question = ["linux.pagecache.InodePages", by[0], by[1], "--output", &output(name)];
        let pages = memory.ask(&question)?.expect(0)?.rows()?;
        assert!(pages.len() == 1 && pages[0]["index"] == 0 && pages[0]["dump_safe"] == true, "{pages:?}");
        assert!(pages[0]["flags"].as_str().is_some_and(|flags| flags.contains("uptodate")), "{pages:?}");
        let file = pages[0]["file_output"].as_str().context("no file")?;
        assert_eq!(fs::read(folder.join(name).join(file))?, content);
        memory.ask(&question)?.expect(1)?.says("must not exist yet")?;
    }

    // Deleted, and in no folder any more.
    let sleeper = pid_of(&memory.rows("linux.pslist")?, "sleep")?.to_string();
    memory.ask(&["linux.lsof", "--pid", &sleeper, "--output", &output("open")])?.expect(0)?;
    let (_, deleted) = written(&folder.join("open"), "linux.lsof", ".fd.8")?;
    assert_eq!(deleted, b"impound planted memory file: marker-deleted-open-f0937c\n");

    let recovered = memory.ask(&["linux.pagecache.RecoverFs", "--output", &output("tree")])?;
    let tree = folder.join("tree");
    let (line, bytes) = written(&tree, "linux.pagecache.RecoverFs", tmpfs)?;
    assert_eq!((line["outcome"].clone(), bytes.as_slice()), ("complete".into(), &content[..]));
    let (line, bash) = written(&tree, "linux.pagecache.RecoverFs", "/bin/bash")?;
    assert!(bash.starts_with(b"\x7fELF") && line["size"] == bash.len(), "{line}");
    // What is partial is said, and its gaps are named.
    let manifest = fs::read_to_string(tree.join("manifest.jsonl"))?;
    let lines = manifest.lines().map(serde_json::from_str::<Value>).collect::<Result<Vec<_>, _>>()?;
    let partial =
        lines.iter().filter(|line| line["outcome"].as_str().is_some_and(|how| how.starts_with("partial"))).count();
    let files = || lines.iter().filter(|line| line["file"].is_string());
    assert!(files().all(|line| (line["outcome"] == "complete") == line["missing"].is_null()));
    assert_eq!(recovered.code, Some(if partial == 0 { 0 } else { 3 }), "{}", recovered.stderr);
    Ok(())
}

fn memory_of_programs_is_searched_and_written(memory: &Memory<'_>, folder: &Path) -> Result<()> {
    let shell = pid_of(&memory.rows("linux.pslist")?, "planted-shell")?;
    let pid = shell.to_string();
    let found =
        memory.ask(&["linux.vmaregexscan", "--pid", &pid, "--regex", "marker-arg-[0-9a-f]+"])?.expect(0)?.rows()?;
    assert!(!found.is_empty() && found.iter().all(|row| row["text"] == "marker-arg-91c5e7"), "{found:?}");
    assert_eq!(found[0]["hex"], "6d61726b65722d6172672d393163356537");

    // Where it stands in the image, and whose it is; asked again by that place.
    let whose =
        memory.ask(&["linux.strings", "--regex", "marker-arg-91c5e7|marker-tmpfs-6e41d8"])?.expect(0)?.rows()?;
    let of = |what: &[(&str, Value)]| whose.iter().find(|row| what.iter().all(|(key, value)| row[*key] == *value));
    let mine = of(&[("region", "process".into()), ("pid", shell.into())]).with_context(|| format!("{whose:?}"))?;
    assert_eq!(mine["process"], "planted-shell");
    assert!(found.iter().any(|row| row["offset"] == mine["virtual"]), "{mine}");
    let cached = [("region", "page cache".into()), ("detail", "/only-in-memory.txt".into())];
    assert!(of(&cached).is_some(), "{whose:?}");
    let list = folder.join("strings.txt");
    let place = mine["physical"].as_str().context("no place")?.trim_start_matches("0x").trim_start_matches('0');
    fs::write(&list, format!("   {place} marker-arg-91c5e7\n1000000000000 nowhere\n"))?;
    let again = memory.ask(&["linux.strings", "--strings", &list.display().to_string()])?.expect(0)?.rows()?;
    assert!(again.contains(mine), "{again:?}");
    assert!(has(&again, &[("string", "nowhere".into()), ("region", "unknown".into())]), "{again:?}");
    let banner = memory.ask(&["linux.strings", "--regex", "Linux version [0-9.]+"])?.expect(0)?.rows()?;
    assert!(has(&banner, &[("region", "kernel image".into()), ("detail", "linux_banner".into())]), "{banner:?}");

    let output = folder.join("ranges");
    let asked = ["linux.proc.maps", "--pid", &pid, "--output", &output.display().to_string()];
    let ranges = memory.ask(&asked)?.expect(3)?.says("manifest.jsonl names each gap")?.rows()?;
    let stack = ranges.iter().find(|row| row["path"] == "[stack]").context("no stack")?;
    let bytes = fs::read(output.join(stack["file_output"].as_str().context("not written")?))?;
    assert!(bytes.windows(17).any(|window| window == b"marker-arg-91c5e7"));
    Ok(())
}

fn sockets_modules_and_stacks_are_found(memory: &Memory<'_>, folder: &Path) -> Result<()> {
    let scanned = memory.rows("linux.sockscan")?;
    let open: BTreeSet<_> = memory.rows("linux.sockstat")?.iter().map(|row| row["sock_offset"].to_string()).collect();
    let all: BTreeSet<_> = scanned.iter().map(|row| row["sock_offset"].to_string()).collect();
    assert!(open.len() >= 3 && open.is_subset(&all), "{:?}", open.difference(&all));
    assert!(has(&scanned, &[("source_port", 31337.into()), ("state", "LISTEN".into())]), "{scanned:?}");

    let view = memory.rows("linux.modxview")?;
    assert_eq!(view.len(), memory.rows("linux.lsmod")?.len());
    let everywhere = ["in_procfs", "in_sysfs", "in_scan", "in_mod_tree"];
    assert!(view.iter().all(|row| everywhere.iter().all(|place| row[place] == true)), "{view:?}");
    let lists = memory.rows("linux.check_afinfo")?;
    assert!(has(&lists, &[("symbol_name", "tcp4_seq_ops".into()), ("symbol", "tcp4_seq_show".into())]), "{lists:?}");
    assert!(lists.iter().all(|row| row["hooked"] == false), "{lists:?}");
    for name in ["tracing.tracepoints", "tracing.perf_events"] {
        assert_eq!(memory.rows(&format!("linux.{name}"))?, Vec::<Value>::new(), "{name}");
    }
    let stacks = memory.rows("linux.pscallstack")?;
    // On ARM stacks are not told well enough yet, and modules are not written out (README).
    if !stacks.iter().any(|row| row["value"].as_str().is_some_and(|at| at.starts_with("0xffffffff"))) {
        return Ok(());
    }
    assert!(has(&stacks, &[("comm", "kthreadd".into()), ("name", "kthreadd".into())]), "{stacks:?}");
    let waits =
        |row: &Value| row["comm"] == "sleep" && row["name"].as_str().is_some_and(|name| name.contains("nanosleep"));
    assert!(stacks.iter().any(waits), "{stacks:?}");

    let output = folder.join("modules");
    let asked = ["linux.module_extract", "--name", "virtio_net", "--output", &output.display().to_string()];
    let rows = memory.ask(&asked)?.expect(0)?.rows()?;
    assert!(rows.len() == 1 && rows[0]["name"] == "virtio_net", "{rows:?}");
    let file = fs::read(output.join(rows[0]["file_output"].as_str().context("not written")?))?;
    assert!(elf::code_of(&file, "virtnet_probe")?.len() > 100);
    Ok(())
}
