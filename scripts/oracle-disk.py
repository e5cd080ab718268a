"""Compares impound with The Sleuth Kit and the kernel on images made here: oracle-disk.py WORK OUTPUT.

An image is a row of IMAGES; a question is a function in QUESTIONS that gives rows of the table. What is known of why an answer
differs stands in KNOWN, by image and question; a difference that is not there fails the run.
"""

import hashlib
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

WORK, OUTPUT = Path(sys.argv[1]), Path(sys.argv[2])
IMPOUND = os.environ["IMPOUND"]


@dataclass
class Image:
    """How one is made: a command that formats it, what fills and reads it beside us, and what of names it can hold.

    `driver` is one of the kernel's (or of FUSE) that mounts it, or `mtools` or `xorriso`, which need no mount. `numbers`: are
    inodes what the file system itself says, so that all must agree on them?
    """

    name: str
    make: list
    size: int = 96
    driver: str = "ext4"
    options: str = "loop"
    posix: bool = True
    sleuth: bool = True
    numbers: bool = True

    def oracle(self):
        return self.driver if self.driver in ("mtools", "xorriso") else "kernel"


def ext(name, *args, **more):
    return Image(name, ["mke2fs", "-q", "-F", *args], **more)


IMAGES = [
    ext("ext2", "-t", "ext2", "-b", "1024"),
    ext("ext3", "-t", "ext3", "-b", "4096"),
    ext("ext4", "-t", "ext4", "-b", "4096"),
    ext("ext4, 1 KiB blocks, 128-byte inodes", "-t", "ext4", "-b", "1024", "-I", "128"),
    ext("ext4, bigalloc", "-t", "ext4", "-b", "4096", "-O", "bigalloc", "-C", "16384", sleuth=False),
    ext("ext4, inline data", "-t", "ext4", "-b", "4096", "-O", "inline_data", "-J", "size=16"),
    ext("ext4, meta_bg, uninit_bg", "-t", "ext4", "-b", "1024", "-O", "^metadata_csum,uninit_bg,meta_bg,^resize_inode"),
    Image("NTFS", ["mkntfs", "-q", "-F", "-f"], driver="ntfs-3g"),
    Image("FAT12", ["mkfs.fat", "-F", "12", "-s", "64"], driver="mtools", posix=False, numbers=False),
    Image("FAT16", ["mkfs.fat", "-F", "16"], driver="mtools", posix=False, numbers=False),
    Image("FAT32", ["mkfs.fat", "-F", "32", "-s", "1"], driver="mtools", posix=False, numbers=False),
    Image("exFAT", ["mkfs.exfat"], driver="exfat-fuse", posix=False, numbers=False),
    Image("ISO 9660, Rock Ridge", ["-r"], driver="xorriso", numbers=False),
    Image("ISO 9660, Joliet", ["-J"], driver="xorriso", posix=False, numbers=False),
    Image("XFS", ["mkfs.xfs", "-q", "-f"], size=320, driver="xfs", sleuth=False),
    Image("btrfs", ["mkfs.btrfs", "-q", "-f"], size=160, driver="btrfs", options="loop,nodiscard", sleuth=False),
]

DELETED = 9

COPIES = (
    "blkls takes what stands in front of a group for free where no bitmap was written (copies of superblock and descriptors, room"
    " for more of them); dumpe2fs says what impound says"
)

ROCK = "fls shows the names of ISO 9660 itself (8.3, capitals), not those of Rock Ridge, which xorriso and the kernel show"

# (question, oracle, image): why the two differ.
KNOWN = {
    ("lines of the timeline", "mactime", "ext2"): "fls tells no time of birth on ext2",
    ("lines of the timeline", "mactime", "ext3"): "fls tells no time of birth on ext3",
    ("free blocks", "blkls", "ext4, 1 KiB blocks, 128-byte inodes"): COPIES,
    ("free blocks", "blkls", "ext4, meta_bg, uninit_bg"): COPIES,
    ("live names", "fls", "NTFS"): "fls takes a name that is left in the index of a folder for a live one; the driver does not show it",
    ("live names", "fls", "ISO 9660, Rock Ridge"): ROCK,
    ("content", "icat", "ISO 9660, Rock Ridge"): ROCK,
    ("free blocks", "dumpe2fs", "ext4, bigalloc"): "dumpe2fs ends a range at the first block of its last cluster",
}


