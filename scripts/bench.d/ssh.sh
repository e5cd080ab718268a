# shellcheck shell=bash disable=SC2154 # set by scripts/bench and prepare
# scripts/bench ssh [--rounds N] [--memory MIB] [--disk MIB] [--output FILE]
#
# A domain of a real libvirtd behind a real OpenSSH server, both of this benchmark's own and on loopback. impound takes memory and disk over
# SSH; the other way is what is done by hand: `ssh host virsh dump`, `scp`, `sha256sum`, and the same for the disk. Needs root, and about
# three times memory and disk under target/bench. The guest is quiet, so what its QEMU writes meanwhile is written for the capture.

rounds=5 memory=1024 disk=1024 output=docs/benchmarks/ssh.md
options rounds memory disk output -- "$@"
prepare
scripts/fixtures linux-small
cargo build --release --locked --manifest-path libvirt/Cargo.toml --target-dir "$work/../libvirt"
export IMPOUND_LIBVIRT=$root/target/libvirt/release/impound-libvirt IMPOUND_SSH_CONFIG=$work/ssh_config
fixture=${IMPOUND_FIXTURES:-$root/target/vm-fixtures}/linux-small
mkdir -p "$work"/{host,here,libvirt}
# Sockets have short names.
run=$(mktemp -d)

jobs=()
leave() {
    local code=$?
    trap - EXIT
    virsh_here destroy web01 >/dev/null 2>&1 || true
    for job in "${jobs[@]}"; do kill "$job" 2>/dev/null || true; done
    # Numbers are kept, images are not.
    rm -rf "$run" "$work"/{host,here,libvirt,case,*.raw,*.qcow2}
    exit "$code"
}
trap leave EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# --- the host

virsh_here() {
    virsh -q -c "qemu+unix:///system?socket=$run/libvirt-sock" "$@"
}

# Runs something on the host, as a responder would.
over_there() {
    ssh -F "$IMPOUND_SSH_CONFIG" there "$@"
}

# until_it WHAT COMMAND…: waits a minute for it.
until_it() {
    local what=$1 _
    shift
    for _ in $(seq 600); do
        if "$@" >/dev/null 2>&1; then return 0; fi
        sleep 0.1
    done
    die "waited a minute for $what"
}

# In a mount namespace, so that the machine's own libvirt is not touched.
start_libvirtd() {
    # shellcheck disable=SC2016 # expanded over there
    unshare --mount sh -euc '
        for d in /run/libvirt /var/lib/libvirt /etc/libvirt /var/cache/libvirt /var/log/libvirt; do
            mkdir -p "$d"
            mount -t tmpfs none "$d"
        done
        { cat /etc/passwd; echo "libvirt-qemu:x:64055:64055::/nonexistent:/usr/sbin/nologin"; } >"$1/passwd"
        { cat /etc/group; echo "libvirt-qemu:x:64055:"; grep -q "^kvm:" /etc/group || echo "kvm:x:64056:"; } >"$1/group"
        mount --bind "$1/passwd" /etc/passwd
        mount --bind "$1/group" /etc/group
        printf "%s\n" "user = \"root\"" "group = \"root\"" "dynamic_ownership = 0" "security_driver = \"none\"" \
            "namespaces = []" "cgroup_controllers = []" "stdio_handler = \"file\"" >/etc/libvirt/qemu.conf
        printf "%s\n" "unix_sock_dir = \"$1\"" "auth_unix_rw = \"none\"" >/etc/libvirt/libvirtd.conf
        exec libvirtd -f /etc/libvirt/libvirtd.conf -p "$1/pid"' sh "$run" >"$work/libvirtd.log" 2>&1 &
    jobs+=($!)
    until_it libvirtd virsh_here list
}

start_sshd() {
    local port=$((20000 + RANDOM % 20000)) key
    for key in host id; do ssh-keygen -q -t ed25519 -N '' -f "$run/$key"; done
    mkdir -p /run/sshd
    printf '%s\n' "ListenAddress 127.0.0.1:$port" "HostKey $run/host" "AuthorizedKeysFile $run/id.pub" 'StrictModes no' 'UsePAM no' \
        'PidFile none' 'PermitRootLogin yes' 'PasswordAuthentication no' 'Subsystem sftp internal-sftp' >"$run/sshd_config"
    printf '[127.0.0.1]:%s %s\n' "$port" "$(cat "$run/host.pub")" >"$run/known_hosts"
    printf '%s\n' 'Host there' 'HostName 127.0.0.1' "Port $port" "IdentityFile $run/id" "UserKnownHostsFile $run/known_hosts" \
        'GlobalKnownHostsFile /dev/null' 'IdentityAgent none' >"$IMPOUND_SSH_CONFIG"
    /usr/sbin/sshd -D -e -f "$run/sshd_config" 2>"$work/sshd.log" &
    jobs+=($!)
    until_it sshd over_there true
}

