#!/bin/sh
# The fake board's ForceCommand: what a client asks for runs as aarch64 under QEMU, in the root file system of `build.py`.
# `settings` beside this file says ROOT and SITE; what `files.py` lays under `files` is bound over the root file system.
here=$(dirname "$0")
. "$here/settings"
set -- -q qemu-aarch64-static -r "$ROOT" -w /root -b /dev -b /proc
for place in root tmp sys usr/sbin/nvpmodel etc/nvpmodel.conf var/lib/nvpmodel proc/cpuinfo proc/device-tree/model \
    proc/sys/kernel/random/boot_id; do
    set -- "$@" -b "$here/files/$place:/$place"
done
# Two shells: proot ends with 0 when its own child is killed, the outer shell says 137.
# Nothing of the client's environment; by PROOT_TMP_DIR the fixture knows what runs here. QEMU_CPU: the nearest to the board's
# Cortex-A78AE that QEMU 7.2 has (its default has SVE, which it emulates nine times slower).
exec env -i HOME=/root LANG=C.UTF-8 PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin PYTHONPATH="$SITE" \
    PROOT_NO_SECCOMP=1 PROOT_TMP_DIR="$here" QEMU_CPU=cortex-a76 \
    proot "$@" /bin/sh -c '/bin/sh -c "$1"; exit $?' sh "${SSH_ORIGINAL_COMMAND:-exec /bin/sh}"
