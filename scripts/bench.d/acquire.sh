# shellcheck shell=bash
# scripts/bench acquire [--rounds N] [--memory MIB] [--disk MIB] [--output FILE]
#
# Boots the counter guest (memory filled with random bytes, two disks) for memory, and a quiet guest with a disk of random
# bytes for disks and for verify. Needs root for snapshots of memory (or vm.unprivileged_userfaultfd=1), and about six
# times the disk's size under target/bench. Every figure is the median of all rounds, with the smallest and the largest.

rounds=5 memory=1024 disk=2048 output=docs/benchmarks/acquire.md
options rounds memory disk output -- "$@"
if [ "$memory" -lt 512 ] || [ "$memory" -gt 2816 ]; then
    die "--memory is 512 to 2816 MiB: the random bytes lie below the hole"
fi

scripts/install test
cargo build --release --locked
scripts/fixtures counter linux-small
# No debug guest's 20 s: the machine may be busy, and the report says so.
export IMPOUND_READY_SECONDS=${IMPOUND_READY_SECONDS:-120}
impound=${CARGO_TARGET_DIR:-$root/target}/release/impound
work=$root/target/bench
guest=$work/guest
[ ${#guest} -le 90 ] || die "the path of this clone is too long for sockets: ${#guest} bytes"

jobs=()
leave() {
    local code=$?
    trap - EXIT
    for job in "${jobs[@]}"; do kill "$job" 2>/dev/null || true; done
    [ ! -d "$guest" ] || scripts/guest stop --dir "$guest" || true
    # Numbers are kept, images are not.
    rm -rf "$work"/{cases,peer,random.*,big.raw}
    exit "$code"
}
trap leave EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
[ ! -d "$guest" ] || scripts/guest stop --dir "$guest"
rm -rf "$work"
mkdir -p "$work"/{cases,peer,numbers}

# --- the guest: its second monitor, its console, its beat

monitor() {
    coproc QMP { exec socat -t 5 - "UNIX-CONNECT:$guest/ctl.sock"; }
    qmp_in=${QMP[1]} qmp_out=${QMP[0]}
    jobs+=("$QMP_PID")
    : >"$work/events"
    read -r -t 60 _ <&"$qmp_out" || die "no greeting from QEMU"
    qmp '{"execute":"qmp_capabilities"}'
}

# Sends a command, keeps events, leaves the answer in $answer.
qmp() {
    local line
    echo "$1" >&"$qmp_in"
    while read -r -t 300 line <&"$qmp_out"; do
        case $line in
        '{"return"'*)
            answer=$line
            return
            ;;
        '{"error"'*) die "QEMU refused $1: $line" ;;
        *) echo "$line" >>"$work/events" ;;
        esac
    done
    die "no answer from QEMU to $1"
}

# Sum of STOP to RESUME in ms since the events file was emptied.
paused_ms() {
    jq -rs 'def t: .timestamp.seconds + .timestamp.microseconds / 1e6;
        [.[] | select(.event == "STOP" or .event == "RESUME") | if .event == "STOP" then -t else t end] | add // 0 | . * 1000' \
        "$work/events"
}

console() {
    # What it says is read as well: a guest waits for a console that nobody reads.
    exec {to_console}> >(exec socat - "UNIX-CONNECT:$guest/serial.sock" >/dev/null)
    jobs+=($!)
}

newest_report() {
    tr -d '\r' <"$guest/serial.log" | sed '$d' | grep -a '^stall-ms' | tail -n 1
}

# field NAME of the newest report.
field() {
    newest_report | awk -v name="$1" '{ for (i = 1; i < NF; i += 2) if ($i == name) print $(i + 1) }'
}

# What the guest itself measured begins anew.
reset_stall() {
    local before
    before=$(field resets)
    printf x >&"$to_console"
    for _ in $(seq 600); do
        [ "$(field resets)" = "$before" ] || return 0
        sleep 0.1
    done
    die "the guest does not reset its counter"
}

