//! A guest with a real module that hides and hooks, and with odd programs: all of it is found, from memory alone.

use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::common::guest::{Guest, Spec};
use crate::common::memory::{Memory, has, pid_of, texts};
use crate::common::run::{Exhibit, run};

#[test]
fn what_an_intruder_left_is_found() -> Result<()> {
    let guest = Guest::boot(&Spec { disks: Vec::new(), ..Spec::new("linux-hooked") })?;
    // The guest's own kernel does not list it any more.
    let listed = guest.truth("modules")?;
    ensure!(!listed.is_empty() && !listed.iter().any(|line| line.contains("impound_planted")), "{listed:?}");
    let case = guest.folder().join("case");
    let (target, text) = (guest.target(), case.display().to_string());
    run(&["acquire", &target, "--case", &text, "--memory", "--memory-method", "paused"])?.expect(0)?;
    guest.kill()?;
    let exhibit = Exhibit::find(&case, "memory")?;
    let memory = Memory(&exhibit.dir);
    the_module_is_found(&memory)?;
    who_is_called_is_found(&memory)?;
    the_module_is_written_out(&memory, guest.folder())?;
    odd_programs_are_found(&memory)?;
    namespaces_are_told_apart(&memory)?;
    a_tree_of_several_levels_is_walked(&guest, &memory)?;
    findings_tell_all_of_it(&memory)
}

fn the_module_is_found(memory: &Memory<'_>) -> Result<()> {
    assert!(!texts(&memory.rows("linux.lsmod")?, "name").contains(&"impound_planted"));
    let hidden = memory.rows("linux.hidden_modules")?;
    ensure!(texts(&hidden, "name") == ["impound_planted"], "{hidden:?}");
    let calls = memory.rows("linux.check_syscall")?;
    let hooked: Vec<_> = calls.iter().filter(|row| row["hooked"] == true).collect();
    ensure!(hooked.len() == 1 && hooked[0]["index"] == 83, "{hooked:?}");
    let keys = memory.rows("linux.keyboard_notifiers")?;
    ensure!(keys.len() == 1 && keys[0]["hooked"] == true, "{keys:?}");
    let packets = memory.rows("linux.netfilter")?;
    let mine: Vec<_> = packets.iter().filter(|row| row["hooked"] == true).collect();
    ensure!(mine.len() == 1 && mine[0]["hook"] == "LOCAL_IN" && mine[0]["proto"] == "IPV4", "{mine:?}");
    Ok(())
}

fn who_is_called_is_found(memory: &Memory<'_>) -> Result<()> {
    let view = memory.rows("linux.modxview")?;
    let hidden = view.iter().find(|row| row["name"] == "impound_planted").context("not in modxview")?;
    let places = ["in_procfs", "in_sysfs", "in_scan", "in_mod_tree"].map(|place| hidden[place] == true);
    ensure!(places == [false, false, true, true], "{hidden}");
    let mine = [("module", "impound_planted".into())];
    let functions = memory.rows("linux.tracing.ftrace")?;
    let trace = [("hooked_symbols", "do_rmdir".into()), ("callback", "planted_trace".into())];
    ensure!(has(&functions, &[&mine[..], &trace[..]].concat()), "{functions:?}");
    let marks = memory.rows("linux.tracing.tracepoints")?;
    let probe = [("tracepoint", "sched_process_exec".into()), ("probe", "planted_probe".into())];
    ensure!(has(&marks, &[&mine[..], &probe[..]].concat()), "{marks:?}");
    let lists = memory.rows("linux.check_afinfo")?;
    let hooked: Vec<_> = lists.iter().filter(|row| row["hooked"] == true).collect();
    ensure!(
        hooked.len() == 1 && hooked[0]["symbol_name"] == "tcp6_seq_ops" && hooked[0]["member"] == "show",
        "{hooked:?}"
    );

    let programs = memory.rows("linux.ebpf")?;
    for (name, kind) in
        [("planted_filter", "BPF_PROG_TYPE_SOCKET_FILTER"), ("planted_event", "BPF_PROG_TYPE_PERF_EVENT")]
    {
        ensure!(has(&programs, &[("name", name.into()), ("type", kind.into())]), "{programs:?}");
    }
    let events = memory.rows("linux.tracing.perf_events")?;
    let event = events.iter().find(|row| row["short_program_name"] == "planted_event").context("no event")?;
    ensure!(event["process"] == "plant-event" && event["event"] == "software", "{event}");
    ensure!(event["full_name"].as_str().is_some_and(|name| name.ends_with("_planted_event")), "{event}");
    ensure!(programs.iter().any(|program| program["address"] == event["address"]), "{event} {programs:?}");
    let sockets = memory.rows("linux.sockscan")?;
    let filtered =
        [("family", "AF_PACKET".into()), ("filter", "eBPF BPF_PROG_TYPE_SOCKET_FILTER planted_filter".into())];
    ensure!(has(&sockets, &filtered), "{sockets:?}");
    Ok(())
}

