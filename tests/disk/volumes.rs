//! Partition tables as sfdisk writes them; a damaged one; a chain without an end.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use impound::disk::volume::{Use, scan};

use crate::kit::{bytes, folder, impound, make};

fn sfdisk(at: &Path, script: &str) -> PathBuf {
    let image = at.join("disk.img");
    std::fs::File::create(&image).unwrap().set_len(64 << 20).unwrap();
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let mut command = Command::new("sfdisk");
    command.args(["-q", "--no-reread", "--no-tell-kernel"]).arg(&image).env("PATH", path).stdin(Stdio::piped());
    let mut child = command.spawn().expect("scripts/install test installs it");
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), script.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
    image
}

fn numbers(image: &Path) -> Vec<(u32, u64)> {
    let found = scan(&bytes(image)).unwrap();
    found
        .list
        .iter()
        .filter_map(|volume| Some((volume.label.as_ref()?.strip_prefix("p")?.parse().unwrap(), volume.from? / 512)))
        .collect()
}

#[test]
fn logical_partitions_are_numbered_as_linux_does_and_a_loop_ends() {
    let temp = folder();
    let script = "label: dos\nstart=2048,size=8192,type=83\nstart=10240,size=100000,type=5\nstart=12288,size=20480,type=83\nstart=34816,size=20480,type=82\n";
    let image = sfdisk(temp.path(), script);
    assert_eq!(numbers(&image), [(1, 2048), (2, 10240), (5, 12288), (6, 34816)]);
    let gaps = scan(&bytes(&image)).unwrap().list.iter().filter(|volume| volume.what == Use::Gap).count();
    assert!(gaps >= 2, "{gaps}");
    // The second entry of the first extended table leads back to itself.
    let mut raw = std::fs::read(&image).unwrap();
    let entry = 10240 * 512 + 462 + 8;
    raw[entry..entry + 4].copy_from_slice(&0_u32.to_le_bytes());
    std::fs::write(&image, raw).unwrap();
    let found = scan(&bytes(&image)).unwrap();
    assert!(found.odd.iter().any(|line| line.contains("comes back")), "{:?}", found.odd);
}

#[test]
fn a_file_in_a_partition_is_addressed_by_name_and_number_and_the_backup_gpt_is_used() {
    let temp = folder();
    let image = sfdisk(temp.path(), "label: gpt\nstart=2048,size=8192\nstart=10240,size=65536,name=data\n");
    let (tree, part) = (temp.path().join("tree"), temp.path().join("part"));
    std::fs::create_dir(&tree).unwrap();
    std::fs::write(tree.join("a:b"), "found").unwrap();
    make(&part, &["-t", "ext4"], &tree, "32M");
    let mut raw = std::fs::read(&image).unwrap();
    let bytes_of = std::fs::read(&part).unwrap();
    raw[10240 * 512..10240 * 512 + bytes_of.len()].copy_from_slice(&bytes_of);
    std::fs::write(&image, &raw).unwrap();
    let name = image.to_string_lossy();
    assert_eq!(impound(["disk".to_owned(), format!("{name}:p2:/a:b"), "cat".to_owned()]), ("found".to_owned(), 0));
    assert_eq!(impound(["disk".to_owned(), format!("{name}:p2:#12"), "cat".to_owned()]), ("found".to_owned(), 0));
    assert_eq!(impound(["disk".to_owned(), format!("{name}:p1"), "ls".to_owned()]).1, 1);
    for at in [512, 512 + 24, 1024 + 40] {
        let mut damaged = raw.clone();
        damaged[at] ^= 0xff;
        std::fs::write(&image, damaged).unwrap();
        let found = scan(&bytes(&image)).unwrap();
        assert!(found.odd.iter().any(|line| line.contains("backup GPT header")), "{at}: {:?}", found.odd);
        assert_eq!(numbers(&image), [(1, 2048), (2, 10240)]);
        assert_eq!(found.numbered(2).unwrap().name.as_deref(), Some("data"));
    }
}

/// Two file systems with a file of the same name: each is extracted under the name of its volume. A file that is named is listed
/// and extracted alone.
#[test]
fn files_of_several_volumes_stay_apart_and_one_that_is_named_comes_alone() {
    let temp = folder();
    let image = sfdisk(temp.path(), "label: gpt\nstart=2048,size=32768\nstart=34816,size=32768\n");
    let mut raw = std::fs::read(&image).unwrap();
    for (number, at) in [("first", 2048), ("second", 34816)] {
        let (tree, part) = (temp.path().join(number), temp.path().join(format!("{number}.img")));
        std::fs::create_dir(&tree).unwrap();
        std::fs::write(tree.join("same"), number).unwrap();
        make(&part, &["-t", "ext4"], &tree, "16M");
        let bytes = std::fs::read(&part).unwrap();
        raw[at * 512..at * 512 + bytes.len()].copy_from_slice(&bytes);
    }
    std::fs::write(&image, raw).unwrap();
    let extract = |inside: &str, into: &str| {
        let (from, out) = (format!("{}{inside}", image.display()), temp.path().join(into));
        let (_, code) = impound(["disk", &from, "extract", "-o", &out.to_string_lossy()]);
        assert_eq!(code, 0, "{inside}");
        out.join("files")
    };
    let both = extract("", "both");
    assert_eq!(std::fs::read_to_string(both.join("p1/same")).unwrap(), "first");
    assert_eq!(std::fs::read_to_string(both.join("p2/same")).unwrap(), "second");
    let one = extract(":p2:/same", "one");
    assert_eq!(std::fs::read_to_string(one.join("same")).unwrap(), "second");
    assert_eq!(std::fs::read_dir(&one).unwrap().count(), 1);
    let named = format!("{}:p2:/same", image.display());
    let (rows, code) = impound(["--format", "json", "disk", &named, "ls"]);
    let rows: Vec<serde_json::Value> = serde_json::from_str(&rows).unwrap();
    assert_eq!((rows.len(), &rows[0]["path"], &rows[0]["size"], code), (1, &"/same".into(), &6.into(), 0));
}