# In ms: waits for two more reports, so that the last one is of after the capture.
guest_stall() {
    local lines
    lines=$(grep -ac '^stall-ms' "$guest/serial.log")
    for _ in $(seq 600); do
        [ "$(grep -ac '^stall-ms' "$guest/serial.log")" -lt $((lines + 2)) ] || break
        sleep 0.1
    done
    awk -v us="$(field stall-us)" 'BEGIN { print us / 1000 }'
}

# Notes the longest gap between two beats (a byte every 5 ms), from now until it is told to end.
begin_beat() {
    rm -f "$work/beat"
    socat -u "UNIX-CONNECT:$guest/beat.sock" - > >(
        worst=0 before=0
        while IFS= read -r -N 1 _; do
            now=${EPOCHREALTIME/[.,]/}
            [ "$before" -eq 0 ] || [ $((now - before)) -le "$worst" ] || worst=$((now - before))
            before=$now
        done
        awk -v us="$worst" 'BEGIN { print us / 1000 }' >"$work/beat.new"
        mv "$work/beat.new" "$work/beat"
    ) &
    beat=$!
    sleep 0.3
}

# Leaves the gap in ms in $gap.
end_beat() {
    kill "$beat"
    wait "$beat" 2>/dev/null || true
    for _ in $(seq 100); do
        [ ! -f "$work/beat" ] || break
        sleep 0.05
    done
    gap=$(cat "$work/beat") || die "no beat from the guest"
}

# around NAME FUNCTION: what the guest noticed of it, beside what the function itself measures.
around() {
    : >"$work/events"
    reset_stall
    begin_beat
    "$2"
    end_beat
    put "$1.gap" "$gap"
    # Its answer comes after all events.
    qmp '{"execute":"query-status"}'
    put "$1.pause" "$(paused_ms)"
    put "$1.stall" "$(guest_stall)"
}

# --- memory

nothing() {
    sleep 3
}

# exhibit ITEM: the exhibit.json of it in the newest case.
exhibit() {
    find "$work/cases/now/exhibits" -path "*-$1-*/exhibit.json"
}

impound_memory() { take memory.impound; }

# The first capture in a QEMU's life, as in the field: later ones find its huge pages split by the one before.
first_capture() { take memory.first; }

# take NAME: memory and both disks, by impound.
take() {
    rm -rf "$work/cases/now"
    timed "$1" "$impound" acquire "qmp:$guest/qmp.sock" --case "$work/cases/now" --progress off \
        --memory --disk disk0 --disk disk1
    jq -r '.stall.worst_us / 1000 // empty' "$(exhibit memory)" | while read -r ms; do put "$1.told" "$ms"; done
    jq -r 'def t: capture("^(?<s>[^.]+)(?:\\.(?<f>[0-9]+))?Z$") | ((.s + "Z") | fromdate) + (("0." + (.f // "0")) | tonumber);
        [.pauses[] | (.resumed | t) - (.stopped | t)] | add // 0 | . * 1000' "$(exhibit memory)" |
        while read -r ms; do put "$1.said" "$ms"; done
    allocated=$(du -m "$(dirname "$(exhibit memory)")/data/memory.raw" | cut -f 1)
}

# The disks as the peers take them: no instant is promised.
copy_disks() {
    qemu-img convert -U -O raw "$guest/vda.qcow2" "$work/peer/vda.raw"
    qemu-img convert -U -f raw -O raw "$guest/vdb.raw" "$work/peer/vdb.raw"
}

dump_memory() {
    local begun=$EPOCHREALTIME
    rm -f "$work/peer/"*
    qmp "{\"execute\":\"dump-guest-memory\",\"arguments\":{\"paging\":false,\"protocol\":\"file:$work/peer/memory.elf\"}}"
    copy_disks
    put memory.dump.wall "$(seconds_since "$begun")"
}