/// It hides, and is a file again all the same: with the code that was built.
fn the_module_is_written_out(memory: &Memory<'_>, folder: &Path) -> Result<()> {
    let output = folder.join("modules");
    let asked = ["linux.module_extract", "--name", "impound_planted", "--output", &output.display().to_string()];
    let rows = memory.ask(&asked)?.expect(0)?.rows()?;
    ensure!(rows.len() == 1, "{rows:?}");
    let file = std::fs::read(output.join(rows[0]["file_output"].as_str().context("not written")?))?;
    // mov eax, NF_ACCEPT: what the planted hook answers.
    let code = crate::common::elf::code_of(&file, "planted_packet")?;
    ensure!(code.windows(5).any(|bytes| bytes == [0xb8, 1, 0, 0, 0]), "{code:x?}");
    ensure!(crate::common::elf::code_of(&file, "planted_mkdir")?.len() > 4);
    Ok(())
}

fn odd_programs_are_found(memory: &Memory<'_>) -> Result<()> {
    let list = memory.rows("linux.pslist")?;
    let pid = |role: &str| pid_of(&list, &format!("plant-{role}"));
    let code = memory.rows("linux.malfind")?;
    let writable: Vec<_> = code.iter().filter(|row| row["pid"].as_i64() == pid("rwx").ok()).collect();
    ensure!(writable.len() == 1 && writable[0]["protection"] == "rwxp", "{code:?}");
    ensure!(writable[0]["first_bytes"].as_str().is_some_and(|bytes| bytes.starts_with("554889e531c0c9c3")), "{code:?}");
    let tracing = memory.rows("linux.ptrace")?;
    ensure!(has(&tracing, &[("pid", pid("traced")?.into())]) || !tracing.is_empty(), "{tracing:?}");
    let sockets = memory.rows("linux.sockstat")?;
    let of = pid("sockets")?;
    for what in [
        [("family", "AF_INET".into()), ("type", "RAW".into())],
        [("family", "AF_PACKET".into()), ("type", "RAW".into())],
        [("source_port", 5353.into()), ("protocol", "UDP".into())],
    ] {
        ensure!(has(&sockets, &[&[("pid", of.into())], &what[..]].concat()), "{what:?} is not in {sockets:?}");
    }
    let may = memory.rows("linux.capabilities")?;
    let row = may.iter().find(|row| row["pid"].as_i64() == pid("caps").ok()).context("no capabilities")?;
    let effective = row["cap_effective"].as_str().context("no capabilities in effect")?;
    ensure!(row["euid"] == 1000 && effective.contains("cap_net_raw") && effective.contains("cap_sys_ptrace"), "{row}");
    let claims = memory.rows("linux.process_spoofing")?;
    let memfd = claims.iter().find(|row| row["pid"].as_i64() == pid("memfd").ok()).context("no claim of the memfd")?;
    ensure!(memfd["exe"].as_str().is_some_and(|exe| exe.contains("memfd:planted-memfd")), "{memfd}");
    ensure!(memfd["first_argument"] == "[kworker/7:7]", "{memfd}");
    Ok(())
}

/// One program has mounts, network, IPC and hostname of its own, and shares the rest. The kernel keeps 15 bytes of its name.
fn namespaces_are_told_apart(memory: &Memory<'_>) -> Result<()> {
    let rows = memory.rows("linux.namespaces")?;
    let of = |comm: &str| rows.iter().find(|row| row["comm"] == comm).with_context(|| format!("no {comm}"));
    let (first, apart, other) = (of("init")?, of("plant-namespace")?, of("plant-rwx")?);
    for own in ["net_ns", "mnt_ns", "uts_ns", "ipc_ns"] {
        ensure!(
            first[own].is_i64() && first[own] == other[own] && first[own] != apart[own],
            "{own}: {first} {apart} {other}"
        );
    }
    for shared in ["pid_ns", "user_ns", "cgroup_ns"] {
        ensure!(first[shared].is_i64() && first[shared] == apart[shared], "{shared}: {first} {apart}");
    }
    ensure!(apart["hostname"] == "planted-elsewhere" && first["hostname"] == "web01", "{first} {apart}");
    ensure!(first["pid_in_ns"] == 1 && apart["pid_in_ns"] == apart["pid"], "{first} {apart}");
    let mounts = memory.rows("linux.mountinfo")?;
    ensure!(has(&mounts, &[("mnt_ns_id", apart["mnt_ns"].clone())]), "no mounts of {}", apart["mnt_ns"]);
    ensure!(has(&memory.rows("linux.ip.link")?, &[("ns", apart["net_ns"].clone())]), "no cards of {}", apart["net_ns"]);
    Ok(())
}