def run(*command, check=True, **more):
    done = subprocess.run(command, capture_output=True, **more)
    if check and done.returncode:
        raise RuntimeError(f"{command}: {done.stderr.decode(errors='replace')}")
    return done.stdout


def ours(image, *verb):
    """Rows of impound; none if it cannot read such a file system."""
    done = subprocess.run([IMPOUND, "--format", "jsonl", "--progress", "off", "disk", image, *verb], capture_output=True)
    if done.returncode == 1:
        return None
    assert done.returncode in (0, 3), done.stderr.decode(errors="replace")
    return [json.loads(line) for line in done.stdout.splitlines()]


def name_of(value):
    """A name as bytes."""
    return bytes.fromhex(value["hex"]) if isinstance(value, dict) else value.encode()


def fill(root, posix):
    """Files of every kind that the file system holds."""
    (root / "folder/deep/deeper").mkdir(parents=True)
    (root / "folder/deep/deeper/bottom.txt").write_text("here\n")
    many = root / "many"
    many.mkdir()
    for number in range(600):
        (many / f"a file with a long name {number}.txt").write_bytes(b"x" * (number % 7 * 300))
    (root / "small.txt").write_text("hello\n")
    (root / "empty").touch()
    (root / "big.bin").write_bytes(bytes((n * 2654435761 >> 24) & 255 for n in range(400_000)))
    with (root / "sparse.bin").open("wb") as sparse:
        for at in range(0, 2_000_000, 50_000):
            sparse.seek(at)
            sparse.write(b"piece")
    (root / "Grüße.txt").write_text("ü")
    if posix:
        (root / "link").symlink_to("small.txt")
        os.link(root / "small.txt", root / "second name")
        for name in (b"new\nline", b"pipe|name", b"back\\slash"):
            Path(os.fsdecode(os.fsencode(root) + b"/" + name)).write_bytes(name)


def plant(root):
    """Files that will be deleted; their content by path."""
    (root / "gone").mkdir()
    truth = {}
    for number in range(DELETED):
        content = (f"deleted file {number} " * (400 + number * 900)).encode()
        (root / f"gone/lost {number}.txt").write_bytes(content)
        truth[f"/gone/lost {number}.txt"] = hashlib.sha256(content).hexdigest()
    return truth


def mounted(image, at, recipe, work):
    at.mkdir(exist_ok=True)
    run("timeout", "60", "mount", "-t", recipe.driver, "-o", recipe.options, image, at)
    try:
        return work(at)
    finally:
        # A driver in user space may have mounted twice.
        while os.path.ismount(at):
            run("timeout", "60", "umount", at)


def live(root):
    """Kind, inode, size and hash of all that the driver shows, by path."""
    found = {}
    for above, folders, files in os.walk(os.fsencode(root)):
        for name in folders + files:
            path = os.path.join(above, name)
            stat = os.lstat(path)
            regular = os.path.isfile(path) and not os.path.islink(path)
            digest = hashlib.sha256(Path(os.fsdecode(path)).read_bytes()).hexdigest() if regular else None
            found[path[len(os.fsencode(root)) :]] = (stat.st_ino, stat.st_size, digest)
    return found


def with_mtools(recipe, image):
    """Fills, deletes and reads back by mtools."""
    tree, back = WORK / "tree", WORK / "back"
    run("rm", "-rf", tree, back)
    tree.mkdir()
    back.mkdir()
    fill(tree, recipe.posix)
    truth = plant(tree)
    tools = dict(env={**os.environ, "LC_ALL": "C.UTF-8", "MTOOLS_SKIP_CHECK": "1"})
    run("mcopy", "-s", "-m", "-i", image, *sorted(tree.iterdir()), "::", **tools)
    for path in truth:
        run("mdel", "-i", image, "::" + path, **tools)
    run("mcopy", "-s", "-n", "-i", image, "::*", back, **tools)
    return image, live(back), truth


