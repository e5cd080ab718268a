//! What runs on dom0, as fixed POSIX shell texts: names only ever arrive as positional parameters (`wire::ssh::Command`).
//!
//! Every process that reads for us carries `IMPOUND_RUN` in its environment, so that it can be found and ended again, by the
//! watchdog, at the end of a run, and by `case recover`. Nothing is written to dom0's disk.

/// A number may have gone to another domain since it was looked up: refuses with status 9. Wants `$2` DOMAIN, `$3` UUID.
macro_rules! same {
    () => {
        r#"same() { [ "$(xenstore-read "/local/domain/$1/vm" 2>/dev/null)" = "/vm/$2" ]; }
same "$2" "$3" || {
    echo "domain $2 is gone, or is another one now" >&2
    exit 9
}
"#
    };
}

/// `paused TOOL DOMAIN`: does it stand still? The state is the last word but one of the last line, whatever its name holds.
macro_rules! paused {
    () => {
        r#"paused() { "$1" list "$2" 2>/dev/null | tail -n 1 | grep -Eq '[[:space:]][-r][-b]p[-s][-c][-d][[:space:]]+[0-9.]+$'; }
"#
    };
}

/// `ended RUN`: ends what reads for the run.
macro_rules! ended {
    () => {
        r#"ended() {
    for process in $(grep -lzs "^IMPOUND_RUN=$1\$" /proc/[0-9]*/environ); do
        process=${process#/proc/}
        kill -9 "${process%/environ}"
    done
}
"#
    };
}

/// `RUN DOMAIN UUID`: the core of a domain on standard output.
///
/// xl opens its target for reading and writing, so it never learns that its reader is gone and hangs for good: `cat` does,
/// and then ends it. The target is `/proc/self/fd/3` and not `/dev/stdout`: where that link does not exist xl would
/// make a plain file of this name and call it a success.
pub(super) const DUMP: &str = concat!(
    same!(),
    ended!(),
    r#"exec 5>&1
status=$({ { IMPOUND_RUN=$1 xl dump-core "$2" /proc/self/fd/3 3>&1 >&2 4>&- 5>&-; echo $? >&4; } | { cat >&5; ended "$1"; } } 4>&1)
exit "$status""#
);

/// `RUN DOMAIN UUID`: the same by xm, whose daemon writes the file: a FIFO on a file system in memory. `-L`, since we pause. If xm fails before
/// it opens the FIFO, opening it both ways lets `cat` see its end.
pub(super) const DUMP_XM: &str = concat!(
    same!(),
    ended!(),
    r#"place=$(mktemp -d /run/impound-XXXXXX) && mkfifo "$place/core" || exit 1
{ IMPOUND_RUN=$1 xm dump-core -L "$2" "$place/core" >&2; echo $? >"$place/status"; : 1<>"$place/core"; } &
cat "$place/core"
ended "$1"
wait
status=$(cat "$place/status")
rm -r "$place"
exit "${status:-1}""#
);

/// `RUN PATH`: the bytes of a device or file on standard output.
pub(super) const READ: &str = r#"IMPOUND_RUN=$1 cat <"$2""#;

