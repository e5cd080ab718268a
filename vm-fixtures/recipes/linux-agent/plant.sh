# shellcheck shell=sh
# Sourced by linux-small's init before it says that the guest is ready: the agent, if there is a channel for it, and a writer whose
# every write that ended is told on the console. The agent's process is in /tmp/agent.pid, for tests that stop it.
for port in /sys/class/virtio-ports/*; do
    [ "$(cat "$port/name" 2>/dev/null)" = org.qemu.guest_agent.0 ] || continue
    qemu-ga -m virtio-serial -p "/dev/${port##*/}" -t /tmp -f /tmp/agent.lock <&5 5<&- 6<&- 7<&- >/tmp/agent.log 2>&1 &
    echo $! >/tmp/agent.pid
done

written=0
while :; do
    written=$((written + 1))
    echo "impound-sequence-$written" >/mnt/vda/written
    sync
    echo "impound-written $written" >/dev/console
    sleep 0.1
done <&5 5<&- 6<&- 7<&- &