def with_xorriso(recipe, image):
    """Written and read back by xorriso; nothing is ever deleted from such an image."""
    tree, back = WORK / "tree", WORK / "back"
    run("rm", "-rf", tree, back)
    tree.mkdir()
    fill(tree, recipe.posix)
    run("xorriso", "-as", "mkisofs", *recipe.make, "-o", image, tree)
    form = "norock" if "-J" in recipe.make else "any"
    run("xorriso", "-read_fs", form, "-osirrox", "on", "-indev", image, "-extract", "/", back)
    return image, live(back), {}


def made(recipe):
    """The image as the kernel left it, what is live, and what was deleted."""
    image, at = WORK / "image", WORK / "mnt"
    image.unlink(missing_ok=True)
    if recipe.driver == "xorriso":
        return with_xorriso(recipe, image)
    with image.open("wb") as file:
        file.truncate(recipe.size << 20)
    run(*recipe.make, image)
    if recipe.driver == "mtools":
        return with_mtools(recipe, image)

    def before(root):
        fill(root, recipe.posix)
        truth = plant(root)
        run("sync", "-f", root)
        for path in truth:
            (root / path[1:]).unlink()
        run("sync", "-f", root)
        return truth

    deleted = mounted(image, at, recipe, before)
    return image, mounted(image, at, recipe, live), deleted


def fls(image, *more):
    """What fls tells, by path: (inode, size, deleted)."""
    found = {}
    for line in run("fls", "-r", "-p", "-m", "", *more, image).splitlines():
        fields = line.split(b"|")
        path, inode, size = b"|".join(fields[1:-9]), fields[-9], fields[-5]
        if path.endswith(b" ($FILE_NAME)"):
            # The times that a name has on NTFS, as a line of its own.
            continue
        gone = path.endswith((b" (deleted)", b" (deleted-realloc)"))
        path = re.sub(rb" \(deleted(-realloc)?\)$", b"", re.sub(rb" -> .*$", b"", path))
        if not path.startswith((b"/$OrphanFiles", b"/$MBR", b"/$FAT")):
            found[path] = (int(inode.split(b"-")[0]), int(size), gone)
    return found


def shown(path):
    """As fls shows a name: control characters become a `^`."""
    return bytes(ord("^") if byte < 32 or byte == 127 else byte for byte in path)


def system(path):
    """Files of NTFS's own that no driver shows."""
    return path.startswith(b"/$") or b"/$" in path


def live_names(recipe, image, truth):
    rows = ours(image, "ls", "-r")
    number = lambda inode: inode if recipe.numbers else 0
    mine = {(name_of(row["path"]), number(row["inode"])) for row in rows}
    mine = {(path, inode) for path, inode in mine if not system(path)}
    yield "live names", recipe.oracle(), mine, {(path, number(inode)) for path, (inode, *_) in truth.items()}
    if recipe.sleuth:
        theirs = {(path, number(inode)) for path, (inode, _, gone) in fls(image, "-u").items() if not gone and not system(path)}
        yield "live names", "fls", {(shown(path), inode) for path, inode in mine}, theirs


def content(recipe, image, truth):
    rows = ours(image, "hash")
    mine = {(name_of(row["path"]), row["size"], row["hex"]) for row in rows if not system(name_of(row["path"]))}
    mine = {(path, size, digest if isinstance(digest, str) else "unreadable") for path, size, digest in mine}
    yield "content", recipe.oracle(), mine, {(path, size, digest) for path, (_, size, digest) in truth.items() if digest}
    if not recipe.sleuth:
        return
    theirs, names = set(), fls(image, "-u", "-F")
    wanted = {shown(path): size for path, size, _ in mine}
    for path, (inode, size, _) in names.items():
        if path in wanted:
            got = run("icat", image, str(inode), check=False)
            theirs.add((path, size, hashlib.sha256(got).hexdigest()))
    yield "content", "icat", {(shown(path), size, digest) for path, size, digest in mine}, theirs


