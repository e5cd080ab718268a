# shellcheck shell=bash disable=SC2154 # $work and $impound are set by prepare
# scripts/bench disk [--rounds N] [--files N] [--many N] [--output FILE]
#
# An ext4 image with N small files, and one with a few large ones, read from the page cache: listed, put in order of time,
# hashed and extracted, by impound and by the tools one would use otherwise, in turns. Then one with very many empty files
# (--many), for the memory that this takes. Needs about 10 GB under target/bench for 200000 files, and root: the NTFS image is filled
# through ntfs-3g. dissect comes from PyPI into a virtual environment under target/.

rounds=3 files=200000 many=1000000 output=docs/benchmarks/disk.md
options rounds files many output -- "$@"

prepare
[ "$(id -u)" = 0 ] || die "an image is filled through a mount: run it as root"
venv=$root/target/oracles
[ -x "$venv/bin/pip" ] || python3 -m venv "$venv"
"$venv/bin/pip" install -q dissect.extfs==3.15
trap 'rm -rf "$work"/small* "$work"/large* "$work"/many* "$work"/ntfs* "$work"/out*' EXIT

# Files of 0 to 3000 bytes, a hundred in a folder, the same each time.
make_small() {
    python3 - "$work/small" "$files" <<'END'
import os, random, sys
root, count = sys.argv[1], int(sys.argv[2])
noise = random.Random(1)
for folder in range(max(1, count // 100)):
    path = f"{root}/d{folder // 50}/sub{folder % 50}"
    os.makedirs(path)
    for file in range(100):
        with open(f"{path}/file-{folder}-{file}.dat", "wb") as out:
            out.write(noise.randbytes(noise.choice((0, 100, 1500, 3000))))
END
    mke2fs -q -F -t ext4 -N "$((files + files / 2))" -d "$work/small" "$work/small.img" "$((files * 16 + 262144))K"
}

# 80 files live and 5 deleted of each 85, by ntfs-3g.
make_ntfs() {
    mkdir "$work/ntfs"
    truncate -s "$((files * 2 + 131072))K" "$work/ntfs.img"
    mkntfs -q -F -f "$work/ntfs.img" >>"$work/log"
    mount -t ntfs-3g -o loop "$work/ntfs.img" "$work/ntfs"
    python3 - "$work/ntfs" "$((files * 85 / 200))" <<'END' || die "ntfs-3g could not be filled"
import os, sys
root, count = sys.argv[1], int(sys.argv[2])
for folder in range(count // 100):
    path = f"{root}/d{folder // 50}/sub{folder % 50}"
    os.makedirs(path)
    for file in range(100):
        with open(f"{path}/file-{folder}-{file}.dat", "wb") as out:
            out.write(b"x" * (file * 37))
for folder in range(count // 1700):
    path = f"{root}/d{folder // 50}/sub{folder % 50}"
    for file in range(100):
        os.remove(f"{path}/file-{folder}-{file}.dat")
END
    umount "$work/ntfs"
}

make_large() {
    mkdir "$work/large"
    for number in 1 2 3 4; do
        head -c 256M /dev/urandom >"$work/large/$number"
    done
    mke2fs -q -F -t ext4 -d "$work/large" "$work/large.img" 1200M
}

# Empty files, a thousand in a folder.
make_many() {
    python3 - "$work/many" "$((many / 1000))" <<'END'
import os, sys
root, folders = sys.argv[1], int(sys.argv[2])
for folder in range(folders):
    path = f"{root}/folder-{folder}"
    os.makedirs(path)
    for file in range(1000):
        os.close(os.open(f"{path}/a-file-of-many-{folder}-{file}", os.O_CREAT | os.O_WRONLY))
END
    mke2fs -q -F -t ext4 -N "$((many + many / 4))" -d "$work/many" "$work/many.img" "$((many / 2 + 262144))K"
    rm -rf "$work/many"
}

# into NAME FILE COMMAND…: timed, with what it prints in a file.
into() {
    local name=$1 file=$2
    shift 2
    # shellcheck disable=SC2016 # the inner shell's own
    timed "$name" sh -c 'to=$1; shift; exec "$@" >"$to"' sh "$file" "$@"
}

measure() {
    local round image=$work/small.img
    for round in $(seq "$rounds"); do
        say "round $round of $rounds"
        into ls.ours "$work/out-ls" "$impound" --progress off --format csv disk "$image" ls -r
        into ls.peer "$work/out-fls" fls -r -p -m / "$image"
        into ntfs.ours "$work/out-ls-ntfs" "$impound" --progress off --format csv disk "$work/ntfs.img" ls -r
        into ntfs.peer "$work/out-fls-ntfs" fls -r -p -u -m / "$work/ntfs.img"
        into time.ours "$work/out-time" "$impound" --progress off disk "$image" timeline --mactime
        into time.peer "$work/out-mactime" mactime -b "$work/out-fls"
        into hash.ours "$work/out-hash" "$impound" --progress off --format csv disk "$image" hash
        into hash.peer "$work/out-hashdeep" hashdeep -r -l -c sha256 "$work/small"
        into sum.peer "$work/out-sum" sh -c 'find "$0" -type f -print0 | xargs -0 sha256sum' "$work/small"
        into large.ours "$work/out-hash" "$impound" --progress off --format csv disk "$work/large.img" hash
        into large.peer "$work/out-hashdeep" hashdeep -r -l -c sha256 "$work/large"
        into one.peer "$work/out-sum" sh -c 'sha256sum "$0"/*' "$work/large"
        rm -rf "$work/out-tree"
        timed take.ours "$impound" --progress off disk "$image" extract -o "$work/out-tree"
        rm -rf "$work/out-tree"
        mkdir "$work/out-tree"
        timed take.peer tsk_recover -e "$image" "$work/out-tree"
        rm -rf "$work/out-tree"
    done
    # Once: it takes long.
    into walk.peer "$work/out-walk" "$venv/bin/python" - "$image" <"$work/walk.py"
    # What is compared did the same work.
    [ "$(wc -l <"$work/out-ls")" -ge "$files" ] || die "the list is short"
    [ "$(wc -l <"$work/out-time")" = "$(wc -l <"$work/out-mactime")" ] || die "the timelines differ in length"
}

# row OURS PEER TEXT PEER'S TEXT
row() {
    echo "| $3 | $4 | $(cell "$1.wall" 2) | $(cell "$2.wall" 2) | $(ratio "$2.wall" "$1.wall") | $(cell "$1.cpu" 2) | $(cell "$2.cpu" 2) | $(cell "$1.rss" 0) | $(cell "$2.rss" 0) |"
}

measure_many() {
    local image=$work/many.img
    into many.ls "$work/out-ls" "$impound" --progress off --format csv disk "$image" ls -r
    into many.time "$work/out-time" "$impound" --progress off --format csv disk "$image" timeline
    into many.hash "$work/out-hash" "$impound" --progress off --format csv disk "$image" hash
    [ "$(wc -l <"$work/out-ls")" -ge "$many" ] || die "the list of many is short"
    [ "$(wc -l <"$work/out-hash")" -gt "$many" ] || die "the list of digests is short"
}

# row_many NAME TEXT
row_many() {
    echo "| $2 | $(cell "many.$1.wall" 2) | $(cell "many.$1.rss" 0) |"
}

report() {
    cat <<END
# Benchmarks: disks

$(heading)

$(machine "$(fls -V | head -n 1); hashdeep $(hashdeep -V | head -n 1); $(sha256sum --version | head -n 1)")

Images in the page cache: an ext4 one with $files files of 0 to 3000 bytes in $((files / 100)) folders, and one with four files of 256 MiB, both in the page
cache. "Times" is the peer's wall time over ours: more than 1 is faster than the peer. Where the load above is higher than what
is measured makes, others had a part of the machine: the ratio of CPU seconds is then the better one to read.

| what | peer | wall, s | peer's wall, s | times | CPU, s | peer's CPU, s | MiB resident | peer's |
|---|---|---|---|---|---|---|---|---|
$(row ls.ours ls.peer "\`ls -r\`, all columns, CSV" "\`fls -r -p -m /\`")
$(row ls.ours walk.peer "the same" "dissect.extfs, a walk with the inode of each")
$(row ntfs.ours ntfs.peer "\`ls -r\` of $((files * 80 / 200)) files on NTFS, 5 in 85 deleted" "\`fls -r -p -u -m /\`")
$(row time.ours time.peer "\`timeline --mactime\`, from the image" "\`mactime\`, from a bodyfile that is there")
$(row hash.ours hash.peer "\`hash\` of $files small files, from the image" "\`hashdeep -r -c sha256\` of the files themselves")
$(row hash.ours sum.peer "the same" "\`sha256sum\` of the files themselves")
$(row large.ours large.peer "\`hash\` of 1 GiB in four files, from the image" "\`hashdeep -r -c sha256\` of the files themselves")
$(row large.ours one.peer "the same" "\`sha256sum\` of the files themselves")
$(row take.ours take.peer "\`extract\`" "\`tsk_recover -e\`")

$many empty files in $((many / 1000)) folders, once each, for the memory:

| what | wall, s | MiB resident |
|---|---|---|
$(row_many ls "\`ls -r\`, CSV")
$(row_many time "\`timeline\`, CSV")
$(row_many hash "\`hash\`, CSV")

fls prints seconds, impound nanoseconds, and whether the content of each file can be read. \`extract\` also writes a manifest with a line
for each file.
END
}

say "making $files files"
make_small
make_large
make_ntfs
cat >"$work/walk.py" <<'END'
import sys
from dissect.extfs import ExtFS
waiting = [(ExtFS(open(sys.argv[1], "rb")).root, "")]
while waiting:
    folder, path = waiting.pop()
    for name, node in folder.listdir().items():
        if name in (".", ".."):
            continue
        full = f"{path}/{name}"
        print(full, node.inum, node.size, node.mtime)
        if node.filetype == 0o040000:
            waiting.append((node, full))
END
measure
rm -rf "$work"/small* "$work"/large* "$work"/out*
say "making $many files"
make_many
measure_many
publish "$output"
