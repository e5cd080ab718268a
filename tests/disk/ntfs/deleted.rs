//! Deleted files, names in the slack of directories, times that were set back.

use impound::disk::fs::{Confidence, FileKind, State};
use impound::disk::walk::find;

use super::{make, mounted, noise};
use crate::kit::{folder, impound, open, read};

#[test]
fn deleted_files_come_back_with_their_names_and_streams() {
    let temp = folder();
    let image = make(temp.path(), 32, &[]);
    let contents =
        |n: usize| if n.is_multiple_of(3) { format!("tiny {n}").into_bytes() } else { noise(9_000 + n * 1000, 5) };
    let Some(()) = mounted(&image, |root| {
        std::fs::create_dir_all(root.join("home/inner")).unwrap();
        for n in 0..12 {
            std::fs::write(root.join(format!("home/inner/file{n}")), contents(n)).unwrap();
        }
        std::fs::write(root.join("home/inner/file1:secret"), noise(20_000, 9)).unwrap();
        std::fs::write(root.join("kept"), "kept").unwrap();
    }) else {
        return;
    };
    let before = open(&image).lost().unwrap();
    assert!(before.is_empty(), "{:?}", before.iter().map(|lost| &lost.path).collect::<Vec<_>>());
    mounted(&image, |root| std::fs::remove_dir_all(root.join("home")).unwrap());
    let fs = open(&image);
    let lost = fs.lost().unwrap();
    let get = |path: &str| {
        let found = lost.iter().find(|lost| lost.path.as_deref() == Some(path.as_bytes()));
        found.unwrap_or_else(|| panic!("{path} in {:?}", lost.iter().map(|l| &l.path).collect::<Vec<_>>()))
    };
    for n in 0..12 {
        let found = get(&format!("/home/inner/file{n}"));
        assert_eq!((found.state, found.confidence), (State::Deleted, Confidence::Whole), "{n}");
        assert!(read(found.content.as_ref().unwrap().as_ref()) == contents(n), "{n}");
    }
    assert!(read(get("/home/inner/file1:secret").content.as_ref().unwrap().as_ref()) == noise(20_000, 9));
    assert_eq!(get("/home/inner").node.kind, Some(FileKind::Directory));
    // Another file takes the clusters of one: that is seen in the books.
    let taken = get("/home/inner/file11").node.inode;
    mounted(&image, |root| {
        for n in 0..40 {
            // No name may take the record of a deleted one, so that what is left is only the content.
            let _ = std::fs::OpenOptions::new()
                .append(true)
                .open(root.join("kept"))
                .and_then(|mut file| std::io::Write::write_all(&mut file, &noise(700_000, n)));
        }
    });
    let after = open(&image).lost().unwrap();
    let reused = after.iter().find(|lost| lost.node.inode == taken).unwrap();
    assert!(reused.reused > 0 && reused.confidence != Confidence::Whole, "{:?} {}", reused.confidence, reused.reused);
    assert!(after.iter().filter(|lost| lost.blocks == 0).all(|lost| lost.confidence == Confidence::Whole));
}

#[test]
fn a_name_whose_record_was_given_out_again_is_still_in_the_slack_of_its_directory() {
    let temp = folder();
    let image = make(temp.path(), 16, &[]);
    let Some(()) = mounted(&image, |root| {
        std::fs::create_dir(root.join("dir")).unwrap();
        for n in 0..40 {
            std::fs::write(root.join(format!("dir/a rather long name {n:02}")), vec![7; 1000 + n]).unwrap();
        }
    }) else {
        return;
    };
    let number = find(open(&image).as_ref(), b"/dir/a rather long name 39").unwrap();
    mounted(&image, |root| {
        std::fs::remove_file(root.join("dir/a rather long name 39")).unwrap();
        std::fs::write(root.join("another"), "new").unwrap();
    });
    let fs = open(&image);
    assert_eq!(find(fs.as_ref(), b"/another").unwrap(), number, "the driver gave out another record");
    let directory = find(fs.as_ref(), b"/dir").unwrap();
    assert_eq!(fs.entries(directory, false).unwrap().entries.len(), 39);
    let listing = fs.entries(directory, true).unwrap();
    let old: Vec<_> = listing.entries.iter().filter(|entry| entry.state == State::Deleted).collect();
    assert!(old.iter().any(|entry| entry.name == b"a rather long name 39" && entry.inode != number), "{old:?}");
    let lost = fs.lost().unwrap();
    let found = lost.iter().find(|lost| lost.path.as_deref() == Some(b"/dir/a rather long name 39")).unwrap();
    assert_eq!((found.confidence, found.node.size, found.content.is_none()), (Confidence::NoMap, 1039, true));
    assert!(found.source.contains("slack") && found.node.times.born.is_some());
    let (text, _) = impound(["disk", &format!("{}:/dir", image.display()), "ls", "--deleted"]);
    assert!(text.contains("a rather long name 39"), "{text}");
}

#[test]
fn times_that_were_set_back_are_told_by_those_of_the_name() {
    let temp = folder();
    let image = make(temp.path(), 16, &[]);
    let Some(()) = mounted(&image, |root| {
        std::fs::write(root.join("tool.exe"), "MZ").unwrap();
        std::fs::write(root.join("honest"), "x").unwrap();
    }) else {
        return;
    };
    // ntfs-3g sets the times of the name as well; a tool on Windows can only set those of $STANDARD_INFORMATION, which is
    // the first attribute of a record. 2001-09-09 01:46:40 is written there.
    let ticks = (1_000_000_000_u64 + 11_644_473_600) * 10_000_000;
    let fs = open(&image);
    let record = fs.runs(0).unwrap()[0].physical * fs.block_size() + find(fs.as_ref(), b"/tool.exe").unwrap() * 1024;
    let mut raw = std::fs::read(&image).unwrap();
    let record = &mut raw[usize::try_from(record).unwrap()..];
    let attribute = usize::from(record[20]);
    let value = attribute + usize::from(record[attribute + 20]);
    record[value..value + 8].copy_from_slice(&ticks.to_le_bytes());
    std::fs::write(&image, raw).unwrap();
    let fs = open(&image);
    let node = |path: &[u8]| fs.node(find(fs.as_ref(), path).unwrap()).unwrap();
    let told = |path: &[u8]| node(path).facts.into_iter().find(|(name, _)| name == "earlier than its name");
    assert_eq!(node(b"/tool.exe").times.born.unwrap().to_string(), "2001-09-09T01:46:40Z");
    let (_, why) = told(b"/tool.exe").expect("the birth was set back");
    assert!(why.contains("2001-09-09") && why.contains("timestomp"), "{why}");
    assert_eq!(told(b"/honest"), None);
}