def free_blocks(recipe, image, truth):
    if not recipe.make[0].startswith("mke2fs"):
        return
    mine = {n for row in ours(image, "blocks") for n in range(row["first"], row["last"] + 1)}
    if recipe.sleuth:
        theirs = {int(line.split(b"|")[0]) for line in run("blkls", "-l", image).splitlines()[3:]}
        yield "free blocks", "blkls", mine, theirs
    text = run("dumpe2fs", image).decode()
    kernel = set()
    for line in re.findall(r"^  Free blocks: (.+)$", text, re.M):
        for part in line.split(", "):
            first, _, last = part.partition("-")
            kernel |= set(range(int(first), int(last or first) + 1))
    yield "free blocks", "dumpe2fs", mine, kernel


def timeline(recipe, image, truth):
    # Modes and owners of NTFS are the reader's own invention.
    if not recipe.sleuth or recipe.make[0] != "mke2fs":
        return

    def filled(text):
        last, lines = "", []
        for line in text.splitlines():
            if len(line) > 24:
                last = line[:24] if line[:24].strip() else last
                lines.append(last + line[24:])
        # A time that is not there is shown as `Xxx`. Names that are escaped, links and fls' own folders are told
        # differently; a name that holds `|` is lost to mactime.
        plain = lambda line: not re.search(r"^Xxx|\\x|\^| -> |OrphanFiles| \(deleted|/\$|/link$|pipe|back", line)
        return {line for line in lines if plain(line)}

    body = WORK / "body"
    body.write_bytes(run("fls", "-r", "-p", "-m", "/", "-u", image).replace(b"|//", b"|/"))
    theirs = filled(run("mactime", "-b", body).decode(errors="replace"))
    done = subprocess.run([IMPOUND, "--progress", "off", "disk", image, "timeline", "--mactime"], capture_output=True)
    yield "lines of the timeline", "mactime", filled(done.stdout.decode(errors="replace")), theirs


QUESTIONS = [live_names, content, free_blocks, timeline]


def recovered(recipe, image, deleted):
    """Found by name, and whole, for impound and for The Sleuth Kit."""
    out = WORK / "recovered"
    run("rm", "-rf", out)
    subprocess.run([IMPOUND, "--progress", "off", "disk", image, "recover", "-o", out], capture_output=True)
    lines = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    named, whole = set(), set()
    for line in lines:
        path = name_of(line["path"]).decode(errors="replace")
        path = re.sub(r"^/p\d+", "", path)
        if path in deleted:
            named.add(path)
            file = line.get("file")
            if file and hashlib.sha256((out / file).read_bytes()).hexdigest() == deleted[path]:
                whole.add(path)
    mine = (len(named), len(whole))
    if not recipe.sleuth:
        return mine, None
    out = WORK / "theirs"
    run("rm", "-rf", out)
    out.mkdir()
    run("tsk_recover", image, out, check=False)
    digests = {hashlib.sha256(path.read_bytes()).hexdigest() for path in out.rglob("*") if path.is_file()}
    names = {path.decode(errors="replace") for path, (_, _, gone) in fls(image, "-d").items() if gone}
    # FAT loses the first letter of a short name.
    found = sum(any(path.endswith(name.split("/")[-1][1:]) for path in names) for name in deleted)
    return mine, (found, sum(digest in digests for digest in deleted.values()))


