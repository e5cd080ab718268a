# shellcheck shell=bash disable=SC2154 # set by scripts/bench and prepare
# scripts/bench cloud [--rounds N] [--disk MIB] [--large GIB] [--output FILE]
#
# Two snapshots in an account on loopback, by the server that the tests of the `aws` backend use: one of 1 GiB and one of LARGE GiB, DISK MiB
# of random bytes in each, the rest never written. impound and coldsnap fetch each in turns; what coldsnap fetched is hashed by OpenSSL,
# as one would by hand. Needs python3-venv, and about four times DISK under target/bench. coldsnap is built the first time, which takes many
# minutes and 8 GiB of memory.

rounds=5 disk=512 large=64 output=docs/benchmarks/cloud.md
options rounds disk large output -- "$@"
small=1 coldsnap_version=0.12.0
if [ "$disk" -lt 8 ] || [ "$disk" -gt $((small * 1024)) ]; then
    die "--disk is 8 to $((small * 1024)) MiB"
fi
prepare
# What is installed outlives a run.
tools=$root/target/bench-tools

leave() {
    local code=$?
    trap - EXIT
    [ -z "${server:-}" ] || kill "$server" 2>/dev/null || true
    # Numbers are kept, images are not.
    rm -rf "$work"/{case,fetched.raw,*.img}
    exit "$code"
}
trap leave EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# --- the peer, and the account

install_tools() {
    local packages
    # It does nothing if this version is there. Elsewhere than what the workspace builds.
    CARGO_TARGET_DIR=$tools/build cargo install coldsnap --version "$coldsnap_version" --locked --root "$tools"
    # The versions that the tests run against.
    packages=$(sed -n 's/^const PACKAGES: .* = &\[\(.*\)\];$/\1/p' tests/cloud/aws_kit.rs | sed 's/", "/ /g; s/"//g')
    [ "$(cat "$tools/packages" 2>/dev/null)" = "$packages" ] || {
        python3 -m venv --clear "$tools/venv"
        # shellcheck disable=SC2086 # several
        "$tools/venv/bin/python" -m pip -q install --disable-pip-version-check $packages
        echo "$packages" >"$tools/packages"
    }
}

# make_volume NAME GIB: the bytes lie in pieces of 8 MiB all over it.
make_volume() {
    local n pieces=$((disk / 8))
    truncate -s "$2G" "$work/$1.img"
    for n in $(seq 0 $((pieces - 1))); do
        head -c 8M /dev/urandom |
            dd of="$work/$1.img" bs=8M seek=$((n * ($2 * 128 / pieces))) conv=notrunc iflag=fullblock status=none
    done
}

start_account() {
    local line
    # Keys of an account that exists nowhere else.
    export AWS_ACCESS_KEY_ID=AKIDIMPOUNDTEST AWS_SECRET_ACCESS_KEY=of-no-account-at-all AWS_EC2_METADATA_DISABLED=true
    export AWS_REGION=eu-west-1 AWS_DEFAULT_REGION=eu-west-1 NO_PROXY=127.0.0.1 HOME=$work
    export TEST_KEY_ID=$AWS_ACCESS_KEY_ID TEST_SECRET=$AWS_SECRET_ACCESS_KEY
    unset AWS_PROFILE AWS_DEFAULT_PROFILE AWS_SESSION_TOKEN
    coproc SERVER { exec "$tools/venv/bin/python" tests/cloud/aws_server.py "$work/small.img" "$work/large.img" 2>"$work/server.log"; }
    server=$SERVER_PID
    read -r -t 120 line <&"${SERVER[0]}" || die "the account does not start: $(tail -n 3 "$work/server.log")"
    export AWS_ENDPOINT_URL
    AWS_ENDPOINT_URL=http://127.0.0.1:$(jq .port <<<"$line")
    small_snapshot=$(snapshot_of "$(jq -r '.volumes["/dev/sda1"]' <<<"$line")")
    large_snapshot=$(snapshot_of "$(jq -r '.volumes["/dev/sdb"]' <<<"$line")")
}

