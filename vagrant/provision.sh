#!/usr/bin/env bash
# Usage: provision.sh [--user NAME] [--project FOLDER] | provision.sh --packages
# Sets up a Debian 12 machine (or newer) for the harness. It needs root, and may be run again at any time. `vagrant up`
# runs it in the VM. On a machine of your own, run sudo vagrant/provision.sh
#   --user     the user of the harness (by default the one who called sudo)
#   --project  the checkout (by default the one with this file); its tools/setup runs as that user
#   --packages only lists the Debian packages; build-box puts them into the box
# HARNESS_APT_MIRRORS, in the form of vagrant/apt-mirrors, is used where apt's own mirrors do not answer.
# If FOLDER/vagrant/wheels exists, Python packages come from there and from nowhere else.
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
    # In a container, or with a kernel of your own, the devices may be there without being modules.
    modprobe -a tun vhost_net || true
    local device
    for device in /dev/net/tun /dev/vhost-net; do
        [ -c "$device" ] || say "there is no $device, because this kernel has no such module; the harness does without it"
    done
    # udev gives /dev/vhost-net to this group. Everybody may open /dev/net/tun.
    if [ "$user" != root ] && getent group kvm >/dev/null; then usermod -aG kvm "$user"; fi
}

set_up_project() {
    if [ ! -x "$project/tools/setup" ]; then
        say "the machine is ready; $project has no checkout to set up"
        return 0
    fi
    local pip=()
    if [ -d "$project/vagrant/wheels" ]; then
        pip=(PIP_NO_INDEX=1 "PIP_FIND_LINKS=$project/vagrant/wheels")
    fi
    # The user may run tools/setup again, or a script that calls it.
    sed -i '/^PIP_\(NO_INDEX\|FIND_LINKS\)=/d' /etc/environment
    [ ${#pip[@]} -eq 0 ] || printf '%s\n' "${pip[@]}" >>/etc/environment
    # -l: a new login has the group that was just added.
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
        *) die "there is no option $1; the first lines of this file describe the usage" ;;
    esac
    shift 2
done
[ "$(id -u)" = 0 ] || die "setting up a machine needs root: sudo $0"
install_packages
tell_if_emulated
set_up_devices
set_up_project
say "ready: $(uname -r)"