def volumes():
    """Partition tables, beside mmls."""
    rows = []
    for label in ("dos", "gpt"):
        image = WORK / "disk"
        image.unlink(missing_ok=True)
        with image.open("wb") as file:
            file.truncate(64 << 20)
        script = f"label: {label}\nstart=2048,size=8192\nstart=16384,size=40960\n"
        run("sfdisk", "-q", image, input=script.encode())
        mine = {(int(row["at"], 16) // 512, row["size"] // 512) for row in ours(image, "parts") if row["what"] == "volume"}
        theirs = set()
        for line in run("mmls", image).decode().splitlines():
            fields = line.split()
            if len(fields) > 4 and re.fullmatch(r"\d{3}(:\d{3})?", fields[1]) and "Table" not in line:
                theirs.add((int(fields[2]), int(fields[4])))
        rows.append((f"partition table, {label}", "partitions", "mmls", mine, theirs))
    return rows


def main():
    rows, lost, failed, skipped = volumes(), [], [], []
    for recipe in IMAGES:
        print("oracle-disk:", recipe.name, file=sys.stderr)
        try:
            image, truth, deleted = made(recipe)
        except (RuntimeError, FileNotFoundError) as error:
            print("oracle-disk:", error, file=sys.stderr)
            skipped.append(f"- {recipe.name}: the machine has no driver for it ({recipe.driver})")
            continue
        if ours(image, "fs") is None:
            skipped.append(f"- {recipe.name}: impound does not read this file system")
            continue
        for question in QUESTIONS:
            rows += [(recipe.name, *row) for row in question(recipe, image, truth)]
        if deleted:
            lost.append((recipe.name, *recovered(recipe, image, deleted)))
    table = []
    for name, question, oracle, mine, theirs in rows:
        equal, ours_only, theirs_only = len(mine & theirs), mine - theirs, theirs - mine
        why = KNOWN.get((question, oracle, name), "")
        if (ours_only or theirs_only) and not why:
            failed.append(f"{name}, {question}, {oracle}: ours {sorted(ours_only, key=str)[:3]}, theirs {sorted(theirs_only, key=str)[:3]}")
        why = why if ours_only or theirs_only else ""
        table.append(f"| {name} | {question} | {oracle} | {equal} | {len(ours_only)} | {len(theirs_only)} | {why} |")
    write(table, lost, skipped)
    print("\n".join(table))
    for line in failed:
        print("NOT EXPLAINED:", line, file=sys.stderr)
    sys.exit(bool(failed))


def write(table, lost, skipped):
    version = run("fls", "-V").decode().split("ver ")[-1].strip()
    text = [
        "# Disks: what The Sleuth Kit and the kernel say",
        "",
        "Written by `scripts/oracle-disk`. Each image was filled through the kernel's own driver (ntfs-3g for NTFS, exfat-fuse for exFAT;",
        "mtools for FAT and xorriso for ISO 9660, which the kernels of build machines lack), unmounted, and read by impound, by The Sleuth Kit",
        f"{version}, and by the driver again. A row counts the answers that both give, and those that only one gives: names are paths with",
        "their inodes (FAT, exFAT and ISO 9660 have none), content is SHA-256 with path and size.",
        "",
        "| image | question | beside | equal | ours only | theirs only | why they differ |",
        "|---|---|---|---|---|---|---|",
        *table,
        "",
        f"## Deleted files, {DELETED} on each image",
        "",
        "Written, synced, deleted by the driver, synced, unmounted. Found: by their name. Whole: SHA-256 of what comes out is that of what",
        "was written. On ext2 the kernel empties the inode as it deletes, and there is no journal: what is left is an inode without a map. btrfs",
        "finds what no later transaction has written over.",
        "",
        "| image | impound found | whole | `fls -d` found | `tsk_recover` whole |",
        "|---|---|---|---|---|",
    ]
    for name, mine, theirs in lost:
        theirs = theirs or ("does not read it", "–")
        text.append(f"| {name} | {mine[0]} | {mine[1]} | {theirs[0]} | {theirs[1]} |")
    if skipped:
        text += ["", "Not compared:", "", *skipped]
    OUTPUT.write_text("\n".join(text) + "\n")


main()
