//! Several targets in one command: asked and taken side by side, and none of them stops another.

use std::fs;

use anyhow::Result;

use crate::common::run::{Exhibit, run};

#[test]
fn hosts_are_asked_at_once_and_one_that_fails_is_named() -> Result<()> {
    let temp = tempfile::tempdir()?;
    let (one, two) = (temp.path().join("one.img"), temp.path().join("two.img"));
    fs::write(&one, vec![1; 4096])?;
    fs::write(&two, vec![2; 4096])?;
    let hosts = temp.path().join("hosts");
    let text = format!("# the rack\nfile:{}\nqmp:/nowhere/at.all # broken\nfile:{}\n", one.display(), two.display());
    fs::write(&hosts, text)?;
    let hosts = hosts.display().to_string();
    let ran = run(&["targets", "--hosts", &hosts])?.expect(3)?;
    assert_eq!(ran.rows()?.len(), 2, "{ran:?}");
    ran.says("/nowhere/at.all")?;
    run(&["targets", &format!("file:{}", one.display()), &format!("file:{}", two.display())])?.expect(0)?;
    // All failed: nothing is there.
    run(&["targets", "qmp:/nowhere/1", "qmp:/nowhere/2"])?.expect(1)?.says("/nowhere/2")?;
    run(&["targets"])?.expect(2)?;
    Ok(())
}

#[test]
fn several_are_taken_into_one_case_and_one_that_fails_stops_none() -> Result<()> {
    let temp = tempfile::tempdir()?;
    let mut words = vec!["acquire".to_owned()];
    for name in ["a", "b", "c", "d", "e"] {
        let path = temp.path().join(format!("{name}.img"));
        fs::write(&path, name.repeat(8192))?;
        words.push(format!("file:{}", path.display()));
    }
    words.push("qmp:/nowhere/at.all".to_owned());
    let case = temp.path().join("case").display().to_string();
    words.extend(["--case", &case, "--parallel", "2"].map(str::to_owned));
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let ran = run(&words)?.expect(3)?;
    let rows = ran.rows()?;
    assert_eq!(rows.len(), 5, "{ran:?}");
    // In the order of the command line, each with its own address.
    for (row, name) in rows.iter().zip(["a", "b", "c", "d", "e"]) {
        assert_eq!(row["outcome"], "complete");
        assert!(row["target"].as_str().is_some_and(|target| target.ends_with(&format!("/{name}.img"))), "{row}");
    }
    ran.says("/nowhere/at.all")?;
    for name in ["a", "b", "c", "d", "e"] {
        let found = fs::read_dir(temp.path().join("case/exhibits"))?.flatten();
        let mut texts =
            found.filter_map(|dir| fs::read_to_string(dir.path().join("data").join(data(&dir.path())?)).ok());
        assert!(texts.any(|text| text == name.repeat(8192)), "{name}");
    }
    // The run that failed left an open draft or nothing: what is sealed is whole.
    run(&["verify", &case])?.expect(0)?;
    Ok(())
}

fn data(exhibit: &std::path::Path) -> Option<std::ffi::OsString> {
    Some(fs::read_dir(exhibit.join("data")).ok()?.flatten().next()?.file_name())
}

#[test]
fn one_alone_fails_as_it_always_did() -> Result<()> {
    let temp = tempfile::tempdir()?;
    let case = temp.path().join("case");
    run(&["acquire", "qmp:/nowhere/at.all", "--case", &case.display().to_string()])?
        .expect(1)?
        .says("start QEMU with -qmp")?;
    run(&["acquire", "--case", &case.display().to_string()])?.expect(2)?;
    assert!(Exhibit::find(&case, "memory").is_err());
    Ok(())
}