/// This program has more ranges of memory than one node of the kernel's tree holds.
fn a_tree_of_several_levels_is_walked(guest: &Guest, memory: &Memory<'_>) -> Result<()> {
    let pid = pid_of(&memory.rows("linux.pslist")?, "plant-rwx")?;
    let told: Vec<u64> = guest
        .truth(&format!("/proc/{pid}/maps"))?
        .iter()
        .filter(|line| !line.contains("[vsyscall]"))
        .map(|line| Ok(u64::from_str_radix(line.split('-').next().context("no begin")?, 16)?))
        .collect::<Result<_>>()?;
    let maps = memory.rows("linux.proc.maps")?;
    let of = maps.iter().filter(|row| row["pid"] == pid).filter_map(|row| row["start"].as_str());
    let found: Vec<u64> = of.filter_map(|text| u64::from_str_radix(text.trim_start_matches("0x"), 16).ok()).collect();
    ensure!(told.len() > 10 && told == found, "told {told:x?}, found {found:x?}");
    Ok(())
}

fn findings_tell_all_of_it(memory: &Memory<'_>) -> Result<()> {
    let findings = memory.rows("linux.findings")?;
    let kinds = texts(&findings, "finding");
    for what in [
        "hidden module",
        "hooked system call",
        "hook outside of all code",
        "keyboard notifier",
        "executable memory without a file",
        "odd program",
        "preloaded library",
        "traced",
        "raw socket",
        "BPF program",
        "capabilities without root",
    ] {
        ensure!(kinds.contains(&what), "no finding of `{what}`: {findings:#?}");
    }
    let finding = |what: &str, words: &str| {
        findings
            .iter()
            .find(|row| row["finding"] == what && row["evidence"].as_str().is_some_and(|text| text.contains(words)))
    };
    for (what, words, severity) in [
        ("hidden module", "impound_planted is in mod_tree and memory", "high"),
        ("hooked system call", "64bit call 83 leads to", "high"),
        ("hook outside of all code", "in the hidden module impound_planted", "high"),
        ("keyboard notifier", "in the hidden module impound_planted", "high"),
        ("odd program", "it poses as a thread of the kernel", "high"),
        ("odd program", "the file is in memory only", "medium"),
        ("raw socket", "plant-sockets holds a raw socket, IPv4", "low"),
        ("raw socket", "plant-sockets holds a packet socket, protocol 0x0003", "low"),
        ("raw socket", "plant-filter holds a packet socket, protocol 0x0800, as descriptor 4, with a filter", "low"),
        ("BPF program", "planted_filter, of type SOCKET_FILTER", "low"),
        ("capabilities without root", "may cap_net_raw,cap_sys_ptrace", "low"),
    ] {
        let row = finding(what, words).with_context(|| format!("no {what} with `{words}`: {findings:#?}"))?;
        ensure!(row["severity"] == severity && row["innocent_if"].is_string() && row["address"].is_string(), "{row}");
    }
    // The planted code is shown as it stands there.
    let code = finding("executable memory without a file", "rwxp").context("no writable code")?;
    ensure!(code["bytes"].as_str().is_some_and(|bytes| bytes.starts_with("554889e531c0c9c3")), "{code}");
    let hook = finding("hooked system call", "call 83").context("no hooked call")?;
    ensure!(hook["bytes"].as_str().is_some_and(|bytes| bytes.len() == 32), "{hook}");
    ensure!(
        !findings.iter().any(|row| row["evidence"].as_str().is_some_and(|text| text.contains("()"))),
        "{findings:#?}"
    );
    ensure!(
        findings.iter().any(|row| row["evidence"].as_str().is_some_and(|text| text.contains("planted-evil.so"))),
        "{findings:#?}"
    );
    Ok(())
}
