#!/usr/bin/env bash
# Installs what OpenLambda is built and run with, on Debian and Ubuntu. What is there already is left alone,
# so that it may be run again at any time.
#
#   ./quickstart/deps.sh           what building and running takes; uv, which installs packages, goes to /usr/local/bin
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

# build-essential: a linker, and gcc and make for librdkafka and zlib, which are built along.
packages=(build-essential python3 curl ca-certificates iproute2 nftables git)
if [ $with_tests = yes ]; then
    packages+=(qemu-system-x86 mmdebstrap busybox-static cpio e2fsprogs kmod util-linux uidmap zstd mypy libfaketime postgresql)
fi

missing=()
for package in "${packages[@]}"; do
    is_installed "$package" || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
    say "installing ${missing[*]}"
    as_root apt-get update -q
    install_packages() { as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$@"; }
    # PostgreSQL's package would make a database of its own and start it, now and at each boot. The tests make theirs.
    create_cluster=/etc/postgresql-common/createcluster.conf
    if [[ " ${missing[*]} " = *" postgresql "* ]]; then
        install_packages postgresql-common
        as_root cp -p $create_cluster $create_cluster.before
        as_root sed -i 's/^#\?create_main_cluster *=.*/create_main_cluster = false/' $create_cluster
    fi
    install_packages "${missing[@]}"
    if [ -e $create_cluster.before ]; then as_root mv $create_cluster.before $create_cluster; fi
fi

# Python 3.8 is what the runtime is written for. /usr/bin: the interpreter that functions see is the system's.
/usr/bin/python3 -c 'import sys; sys.exit(sys.version_info < (3, 8))' ||
    die "/usr/bin/python3 is older than 3.8: this release of the system is too old"

# uv installs the packages that functions ask for. Debian has none; what PyPI has is checked by its hash.
uv_version=0.13.9
case $(uname -m) in
x86_64)
    uv_wheel=3d/aa/26d64642d808de4a652579ef950d7cd2d37f080a8babf9c67c6b75fc4c3f/uv-$uv_version-py3-none-manylinux_2_17_x86_64.manylinux2014_x86_64.whl
    uv_hash=d7f459fe4fd247d830351c75686d3996ace3c6f3f728eb0e85a30b7ada0cef19 ;;
aarch64)
    uv_wheel=57/15/94b6cd62ac3ff6550288328e8035288875197cbc183f51554b266a69877b/uv-$uv_version-py3-none-manylinux_2_17_aarch64.manylinux2014_aarch64.musllinux_1_1_aarch64.whl
    uv_hash=5435c5ce14a56431208ca0996416d310f1598e8c2c8ba707688985a16bb82dbe ;;
*) uv_wheel= ;;
esac
find_uv() { PATH=$PATH:/usr/local/bin command -v uv; }
install_uv() {
    local work
    work=$(mktemp -d)
    say "installing uv $uv_version to /usr/local/bin"
    curl --proto '=https' --tlsv1.2 -sSfL -o "$work/uv.whl" "https://files.pythonhosted.org/packages/$uv_wheel" &&
        echo "$uv_hash  $work/uv.whl" | sha256sum --check --quiet &&
        /usr/bin/python3 -m zipfile -e "$work/uv.whl" "$work" &&
        as_root install -m 755 "$work/uv-$uv_version.data/scripts/uv" /usr/local/bin/uv
    local code=$?
    rm -rf "$work"
    return $code
}
if ! find_uv >/dev/null; then
    if [ -z "$uv_wheel" ] || ! install_uv; then
        # Functions without packages run, and pip does the same where it is there.
        say "uv could not be installed; packages of functions are installed with pip if the system's Python has it (python3-pip)"
    fi
fi

# A server of an index for the tests, and what a setup.py is built with. It stays in the build's directory.
test_index=$repository/target/test-index
if [ $with_tests = yes ] && ! [ -e "$test_index/made" ]; then
    uv=$(find_uv) || die "the tests need uv, and it could not be installed"
    say "installing a package index for the tests to $test_index"
    rm -rf "$test_index"
    "$uv" venv --quiet --python /usr/bin/python3 "$test_index"
    "$uv" pip install --quiet --python "$test_index/bin/python" pypiserver==2.4.2 pip
    "$test_index/bin/python" -m pip download --quiet --no-deps --only-binary :all: -d "$test_index/wheels" setuptools wheel
    touch "$test_index/made"
fi

# Clients for the tests, and the servers that the benchmark compares with.
test_clients=$repository/target/test-clients
if [ $with_tests = yes ] && ! [ -e "$test_clients/made" ]; then
    uv=$(find_uv) || die "the tests need uv, and it could not be installed"
    say "installing clients of HTTP and WebSocket for the tests to $test_clients"
    rm -rf "$test_clients"
    "$uv" venv --quiet --python /usr/bin/python3 "$test_clients"
    "$uv" pip install --quiet --python "$test_clients/bin/python" websockets==17.4 httpx==0.28.1 requests==2.34.2 gunicorn==27.0.1 uvicorn==0.54.0
    touch "$test_clients/made"
fi

# Servers that stand in for the stores of clouds, for the tests; beside the index.
test_stores=$repository/target/test-stores
if [ $with_tests = yes ] && ! [ -e "$test_stores/made" ]; then
    uv=$(find_uv) || die "the tests need uv, and it could not be installed"
    say "installing servers of stores for the tests to $test_stores"
    rm -rf "$test_stores"
    "$uv" venv --quiet --python /usr/bin/python3 "$test_stores"
    "$uv" pip install --quiet --python "$test_stores/bin/python" 'moto[server]==5.2.5'
    # Azurite is a program for Node; one that is there already is used, whoever has installed it.
    if ! command -v npm >/dev/null; then
        as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends nodejs npm
    fi
    mkdir -p "$test_stores/azurite"
    (cd "$test_stores/azurite" && npm install --silent --no-audit --no-fund azurite@3.37.0)
    touch "$test_stores/made"
fi

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
