# Shared by the scripts of this folder, which source it first: they then run in the checkout's root.
# shellcheck shell=bash
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$PWD
# The script that somebody started: the others that it runs need not say what to do next.
export started=${started-${0##*/}}
# A plain user's PATH leaves out nft and its like.
export PATH=$root/.venv/bin:$PATH:/usr/sbin:/sbin

say() { printf '== %s\n' "$*"; }

die() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

have() { command -v "$1" >/dev/null; }

# quiet WHAT COMMAND...: one line for the reader; the output only when the command fails. Not for shell
# functions: `set -e` sleeps inside them here.
quiet() {
    local what=$1 output
    say "$what"
    if ! output=$("${@:2}" 2>&1 </dev/null); then
        printf '%s\n' "$output" >&2
        die "failed: $what"
    fi
}

# install_packages PACKAGE...: of Debian's; none is fine. It says which, and takes root.
install_packages() {
    [ $# -gt 0 ] || return 0
    if [ "$(id -u)" != 0 ] || ! have apt-get; then
        die "this machine lacks what these Debian packages bring: $*"
    fi
    export DEBIAN_FRONTEND=noninteractive
    quiet "apt-get update" apt-get update
    quiet "apt-get install $*" apt-get install -y --no-install-recommends "$@"
}

# choose_build [--sanitize=KIND ...]: sets build (a meson folder), venv (whose Python imports what is built
# there), meson_args and runtime (the sanitizer's library). Other arguments are left for the caller.
# shellcheck disable=SC2034
choose_build() {
    build=build/plain venv=.venv meson_args=(--werror)
    [[ ${1-} == --sanitize=* ]] || return 0
    case ${1#*=} in
        address)
            build=build/asan runtime=libasan.so
            meson_args+=("-Db_sanitize=address,undefined")
            ;;
        thread)
            build=build/tsan runtime=libtsan.so
            meson_args+=(-Db_sanitize=thread)
            ;;
        *) die "no sanitizer '${1#*=}' here; there are address and thread" ;;
    esac
    venv=$build/venv
    export CC=gcc # whose runtime it is
}

c_files() { find native tests tools -name '*.[ch]'; }

# Commands have no suffix: the first line tells what they are written in.
scripts_in() { find tools .ci -type f -exec awk -v language="$1" \
    'FNR == 1 && /^#!/ && index($0, language) { print FILENAME }' {} +; }