start_domain() {
    # Random bytes where the guest never writes: nothing compresses, nothing is a hole.
    head -c "${disk}M" /dev/urandom >"$work/disk.raw"
    cat >"$run/web01.xml" <<END
<domain type='qemu'><name>web01</name><memory unit='MiB'>$memory</memory><vcpu>2</vcpu>
<os><type arch='x86_64' machine='pc'>hvm</type><kernel>$(realpath "$fixture/kernel")</kernel>
<initrd>$(realpath "$fixture/initramfs")</initrd><cmdline>$(cat "$fixture/cmdline")</cmdline></os><features><acpi/></features>
<cpu mode='custom' match='exact'><model>qemu64</model></cpu>
<devices><disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='$work/disk.raw'/><target dev='vdc' bus='virtio'/></disk>
<serial type='file'><source path='$run/serial'/></serial><memballoon model='none'/></devices></domain>
END
    virsh_here define "$run/web01.xml" >/dev/null
    virsh_here start web01 >/dev/null
    until_it 'the guest' grep -q 'impound-guest ready' "$run/serial"
    qemu=$(pgrep -f -- "-name guest=web01,.*$run" || pgrep -n -f -- '-name guest=web01,')
    virsh_here event --domain web01 --event lifecycle --loop --timestamp >>"$work/events" 2>&1 &
    jobs+=($!)
}

# --- what is measured

written() {
    awk '$1 == "write_bytes:" { print $2 / 1048576 }' "/proc/$qemu/io"
}

# From Suspended to Resumed in ms since the events file was emptied.
paused_ms() {
    local stopped='' total=0 day time line at
    while read -r day time line; do
        at=$(date -d "$day ${time%:}" +%s.%N) || continue
        case $line in
        *Suspended*) stopped=$at ;;
        *Resumed*) [ -z "$stopped" ] || total=$(awk -v t="$total" -v a="$stopped" -v b="$at" 'BEGIN { print t + (b - a) * 1000 }') ;;
        esac
    done <"$work/events"
    echo "$total"
}

# around NAME FUNCTION: wall time, pause, and what was written on the host.
around() {
    local begun before
    : >"$work/events"
    before=$(written)
    begun=$EPOCHREALTIME
    "$2"
    put "$1.wall" "$(seconds_since "$begun")"
    put "$1.pause" "$(paused_ms)"
    # What is written beside QEMU lies in this folder.
    put "$1.written" "$(awk -v a="$before" -v b="$(written)" -v c="$beside" 'BEGIN { print b - a + c }')"
}

by_impound() {
    beside=0
    rm -rf "$work/case"
    "$impound" acquire "libvirt+qemu+ssh://there/system?socket=$run/libvirt-sock#web01" --case "$work/case" --progress off \
        --scratch "$work/host" --memory --disk all >>"$work/log" 2>&1 || die "impound failed: $(tail -n 5 "$work/log")"
}

# No instant is promised: the disk is read while the guest writes.
by_hand() {
    rm -f "$work/here/"*
    over_there virsh -q -c "'qemu+unix:///system?socket=$run/libvirt-sock'" dump --memory-only web01 "$work/host/memory.elf" >>"$work/log" 2>&1
    over_there qemu-img convert -U -f raw -O raw "$work/disk.raw" "$work/host/disk.raw"
    scp -q -F "$IMPOUND_SSH_CONFIG" "there:$work/host/memory.elf" "there:$work/host/disk.raw" "$work/here/"
    (cd "$work/here" && sha256sum memory.elf disk.raw >>"$work/log")
    beside=$(du -m "$work/host/disk.raw" | cut -f 1)
    over_there rm "$work/host/memory.elf" "$work/host/disk.raw"
}

# --- the report

report() {
    cat <<END
# Benchmarks: over SSH

$(heading)

$(machine "$(qemu-system-x86_64 --version | head -n 1), TCG (no KVM); libvirt $(virsh --version); $(ssh -V 2>&1 | cut -d , -f 1), on loopback")

A quiet domain of $memory MiB with a disk of $disk MiB of random bytes. By hand: \`ssh host virsh dump --memory-only\`, \`qemu-img convert -U\`
there, \`scp\`, \`sha256sum\`; memory and disk are then of different times. impound promises one instant, and its exhibits are durable.

| | wall, s | stopped, ms | written on the host, MiB |
|---|---|---|---|
| \`impound acquire libvirt+qemu+ssh://\` | $(cell impound.wall 2) | $(cell impound.pause) | $(cell impound.written) |
| \`virsh dump\`, \`qemu-img convert\`, \`scp\`, \`sha256sum\` | $(cell hand.wall 2) | $(cell hand.pause) | $(cell hand.written) |

- Wall time of impound to that by hand: $(ratio impound.wall hand.wall). Stopped time by hand to that of impound: $(ratio hand.pause impound.pause).
- Stopped is from libvirt's event Suspended to its Resumed; written is what the domain's QEMU wrote, and the copy of the disk; not what libvirt's
  helper wrote, which puts the dump by hand into its file.
END
}

start_libvirtd
start_sshd
start_domain
for round in $(seq "$rounds"); do
    say "round $round of $rounds"
    around impound by_impound
    around hand by_hand
done
publish "$output"
