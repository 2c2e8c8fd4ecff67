#!/bin/sh
# The first process of the guest: mounts what a system needs, loads the kernel's CAN modules, makes vcan0, runs one
# command, leaves its exit code, and powers off. run.sh passes SOCKETCAN_JOB, a folder of the host.
. "$SOCKETCAN_JOB/env"
export HOME=/root
mount -t proc proc /proc 2>/dev/null
mount -t sysfs sysfs /sys 2>/dev/null
mount -t tmpfs -o mode=755 run /run
mkdir -p /run/tmp /dev/pts /dev/shm /run/modules/lib
mount -t devpts -o mode=620,ptmxmode=666 devpts /dev/pts 2>/dev/null
mount -t tmpfs -o mode=1777 shm /dev/shm 2>/dev/null
[ -e /dev/fd ] || ln -s /proc/self/fd /dev/fd
. "$SOCKETCAN_JOB/settings"
ln -s "$MODULES" /run/modules/lib/modules
for module in can-raw vcan slcan; do
    modprobe -d /run/modules "$module" || echo "guest: no module $module" >&2
done
ip link set lo up
ip link add dev vcan0 type vcan && ip link set vcan0 up
for terminal in /dev/tty1 /dev/tty2; do stty -F "$terminal" raw -echo; done
(
    cd "$DIRECTORY" || exit 125
    export TMPDIR=/run/tmp PYTHONDONTWRITEBYTECODE=1
    exec "$SOCKETCAN_JOB/command" </dev/null
) >/dev/tty1 2>/dev/tty2
echo $? >"$SOCKETCAN_JOB/code"
sync
exec python3 -c '
import ctypes
ctypes.CDLL(None).reboot(0x4321FEDC)  # LINUX_REBOOT_CMD_POWER_OFF'
