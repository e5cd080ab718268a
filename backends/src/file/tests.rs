//! The backend as `acquire` uses it.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

use super::source::safe_name;
use super::*;
use crate::{Access, Consistency, Forgetful, Piece, Why};

fn how(from: u64) -> How {
    How {
        memory_method: None,
        require: Consistency::Live,
        max_pause: None,
        scratch: std::env::temp_dir(),
        scratch_there: None,
        holder: "a test".into(),
        run: "t".into(),
        start_at: BTreeMap::from([("disk.img".into(), from)]),
        begun_by: BTreeMap::new(),
        options: BTreeMap::new(),
        since: BTreeMap::new(),
    }
}

async fn target(path: &Path) -> Result<Box<dyn Target>, BackendError> {
    let uri: Uri = format!("file:{}", path.display()).parse().unwrap();
    File.connect(&uri, &Access::default()).await?.open(None).await
}

/// Reads all pieces into an image; holes are filled with 0xee so that they are told from zeros.
async fn image(target: &mut dyn Target, from: u64) -> Result<(Vec<u8>, u64), BackendError> {
    let items = target.items().await?;
    let mut journal = Forgetful::default();
    target.prepare(&items, &how(from), &mut journal).await?;
    let mut captures = target.begin(&mut journal).await?;
    let mut capture = captures.pop().unwrap();
    let mut bytes = vec![0xaa; usize::try_from(capture.len).unwrap()];
    let mut sparse = 0;
    while let Some(piece) = capture.pieces.recv().await {
        match piece? {
            Piece::Data { at, bytes: data } => {
                let at = usize::try_from(at).unwrap();
                bytes[at..at + data.len()].copy_from_slice(&data);
            }
            Piece::Gap { at, len, why: Why::Sparse } => {
                sparse += len;
                bytes[usize::try_from(at).unwrap()..usize::try_from(at + len).unwrap()].fill(0);
            }
            other => panic!("{other:?}"),
        }
    }
    Ok((bytes, sparse))
}

#[tokio::test]
async fn a_file_comes_whole_holes_as_gaps_and_odd_ends_as_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("Disk.IMG");
    let mut file = fs::File::create(&path).unwrap();
    file.write_all(&[1; 5000]).unwrap();
    file.seek(SeekFrom::Start(9 << 20)).unwrap();
    file.write_all(&vec![2; 3_000_001]).unwrap();
    file.set_len((20 << 20) + 77).unwrap();
    let mut target = target(&path).await.unwrap();
    assert_eq!(target.items().await.unwrap()[0].name, "disk.img");
    let (bytes, sparse) = image(&mut *target, 0).await.unwrap();
    assert_eq!(bytes, fs::read(&path).unwrap());
    assert!(sparse >= 16 << 20, "{sparse}");
    let finished = target.finish(&mut Forgetful::default()).await.unwrap();
    assert_eq!(finished.problems, Vec::<String>::new());
}

#[tokio::test]
async fn it_goes_on_where_it_is_told_and_an_empty_file_has_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.img");
    fs::write(&path, vec![7; 3 << 20]).unwrap();
    let (bytes, _) = image(&mut *target(&path).await.unwrap(), 2 << 20).await.unwrap();
    assert!(bytes[..2 << 20].iter().all(|b| *b == 0xaa) && bytes[2 << 20..].iter().all(|b| *b == 7));
    assert!(image(&mut *target(&path).await.unwrap(), 4 << 20).await.is_err());
    fs::write(&path, []).unwrap();
    assert!(image(&mut *target(&path).await.unwrap(), 0).await.unwrap().0.is_empty());
}

