#!/usr/bin/env bash
# From a fresh checkout to an answer: installs what is missing, builds, starts a worker, installs the
# function `hello` and calls it. May be run again: what runs goes on running.
#
#   ./quickstart/start.sh
#   PORT=9000 CLUSTER=/srv/cluster ./quickstart/start.sh
#
# Works as root, and as a user who may use sudo: only the worker runs as root, nothing is built as root.
set -euo pipefail

cd "$(dirname "$0")/.."
cluster=${CLUSTER:-./my-cluster}
port=${PORT:-8080}
url=http://localhost:$port

say() { printf '\n== %s\n' "$*"; }
die() { echo "start.sh: $*" >&2; exit 1; }

root=()
if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null || die "a worker needs root rights to make sandboxes, and there is no sudo: run this as root"
    root=(sudo)
fi

answers() { curl -fsS --max-time 2 "$url/status" >/dev/null 2>&1; }
# Who else listens there would get our requests.
is_taken() { (exec 3<>"/dev/tcp/localhost/$port") 2>/dev/null; }
# A cluster belongs to root, for its functions run with what root put there.
is_ours_running() {
    [ -e "$cluster/config/worker-0.json" ] &&
        "${root[@]}" ./bin/admin status -cluster "$cluster" 2>/dev/null | grep -qF "localhost:$port/status => ready"
}

./quickstart/deps.sh
export PATH=$PATH:$HOME/.cargo/bin

say "Building (the first time takes a few minutes)"
make --no-print-directory all

say "Starting a worker"
if is_ours_running; then
    echo "The worker of $cluster runs already."
else
    if is_taken; then
        die "port $port is taken by another program. Choose another: PORT=$((port + 1)) $0"
    fi
    if [ ! -e "$cluster/config/template.json" ]; then
        if [ -e "$cluster" ]; then
            die "$cluster is there and is not a cluster. Choose another place: CLUSTER=./other $0"
        fi
        "${root[@]}" ./bin/admin new -cluster "$cluster" >/dev/null
        echo "Made the cluster $cluster."
    fi
    # Whatever ran here on another port, or was killed.
    "${root[@]}" ./bin/admin kill -cluster "$cluster"
    "${root[@]}" ./bin/admin workers -cluster "$cluster" -p "$port"
fi
answers || die "the worker does not answer at $url/status; see $cluster/logs/worker-0.out"

say "Installing the function 'hello': a folder in $cluster/registry"
# Beside its place first, so that no half of it is ever seen.
"${root[@]}" rm -rf "$cluster/registry/.hello.new"
"${root[@]}" cp -r quickstart/handlers/hello "$cluster/registry/.hello.new"
is_changed=no
if [ -e "$cluster/registry/hello" ]; then
    echo "There is one already; it stays."
    diff -r quickstart/handlers/hello "$cluster/registry/hello" >/dev/null || is_changed=yes
    "${root[@]}" rm -rf "$cluster/registry/.hello.new"
else
    "${root[@]}" mv -T "$cluster/registry/.hello.new" "$cluster/registry/hello"
fi

say "Calling it"
echo "$ curl -X POST localhost:$port/runLambda/hello -d '{\"name\": \"Alice\"}'"
answer=$(curl -sS --fail-with-body --max-time 30 --retry 2 -X POST "$url/runLambda/hello" -d '{"name": "Alice"}') ||
    die "calling it failed: $answer; see $cluster/logs/worker-0.out"
echo "$answer"
[ $is_changed = yes ] || [ "$answer" = '"Hello, Alice!"' ] ||
    die "that is not the answer of quickstart/handlers/hello; see $cluster/logs/worker-0.out"

sudo_=${root[*]:+sudo }
cat <<END

== It works. What to try next:

Change the greeting, and call it again a moment later; there is nothing to restart:
    ${sudo_}sed -i 's/Hello/Good morning/' $cluster/registry/hello/lambda_func.py
    curl -X POST localhost:$port/runLambda/hello -d '{"name": "Alice"}'

Write a function of your own:
    ${sudo_}mkdir $cluster/registry/add
    echo 'def f(event): return event["a"] + event["b"]' | ${sudo_}tee $cluster/registry/add/f.py
    curl -X POST localhost:$port/run/add -d '{"a": 1, "b": 2}'

See what the worker does, and stop it:
    ${sudo_}./bin/admin status -cluster $cluster
    ${sudo_}./bin/admin kill -cluster $cluster
END
