# make            builds bin/ol and bin/admin
# make test-all   runs every test; the integration tests run as root (through sudo if need be)
# make test-v2    runs the integration tests in a virtual machine with pure cgroup v2
# make chaos SECONDS=3600 KILLS=1000   the storm for so long, and the worker killed so often; as root
# make fuzz SECONDS=60                 each fuzz target for so long (TARGETS="frames paths": these)
# make fmt lint clean

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := all

# Where rustup puts cargo; sudo and fresh shells do not know it.
export PATH := $(PATH):$(HOME)/.cargo/bin
TARGET := $(or $(CARGO_TARGET_DIR),target)
CARGO ?= cargo
# Which modules of integration/ the virtual machine runs.
V2_TESTS ?= smoke isolation leaks

SECONDS ?= 60
KILLS ?= 100

.PHONY: all test-all test-unit test-python test-integration test-v2 chaos fuzz fmt check-format clippy lint clean check-tools

# The programs are renamed into place: a worker that runs keeps the one that it runs.
all: check-tools
	$(CARGO) build --release --locked --bins
	@mkdir -p bin
	@for program in ol admin; do \
	    install -m 755 $(TARGET)/release/$$program bin/.$$program.new; \
	    mv -f bin/.$$program.new bin/$$program; \
	done

test-all: check-tools test-python test-unit test-integration test-v2

# The interpreter of the system: that is what functions run with.
test-python:
	/usr/bin/python3 -B -m unittest discover -s src/sandbox/runtime/python/tests

# Of the default members: the fuzz targets have no tests.
test-unit:
	$(CARGO) test --locked --lib --bins

# Modules of integration/ whose tests mostly wait: for a broker, a store, a client.
WAITING := triggers:: registry:: web::

# Built as the one who calls, run as root. One at a time, for they measure the machine; but for those that mostly wait.
test-integration:
	$(CARGO) build --locked --bins
	tests=$$($(CARGO) test --locked --no-run --test integration --message-format=json | .ci/test-binary); \
	sudo=; if [ "$$(id -u)" != 0 ]; then sudo="sudo --preserve-env=REQUIRE_ALL,RUST_BACKTRACE,OL_CHAOS_SECONDS"; fi; \
	$$sudo "$$tests" --test-threads 1 $(WAITING:%=--skip %); \
	$$sudo "$$tests" --test-threads 4 $(WAITING)

test-v2:
	.ci/v2/run $(V2_TESTS)

# What `make test-integration` does in a minute, for hours. OL_TEST_SEED, if it is set, is the storm's.
chaos:
	$(CARGO) build --locked --bins
	tests=$$($(CARGO) test --locked --no-run --test integration --message-format=json | .ci/test-binary); \
	export OL_CHAOS_SECONDS=$(SECONDS) OL_CHAOS_KILLS=$(KILLS); \
	sudo=; if [ "$$(id -u)" != 0 ]; then sudo="sudo --preserve-env=OL_CHAOS_SECONDS,OL_CHAOS_KILLS,OL_TEST_SEED"; fi; \
	$$sudo "$$tests" --test-threads 1 --nocapture in_a_storm a_worker_that_is_killed_twenty_times

# What they find on new ways through the code is kept in the target directory, what crashes them beside it.
fuzz:
	CARGO="$(CARGO)" integration/fuzz/run $(SECONDS) $(TARGETS)

# Compiled by build.rs, so that cargo does not know them.
NATIVE := src/sandbox/native/module.rs

fmt:
	$(CARGO) fmt --all
	rustfmt --edition 2024 $(NATIVE)

check-format:
	$(CARGO) fmt --all --check
	rustfmt --edition 2024 --check $(NATIVE)

lint: check-format clippy

clippy:
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	@mkdir -p $(TARGET)
	clippy-driver --edition 2024 --crate-type cdylib --crate-name _ol -C panic=abort -D warnings \
	    --emit metadata -o $(TARGET)/native.rmeta $(NATIVE)

clean:
	$(CARGO) clean
	rm -rf bin

check-tools:
	@for tool in $(CARGO) cc python3; do \
	    command -v $$tool >/dev/null || { echo "make: $$tool is missing: run ./quickstart/deps.sh" >&2; exit 1; }; \
	done