hash_dump() {
    sync "$work/peer/memory.elf"
    timed memory.sha256sum.only sha256sum "$work/peer/memory.elf" "$work/peer/vda.raw" "$work/peer/vdb.raw"
    timed memory.openssl.only openssl dgst -sha256 "$work/peer/memory.elf" "$work/peer/vda.raw" "$work/peer/vdb.raw"
    add memory.sha256sum.wall "$(last memory.dump.wall)" "$(last memory.sha256sum.only.wall)"
    add memory.openssl.wall "$(last memory.dump.wall)" "$(last memory.openssl.only.wall)"
}

# The same snapshot by QEMU itself into a file, its disks copied; nothing parsed, nothing hashed.
plain_snapshot() {
    local begun=$EPOCHREALTIME status=''
    rm -f "$work/peer/"*
    qmp '{"execute":"migrate-set-capabilities","arguments":{"capabilities":[{"capability":"background-snapshot","state":true}]}}'
    qmp '{"execute":"migrate-set-parameters","arguments":{"max-bandwidth":17179869184}}'
    qmp "{\"execute\":\"migrate\",\"arguments\":{\"uri\":\"exec:cat >$work/peer/memory.qevm\"}}"
    for _ in $(seq 6000); do
        qmp '{"execute":"query-migrate"}'
        status=$(jq -r '.return.status' <<<"$answer")
        case $status in
        completed) break ;;
        failed | cancelled) die "QEMU's own snapshot: $answer" ;;
        esac
        sleep 0.02
    done
    [ "$status" = completed ] || die "QEMU's own snapshot did not end"
    qmp '{"execute":"migrate-set-capabilities","arguments":{"capabilities":[{"capability":"background-snapshot","state":false}]}}'
    copy_disks
    put memory.plain.wall "$(seconds_since "$begun")"
    sync "$work/peer/memory.qevm"
    put memory.synced.wall "$(seconds_since "$begun")"
}

boot_counter() {
    # What the guest never uses keeps what QEMU loaded there before the guest began.
    scripts/guest start counter --dir "$guest" --memory "$memory" -- \
        -device "loader,file=$work/random.memory,addr=0x8000000,force-raw=on" \
        -chardev "socket,id=beat,path=$guest/beat.sock,server=on,wait=off" -serial chardev:beat >/dev/null
    monitor
    console
    sleep 3
}

measure_memory() {
    local round fill=$((memory - 256))
    say "the counter guest: $memory MiB, $fill MiB of it random bytes"
    head -c "${fill}M" /dev/urandom >"$work/random.memory"
    for round in $(seq "$rounds"); do
        say "first capture of a fresh guest, round $round of $rounds"
        boot_counter
        around memory.first first_capture
        stop_guest
    done
    boot_counter
    for round in $(seq "$rounds"); do
        say "memory, round $round of $rounds"
        around memory.nothing nothing
        around memory.impound impound_memory
        around memory.dump dump_memory
        hash_dump
        around memory.plain plain_snapshot
    done
    stop_guest
}

stop_guest() {
    scripts/guest stop --dir "$guest"
    wait "${jobs[@]}" 2>/dev/null || true
    jobs=()
}

# --- disks

impound_disk() {
    rm -rf "$work/cases/now"
    timed disk.impound "$impound" acquire "qmp:$guest/qmp.sock" --case "$work/cases/now" --progress off --disk disk2
}

peer_disk() {
    local begun
    rm -f "$work/peer/"*
    timed disk.convert qemu-img convert -U -f raw -O raw "$work/big.raw" "$work/peer/big.raw"
    begun=$EPOCHREALTIME
    sync "$work/peer/big.raw"
    add disk.synced.wall "$(last disk.convert.wall)" "$(seconds_since "$begun")"
    timed disk.sha256sum sha256sum "$work/peer/big.raw"
    timed disk.openssl openssl dgst -sha256 "$work/peer/big.raw"
    add disk.convert-sha256sum.wall "$(last disk.convert.wall)" "$(last disk.sha256sum.wall)"
    add disk.convert-openssl.wall "$(last disk.convert.wall)" "$(last disk.openssl.wall)"
    rm -f "$work/peer/big.raw"
    timed disk.nbdcopy nbdcopy "nbd+unix:///big?socket=$guest/nbd.sock" "$work/peer/big.raw"
    add disk.nbdcopy-openssl.wall "$(last disk.nbdcopy.wall)" "$(last disk.openssl.wall)"
}