#[tokio::test]
async fn what_changes_while_it_is_read_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.img");
    for (change, word) in [("grow", "grew"), ("write", "written to"), ("replace", "another file"), ("remove", "gone")] {
        fs::write(&path, vec![7; 1 << 20]).unwrap();
        let mut target = target(&path).await.unwrap();
        image(&mut *target, 0).await.unwrap();
        std::thread::sleep(std::time::Duration::from_millis(20));
        let mut file = fs::OpenOptions::new().write(true).open(&path).unwrap();
        match change {
            "grow" => file.set_len(2 << 20).unwrap(),
            "write" => file.write_all(b"x").unwrap(),
            "replace" => {
                fs::write(folder.path().join("other"), vec![7; 1 << 20]).unwrap();
                fs::rename(folder.path().join("other"), &path).unwrap();
            }
            _ => fs::remove_file(&path).unwrap(),
        }
        let problems = target.finish(&mut Forgetful::default()).await.unwrap().problems;
        let right = problems.len() == 1 && (problems[0].contains(word) || problems[0].contains("its owner"));
        assert!(right, "{change}: {problems:?}");
    }
}

#[tokio::test]
async fn a_file_that_shrinks_under_the_reader_is_an_error_not_zeros() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.img");
    fs::write(&path, vec![7; 4 << 20]).unwrap();
    let mut target = target(&path).await.unwrap();
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(1 << 20).unwrap();
    let error = image(&mut *target, 0).await.unwrap_err();
    assert!(error.to_string().contains("shrank"), "{error}");
    let problems = target.finish(&mut Forgetful::default()).await.unwrap().problems;
    assert!(problems[0].contains("shrank"), "{problems:?}");
}

#[tokio::test]
async fn what_is_no_image_is_refused_with_its_kind() {
    let folder = tempfile::tempdir().unwrap();
    let fifo = folder.path().join("fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0).unwrap();
    for (path, word) in
        [(folder.path(), "a folder"), (fifo.as_path(), "a FIFO"), (Path::new("/dev/null"), "a character device")]
    {
        let error = target(path).await.err().unwrap();
        assert!(error.to_string().contains(word), "{error}");
    }
    let missing = target(&folder.path().join("none")).await.err().unwrap();
    assert_eq!(missing.kind, crate::Kind::Io);
    let relative = File.connect(&"file:disk.img".parse().unwrap(), &Access::default()).await.err().unwrap();
    assert!(relative.to_string().contains("absolute"));
}

/// A loop device, detached in the end.
struct Loop(String);

impl Loop {
    /// `None` where this user or machine has none.
    fn read_only(image: &Path) -> Option<Self> {
        let out = std::process::Command::new("losetup").args(["-r", "-f", "--show"]).arg(image).output().ok()?;
        out.status.success().then(|| Self(String::from_utf8(out.stdout).unwrap().trim().to_owned()))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = std::process::Command::new("losetup").args(["-d", &self.0]).status();
    }
}

#[tokio::test]
async fn a_block_device_is_measured_by_its_end_and_a_read_only_one_holds_still() {
    let folder = tempfile::tempdir().unwrap();
    let image_path = folder.path().join("disk.img");
    let expected: Vec<u8> = (0..3 << 20).map(|i: u32| i.to_le_bytes()[i as usize % 3]).collect();
    fs::write(&image_path, &expected).unwrap();
    let Some(device) = Loop::read_only(&image_path) else { return println!("skipped: no loop device here") };
    let mut target = target(Path::new(&device.0)).await.unwrap();
    let items = target.items().await.unwrap();
    assert_eq!(items[0].methods[0].consistency, Consistency::Instantaneous);
    let (bytes, sparse) = image(&mut *target, 0).await.unwrap();
    assert!(bytes == expected && sparse == 0);
    assert!(target.finish(&mut Forgetful::default()).await.unwrap().problems.is_empty());
}

#[test]
fn names_are_made_safe() {
    for (path, name) in [("/a/Disk 1.img", "disk_1.img"), ("/a/..", "disk"), ("/a/.hidden", "hidden"), ("/ä", "_")] {
        assert_eq!(safe_name(Path::new(path)), name);
    }
}
