//! The program as a user and as a script meet it: output formats, exit codes, hostile names, completions, man pages.

use std::fs;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::common::run::{Ran, impound, run};

/// Runs the program with these arguments and nothing else.
fn plain(arguments: &[&str]) -> Result<Ran> {
    Ok(Ran::of(&impound().args(arguments).output()?))
}

#[test]
fn every_format_tells_the_same() -> Result<()> {
    let target = "fake:web01?memory=1M&disk=1M";
    let text = plain(&["targets", target])?.expect(0)?.stdout;
    assert!(text.contains("NAME") && text.contains("web01"), "{text}");
    let csv = plain(&["targets", target, "--format", "csv"])?.expect(0)?.stdout;
    assert!(csv.lines().next().is_some_and(|header| header.starts_with("name,id,state")), "{csv}");
    let json: Value = serde_json::from_str(&plain(&["targets", target, "--format", "json"])?.expect(0)?.stdout)?;
    let line: Value = serde_json::from_str(&plain(&["targets", target, "--format", "jsonl"])?.expect(0)?.stdout)?;
    assert_eq!(json.get(0), Some(&line));
    assert_eq!(line.get("name").and_then(Value::as_str), Some("web01"));
    Ok(())
}

#[test]
fn a_hostile_name_reaches_programs_whole_and_terminals_harmless() -> Result<()> {
    let target = "fake:web\u{1b}[31m\u{202e}01?memory=1M";
    let shown = plain(&["show", target])?.expect(0)?;
    assert!(!shown.stdout.contains(['\u{1b}', '\u{202e}']), "{:?}", shown.stdout);
    let rows = run(&["show", target])?.expect(0)?.rows()?;
    let name = rows.iter().find(|row| row.get("name").and_then(Value::as_str) == Some("name")).context("no name")?;
    assert_eq!(name.get("value").and_then(Value::as_str), Some("web\u{1b}[31m\u{202e}01"));
    let folder = tempfile::tempdir()?;
    let case = folder.path().join("case");
    let ran = plain(&["acquire", target, "--case", &case.display().to_string(), "--memory"])?.expect(0)?;
    assert!(!format!("{}{}", ran.stdout, ran.stderr).contains(['\u{1b}', '\u{202e}']), "{ran:?}");
    for entry in fs::read_dir(case.join("exhibits"))? {
        let name = entry?.file_name().into_string().ok().context("a name that is no text")?;
        assert!(name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)), "{name}");
    }
    Ok(())
}

#[test]
fn mistakes_on_the_command_line_end_with_2_and_say_what_to_do() -> Result<()> {
    plain(&["targets", "no-address"])?.expect(2)?.says("qmp:/run/web01.qmp")?;
    plain(&["targets", "telnet:host"])?.expect(2)?.says("known schemes")?;
    plain(&["acquire", "fake:web01?memory=1M"])?.expect(2)?.says("--case")?;
    plain(&["acquire", "fake:web01?memory=1M", "--case", "x", "--block-size", "5Q"])?
        .expect(2)?
        .says("no unit of size")?;
    plain(&["acquire", "fake:web01?memory=1M", "--case", "x", "--max-pause", "5"])?
        .expect(2)?
        .says("no unit of time")?;
    plain(&["verify", "nowhere"])?.expect(1)?.says("neither a case")?;
    Ok(())
}

/// Every verb that prints a table, also where that is done by a thread of its own.
#[test]
fn output_that_cannot_be_written_is_an_error_that_says_so() -> Result<()> {
    let image = tempfile::NamedTempFile::new()?;
    image.as_file().set_len(4 << 20)?;
    let made = std::process::Command::new("mke2fs").args(["-q", "-F"]).arg(image.path()).status();
    ensure!(made.context("the tests need mke2fs: apt install e2fsprogs")?.success(), "mke2fs failed");
    let image = image.path().display().to_string();
    for verb in [
        &["disk", &image, "parts"][..],
        &["disk", &image, "ls"],
        &["disk", &image, "timeline"],
        &["targets", "fake:web01?memory=1M"],
    ] {
        let full = std::fs::File::options().write(true).open("/dev/full")?;
        let ran = impound().args(verb).stdout(full).output()?;
        let said = String::from_utf8_lossy(&ran.stderr);
        ensure!(ran.status.code() == Some(1) && said.contains("could not write the output"), "{verb:?}: {ran:?}");
    }
    Ok(())
}

