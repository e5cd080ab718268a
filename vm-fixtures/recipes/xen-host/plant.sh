# shellcheck shell=sh
# Sourced by linux-small's init in a guest of Xen: a file that the guest writes, and a number that stands in memory first and on the
# second disk then, forever: memory and disk of one instant differ by one at most.
if [ -b /dev/xvda ] && mount -t ext4 -o nodiscard /dev/xvda /mnt/vda; then
    echo 'impound planted file: marker-written-in-xen-5b8e20' >/mnt/vda/written-in-guest.txt
    sync
fi
if [ -b /dev/xvdb ]; then
    sequence() {
        number=1000000
        while :; do
            number=$((number + 1))
            echo "impound-sequence-$number" >/dev/shm/sequence
            dd if=/dev/shm/sequence of=/dev/xvdb bs=4096 conv=sync,notrunc,fsync 2>/dev/null
            sleep 2
        done
    }
    sequence <&5 5<&- 6<&- 7<&- &
fi
