//! The damage table: whatever is done to a sealed case, `verify` says what it was, and `verify.sh` refuses the case too,
//! under dash with GNU tools and under busybox with its own.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use impound::case::custody::EventKind;
use impound::case::verify::Options;
use impound::case::{Case, Signer};
use rayon::prelude::*;

use crate::kit::{self, BLOCK, Shell, build, copy, edit, edit_lines, event, findings, key, replace, verify_sh};

const MEMORY: &str = "exhibits/web01-memory-20261124T103000Z";
const DISK: &str = "exhibits/web01-vda-20261124T103000Z";

/// What one row may use.
struct Scene {
    /// A signed case, to be damaged.
    case: PathBuf,
    /// Keys: `good`, which signed, and `evil`.
    keys: PathBuf,
    /// The case as it was some events earlier.
    earlier: PathBuf,
}

impl Scene {
    fn at(&self, path: &str) -> PathBuf {
        self.case.join(path)
    }

    /// The attacker goes on with the log, signing with a key of their own, or not at all.
    fn resign(&self, key: &str) {
        let signer = Signer::new(self.keys.join(key)).unwrap();
        let case = Case::open(&self.case).unwrap().signed_by(signer, "Mallory").unwrap();
        case.custody().append(&[event(EventKind::Note)]).unwrap();
    }
}

