# The scripts of this folder source this file first; from then on they run in the checkout's root.
# shellcheck shell=bash
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$PWD
# The script that the user started. The scripts that it runs in turn do not say what to do next.
export started=${started-${0##*/}}
# A plain user's PATH leaves out nft and its like.
export PATH=$root/.venv/bin:$PATH:/usr/sbin:/sbin

say() { printf '== %s\n' "$*"; }

die() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

have() { command -v "$1" >/dev/null; }

# quiet WHAT COMMAND...: prints one line, and the output only if the command fails. Do not use it for shell
# functions: `set -e` has no effect inside them here.
quiet() {
    local what=$1 output
    say "$what"
    if ! output=$("${@:2}" 2>&1 </dev/null); then
        printf '%s\n' "$output" >&2
        die "failed: $what"
    fi
}

# install_packages [PACKAGE...]: installs Debian packages and says which; needs root.
install_packages() {
    [ $# -gt 0 ] || return 0
    if [ "$(id -u)" != 0 ] || ! have apt-get; then
        die "missing Debian packages: $* (as root, this script installs them)"
    fi
    export DEBIAN_FRONTEND=noninteractive
    quiet "apt-get update" apt-get update
    quiet "apt-get install $*" apt-get install -y --no-install-recommends "$@"
}

# choose_build [--sanitize=KIND ...]: sets build (a meson folder), venv (its Python imports what is built
# there), meson_args and runtime (the sanitizer's library). It leaves other arguments to the caller.
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
        *) die "there is no sanitizer '${1#*=}'; use address or thread" ;;
    esac
    venv=$build/venv
    export CC=gcc # the runtime is gcc's
}

c_files() { find native tests tools -name '*.[ch]'; }

# Commands have no suffix; their first line tells the language.
scripts_in() { find tools .ci -type f -exec awk -v language="$1" \
    'FNR == 1 && /^#!/ && index($0, language) { print FILENAME }' {} +; }
