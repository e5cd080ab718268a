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
