# Sourced by tools/start and tools/test: the system's packages and .venv/, made once and then only looked at.
#
#   setup_packages LEVEL   `run` for what MixFS needs, `test` for what its tests use too
#   setup_venv LEVEL       .venv/ in the checkout with MixFS in it (`test`: with the test tools)
#
# Asks nothing. Installs with apt as root or through a sudo that asks for no password; else says the exact line.

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
VENV="$ROOT/.venv"

say() { printf '%s\n' "$*" >&2; }
die() { say "mixfs setup: $*"; exit 1; }

find_python() {
    local candidate
    for candidate in python3.13 python3.12 python3.11 python3; do
        if command -v "$candidate" >/dev/null &&
            "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    return 1
}

# Every command that is tested for, and the Debian package that has it.
test_commands=(
    rsync:rsync unzip:unzip zip:zip tar:tar bindfs:bindfs strace:strace getfattr:attr convert:imagemagick
    gio:libglib2.0-bin exiftool:libimage-exiftool-perl setpriv:util-linux systemd-analyze:systemd
    pg_lsclusters:postgresql
)

# Packages that MixFS can't be installed or run without: pyfuse3 comes as source and is compiled here.
missing_needed() {
    local python="$1" packages=()
    command -v fusermount3 >/dev/null || packages+=(fuse3)
    command -v cc >/dev/null || command -v gcc >/dev/null || packages+=(gcc libc6-dev)
    if ! command -v pkg-config >/dev/null; then
        packages+=(pkg-config libfuse3-dev)
    elif ! pkg-config --exists fuse3; then
        packages+=(libfuse3-dev)
    fi
    if [ -z "$python" ]; then
        packages+=(python3 python3-venv python3-dev)
    else
        # Other Pythons than Debian's own (pyenv, a build of one's own) have their headers and venv with them.
        local version
        version="$("$python" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')"
        "$python" -c 'import os, sys, sysconfig
sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))' || packages+=("$version-dev")
        "$python" -c 'import ensurepip, venv' 2>/dev/null || packages+=("$version-venv")
    fi
    printf '%s\n' "${packages[@]:-}"
}

missing_for_tests() {
    local pair packages=()
    for pair in "${test_commands[@]}"; do
        # /sbin and /usr/sbin are not on every user's path.
        PATH="$PATH:/usr/sbin:/sbin" command -v "${pair%%:*}" >/dev/null || packages+=("${pair##*:}")
    done
    printf '%s\n' "${packages[@]:-}"
}

apt_install() {
    local as=()
    if ! command -v apt-get >/dev/null; then
        say "This system has no apt-get. MixFS needs the equivalents of these Debian packages: $*"
        return 1
    fi
    if [ "$(id -u)" -ne 0 ]; then
        if ! command -v sudo >/dev/null || ! sudo -n true 2>/dev/null; then
            say "Packages are missing, and you may not install any. Have somebody who may run:"
            say "  apt-get update && apt-get install -y --no-install-recommends $*"
            return 1
        fi
        as=(sudo -n)
    fi
    say "Installing: $*"
    "${as[@]}" env DEBIAN_FRONTEND=noninteractive apt-get update -q >&2 &&
        "${as[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "$@" >&2
}

setup_packages() {
    local level="$1" python needed optional=()
    python="$(find_python || true)"
    mapfile -t needed < <(missing_needed "$python" | sed '/^$/d')
    [ "$level" = test ] && mapfile -t optional < <(missing_for_tests | sed '/^$/d')
    if [ "${#needed[@]}" -gt 0 ]; then
        apt_install "${needed[@]}" "${optional[@]}" || {
            # What tests use may not be to be had where what is needed is.
            [ "${#optional[@]}" -gt 0 ] && [ "$(id -u)" -eq 0 ] && apt_install "${needed[@]}"
        } || die "without these packages MixFS can't be installed: ${needed[*]}"
    elif [ "${#optional[@]}" -gt 0 ]; then
        apt_install "${optional[@]}" || say "Going on without: ${optional[*]} (the tests that use them say so)."
    fi
    hash -r
}

setup_venv() {
    local level="$1" python what stamp sum
    what="$ROOT"
    [ "$level" = test ] && what="$ROOT[dev]"
    sum="$(cksum <"$ROOT/pyproject.toml") $ROOT"
    # The tests' environment holds all that running needs.
    for stamp in "$VENV/.mixfs-$level" "$VENV/.mixfs-test"; do
        if [ -x "$VENV/bin/mixfs" ] && [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$sum" ]; then
            return
        fi
    done
    if [ ! -x "$VENV/bin/python" ] || ! "$VENV/bin/python" -c 'import pip' 2>/dev/null; then
        python="$(find_python)" || die "Python 3.11 or newer is needed, and there is none."
        say "Making $VENV with $python"
        rm -rf "$VENV"
        "$python" -m venv "$VENV" || die "$python can't make a virtual environment. On Debian: apt-get install python3-venv"
    fi
    say "Installing MixFS and what it needs into .venv (once; a minute or two)"
    # compat: a path, so that Python finds the package from beside a clone named mixfs too.
    "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check --config-settings editable_mode=compat \
        -e "$what" >&2 || {
        say "pip could not install what pyproject.toml asks for; its last lines above say why."
        die "the usual reasons: no network, or no C compiler, libfuse3-dev or Python headers (pyfuse3 is compiled here)."
    }
    printf '%s' "$sum" >"$VENV/.mixfs-$level"
}
