# shellcheck shell=bash disable=SC2154 # $work, $impound, $rounds are set by the benchmark, the rest by scripts/bench
# What every benchmark needs: numbers, timing, a table's cells. Sourced by scripts/bench.

die() {
    echo "bench: $*" >&2
    exit 1
}

say() {
    echo "bench: [$SECONDS s] $*" >&2
}

# options NAME… -- ARGUMENT…: --NAME VALUE sets the variable of that name; anything else is a mistake.
options() {
    local known=' '
    while [ "$1" != -- ]; do
        known+="--$1 "
        shift
    done
    shift
    while [ $# -gt 0 ]; do
        [[ $known == *" $1 "* && $# -gt 1 ]] || usage
        printf -v "${1#--}" %s "$2"
        shift 2
    done
}

# prepare: the tools, impound as it is shipped, and an empty place for the work.
prepare() {
    scripts/install test
    cargo build --release --locked
    impound=${CARGO_TARGET_DIR:-$root/target}/release/impound
    work=$root/target/bench
    rm -rf "$work"
    mkdir -p "$work/numbers"
}

# put NAME VALUE: one measurement.
put() {
    echo "$2" >>"$work/numbers/$1"
}

# The middle one of a metric, or 0.
median() {
    sort -n "$work/numbers/$1" 2>/dev/null |
        awk '{ v[NR] = $1 } END { m = int((NR + 1) / 2); print NR ? (NR % 2 ? v[m] : (v[m] + v[m + 1]) / 2) : 0 }'
}

# cell NAME [DIGITS]: median (smallest–largest), or a dash.
cell() {
    [ -s "$work/numbers/$1" ] || {
        echo "–"
        return
    }
    sort -n "$work/numbers/$1" | awk -v d="${2:-1}" -v m="$(median "$1")" '
        NR == 1 { low = $1 } { high = $1 }
        END { printf "%.*f (%.*f–%.*f)", d, m, d, low, d, high }'
}

# ratio A B: median over median.
ratio() {
    awk -v a="$(median "$1")" -v b="$(median "$2")" 'BEGIN { if (b > 0 && a > 0) printf "%.2f", a / b; else printf "–" }'
}

# timed NAME COMMAND…: wall and CPU seconds and the largest resident size in MiB. The shell's own clock has thousandths of a second, where
# time's has hundredths, cut off, of what the system and the user took each.
timed() {
    local name=$1 TIMEFORMAT='%3R %3U %3S'
    shift
    { time command time -o "$work/time" -f %M "$@" >>"$work/log" 2>&1; } 2>"$work/clock" || {
        tail -n 5 "$work/log" >&2
        die "failed: $*"
    }
    read -r wall user system <"$work/clock"
    resident=$(tail -n 1 "$work/time")
    put "$name.wall" "$wall"
    put "$name.cpu" "$(awk -v u="$user" -v s="$system" 'BEGIN { print u + s }')"
    put "$name.rss" "$(awk -v k="$resident" 'BEGIN { print k / 1024 }')"
}

seconds_since() {
    awk -v a="$1" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.3f", b - a }'
}

# add NAME A B: the sum of two measurements of this round.
add() {
    put "$1" "$(awk -v a="$2" -v b="$3" 'BEGIN { print a + b }')"
}

last() {
    tail -n 1 "$work/numbers/$1"
}

# The machine, and how busy it was. Arguments: further lines.
machine() {
    echo "- $(lscpu | sed -n 's/^Model name: *//p' | head -n 1), $(nproc) cores used by all that is measured; $(
        awk '/MemTotal/ { printf "%.0f GiB", $2 / 1048576 }' /proc/meminfo
    ) of memory; Linux $(uname -r | cut -d - -f 1); files on $(findmnt -n -o FSTYPE -T "$work")"
    printf -- '- %s\n' "$@"
    echo "- load of the machine (1, 5, 15 minutes) before: $load_before; after: $(cut -d ' ' -f 1-3 /proc/loadavg)."
}

# What the report says of itself.
heading() {
    echo "Written by \`$asked\` on $(date -u +%Y-%m-%d), impound $("$impound" --version | sed -n '1s/.* //p'). Median of $rounds rounds (smallest–largest);"
    echo "what is compared was measured in the same run, in turns."
}

# publish FILE: the benchmark's report goes there, and its tables to the terminal.
publish() {
    mkdir -p "$(dirname "$1")"
    report >"$work/report.md"
    cp "$work/report.md" "$1"
    grep -E '^[|-]' "$1"
    say "written to $1"
}