export_for_nbdcopy() {
    qmp "{\"execute\":\"nbd-server-start\",\"arguments\":{\"addr\":{\"type\":\"unix\",\"data\":{\"path\":\"$guest/nbd.sock\"}}}}"
    qmp '{"execute":"block-export-add","arguments":{"type":"nbd","id":"bench","node-name":"big","name":"big"}}'
}

measure_disks() {
    local round
    say "booting a quiet guest with a disk of $disk MiB of random bytes"
    head -c "${disk}M" /dev/urandom >"$work/big.raw"
    scripts/guest start linux-small --dir "$guest" -- \
        -blockdev "driver=raw,node-name=big,file.driver=file,file.filename=$work/big.raw" \
        -device virtio-blk-pci,drive=big,id=disk2 >/dev/null
    monitor
    for round in $(seq "$rounds"); do
        say "disks, round $round of $rounds"
        impound_disk
        export_for_nbdcopy
        peer_disk
        # impound respects an NBD server that is there, so it goes before the next round.
        qmp '{"execute":"nbd-server-stop"}'
        rm -f "$guest/nbd.sock"
    done
    stop_guest
}

measure_verify() {
    local round image
    image=$(find "$work/cases/now/exhibits" -name '*.raw')
    # Both read from the page cache, which is where an image is right after it was taken.
    cat "$image" >/dev/null
    for round in $(seq "$rounds"); do
        say "verify, round $round of $rounds"
        timed verify.impound "$impound" verify "$work/cases/now" --progress off
        timed verify.openssl openssl dgst -sha256 "$image"
        timed verify.sha256sum sha256sum "$image"
    done
}

# --- the report

