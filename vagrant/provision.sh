#!/usr/bin/env bash
# Usage: provision.sh [--user NAME] [--project FOLDER] | provision.sh --packages
# Sets up a Debian 12 machine (or newer) for the harness; run as root, at any time again. `vagrant up` runs
# it in the VM. On a machine of your own: sudo vagrant/provision.sh
#   --user     who will run the harness (the one who called sudo)
#   --project  the checkout; its tools/setup runs as that user (the checkout this file is in)
#   --packages only lists the Debian packages; build-box puts them into the box
# HARNESS_APT_MIRRORS, in the form of vagrant/apt-mirrors, is used where apt's own mirrors do not answer.
# Python packages come from FOLDER/vagrant/wheels where that exists, and from nowhere else then.
set -euo pipefail
export DEBIAN_FRONTEND=noninteractive LC_ALL=C

user=${SUDO_USER:-root}
project=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
packages=(
    gcc libc6-dev pkg-config python3 python3-dev python3-venv # what tools/setup compiles with
    curl ethtool iproute2 kmod nftables procps tcpdump        # what tests, trials and people use
)

say() { printf '== %s\n' "$*"; }

die() {
    printf 'provision: %s\n' "$*" >&2
    exit 1
}

# Without --error-on, apt calls an update with unreachable mirrors a success.
apt_update() { apt-get -qq -o Acquire::Retries=0 -o Acquire::http::Timeout=15 --error-on=any update; }

# Replaces apt's sources by the mirrors of the host.
use_host_mirrors() {
    local kind uri codename file
    codename=$(. /etc/os-release && echo "$VERSION_CODENAME")
    for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.{list,sources}; do
        [ ! -s "$file" ] || mv "$file" "$file.unreachable"
    done
    while read -r kind uri; do
        case $kind in
            archive) printf 'deb %s %s main\n' "$uri" "$codename" "$uri" "$codename-updates" ;;
            security) printf 'deb %s %s-security main\n' "$uri" "$codename" ;;
        esac
    done <<<"$HARNESS_APT_MIRRORS" >/etc/apt/sources.list
}

install_packages() {
    local name missing=()
    for name in "${packages[@]}"; do
        [ "$(dpkg-query -Wf '${db:Status-Status}' "$name" 2>/dev/null)" = installed ] || missing+=("$name")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    say "apt-get install ${missing[*]}"
    if ! grep -rqsE '^(deb |Types:)' /etc/apt/sources.list /etc/apt/sources.list.d || ! apt_update; then
        [ -n "${HARNESS_APT_MIRRORS-}" ] || die "apt reaches no mirror, and HARNESS_APT_MIRRORS is empty"
        say "apt reaches no mirror of its own; using those of the host"
        use_host_mirrors
        apt_update
    fi
    apt-get -qq -o Dpkg::Use-Pty=0 install -y --no-install-recommends "${missing[@]}" >/dev/null
}

# The tests give an emulated machine more time.
tell_if_emulated() {
    sed -i '/^HARNESS_IN_VM=/d' /etc/environment
    if [ "$(systemd-detect-virt --vm 2>/dev/null)" = qemu ]; then
        echo HARNESS_IN_VM=tcg >>/etc/environment
    fi
}

set_up_devices() {
    printf '%s\n' tun vhost_net >/etc/modules-load.d/nic-harness.conf
    # In a container, and with a kernel built otherwise, they may be there without being modules.
    modprobe -a tun vhost_net || true
    local device
    for device in /dev/net/tun /dev/vhost-net; do
        [ -c "$device" ] || say "no $device: this kernel has no such module; the harness does without"
    done
    # udev gives /dev/vhost-net to this group. Everybody may open /dev/net/tun.
    if [ "$user" != root ] && getent group kvm >/dev/null; then usermod -aG kvm "$user"; fi
}

set_up_project() {
    if [ ! -x "$project/tools/setup" ]; then
        say "no $project/tools/setup: the machine is ready, the project is not here"
        return 0
    fi
    local pip=()
    if [ -d "$project/vagrant/wheels" ]; then
        pip=(PIP_NO_INDEX=1 "PIP_FIND_LINKS=$project/vagrant/wheels")
    fi
    # Also for when the user runs tools/setup again, or what calls it.
    sed -i '/^PIP_\(NO_INDEX\|FIND_LINKS\)=/d' /etc/environment
    [ ${#pip[@]} -eq 0 ] || printf '%s\n' "${pip[@]}" >>/etc/environment
    # -l: the group just given counts.
    runuser -l "$user" -c "cd $(printf %q "$project") && env ${pip[*]@Q} tools/setup"
    ln -sfn "$project/.venv/bin/harness" /usr/local/bin/harness
}

while [ $# -gt 0 ]; do
    case $1 in
        --user) user=$2 ;;
        --project) project=$2 ;;
        --packages)
            printf '%s\n' "${packages[@]}"
            exit
            ;;
        *) die "the first lines of this file say how it is used; not with $1" ;;
    esac
    shift 2
done
[ "$(id -u)" = 0 ] || die "only root can set up a machine: sudo $0"
install_packages
tell_if_emulated
set_up_devices
set_up_project
say "ready: $(uname -r)"