#[test]
fn a_plan_touches_nothing() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let state = folder.path().join("vm.json");
    let target = format!("fake:web01?memory=1M&disk=1M&state={}", state.display());
    let rows = run(&["acquire", &target, "--plan"])?.expect(0)?.rows()?;
    assert!(rows.iter().any(|row| row.get("step").and_then(Value::as_str) == Some("pause")), "{rows:?}");
    let calls = fs::read_to_string(&state)?;
    for call in ["prepare", "freeze", "begin"] {
        assert!(!calls.contains(call), "{calls}");
    }
    Ok(())
}

#[test]
fn progress_as_json_is_one_object_a_line() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let case = folder.path().join("case").display().to_string();
    let ran = plain(&["--progress", "json", "acquire", "fake:web01?memory=8M", "--case", &case])?.expect(0)?;
    let mut ended = false;
    for line in ran.stderr.lines() {
        let object: Value = serde_json::from_str(line).with_context(|| format!("no JSON: {line}"))?;
        ended |= object.get("event").and_then(Value::as_str) == Some("ended");
    }
    ensure!(ended, "{}", ran.stderr);
    Ok(())
}

#[test]
fn completions_and_man_pages_come_out() -> Result<()> {
    for shell in ["bash", "zsh", "fish"] {
        let script = plain(&["completions", shell])?.expect(0)?.stdout;
        assert!(script.contains("acquire") && script.contains("max-pause"), "{shell}");
    }
    let folder = tempfile::tempdir()?;
    let out = folder.path().join("man").display().to_string();
    plain(&["man", "--output", &out])?.expect(0)?;
    let page = fs::read_to_string(folder.path().join("man/impound-acquire.1"))?;
    assert!(page.contains(".TH") && page.contains("memory"), "{page}");
    // Nothing is ever overwritten.
    plain(&["man", "--output", &out])?.expect(1)?.says("nothing is ever overwritten")?;
    Ok(())
}

#[test]
fn doctor_names_what_is_missing_and_its_fix() -> Result<()> {
    let rows = run(&["doctor", "qmp:/nowhere/at.all"])?.expect(1)?.rows()?;
    let bad = rows.iter().find(|row| row.get("good") == Some(&Value::Bool(false))).context("all is good")?;
    assert!(bad.get("fix").and_then(Value::as_str).is_some_and(|fix| fix.contains("-qmp unix:")), "{bad}");
    Ok(())
}

#[test]
fn a_case_is_opened_noted_handed_over_and_checked_against_the_paper() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let case = folder.path().join("case").display().to_string();
    let new = ["case", "new", &case, "--number", "2026-17", "--examiner", "E. Locard", "--authority", "order 12"];
    plain(&new)?.expect(0)?;
    plain(&new)?.expect(1)?;
    plain(&["acquire", "fake:web01?memory=1M", "--case", &case])?.expect(0)?;
    plain(&["case", "note", &case, "seen by the judge"])?.expect(0)?;
    let told = plain(&["case", "transfer", &case, "--to", "Lab 3", "--purpose", "analysis"])?.expect(0)?;
    let head = told.stderr.lines().last().and_then(|line| line.rsplit(' ').next()).context("no head")?.to_owned();
    plain(&["verify", &case, "--head", &head])?.expect(0)?;
    let other = format!("{}:{}", head.split_once(':').context("COUNT:HASH")?.0, "0".repeat(64));
    plain(&["verify", &case, "--head", &other])?.expect(5)?;
    let log = run(&["case", "log", &case])?.expect(0)?.rows()?;
    let events: Vec<_> = log.iter().filter_map(|row| row.get("event").and_then(Value::as_str)).collect();
    for event in ["case-opened", "run-begun", "sealed", "run-ended", "note", "transferred"] {
        assert!(events.contains(&event), "{events:?}");
    }
    Ok(())
}