report() {
    cat <<END
# Benchmarks

$(heading)

$(machine "$(qemu-system-x86_64 --version | head -n 1), TCG (no KVM); $(openssl version | cut -d ' ' -f 1-2); $(sha256sum --version | head -n 1)" \
    "the guest itself keeps two virtual CPUs busy while memory is measured")

## Memory and two disks of a running guest

The counter guest, $memory MiB, $((memory - 256)) MiB of it filled with random bytes ($allocated MiB are not zero in the image), and two disks
of 16 MiB. Nothing is written around the page cache; impound makes its exhibits durable before it ends, the others are not
asked to unless it says so.

| | stopped (STOP to RESUME), ms | worst stall in the guest, ms | longest gap between beats, ms | wall, s |
|---|---|---|---|---|
| nothing is captured (the noise) | – | $(cell memory.nothing.stall) | $(cell memory.nothing.gap) | – |
| \`impound acquire\`, the first capture of a fresh guest | $(cell memory.first.pause) | $(cell memory.first.stall) | $(cell memory.first.gap) | $(cell memory.first.wall 2) |
| \`impound acquire\`, again and again | $(cell memory.impound.pause) | $(cell memory.impound.stall) | $(cell memory.impound.gap) | $(cell memory.impound.wall 2) |
| \`dump-guest-memory\`, no hash | $(cell memory.dump.pause) | $(cell memory.dump.stall) | $(cell memory.dump.gap) | $(cell memory.dump.wall 2) |
| the same, then \`sha256sum\` | as above | as above | as above | $(cell memory.sha256sum.wall 2) |
| the same, then \`openssl dgst -sha256\` | as above | as above | as above | $(cell memory.openssl.wall 2) |
| QEMU's own snapshot into a file, no hash | $(cell memory.plain.pause) | $(cell memory.plain.stall) | $(cell memory.plain.gap) | $(cell memory.plain.wall 2) |
| the same, made durable (\`sync\`) | as above | as above | as above | $(cell memory.synced.wall 2) |

- What follows compares captures of a guest that was captured before, as that of the peers is; a fresh one stands still for
  less, since its memory still lies in huge pages.
- impound says of itself: stopped $(cell memory.impound.said) ms, longest wait of a CPU $(cell memory.impound.told) ms.
- impound used $(cell memory.impound.cpu 2) s of CPU and at most $(cell memory.impound.rss 0) MiB of memory.
- Wall time of impound to the plain snapshot without hash: $(ratio memory.impound.wall memory.plain.wall); to the durable one: $(ratio memory.impound.wall memory.synced.wall); to dump and \`sha256sum\`: $(ratio memory.impound.wall memory.sha256sum.wall); to dump and \`openssl\`: $(ratio memory.impound.wall memory.openssl.wall).
- Stopped time of the dump to that of impound: $(ratio memory.dump.pause memory.impound.pause).

The worst stall in the guest is the longest time between two stores of a program that writes to 64 MiB without end, by the
guest's own clock, which stands still while the VM is stopped. The gap between beats is seen from outside, by a shell, and
holds all of it: the stop, the stall, and the machine's noise; the guest beats every 5 ms.

## A disk

$disk MiB of random bytes, attached to a quiet guest. impound promises one instant; \`qemu-img convert -U\` and \`nbdcopy\` promise none.

| | wall, s | CPU, s | largest resident size, MiB |
|---|---|---|---|
| \`impound acquire --disk\` (SHA-256, durable) | $(cell disk.impound.wall 2) | $(cell disk.impound.cpu 2) | $(cell disk.impound.rss 0) |
| \`qemu-img convert -U\`, no hash | $(cell disk.convert.wall 2) | $(cell disk.convert.cpu 2) | $(cell disk.convert.rss 0) |
| the same, made durable (\`sync\`) | $(cell disk.synced.wall 2) | | |
| \`qemu-img convert -U\`, then \`sha256sum\` | $(cell disk.convert-sha256sum.wall 2) | | |
| \`qemu-img convert -U\`, then \`openssl dgst -sha256\` | $(cell disk.convert-openssl.wall 2) | | |
| \`nbdcopy\`, no hash | $(cell disk.nbdcopy.wall 2) | $(cell disk.nbdcopy.cpu 2) | $(cell disk.nbdcopy.rss 0) |
| \`nbdcopy\`, then \`openssl dgst -sha256\` | $(cell disk.nbdcopy-openssl.wall 2) | | |

- Wall time of impound to \`qemu-img convert -U\` without hash: $(ratio disk.impound.wall disk.convert.wall); to the durable one: $(ratio disk.impound.wall disk.synced.wall); to \`nbdcopy\` without hash: $(ratio disk.impound.wall disk.nbdcopy.wall); to \`qemu-img convert -U\` and \`openssl\`: $(ratio disk.impound.wall disk.convert-openssl.wall).

## Verify

The case of that disk, out of the page cache, no guest running.

| | wall, s | CPU, s |
|---|---|---|
| \`impound verify\` | $(cell verify.impound.wall 2) | $(cell verify.impound.cpu 2) |
| \`openssl dgst -sha256\` of the image alone | $(cell verify.openssl.wall 2) | $(cell verify.openssl.cpu 2) |
| \`sha256sum\` of the image alone | $(cell verify.sha256sum.wall 2) | $(cell verify.sha256sum.cpu 2) |

- \`impound verify\` is $(ratio verify.openssl.wall verify.impound.wall) times as fast as \`openssl dgst -sha256\`, and $(ratio verify.sha256sum.wall verify.impound.wall) times as fast as \`sha256sum\`.
END
}

measure_memory
measure_disks
measure_verify
publish "$output"
