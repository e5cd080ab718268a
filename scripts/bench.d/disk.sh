# shellcheck shell=bash disable=SC2154 # $work and $impound are set by prepare
# scripts/bench disk [--rounds N] [--files N] [--output FILE]
#
# An ext4 image with N small files, and one with a few large ones, read from the page cache: listed, put in order of time,
# hashed and extracted, by impound and by the tools one would use otherwise, in turns. Needs about 10 GB under target/bench
# for 200000 files.

rounds=3 files=200000 output=docs/benchmarks/disk.md
while [ $# -gt 0 ]; do
    case $1 in
    --rounds) rounds=${2:?} ;;
    --files) files=${2:?} ;;
    --output) output=${2:?} ;;
    *) usage ;;
    esac
    shift 2
done

prepare
trap 'rm -rf "$work"/small* "$work"/large* "$work"/out*' EXIT

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

make_large() {
    mkdir "$work/large"
    for number in 1 2 3 4; do
        head -c 256M /dev/urandom >"$work/large/$number"
    done
    mke2fs -q -F -t ext4 -d "$work/large" "$work/large.img" 1200M
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
    # What is compared did the same work.
    [ "$(wc -l <"$work/out-ls")" -ge "$files" ] || die "the list is short"
    [ "$(wc -l <"$work/out-time")" = "$(wc -l <"$work/out-mactime")" ] || die "the timelines differ in length"
}

# row OURS PEER TEXT PEER'S TEXT
row() {
    echo "| $3 | $4 | $(cell "$1.wall" 2) | $(cell "$2.wall" 2) | $(ratio "$2.wall" "$1.wall") | $(cell "$1.cpu" 2) | $(cell "$2.cpu" 2) | $(cell "$1.rss" 0) | $(cell "$2.rss" 0) |"
}

report() {
    cat <<END
# Benchmarks: disks

$(heading)

$(machine "$(fls -V | head -n 1); hashdeep $(hashdeep -V | head -n 1); $(sha256sum --version | head -n 1)")

An ext4 image with $files files of 0 to 3000 bytes in $((files / 100)) folders, and one with four files of 256 MiB, both in the page
cache. "Times" is the peer's wall time over ours: more than 1 is faster than the peer. Where the load above is higher than what
is measured makes, others had a part of the machine: the ratio of CPU seconds is then the better one to read.

| what | peer | wall, s | peer's wall, s | times | CPU, s | peer's CPU, s | MiB resident | peer's |
|---|---|---|---|---|---|---|---|---|
$(row ls.ours ls.peer "\`ls -r\`, all columns, CSV" "\`fls -r -p -m /\`")
$(row time.ours time.peer "\`timeline --mactime\`, from the image" "\`mactime\`, from a bodyfile that is there")
$(row hash.ours hash.peer "\`hash\` of $files small files, from the image" "\`hashdeep -r -c sha256\` of the files themselves")
$(row hash.ours sum.peer "the same" "\`sha256sum\` of the files themselves")
$(row large.ours large.peer "\`hash\` of 1 GiB in four files, from the image" "\`hashdeep -r -c sha256\` of the files themselves")
$(row large.ours one.peer "the same" "\`sha256sum\` of the files themselves")
$(row take.ours take.peer "\`extract\`" "\`tsk_recover -e\`")

fls prints seconds, impound nanoseconds, and whether the content of each file can be read. \`extract\` also writes a manifest with a line
for each file.
END
}

say "making $files files"
make_small
make_large
measure
mkdir -p "$(dirname "$output")"
report >"$work/report.md"
cp "$work/report.md" "$output"
grep -E '^[|-]' "$output"
say "written to $output"