/// What is done, the name of the finding, words of its message.
type Row = (&'static str, fn(&Scene), &'static str, &'static str);

fn flip(path: &Path, at: usize) {
    edit(path, |bytes| bytes[at] ^= 1);
}

fn log_lines(scene: &Scene, change: impl FnOnce(&mut Vec<String>)) {
    edit_lines(&scene.at("custody.jsonl"), change);
}

fn memory(scene: &Scene) -> PathBuf {
    scene.at(MEMORY).join("data/memory.raw")
}

#[rustfmt::skip]
const ROWS: &[Row] = &[
    // One bit of each kind of file.
    ("bit in data, first block", |s| flip(&memory(s), 7), "changed", "memory.raw: changed in bytes 0..1048576"),
    ("bit in data, last block", |s| flip(&memory(s), 2 * BLOCK + 9), "changed", "2097152..2101248"),
    ("bits in two blocks", |s| { flip(&memory(s), 1); flip(&memory(s), 2 * BLOCK); }, "changed", "0..1048576, 2097152..2101248"),
    ("bit in data without map", |s| flip(&s.at(DISK).join("data/vda.raw"), 3), "changed", "vda.raw: changed"),
    ("bit in exhibit.json", |s| replace(&s.at(MEMORY).join("exhibit.json"), "4711", "4712"), "changed", "exhibit.json: changed"),
    ("bit in blocks.jsonl", |s| replace(&s.at(MEMORY).join("blocks.jsonl"), "\"chain\":\"", "\"chain\":\"0"), "changed", "blocks.jsonl: changed"),
    ("bit in wire.jsonl", |s| replace(&s.at(MEMORY).join("wire.jsonl"), "stop", "cont"), "changed", "wire.jsonl: changed"),
    ("bit in bagit.txt", |s| replace(&s.at(DISK).join("bagit.txt"), "1.0", "1.1"), "unknown-schema", "BagIt-Version: 1.1"),
    ("bit in bag-info.txt", |s| replace(&s.at(DISK).join("bag-info.txt"), "Ada", "Adb"), "changed", "bag-info.txt: changed"),
    ("bit in payload manifest", |s| flip(&s.at(DISK).join("manifest-sha256.txt"), 0), "changed", "manifest-sha256.txt: changed"),
    ("bit in tag manifest", |s| flip(&s.at(DISK).join("tagmanifest-sha256.txt"), 0), "exhibit-exchanged", "not the one that was sealed"),
    ("bit in exhibit's signature", |s| flip(&s.at(DISK).join("tagmanifest-sha256.txt.sig"), 120), "bad-signature", "tagmanifest-sha256.txt: the signature does not fit"),
    ("bit in head", |s| replace(&s.at("custody.head"), "\"count\":", "\"count\":1"), "log-cut", "the tail was cut off"),
    ("bit in head's signature", |s| flip(&s.at("custody.head.sig"), 120), "bad-signature", "custody.head: the signature does not fit"),
    ("bit in case.json", |s| replace(&s.at("case.json"), "4711", "4712"), "changed", "case.json: changed"),
    ("bit in allowed_signers", |s| replace(&s.at("allowed_signers"), "Ada", "Adb"), "changed", "allowed_signers: changed"),
    ("bit in verify.sh", |s| replace(&s.at("verify.sh"), "exit 5", "exit 0"), "changed", "verify.sh: changed"),
    ("bit in journal", |s| replace(&s.at("journal/r1.jsonl"), "resume", "rezume"), "changed", "journal/r1.jsonl: changed"),
    ("bit in journal's wire log", |s| replace(&s.at("journal/r1.wire.jsonl"), "stop", "cont"), "changed", "r1.wire.jsonl: changed"),
    // Lengths.
    ("data truncated", |s| edit(&memory(s), |b| b.truncate(BLOCK + 5)), "resized", "1048581 bytes long, sealed with 2101248"),
    ("data truncated to nothing", |s| edit(&memory(s), Vec::clear), "resized", "0 bytes long"),
    ("data grown", |s| edit(&memory(s), |b| b.push(0)), "resized", "2101249 bytes long"),
    ("data grown, without map", |s| edit(&s.at(DISK).join("data/vda.raw"), |b| b.push(0)), "resized", "13 bytes long, sealed with 12"),
    ("manifest cut", |s| edit(&s.at(DISK).join("manifest-sha256.txt"), |b| b.truncate(40)), "bad-manifest", "manifest-sha256.txt: line 1"),
    // Removed and added.
    ("data removed", |s| fs::remove_file(memory(s)).unwrap(), "removed", "memory.raw: removed"),
    ("tag file removed", |s| fs::remove_file(s.at(DISK).join("exhibit.json")).unwrap(), "removed", "exhibit.json: removed"),
    ("tag manifest removed", |s| fs::remove_file(s.at(DISK).join("tagmanifest-sha256.txt")).unwrap(), "removed", "tagmanifest-sha256.txt: removed"),
    ("payload manifest removed", |s| fs::remove_file(s.at(DISK).join("manifest-sha256.txt")).unwrap(), "removed", "manifest-sha256.txt: removed"),
    ("case.json removed", |s| fs::remove_file(s.at("case.json")).unwrap(), "removed", "case.json: removed"),
    ("custody.jsonl removed", |s| fs::remove_file(s.at("custody.jsonl")).unwrap(), "removed", "custody.jsonl: removed"),
    ("custody.head removed", |s| fs::remove_file(s.at("custody.head")).unwrap(), "removed", "custody.head: removed"),
    ("journal removed", |s| fs::remove_file(s.at("journal/r1.jsonl")).unwrap(), "removed", "journal/r1.jsonl: removed"),
    ("file added to data", |s| fs::write(s.at(MEMORY).join("data/x"), b"").unwrap(), "added", "data/x: added (file)"),
    ("file added to bag", |s| fs::write(s.at(MEMORY).join("x"), b"").unwrap(), "added", "x: added (file)"),
    ("file added to case", |s| fs::write(s.at("x"), b"").unwrap(), "added", "x: added (file)"),
    ("file added to exhibits", |s| fs::write(s.at("exhibits/x"), b"").unwrap(), "added", "exhibits/x: added (file)"),
    ("file added to journal", |s| fs::write(s.at("journal/r2.jsonl"), b"").unwrap(), "added", "r2.jsonl: added"),
    ("time stamp that is a folder", |s| fs::create_dir(s.at(DISK).join("tagmanifest-sha256.txt.tsr")).unwrap(), "added", "added (empty folder)"),
    ("empty folder added", |s| fs::create_dir(s.at(MEMORY).join("data/d")).unwrap(), "added", "added (empty folder)"),
    ("folder added to case", |s| fs::create_dir(s.at("d")).unwrap(), "added", "d: added (folder)"),
    ("link added", |s| symlink("memory.raw", s.at(MEMORY).join("data/link")).unwrap(), "added", "added (symbolic link)"),
    ("link added to case", |s| symlink("/etc", s.at("link")).unwrap(), "added", "added (symbolic link)"),
    ("pipe added", |s| mkfifo(&s.at(MEMORY).join("data/pipe")), "added", "added (pipe, socket or device)"),
    ("name with newline and listed lines added", |s| fs::write(s.at(DISK).join("bagit.txt\n.\nexhibit.json"), b"").unwrap(), "added", "bagit.txt\\n.\\nexhibit.json: added"),
    ("name that is not UTF-8 added", |s| fs::write(s.at("exhibits").join(std::ffi::OsStr::from_bytes(b"\xff\x1b[2J")), b"").unwrap(), "added", "\\xff\\u{1b}[2J: added"),
    ("data replaced by a link to its copy", |s| relink(&memory(s), &s.keys.join("copy")), "replaced", "memory.raw: a symbolic link"),
    ("data folder replaced by a link", |s| relink(&s.at(MEMORY).join("data"), &s.keys.join("data")), "added", "data: added (symbolic link)"),
    ("exhibit replaced by a link", |s| relink(&s.at(MEMORY), &s.keys.join("bag")), "added", "added (symbolic link)"),
    ("case.json replaced by a link", |s| relink(&s.at("case.json"), &s.keys.join("c")), "replaced", "case.json: a symbolic link"),
    // The log.
    ("line removed from the middle", |s| log_lines(s, |l| drop(l.remove(4))), "log-removed", "events 5 to 5 were removed"),
    ("first line removed", |s| log_lines(s, |l| drop(l.remove(0))), "log-removed", "events 1 to 1"),
    ("line removed from the tail", |s| log_lines(s, |l| drop(l.pop())), "log-cut", "the tail was cut off"),
    ("lines swapped", |s| log_lines(s, |l| l.swap(4, 5)), "log-reordered", "event 6 of the custody log does not stand"),
    ("line twice", |s| log_lines(s, |l| l.insert(5, l[4].clone())), "log-reordered", "event 5"),
    ("line altered", |s| log_lines(s, |l| l[4] = l[4].replace("Ada", "Eve")), "log-altered", "event 5 of the custody log was altered"),
    ("last line altered", |s| log_lines(s, |l| { let n = l.len() - 1; l[n] = l[n].replace("seized", "bought"); }), "head-disagrees", "altered, or the head was replaced"),
    ("line is nonsense", |s| log_lines(s, |l| "{}".clone_into(&mut l[4])), "log-malformed", "line 5 of the custody log is no event"),
    ("line hidden behind another field order", |s| log_lines(s, |l| l[4] = l[4].replacen("{\"n\":5,", "{", 1).replacen('}', ",\"n\":5}", 1)), "log-malformed", "line 5"),
    ("zero byte in the log", |s| edit(&s.at("custody.jsonl"), |b| b.insert(700, 0)), "log-malformed", "is no event"),
    ("line added, head left", |s| log_lines(s, |l| l.push(l[0].clone())), "log-reordered", "event 1"),
    ("torn line added", |s| edit(&s.at("custody.jsonl"), |b| b.extend(b"{\"n\":")), "log-torn", "in the middle of a line"),
    ("log and head of another time, signature left", |s| take_back(s, &["custody.jsonl", "custody.head"]), "bad-signature", "custody.head"),
    ("head replaced, unsigned", |s| write_head(s, "ab"), "head-disagrees", "custody.head"),
    ("head replaced by an older one with its signature", |s| take_back(s, &["custody.head", "custody.head.sig"]), "log-ahead", "its head counts"),
    ("log, head and signature rolled back", |s| take_back(s, &["custody.jsonl", "custody.head", "custody.head.sig"]), "exhibit-unlogged", "the custody log does not know it"),
    ("log written anew with the right key", rewrite, "log-rolled-back", "rolled back or replaced"),
    ("head of a later schema", |s| replace(&s.at("custody.head"), "head/1", "head/2"), "unknown-schema", "impound-head/2"),
    // Signatures.
    ("head signed by another key", |s| { s.resign("evil"); fs::copy(s.earlier.join("allowed_signers"), s.at("allowed_signers")).unwrap(); }, "wrong-signer", "a key that is not trusted"),
    ("head's signature removed", |s| fs::remove_file(s.at("custody.head.sig")).unwrap(), "signature-missing", "custody.head: not signed"),
    ("exhibit's signature removed", |s| fs::remove_file(s.at(DISK).join("tagmanifest-sha256.txt.sig")).unwrap(), "signature-missing", "tagmanifest-sha256.txt: not signed"),
    ("exhibit signed again by another key", |s| sign_again(s, "evil"), "wrong-signer", "not by the key that the custody log names"),
    ("exhibit's signature is another file's", |s| { fs::copy(s.at("custody.head.sig"), s.at(DISK).join("tagmanifest-sha256.txt.sig")).unwrap(); }, "bad-signature", "does not fit"),
    // Exhibits.
    ("exhibit removed", |s| fs::remove_dir_all(s.at(DISK)).unwrap(), "exhibit-missing", "sealed by the log, and not there"),
    ("exhibit renamed", |s| fs::rename(s.at(DISK), s.at("exhibits/other")).unwrap(), "exhibit-unlogged", "exhibits/other: the custody log does not know it"),
    ("exhibit copied", |s| copy(&s.at(DISK), &s.at("exhibits/copy")), "exhibit-unlogged", "exhibits/copy"),
    ("exhibit put under another's name", |s| { fs::remove_dir_all(s.at(DISK)).unwrap(); copy(&s.at(MEMORY), &s.at(DISK)); }, "disagrees", "renamed or copied"),
    ("draft beside the sealed exhibit", |s| copy(&s.at(DISK), &s.at(&format!("{DISK}.partial"))), "exhibit-unlogged", ".partial"),
    ("exhibit changed and sealed again", |s| reseal(s), "exhibit-exchanged", "another than the log says"),
    ("exhibit of a later schema", |s| replace(&s.at(DISK).join("exhibit.json"), "exhibit/1", "exhibit/2"), "unknown-schema", "impound-exhibit/2"),
    ("case of a later schema", |s| replace(&s.at("case.json"), "case/1", "case/2"), "unknown-schema", "impound-case/2"),
    ("manifest leads out", |s| edit(&s.at(DISK).join("manifest-sha256.txt"), |b| { let l = String::from_utf8(b.clone()).unwrap().replace("data/vda.raw", "data/../../x"); b.extend(l.bytes()); }), "bad-manifest", "leads out of the bag"),
    ("manifest lists twice", |s| edit(&s.at(DISK).join("manifest-sha256.txt"), |b| b.extend(b.clone())), "bad-manifest", "listed before"),
];

fn mkfifo(path: &Path) {
    assert!(std::process::Command::new("mkfifo").arg(path).status().unwrap().success());
}

fn relink(path: &Path, elsewhere: &Path) {
    fs::rename(path, elsewhere).unwrap();
    symlink(elsewhere, path).unwrap();
}

fn take_back(scene: &Scene, names: &[&str]) {
    for name in names {
        fs::copy(scene.earlier.join(name), scene.at(name)).unwrap();
    }
}

fn write_head(scene: &Scene, hash: &str) {
    let old = fs::read_to_string(scene.at("custody.head")).unwrap();
    let (front, _) = old.split_once("\"hash\":\"").unwrap();
    fs::write(scene.at("custody.head"), format!("{front}\"hash\":\"{}\"}}\n", hash.repeat(32))).unwrap();
}

/// Changes an early event and chains, counts and signs all that follows as if it had always been so.
fn rewrite(scene: &Scene) {
    let mut prev = "0".repeat(64);
    log_lines(scene, |lines| {
        lines[0] = lines[0].replace("warrant", "no warrant");
        for line in lines {
            let old = line.split("\"prev\":\"").nth(1).unwrap()[..64].to_owned();
            *line = line.replacen(&old, &prev, 1);
            prev = kit::hex(&<sha2::Sha256 as sha2::Digest>::digest(line.as_bytes()));
        }
    });
    let old = fs::read_to_string(scene.at("custody.head")).unwrap();
    let (front, _) = old.split_once("\"hash\":\"").unwrap();
    fs::write(scene.at("custody.head"), format!("{front}\"hash\":\"{prev}\"}}\n")).unwrap();
    sign(&scene.at("custody.head"), &scene.keys.join("good"));
}

fn sign_again(scene: &Scene, key: &str) {
    sign(&scene.at(DISK).join("tagmanifest-sha256.txt"), &scene.keys.join(key));
}

fn sign(file: &Path, key: &Path) {
    fs::remove_file(format!("{}.sig", file.display())).unwrap();
    let mut command = std::process::Command::new("ssh-keygen");
    let status = command.args(["-q", "-Y", "sign", "-n", "impound", "-f"]).args([key, file]).output();
    assert!(status.unwrap().status.success());
}

/// Changes the data, and every digest up to the tag manifest and its signature (with the good key, even).
fn reseal(scene: &Scene) {
    let dir = scene.at(DISK);
    let sum = |path: &Path| kit::hex(&<sha2::Sha256 as sha2::Digest>::digest(fs::read(path).unwrap()));
    let swap = |file: &str, of: &str, old: &str| replace(&dir.join(file), old, &sum(&dir.join(of)));
    let [data, manifest, json] =
        ["data/vda.raw", "manifest-sha256.txt", "exhibit.json"].map(|file| (file, sum(&dir.join(file))));
    flip(&dir.join(data.0), 3);
    swap("manifest-sha256.txt", data.0, &data.1);
    swap("exhibit.json", data.0, &data.1);
    swap("tagmanifest-sha256.txt", manifest.0, &manifest.1);
    swap("tagmanifest-sha256.txt", json.0, &json.1);
    sign_again(scene, "good");
}

fn with_scene(check: impl Fn(&(dyn Fn() -> (tempfile::TempDir, Scene) + Sync), &Path)) {
    let base = tempfile::tempdir().unwrap();
    let (good, _) = (key(base.path(), "good"), key(base.path(), "evil"));
    let (earlier, now) = (base.path().join("earlier"), base.path().join("now"));
    // The log as it was before the exhibits were sealed, of the very same case.
    build(&now, Some(&good));
    copy(&now, &earlier);
    let case = Case::open(&now).unwrap().signed_by(Signer::new(&good).unwrap(), "Ada Lovelace").unwrap();
    kit::seal(&case, "vdb", b"later", false, impound::case::Outcome::Complete, &now.join("journal/r1.wire.jsonl"));
    case.note("seized the disks", "Ada Lovelace").unwrap();
    let scene = || {
        let dir = tempfile::tempdir().unwrap();
        let keys = dir.path().join("keys");
        fs::create_dir(&keys).unwrap();
        for name in ["good", "good.pub", "evil", "evil.pub"] {
            fs::copy(base.path().join(name), keys.join(name)).unwrap();
        }
        let case = dir.path().join("case");
        copy(&now, &case);
        (dir, Scene { case, keys, earlier: earlier.clone() })
    };
    check(&scene, &now.join("verify.sh"));
}

#[test]
fn the_undamaged_case_passes_everywhere() {
    with_scene(|scene, script| {
        let (_dir, scene) = scene();
        let options = Options { whole: true, ..Options::default() };
        let (exit, found) = findings(&scene.case, &options);
        assert_eq!((exit, found.len()), (0, 1), "{found:?}");
        assert_eq!(found[0].0, "self-asserted");
        for shell in [Shell::Dash, Shell::Busybox] {
            let out = verify_sh(shell, script, &[], &scene.case);
            assert_eq!(out.status.code(), Some(0), "{shell:?}: {out:?}");
            assert!(out.stderr.is_empty(), "{shell:?}: {out:?}");
            let text = String::from_utf8_lossy(&out.stdout);
            assert!(text.contains("keys that come with the case") && !text.contains("nothing is signed"), "{text}");
        }
    });
}

#[test]
fn every_damage_is_named_by_verify_and_refused_by_the_script() {
    with_scene(|scene, script| {
        let wrong: Vec<String> = ROWS
            .par_iter()
            .flat_map(|(what, damage, name, words)| {
                let (_dir, scene) = scene();
                damage(&scene);
                let (exit, found) = findings(&scene.case, &Options::default());
                let named = found.iter().any(|(n, message)| n == name && message.contains(words));
                let mut wrong = Vec::new();
                if exit != 5 || !named {
                    wrong.push(format!("{what}: exit {exit}, wanted {name} ({words}), got {found:#?}"));
                }
                for shell in [Shell::Dash, Shell::Busybox] {
                    let out = verify_sh(shell, script, &[], &scene.case);
                    let text = String::from_utf8_lossy(&out.stdout).into_owned();
                    let clean = out.stdout.iter().all(|b| *b == b'\n' || (b' '..=b'~').contains(b));
                    if out.status.code() != Some(5) || !text.contains("FAILED: ") || !clean {
                        wrong.push(format!("{what}: {shell:?}: {out:?}"));
                    }
                }
                wrong
            })
            .collect();
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    });
}
