# shellcheck shell=bash
# What the recipes share: Debian packages, kernel modules, initramfs, disks.
#
# Sourced by scripts/fixtures and then by each recipe's `build`, which runs with
#   OUT     the folder to fill: kernel, initramfs, cmdline, vda.qcow2 or vdb.raw …
#   RECIPE  the recipe's own folder
#   CACHE   downloaded and unpacked packages, shared by all recipes
#
# A recipe's file `from`, if it has one, is read before: SUITES (releases of Debian that its packages come from, in place of
# those that the machine's own apt knows), ARCH (amd64 if not named), KERNEL_META (the kernel's metapackage), PACKAGES (what
# else it unpacks) and BASE (another recipe that it takes files from).

SUITES=''
ARCH=amd64
KERNEL_META=''
PACKAGES='busybox-static bash-static'
BASE=''

die() {
    echo "fixtures: $*" >&2
    exit 1
}

# Reads what a recipe is made from: read_from RECIPE. Fails if no mirror of this machine offers it.
read_from() {
    # shellcheck disable=SC1091 # each recipe has its own
    if [ -f "$1/from" ]; then . "$1/from"; fi
    KERNEL_META=${KERNEL_META:-linux-image-cloud-$ARCH}
    apt_options
}

# Fills APT, the options of every call of apt. Another release or architecture has sources, lists and state of its own in a
# folder of the cache: nothing of the machine's apt is touched. Mirror and keys are those that the machine is set up with.
apt_options() {
    local suite uri key state=$CACHE/apt-$ARCH
    APT=(-o "APT::Architecture=$ARCH" -o "APT::Architectures=$ARCH" -o Acquire::Languages=none)
    if [ -z "$SUITES" ]; then
        APT=()
        return
    fi
    for suite in $SUITES; do state=$state-$suite; done
    mkdir -p "$state"/{sources,lists/partial,cache/archives/partial}
    touch "$state/status"
    rm -f "$state"/sources/*
    for suite in $SUITES; do
        read -r uri key < <(mirror_of "$suite") || true
        [ -n "${uri:-}" ] || return 1
        {
            printf 'Types: deb\nURIs: %s\nSuites: %s\nComponents: main\n' "$uri" "$suite"
            case ${key:-} in /*) echo "Signed-By: $key" ;; esac
        } >"$state/sources/$suite.sources"
    done
    # The newest of all releases that are named, although apt would rather not take from backports.
    printf 'Package: *\nPin: release o=Debian*\nPin-Priority: 500\n' >"$state/preferences"
    APT+=(-o "Dir::Etc::Preferences=$state/preferences" -o Dir::Etc::SourceList=/dev/null -o "Dir::Etc::SourceParts=$state/sources" -o "Dir::State=$state"
        -o "Dir::State::Lists=$state/lists" -o "Dir::State::status=$state/status" -o "Dir::Cache=$state/cache")
    if [ -z "$(candidate "$KERNEL_META")" ]; then apt_update; fi
    [ -n "$(candidate "$KERNEL_META")" ]
}

apt_update() {
    apt-get -qq "${APT[@]}" update >/dev/null 2>&1 || true
}

# Where a release comes from: "URI keyring" of this machine's own release, or of its security updates.
mirror_of() {
    local codename
    # shellcheck disable=SC1091 # the machine's own
    codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
    case $1 in
    *-security) configured_mirror "$codename-security" ;;
    *) configured_mirror "$codename" ;;
    esac
}

# The package that the kernel metapackage stands for today, e.g. linux-image-6.1.0-56-cloud-amd64.
kernel_package() {
    local name
    name=$(apt-cache "${APT[@]}" depends "$KERNEL_META" 2>/dev/null | awk '/Depends: linux-image-/ { print $2; exit }')
    [ -n "$name" ] || die "apt knows no $KERNEL_META: run scripts/install test (or apt-get update)"
    printf '%s\n' "$name"
}

candidate() {
    apt-cache "${APT[@]}" policy "$1" 2>/dev/null | awk '/Candidate:/ && $2 != "(none)" { print $2; exit }'
}

# Everything a built fixture depends on, as one line of text.
stamp_of() {
    local recipe=$1 kernel text package
    local -a folders
    kernel=$(kernel_package)
    folders=("$(basename "$recipe")")
    if [ -n "$BASE" ]; then folders+=("$BASE"); fi
    text=$(cd "$recipe/.." && find lib.sh "${folders[@]}" -type f -print0 | LC_ALL=C sort -z |
        xargs -0 sha256sum | sha256sum | cut -c1-16)
    printf 'recipe %s, %s %s' "$text" "$kernel" "$(candidate "$kernel")"
    for package in $PACKAGES; do printf ', %s %s' "$package" "$(candidate "$package")"; done
    printf '\n'
}

# What has to be unpacked with a package: of kernels since 7.1 image, modules and what both share are apart, named alike; headers need
# those of all flavours, and tools.
companions() {
    local version=${1#linux-image-}
    printf '%s\n' "$1"
    case $1 in
    linux-image-*)
        apt-cache "${APT[@]}" depends "$1" | awk -v end="-$version" '
            $1 == "Depends:" && substr($2, length($2) - length(end) + 1) == end { print $2 }'
        ;;
    linux-headers-*)
        apt-cache "${APT[@]}" depends "$1" | awk '$1 == "Depends:" && $2 ~ /^linux-(headers|kbuild)-/ { print $2 }'
        ;;
    esac
}

# Downloads and unpacks a package and its companions without installing them; prints the folder.
unpacked() {
    local package=$1 version folder temp all
    version=$(candidate "$package")
    [ -n "$version" ] || die "apt knows no package $package: run scripts/install test (or apt-get update)"
    folder=$CACHE/${package}_${version//:/%3a}
    if [ "$ARCH" != amd64 ]; then folder=${folder}_$ARCH; fi
    if [ ! -d "$folder" ]; then
        mkdir -p "$CACHE"
        temp=$(mktemp -d "$CACHE/.unpacking.XXXXXX")
        mapfile -t all < <(companions "$package")
        # A mirror drops old versions: lists that are out of date name what is gone.
        (cd "$temp" && apt-get -qq "${APT[@]}" download "${all[@]}" >/dev/null 2>log) || {
            cat "$temp/log" >&2
            rm -rf "$temp"
            if [ -n "$SUITES" ]; then apt_update; fi
            die "cannot download ${all[*]} $version (apt-get update may help, or once more)"
        }
        mkdir "$temp/tree"
        find "$temp" -maxdepth 1 -name '*.deb' -exec dpkg -x {} "$temp/tree" \;
        mv "$temp/tree" "$folder"
        rm -rf "$temp"
    fi
    printf '%s\n' "$folder"
}

# The text of a kernel module file, whatever Debian compressed it with.
module_bytes() {
    case $1 in
    *.xz) xz -dc "$1" ;;
    *.zst) zstd -qdc "$1" ;;
    *) cat "$1" ;;
    esac
}

# Prints module files in the order insmod wants them: each after what it depends on. What is built in or absent
# from this kernel is left out, so one list serves kernels that differ in what they made modular.
modules_in_order() {
    local modules=$1 name file line
    shift
    for name in "$@"; do
        file=$(find "$modules" -name "$name.ko" -o -name "$name.ko.xz" -o -name "$name.ko.zst" | head -n 1)
        [ -n "$file" ] || file=$(find "$modules" -name "${name//_/-}.ko*" | head -n 1)
        [ -n "$file" ] || continue
        line=$(module_bytes "$file" | tr '\0' '\n' | grep -a -m 1 '^depends=' || true)
        # shellcheck disable=SC2046 # one word per module is what is wanted
        modules_in_order "$modules" $(tr ',' ' ' <<<"${line#depends=}")
        printf '%s\n' "$file"
    done | awk '!seen[$0]++'
}

# Lays out $OUT/.root: busybox with its applets, bash, the kernel's virtio modules, the recipe's files.
# Arguments: modules beyond virtio_pci and virtio_blk.
initramfs_root() {
    local kernel busybox bash_tree tree=$OUT/.root file applet number=10
    kernel=$(unpacked "$(kernel_package)")
    busybox=$(unpacked busybox-static)
    bash_tree=$(unpacked bash-static)
    mkdir -p "$tree"/{bin,dev,proc,sys,tmp,root,etc,modules,mnt/vda,mnt/vdb}
    cp "$(find "$kernel" -name 'vmlinuz*' -type f | head -n 1)" "$OUT/kernel"
    cp "$(find "$busybox" -name busybox -type f -perm -u+x | head -n 1)" "$tree/bin/busybox"
    cp "$(find "$bash_tree" -name bash-static -type f -perm -u+x | head -n 1)" "$tree/bin/bash"
    # Applets as links and not by PATH tricks: the process is then named after the applet.
    for applet in sh mount umount insmod hostname ip nc sleep cat echo ls ps sync rm mkdir mkfifo mknod dd grep \
        setsid cttyhack stty poweroff reboot date touch ln readlink; do
        ln -s busybox "$tree/bin/$applet"
    done
    while read -r file; do
        module_bytes "$file" >"$tree/modules/$number-$(basename "$file" | sed 's/\.ko.*/.ko/')"
        number=$((number + 1))
    done < <(modules_in_order "$kernel" virtio_pci virtio_blk "$@")
    [ "$number" -gt 10 ] || find "$kernel" -name modules.builtin -exec grep -q virtio_blk {} + ||
        die "no virtio_blk in $(basename "$kernel")"
    # shellcheck disable=SC2153 # set by scripts/fixtures
    cp "$RECIPE/${BASE:+../$BASE/}init" "$tree/init"
    chmod 755 "$tree/init"
}

