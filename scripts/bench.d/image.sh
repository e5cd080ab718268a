# shellcheck shell=bash disable=SC2154 # $work and $impound are set by prepare
# scripts/bench image [--rounds N] [--size MIB] [--output FILE]
#
# A disk of SIZE MiB, half of it text and the rest random bytes and zeros, in every wrapping that has a peer; read from the
# page cache, by impound and by the peer in turns. Needs about six times SIZE under target/bench.

rounds=5 size=1024 output=docs/benchmarks/image.md
options rounds size output -- "$@"

prepare
trap 'rm -rf "$work"/disk* "$work"/copy*' EXIT

make_disk() {
    local quarter=$((size / 4))
    {
        # Its end is cut off on purpose.
        { seq 1000000000 || true; } 2>/dev/null | head -c "$((quarter * 2))M"
        head -c "${quarter}M" /dev/urandom
        head -c "${quarter}M" /dev/zero
    } >"$work/disk.raw"
}

wrap() {
    local raw=$work/disk.raw
    qemu-img convert -O qcow2 "$raw" "$work/disk-plain.qcow2"
    qemu-img convert -O qcow2 -c "$raw" "$work/disk-zlib.qcow2"
    qemu-img convert -O qcow2 -c -o compression_type=zstd "$raw" "$work/disk-zstd.qcow2"
    qemu-img convert -O vmdk "$raw" "$work/disk-sparse.vmdk"
    qemu-img convert -O vmdk -o subformat=streamOptimized "$raw" "$work/disk-stream.vmdk"
    qemu-img convert -O vhdx "$raw" "$work/disk.vhdx"
    ewfacquire -q -u -f encase6 -c fast -S 8GiB -t "$work/disk-fast" "$raw" >>"$work/log" 2>&1
    ewfacquire -q -u -f encase6 -c none -S 8GiB -t "$work/disk-none" "$raw" >>"$work/log" 2>&1
}

# Reads all of it and throws it away.
ours() {
    timed "$1.ours" sh -c 'exec "$0" image cat --zeros --progress off "$1" >/dev/null' "$impound" "$2"
}

qemu() {
    local target='{"driver":"raw","file":{"driver":"null-co","size":'$((size << 20))'}}'
    timed "$1.peer" qemu-img convert -n -O raw "$2" "json:$target"
}

ewf() {
    timed "$1.peer" sh -c 'exec ewfexport -q -u -f raw -t - "$0" >/dev/null' "$2"
    timed "$1.verify.ours" "$impound" image "$2" --verify --progress off
    timed "$1.verify.peer" ewfverify -q "$2"
}

measure() {
    local round name
    for round in $(seq "$rounds"); do
        say "round $round of $rounds"
        for name in plain.qcow2 zlib.qcow2 zstd.qcow2 sparse.vmdk stream.vmdk; do
            ours "$name" "$work/disk-$name"
            qemu "$name" "$work/disk-$name"
        done
        ours vhdx "$work/disk.vhdx"
        qemu vhdx "$work/disk.vhdx"
        for name in fast none; do
            ours "$name.E01" "$work/disk-$name.E01"
            ewf "$name.E01" "$work/disk-$name.E01"
        done
        timed raw.ours "$impound" image hash --progress off "$work/disk.raw"
        timed raw.peer openssl dgst -sha256 "$work/disk.raw"
        rm -f "$work"/copy*
        timed export.ours "$impound" export "$work/disk.raw" --to e01 --output "$work/copy.E01" --progress off
        timed export.peer ewfacquire -q -u -f encase6 -c fast -S 8GiB -d sha1 -t "$work/copy-peer" "$work/disk.raw"
    done
}

# row NAME TEXT PEER
row() {
    echo "| $2 | $3 | $(cell "$1.ours.wall" 2) | $(cell "$1.peer.wall" 2) | $(ratio "$1.peer.wall" "$1.ours.wall") | $(cell "$1.ours.cpu" 2) | $(cell "$1.peer.cpu" 2) | $(cell "$1.ours.rss" 0) |"
}

report() {
    cat <<END
# Benchmarks: images

$(heading)

$(machine "$(qemu-img --version | head -n 1); $(ewfexport -V 2>&1 | grep -m 1 .); $(openssl version | cut -d ' ' -f 1-2)")

A disk of $size MiB: half text, a quarter random bytes, a quarter zeros, read from the page cache. "Times" is the peer's wall
time over ours: more than 1 is faster than the peer.

| what is read | peer | wall, s | peer's wall, s | times | CPU, s | peer's CPU, s | MiB resident |
|---|---|---|---|---|---|---|---|
$(row plain.qcow2 "qcow2" "\`qemu-img convert\` into nothing")
$(row sparse.vmdk "VMDK, monolithicSparse" "the same")
$(row vhdx "VHDX" "the same")
$(row zlib.qcow2 "qcow2, zlib" "the same")
$(row zstd.qcow2 "qcow2, zstd" "the same")
$(row stream.vmdk "VMDK, streamOptimized" "the same")
$(row none.E01 "E01, not compressed" "\`ewfexport\` into nothing")
$(row fast.E01 "E01, deflated" "the same")
$(row none.E01.verify "E01, not compressed, MD5 checked" "\`ewfverify\`")
$(row fast.E01.verify "E01, deflated, MD5 checked" "\`ewfverify\`")
$(row raw "raw, SHA-256" "\`openssl dgst -sha256\`")
$(row export "export to E01: MD5, SHA-1, SHA-256, read back" "\`ewfacquire -c fast -d sha1\`, not read back")

impound reads with \`impound image cat\`, which checks every checksum on the way.
END
}

say "making a disk of $size MiB"
make_disk
wrap
measure
publish "$output"
