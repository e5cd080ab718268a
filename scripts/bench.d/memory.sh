# shellcheck shell=bash disable=SC2154,SC2016 # $work and $impound are set by prepare; sh expands what is in single quotes
# scripts/bench memory [--rounds N] [--output FILE]
#
# Questions to the memory of two real guests, by impound, by Volatility 3 and, where it knows the kernel, by mquire, in turns, from the page cache:
# 256 MiB of Linux 6.1 and of 6.12; and 4 GiB of 6.1, to see what of the cost grows with the image. Volatility reads with the symbols that
# impound wrote from the image, its cache warm. Needs the fixtures linux-small and linux-6.12, and PyPI and crates.io for the peers.

rounds=5 output=docs/benchmarks/memory.md
options rounds output -- "$@"

prepare
mkdir -p "$work/vol/linux"
trap 'scripts/guest stop --dir "$work/guest" >/dev/null 2>&1 || true; rm -rf "$work"/case-* "$work"/guest' EXIT

# capture NAME FIXTURE MIB [ARGUMENTS]: memory of a guest that stood still, as $work/NAME.raw.
capture() {
    local name=$1 fixture=$2 memory=$3
    shift 3
    say "capturing $memory MiB of $fixture"
    IMPOUND_READY_SECONDS=${IMPOUND_READY_SECONDS:-120} scripts/guest start "$fixture" --dir "$work/guest" --memory "$memory" "$@" >>"$work/log"
    "$impound" acquire "qmp:$work/guest/qmp.sock" --case "$work/case-$name" --memory --memory-method paused --progress off \
        >>"$work/log" 2>&1
    scripts/guest stop --dir "$work/guest"
    ln "$work/case-$name"/exhibits/*/data/memory.raw "$work/$name.raw"
    cat "$work/$name.raw" >/dev/null
}

# The peers. What cannot be had here leaves dashes.
peers() {
    vol=$root/target/oracles/bin/vol
    if [ ! -x "$vol" ]; then
        python3 -m venv "$root/target/oracles" && "$root/target/oracles/bin/pip" install -q volatility3==2.28.2
    fi
    mquire=$root/target/oracles/mquire/bin/mquire
    if [ ! -x "$mquire" ]; then
        cargo install --quiet --locked --root "$root/target/oracles/mquire" mquire >>"$work/log" 2>&1 || mquire=
    fi
    "$impound" memory "$work/old.raw" isf --output "$work/vol/linux/old.json" >>"$work/log" 2>&1
    # Once for its own cache of symbols.
    theirs linux.pslist.PsList >/dev/null 2>&1 || die "Volatility does not read the image"
}

theirs() {
    "$vol" -q -s "$work/vol" -f "$work/old.raw" -r json "$1"
}

# The analyzers that Volatility has, too, by its names, as scripts/oracle-memory knows them.
plugins() {
    sed -n 's/^ *"linux[^"]*": ("\(linux[^"]*\)".*/\1/p' scripts/oracle-memory
}

one() {
    timed "$1" "$impound" --format json memory "$work/$2.raw" "$3"
}

measure() {
    local round plugin
    for round in $(seq "$rounds"); do
        say "round $round of $rounds"
        one pslist.ours old linux.pslist
        timed pslist.vol "$vol" -q -s "$work/vol" -f "$work/old.raw" -r json linux.pslist.PsList
        one psscan.ours old linux.psscan
        timed psscan.vol "$vol" -q -s "$work/vol" -f "$work/old.raw" -r json linux.psscan.PsScan
        # Exit code 3: something was told as missing, as it is told one by one.
        timed all.ours sh -c '"$0" "$@" >/dev/null || [ $? -eq 3 ]' "$impound" --format json memory "$work/old.raw" all
        one tasks.ours new linux.pslist
        [ -z "$mquire" ] || timed tasks.mquire "$mquire" query "$work/new.raw" "SELECT * FROM tasks"
        one large.ours large linux.pslist
        one large.scan large linux.psscan
    done
    say "every plugin of Volatility once"
    for plugin in $(plugins); do
        # Some fail on this kernel; what they take until then counts.
        timed "plugin.$plugin" sh -c '"$0" "$@" >/dev/null 2>&1 || true' "$vol" -q -s "$work/vol" -f "$work/old.raw" -r json "$plugin"
        put all.vol.parts.cpu "$(last "plugin.$plugin.cpu")"
        put all.vol.parts.wall "$(last "plugin.$plugin.wall")"
        put all.vol.rss "$(last "plugin.$plugin.rss")"
    done
    for plugin in cpu wall; do
        put "all.vol.$plugin" "$(awk '{ sum += $1 } END { print sum }' "$work/numbers/all.vol.parts.$plugin")"
    done
}

# row TEXT OURS PEER
row() {
    echo "| $1 | $(cell "$2.cpu" 3) | $(cell "$3.cpu" 2) | $(ratio "$3.cpu" "$2.cpu") | $(cell "$2.wall" 3) | $(cell "$3.wall" 2) | $(ratio "$3.wall" "$2.wall") | $(cell "$2.rss" 0) | $(cell "$3.rss" 0) |"
}

report() {
    cat <<END
# Benchmarks: Linux memory

$(heading)

$(machine "Volatility 3 2.28.2, with symbols that impound wrote, its cache warm; $([ -n "$mquire" ] && echo "mquire $("$mquire" --version 2>/dev/null | awk '{ print $NF }')" || echo "mquire could not be built here")")

Images lie in the page cache. "Times" is the peer's over ours: more than 1 is less than the peer takes.

| question | CPU, s | peer's CPU, s | times | wall, s | peer's wall, s | times | MiB resident | peer's |
|---|---|---|---|---|---|---|---|---|
$(row "processes, 256 MiB of 6.1; Volatility" pslist.ours pslist.vol)
$(row "processes anywhere in memory; Volatility" psscan.ours psscan.vol)
$(row "everything; Volatility's $(plugins | wc -l) plugins one by one, once" all.ours all.vol)
$(row "processes, 256 MiB of 6.12; mquire's task table" tasks.ours tasks.mquire)

| question | CPU, s, 256 MiB | CPU, s, 4 GiB | times | MiB resident, 4 GiB |
|---|---|---|---|---|
| processes of the list | $(cell pslist.ours.cpu 3) | $(cell large.ours.cpu 3) | $(ratio large.ours.cpu pslist.ours.cpu) | $(cell large.ours.rss 0) |
| processes anywhere in memory | $(cell psscan.ours.cpu 3) | $(cell large.scan.cpu 3) | $(ratio large.scan.cpu psscan.ours.cpu) | $(cell large.scan.rss 0) |
END
}

capture old linux-small 256
capture new linux-6.12 256
capture large linux-small 4096
peers
measure
publish "$output"
