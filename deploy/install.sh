#!/bin/bash
# Installs or upgrades the station controller on Debian 12 or later. Safe to run again: an installed station file, the
# journal and the outbox are never touched, and a running controller is restarted only when --start says so.
set -euo pipefail

usage() {
    cat <<'TEXT'
usage: install.sh [--station FILE] [--can] [--start] [--dry-run]

  --station FILE  install FILE as /etc/swap-station/station.toml, if none is installed yet
  --can           also bring up CAN interfaces at boot, with systemd-networkd
  --start         start the controller now, or restart it into the new release
                  (only with no swap in progress: swapctl status)
  --dry-run       print what would be done
TEXT
}

source_dir=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
prefix=/opt/swap-station
etc=/etc/swap-station
release=$prefix/releases/$(date -u +%Y%m%dT%H%M%SZ)
releases_kept=3
station='' can=no start=no dry_run=no

while (($#)); do
    case $1 in
        --station) station=${2:?--station needs a file}; shift ;;
        --can) can=yes ;;
        --start) start=yes ;;
        --dry-run) dry_run=yes ;;
        -h | --help) usage; exit 0 ;;
        *) usage >&2; exit 2 ;;
    esac
    shift
done

say() { printf '%s\n' "$*"; }
fail() { printf 'install.sh: %s\n' "$*" >&2; exit 1; }

# Runs a command, or prints it.
run() {
    if [[ $dry_run == yes ]]; then
        printf '+'; printf ' %q' "$@"; printf '\n'
    else
        "$@"
    fi
}

systemd_runs() { [[ -d /run/systemd/system ]]; }

check_host() {
    [[ $dry_run == yes || $EUID -eq 0 ]] || fail "must be run as root (sudo $0 ...)"
    python3 -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null ||
        fail "needs Python 3.11 to 3.13 as python3: apt-get install python3"
    python3 -c 'import ensurepip' 2>/dev/null || run apt-get install --yes --no-install-recommends python3-venv
    [[ -z $station || -r $station ]] || fail "cannot read $station"
}

make_user() {
    run install -D -m 0644 "$source_dir/deploy/sysusers/swap-station.conf" /etc/sysusers.d/swap-station.conf
    run systemd-sysusers /etc/sysusers.d/swap-station.conf
}

# A release is a virtual environment of its own; `current` moves to it when it is whole, so that a power cut or a
# failed download leaves the old one in use, and the way back is: ln -sfn RELEASE /opt/swap-station/current
make_release() {
    local build
    build=$(mktemp -d)
    # The builder is pinned by hash like everything else; only the development lock has it.
    awk '/^[^ #]/ {take = /^setuptools==/} take' "$source_dir/tests/requirements.lock" >"$build/builder.lock"
    [[ -s $build/builder.lock ]] || fail "tests/requirements.lock does not pin setuptools"
    for part in controller hal sim_hw pyproject.toml README.md LICENSE NOTICE; do
        [[ ! -e $source_dir/$part ]] || cp -r "$source_dir/$part" "$build/"
    done
    run mkdir -p "$prefix/releases"
    run python3 -m venv "$release"
    run "$release/bin/pip" install --quiet --disable-pip-version-check --require-hashes \
        -r "$source_dir/deploy/requirements.lock"
    run "$release/bin/pip" install --quiet --disable-pip-version-check --require-hashes -r "$build/builder.lock"
    run "$release/bin/pip" install --quiet --disable-pip-version-check --no-deps --no-build-isolation "$build"
    rm -rf "$build"
}

install_files() {
    run install -d -m 0755 "$etc"
    if [[ -n $station ]]; then
        run "$release/bin/swapctl" config check "$station"
        if [[ -e $etc/station.toml ]] && ! cmp -s "$station" "$etc/station.toml"; then
            say "kept $etc/station.toml, which differs from $station; replace it by hand if that is meant"
        else
            run install -m 0640 -g swap-station "$station" "$etc/station.toml"
        fi
    fi
    run install -D -m 0644 "$source_dir/deploy/systemd/swap-station.service" /etc/systemd/system/swap-station.service
    run install -D -m 0644 "$source_dir/deploy/sysctl/50-swap-station.conf" /etc/sysctl.d/50-swap-station.conf
    if [[ $can == yes ]]; then
        run install -D -m 0644 "$source_dir/deploy/networkd/80-swap-can.network" /etc/systemd/network/80-swap-can.network
        run install -D -m 0644 "$source_dir/deploy/networkd/80-swap-can.link" /etc/systemd/network/80-swap-can.link
    fi
}

switch_over() {
    run ln -sfn "$release" "$prefix/current.new"
    run mv -T "$prefix/current.new" "$prefix/current"
    run ln -sfn "$prefix/current/bin/swapctl" /usr/local/bin/swapctl
    [[ $dry_run == yes ]] && return
    local old
    find "$prefix/releases" -mindepth 1 -maxdepth 1 -type d | sort | head -n "-$releases_kept" | while read -r old; do
        [[ $old == "$(readlink -f "$prefix/current")" ]] || rm -rf -- "$old"
    done
}

tell_systemd() {
    if ! systemd_runs && [[ $dry_run == no ]]; then
        say "systemd does not run here: nothing was enabled"
        return
    fi
    run systemctl daemon-reload
    run sysctl --quiet --load /etc/sysctl.d/50-swap-station.conf
    run systemctl enable --quiet swap-station.service
    if [[ $can == yes ]]; then
        run systemctl enable --now --quiet systemd-networkd.service
        # Where networkd manages nothing but CAN, nothing ever counts as online and the boot would wait for it.
        if [[ $(find /etc/systemd/network -name '*.network' ! -name '80-swap-can.network' 2>/dev/null | wc -l) == 0 ]]; then
            run systemctl disable --quiet systemd-networkd-wait-online.service
        fi
        run networkctl reload
    fi
    if [[ $start == yes ]]; then
        run systemctl restart swap-station.service
    fi
}

check_host
make_user
make_release
install_files
switch_over
tell_systemd

say "installed $release"
[[ -e $etc/station.toml || $dry_run == yes ]] || say "next: $0 --station FILE"
[[ $start == yes ]] || say "next: systemctl restart swap-station, with no swap in progress (swapctl status)"