/// `TOOL DOMAIN UUID`: holds a domain still.
pub(super) const PAUSE: &str = concat!(same!(), r#"exec "$1" pause "$2""#);

/// `TOOL DOMAIN UUID`: lets it go, if it stands still and is still the same.
pub(super) const UNPAUSE: &str = concat!(same!(), paused!(), r#"if paused "$@"; then exec "$1" unpause "$2"; fi"#);

/// `RUN`: ends what reads for this run.
pub(super) const END_READERS: &str = concat!(ended!(), r#"ended "$1""#);

/// `PATH HOLDER`: marks a VM as taken, or says who has it. A link is made at once with what it says, and `/run` is in memory.
pub(super) const CLAIM: &str = r#"ln -sn -- "$2" "$1" 2>/dev/null && exit 0
readlink "$1" && exit 9
ln -sn -- "$2" "$1""#;

/// `PATH HOLDER`: gives it free, if it is this holder's.
pub(super) const RELEASE: &str = r#"if [ "$(readlink "$1")" = "$2" ]; then rm -- "$1"; fi"#;

/// `PATH…`: what each is, a line each: `kind|bytes|allocated|` and what LVM says of it.
pub(super) const LOOK: &str = r#"for path do
    if [ -b "$path" ]; then
        lv=$(lvs --noheadings --nosuffix --units b --separator '|' \
            -o vg_name,lv_name,segtype,origin,vg_free,vg_extent_size,lv_attr "$path" 2>/dev/null | head -n 1 | tr -d ' ')
        echo "block|$(blockdev --getsize64 "$path")||$lv"
    elif [ -f "$path" ]; then
        echo "file|$(stat -L -c '%s|%b' -- "$path")|"
    else
        echo 'absent|||'
    fi
done"#;

/// `(VG LV NAME BYTES)…`: snapshots, one after the other; the first that fails ends it. `-A n`, here and where they are removed: LVM would
/// write copies of what it knows of the group to dom0's disk.
pub(super) const SNAPSHOT: &str = r#"while [ $# -ge 4 ]; do
    lvcreate -q -y -A n -s -L "$4b" -n "$3" "$1/$2" >&2 || exit 1
    shift 4
done"#;

/// `VG NAME`: removes a snapshot. Who read it may need a moment to let go of it.
pub(super) const REMOVE: &str = r#"tries=0
while lvs "$1/$2" >/dev/null 2>&1; do
    why=$(lvremove -q -f -A n "$1/$2" 2>&1) && exit 0
    tries=$((tries + 1))
    if [ $tries -gt 20 ]; then echo "$why" >&2; exit 1; fi
    sleep 1
done"#;

/// `TOOL DOMAIN UUID RUN HELD LIMIT (VG/LV)…`: the watchdog. It waits for a byte at least every LIMIT seconds on its standard
/// input: `d` sends it away, `t` tells that the guest runs again, anything else is a sign of life. When none comes any more it
/// ends what reads for the run, lets the guest go if HELD, and removes the snapshots.
pub(super) const WATCH: &str = concat!(
    same!(),
    paused!(),
    ended!(),
    r#"for need in timeout dd grep tail; do
    command -v $need >/dev/null || { echo "dom0 has no $need" >&2; exit 1; }
done
trap '' HUP INT TERM PIPE
tool=$1 domain=$2 uuid=$3 run=$4 held=$5 limit=$6
shift 6
echo ready
while word=$(timeout "$limit" dd bs=1 count=1 2>/dev/null) && [ -n "$word" ]; do
    case $word in
    d) exit 0 ;;
    t) held=0 ;;
    esac
done
ended "$run"
if [ "$held" = 1 ] && same "$domain" "$uuid" && paused "$tool" "$domain"; then "$tool" unpause "$domain"; fi
for snapshot do
    tries=0
    while lvs "$snapshot" >/dev/null 2>&1 && ! lvremove -q -f -A n "$snapshot" >/dev/null 2>&1 && [ $tries -lt 20 ]; do
        tries=$((tries + 1))
        sleep 1
    done
done"#
);

/// What these scripts need on dom0, why, and what brings it.
pub(super) const NEEDED: &[(&str, &str, &str)] = &[
    ("xenstore-read", "to tell one domain from another", "apt-get install xenstore-utils"),
    ("timeout", "for the watchdog", "apt-get install coreutils"),
    ("grep", "for the watchdog", "apt-get install grep"),
    ("dd", "for the watchdog", "apt-get install coreutils"),
    ("blockdev", "to measure disks", "apt-get install util-linux"),
    (
        "lvcreate",
        "for snapshots of disks; without it they are read while the guest stands still",
        "apt-get install lvm2",
    ),
];
