# shellcheck shell=sh
# Sourced by linux-small's init before it says what the guest holds: everything odd, and a wait until all of it stands.
insmod /etc/impound_planted.ko
# One of them is user 1000.
mkdir -m 1777 /tmp/planted
for role in memfd rwx traced sockets caps namespaces filter event; do
    plant "$role" >/dev/null 2>&1 <&5 &
done
LD_PRELOAD=/tmp/planted-evil.so plant preloaded <&5 &
for role in memfd rwx traced sockets caps namespaces filter event preloaded; do
    while [ ! -e "/tmp/planted/$role" ]; do sleep 0.02; done
done
