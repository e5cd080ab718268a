# shellcheck shell=bash
# What the recipes share: Debian packages, kernel modules, initramfs, disks.
#
# Sourced by scripts/fixtures and then by each recipe's `build`, which runs with
#   OUT     the folder to fill: kernel, initramfs, cmdline, vda.qcow2 or vdb.raw …
#   RECIPE  the recipe's own folder
#   CACHE   downloaded and unpacked packages, shared by all recipes

KERNEL_META=linux-image-cloud-amd64

die() {
    echo "fixtures: $*" >&2
    exit 1
}

# The package that the kernel metapackage stands for today, e.g. linux-image-6.1.0-56-cloud-amd64.
kernel_package() {
    local name
    name=$(apt-cache depends "$KERNEL_META" 2>/dev/null | awk '/Depends: linux-image-/ { print $2; exit }')
    [ -n "$name" ] || die "apt knows no $KERNEL_META: run scripts/install test (or apt-get update)"
    printf '%s\n' "$name"
}

candidate() {
    apt-cache policy "$1" | awk '/Candidate:/ { print $2; exit }'
}

# Everything a built fixture depends on, as one line of text.
stamp_of() {
    local recipe=$1 kernel text
    kernel=$(kernel_package)
    text=$(cd "$recipe/.." && find lib.sh "$(basename "$recipe")" -type f -print0 | LC_ALL=C sort -z |
        xargs -0 sha256sum | sha256sum | cut -c1-16)
    printf 'recipe %s, %s %s, busybox-static %s, bash-static %s\n' "$text" "$kernel" "$(candidate "$kernel")" \
        "$(candidate busybox-static)" "$(candidate bash-static)"
}

# Downloads and unpacks a package without installing it; prints the folder.
unpacked() {
    local package=$1 version folder temp
    version=$(candidate "$package")
    [ -n "$version" ] || die "apt knows no package $package: run scripts/install test (or apt-get update)"
    folder=$CACHE/${package}_${version//:/%3a}
    if [ ! -d "$folder" ]; then
        mkdir -p "$CACHE"
        temp=$(mktemp -d "$CACHE/.unpacking.XXXXXX")
        (cd "$temp" && apt-get -qq download "$package=$version" >/dev/null 2>log) || {
            cat "$temp/log" >&2
            rm -rf "$temp"
            die "cannot download $package $version (apt-get update may help)"
        }
        mkdir "$temp/tree"
        dpkg -x "$temp"/*.deb "$temp/tree"
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
    cp "$kernel"/boot/vmlinuz-* "$OUT/kernel"
    cp "$(find "$busybox" -name busybox -type f -perm -u+x | head -n 1)" "$tree/bin/busybox"
    cp "$(find "$bash_tree" -name bash-static -type f -perm -u+x | head -n 1)" "$tree/bin/bash"
    # Applets as links and not by PATH tricks: the process is then named after the applet.
    for applet in sh mount umount insmod hostname ip nc sleep cat echo ls ps sync rm mkdir mkfifo mknod dd grep \
        setsid cttyhack stty poweroff reboot date touch ln; do
        ln -s busybox "$tree/bin/$applet"
    done
    while read -r file; do
        module_bytes "$file" >"$tree/modules/$number-$(basename "$file" | sed 's/\.ko.*/.ko/')"
        number=$((number + 1))
    done < <(modules_in_order "$kernel" virtio_pci virtio_blk "$@")
    [ "$number" -gt 10 ] || grep -rq virtio_blk "$kernel"/lib/modules/*/modules.builtin ||
        die "no virtio_blk in $(basename "$kernel")"
    # shellcheck disable=SC2153 # set by scripts/fixtures
    cp "$RECIPE/init" "$tree/init"
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