snapshot_of() {
    "$tools/venv/bin/python" -c 'import boto3, sys; print(boto3.client("ec2").create_snapshot(VolumeId=sys.argv[1])["SnapshotId"])' "$1"
}

# --- what is measured

ours() {
    rm -rf "$work/case"
    timed "$1.ours" "$impound" acquire "aws://eu-west-1#$2" --case "$work/case" --progress off
    compare "$1" "$(find "$work/case/exhibits" -name '*.raw' | head -n 1)"
}

peer() {
    rm -f "$work/fetched.raw"
    timed "$1.peer" "$tools/bin/coldsnap" download --no-progress "$2" "$work/fetched.raw"
    timed "$1.sum" openssl dgst -sha256 "$work/fetched.raw"
    for metric in wall cpu; do
        add "$1.both.$metric" "$(last "$1.peer.$metric")" "$(last "$1.sum.$metric")"
    done
    compare "$1" "$work/fetched.raw"
}

# What is not the same is no result. Once for each tool and snapshot, since it takes as long as all else.
compare() {
    [ "$round" -gt 1 ] || cmp "$work/$1.img" "$2" || die "$2 is not what was written"
}

measure() {
    for round in $(seq "$rounds"); do
        say "round $round of $rounds"
        ours small "$small_snapshot"
        peer small "$small_snapshot"
        ours large "$large_snapshot"
        peer large "$large_snapshot"
    done
}

# --- the report

# rows NAME GIB
rows() {
    local text="$disk MiB in $2 GiB"
    echo "| $text | impound | $(cell "$1.ours.wall" 2) | 1 | $(cell "$1.ours.cpu" 2) | 1 | $(cell "$1.ours.rss" 0) |"
    echo "| $text | coldsnap, then \`openssl dgst -sha256\` | $(cell "$1.both.wall" 2) | $(ratio "$1.both.wall" "$1.ours.wall") | $(cell "$1.both.cpu" 2) | $(ratio "$1.both.cpu" "$1.ours.cpu") | $(cell "$1.peer.rss" 0) |"
    echo "| $text | coldsnap alone, not hashed | $(cell "$1.peer.wall" 2) | $(ratio "$1.peer.wall" "$1.ours.wall") | $(cell "$1.peer.cpu" 2) | $(ratio "$1.peer.cpu" "$1.ours.cpu") | $(cell "$1.peer.rss" 0) |"
}

report() {
    cat <<END
# Benchmarks: clouds

$(heading)

$(machine "coldsnap $coldsnap_version; $(openssl version | cut -d ' ' -f 1-2); EBS direct by the tests' own server in Python, on loopback")

\`impound acquire aws://REGION#snap-…\` against \`coldsnap download\`, of the same snapshots: $disk MiB of random bytes all over a volume, the rest
never written. Both check each block against its SHA-256. impound also asks EC2 for the snapshot, hashes the whole image with what was never
written in it, writes a map of hashes and a log of each call, and seals an exhibit. "Times" is the figure over impound's: more than 1 is more
than impound takes.

| snapshot | by | wall, s | times | CPU, s | times | MiB resident |
|---|---|---|---|---|---|---|
$(rows small "$small")
$(rows large "$large")

- impound's memory for the large one to that for the small one: $(ratio large.ours.rss small.ours.rss); coldsnap's: $(ratio large.peer.rss small.peer.rss).
- impound computes SHA-256 three times, of each block as EBS gives it, of the blocks of its map, and of the whole image with its zeros;
  coldsnap the first of them, with OpenSSL behind it the first and the last.
- The server shares the machine's cores with what is measured, and gives no block faster than Python does; so the wall times say more of it
  than of either tool, and CPU seconds and memory are what to compare.
END
}

install_tools
say "making two volumes"
make_volume small "$small"
make_volume large "$large"
start_account
measure
publish "$output"
