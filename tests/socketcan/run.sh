#!/bin/bash
# Runs the CAN suite, or any command, on a real Linux CAN stack: vcan, raw CAN sockets and the kernel's slcan driver.
#
#   run.sh [-t SECONDS] [-v] [-- command ...]      without a command: pytest on this folder
#
# Where this machine's own kernel has a vcan0, the command runs right here. Elsewhere it runs in a guest: Debian's
# User-Mode Linux, a kernel that is an ordinary program. It needs no virtualisation and no privileges; its root is
# this machine's root, so the same Python and the same project are there, and files it writes are here afterwards.
# What is missing is installed with apt as root, and otherwise unpacked from Debian's packages into .tools/.
# Exit code and output are the command's; 124: time is up; 125: the guest did not get as far as the command.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
tools=$root/.tools/uml
limit=300 verbose=0
while getopts "t:v" option; do
    case $option in
        t) limit=$OPTARG ;;
        v) verbose=1 ;;
        *) sed -n '2,11s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
    esac
done
shift $((OPTIND - 1))
cd "$root"
[ $# -gt 0 ] || set -- "$root/.venv/bin/python" -m pytest -p no:cacheprovider --color=no tests/socketcan

[ -d /sys/class/net/vcan0 ] && exec "$@"

# --- what the guest is made of ------------------------------------------------------------------------------
export PATH=$tools/usr/bin:$tools/usr/sbin:$tools/sbin:$tools/bin:$PATH:/usr/sbin:/sbin
packages=()
command -v linux.uml >/dev/null || packages+=(user-mode-linux)
command -v modprobe >/dev/null || packages+=(kmod libkmod2)
command -v ip >/dev/null || packages+=(iproute2 libbpf1 libelf1 libmnl0 libcap2 libbsd0 libmd0 libtirpc3 libxtables12)
if [ ${#packages[@]} -gt 0 ]; then
    command -v apt-get >/dev/null || { echo "run.sh: please install: ${packages[*]}" >&2; exit 125; }
    if [ "$(id -u)" = 0 ]; then
        { apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
            apt-get install -y -qq --no-install-recommends "${packages[@]}"; } >&2
    else
        mkdir -p "$tools/debs"
        (cd "$tools/debs" && apt-get download -qq "${packages[@]}" >&2)
        for deb in "$tools/debs"/*.deb; do dpkg -x "$deb" "$tools"; done
        rm -r "$tools/debs"
    fi
fi
uml=$(command -v linux.uml)
modules=$(dirname "$(dirname "$uml")")/lib/uml/modules
[ -d "$tools/usr/lib/x86_64-linux-gnu" ] && export LD_LIBRARY_PATH=$tools/usr/lib/x86_64-linux-gnu:$tools/lib/x86_64-linux-gnu

job=$(mktemp -d "${XDG_RUNTIME_DIR:-/var/tmp}/socketcan.XXXXXX")
trap 'rm -rf "$job"' EXIT
preload=
if grep -qw amx_tile /proc/cpuinfo; then # see xstate_shim.c
    command -v cc >/dev/null || { echo "run.sh: this CPU needs xstate_shim.c: please install a C compiler" >&2; exit 125; }
    cc -O2 -shared -fPIC -o "$job/xstate_shim.so" "$here/xstate_shim.c"
    preload=$job/xstate_shim.so
fi
printf 'MODULES=%q\nDIRECTORY=%q\n' "$modules" "$root" >"$job/settings"
export -p | grep -vE '^declare -x (PWD|OLDPWD|SHLVL|TMPDIR|_)(=|$)' | sed 's/^declare -x /export /' >"$job/env"
{ echo '#!/bin/bash'; printf 'exec'; printf ' %q' "$@"; echo; } >"$job/command"
chmod +x "$job/command"

# --- run it -------------------------------------------------------------------------------------------------
# The guest sets its channels non-blocking, so it gets pipes and not the caller's own files.
mkfifo "$job/out" "$job/err"
cat "$job/out" &
cats=$!
cat "$job/err" >&2 &
cats="$cats $!"
# The guest's kernel and its processes hand over to each other at every system call: on one CPU that is 5 to 8
# times faster than across two.
cpu=$(python3 -c 'import os; print(max(os.sched_getaffinity(0)))')
code=0
LD_PRELOAD=$preload timeout -k 5 "$limit" taskset -c "$cpu" "$uml" \
    mem=1G rootfstype=hostfs rootflags=/ rw init="$here/guest_init.sh" quiet panic=1 \
    uml_dir="$job/" umid=uml SOCKETCAN_JOB="$job" \
    con=null con0=null,fd:3 con1=null,fd:4 con2=null,fd:5 ssl=null \
    3>"$job/console" 4>"$job/out" 5>"$job/err" >>"$job/console" 2>&1 </dev/null || code=$?
# shellcheck disable=SC2086 # two numbers
wait $cats
if [ "$verbose" = 1 ]; then cat "$job/console" >&2; fi
if [ -s "$job/code" ]; then exit "$(cat "$job/code")"; fi
echo "run.sh: the guest ended without a result (linux.uml: $code); its console:" >&2
tail -40 "$job/console" >&2
[ "$code" = 124 ] && exit 124
exit 125
