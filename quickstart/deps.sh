#!/usr/bin/env bash
# Installs what OpenLambda is built and run with, on Debian and Ubuntu. What is there already is left alone,
# so that it may be run again at any time.
#
#   ./quickstart/deps.sh           what building and running takes
#   ./quickstart/deps.sh --test    and what the tests take
#
# Works as root, and as a user who may use sudo.
set -euo pipefail

# The oldest Rust that the workspace is built with: rust-version in Cargo.toml.
repository=$(cd "$(dirname "$0")/.." && pwd)
rust_needed=$(sed -n 's/^rust-version *= *"\(.*\)"/\1/p' "$repository/Cargo.toml" | head -n 1)

with_tests=no
case "${1:-}" in
'') ;;
--test) with_tests=yes ;;
*) echo "usage: $0 [--test]" >&2; exit 64 ;;
esac

say() { echo "deps.sh: $*"; }
die() { echo "deps.sh: $*" >&2; exit 1; }

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"
    elif command -v sudo >/dev/null; then sudo "$@"
    else die "this needs root rights and there is no sudo: run it as root"; fi
}

is_installed() { [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

command -v apt-get >/dev/null || die "this works on Debian and Ubuntu; elsewhere install gcc, make, Python 3, curl, iproute2, nftables and Rust $rust_needed by hand"

packages=(build-essential python3 curl ca-certificates iproute2 nftables git)
if [ $with_tests = yes ]; then
    packages+=(qemu-system-x86 mmdebstrap busybox-static cpio e2fsprogs kmod util-linux uidmap zstd mypy)
fi

missing=()
for package in "${packages[@]}"; do
    is_installed "$package" || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
    say "installing ${missing[*]}"
    as_root apt-get update -q
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}"
fi

# Python 3.8 is what the runtime is written for. /usr/bin: the interpreter that functions see is the system's.
/usr/bin/python3 -c 'import sys; sys.exit(sys.version_info < (3, 8))' ||
    die "/usr/bin/python3 is older than 3.8: this release of the system is too old"

export PATH=$PATH:$HOME/.cargo/bin
at_least() { [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]; }
rust_version() { rustc --version 2>/dev/null | awk '{print $2}'; }
rust_is_new_enough() {
    command -v cargo >/dev/null && command -v rustc >/dev/null && at_least "$(rust_version)" "$rust_needed"
}

if ! rust_is_new_enough; then
    # The system's own cargo is used if it is new enough; mostly it is not. rustup takes care of itself.
    if ! command -v rustup >/dev/null && apt-cache show rustup >/dev/null 2>&1; then
        say "installing rustup"
        as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends rustup
    fi
    if command -v rustup >/dev/null; then
        say "installing Rust with rustup"
        rustup toolchain install stable --profile minimal --component rustfmt --component clippy
        # Only if there is no choice yet: another project's default is not ours to change.
        rustup default >/dev/null 2>&1 || rustup default stable
    fi
fi
if ! rust_is_new_enough; then
    found=$(rust_version)
    cat >&2 <<END
deps.sh: Rust $rust_needed or newer is needed; here is ${found:-none}. This system has no package of rustup, so please install it
by hand (it goes into your home directory) and run this script again:

    curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y
    . "\$HOME/.cargo/env"

If it is there but too old: rustup update stable
END
    exit 1
fi
if [ $with_tests = yes ]; then
    for tool in rustfmt cargo-clippy; do
        command -v $tool >/dev/null || die "$tool is missing: rustup component add rustfmt clippy"
    done
fi
say "everything is there (Rust $(rust_version), $(/usr/bin/python3 --version))"
