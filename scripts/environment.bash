# Sourced by the scripts beside it: system packages, then the virtual environment in .venv.
# Says what it installs; changes nothing when all is there.

say() { printf '%s\n' "==> $*" >&2; }
die() { printf '%s\n' "error: $*" >&2; exit 1; }

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo -- "$@"
    else
        die "cannot run '$*': it needs root, and sudo is not here. Run it as root once, then start this again."
    fi
}

missing_packages() {
    local package
    sed -e 's/#.*//' -e '/^[[:space:]]*$/d' scripts/packages.txt | while read -r package; do
        [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || printf '%s\n' "$package"
    done
}

install_system_packages() {
    if ! command -v apt-get >/dev/null; then
        die "this is not Debian or Ubuntu: install by hand what scripts/packages.txt lists, then see README.md, 'Other systems'."
    fi
    local missing
    mapfile -t missing < <(missing_packages)
    [ "${#missing[@]}" -gt 0 ] || return 0
    say "installing with apt: ${missing[*]}"
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq update
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq install --yes --no-install-recommends "${missing[@]}" >/dev/null
}

python_of_system() {
    local python
    for python in python3 python3.13 python3.12 python3.11; do
        if "$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            printf '%s\n' "$python"
            return
        fi
    done
    die "Python 3.11 or newer is needed; this system has $(python3 --version 2>&1). Debian 12 and Ubuntu 24.04 have it."
}

# The environment is made again when pyproject.toml or the interpreter changes.
make_virtual_environment() {
    local python stamp
    python=$(python_of_system)
    stamp=$({ cat pyproject.toml; "$python" -c 'import sys; print(sys.version, sys.base_prefix)'; } | sha256sum | cut -d' ' -f1)
    [ "$(cat .venv/stamp 2>/dev/null)" = "$stamp" ] && return 0
    say "making the virtual environment .venv ($("$python" --version))"
    "$python" -m venv .venv
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[lab,dev]' \
        || die "pip could not install the project; its message is above."
    printf '%s\n' "$stamp" > .venv/stamp
}

install_system_packages
make_virtual_environment
PATH="$PWD/.venv/bin:$PATH"
export PATH

# The guest image, once. Without user namespaces (in a chroot, say) only root can build it: then with sudo.
build_image() {
    if [ "$(id -u)" = 0 ] || unshare --user --map-root-user true 2>/dev/null; then
        vi-ops image build "$1"
        return
    fi
    local cache="${VI_OPS_CACHE_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/vi-ops}"
    [ -e "$cache/images/$1.json" ] && vi-ops image build "$1" 2>/dev/null && return
    say "this system refuses user namespaces: building the image as root"
    as_root env PATH="$PATH" VI_OPS_CACHE_DIR="$cache" "$(command -v vi-ops)" image build "$1"
    as_root chown -R "$(id -u):$(id -g)" "$cache"
}