# Packs $OUT/.root into $OUT/initramfs. Not compressed: unpacking costs an emulated CPU more than loading does.
initramfs_pack() {
    (cd "$OUT/.root" && find . -exec touch -h -d '2024-03-01 10:00:00 UTC' {} + &&
        find . -print0 | LC_ALL=C sort -z | cpio -0 --quiet -o -H newc -R 0:0 --reproducible) >"$OUT/initramfs"
    rm -rf "$OUT/.root"
}

# An ext4 image from a folder: ext4_image FILE SIZE LABEL UUID FOLDER. Same input, same bytes, no mount.
ext4_image() {
    local file=$1 size=$2 label=$3 uuid=$4 folder=$5
    find "$folder" -exec touch -h -d '2024-03-01 10:00:00 UTC' {} +
    rm -f "$file"
    truncate -s "$size" "$file"
    PATH=$PATH:/sbin:/usr/sbin E2FSPROGS_FAKE_TIME=1709287200 \
        mke2fs -q -t ext4 -L "$label" -U "$uuid" -E "hash_seed=$uuid,root_owner=0:0" -d "$folder" "$file"
}

# Deletes a file from an ext4 image as a kernel would, leaving its blocks: ext4_delete IMAGE /PATH
ext4_delete() {
    PATH=$PATH:/sbin:/usr/sbin E2FSPROGS_FAKE_TIME=1709373600 debugfs -w -R "rm $2" "$1" >/dev/null 2>&1
}
