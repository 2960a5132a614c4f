#!/usr/bin/env bash
# All tests at the bounds of every day: unit, scenario, property, conformance, sabotage, doc and fuzz-corpus tests, the
# simulation, the models (loom, shuttle, verify), and the bugs that each of them must find. TESTING.md says what each shows.
# Needs a Rust toolchain, and the servers that scripts/servers.sh installs or asks for.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '\n== %s\n' "$*"; }

# For so many seconds at most, since a model that has no end says nothing. macOS has no `timeout`.
limit=$(command -v timeout || command -v gtimeout || true)
if [ -z "$limit" ]; then
    echo "no 'timeout' in the PATH (macOS: brew install coreutils): the models run without a limit of time" >&2
fi
within() { # seconds, command
    local seconds=$1 status=0
    shift
    if [ -z "$limit" ]; then
        "$@"
        return
    fi
    "$limit" "$seconds" "$@" || status=$?
    if ((status == 124)); then
        echo "stopped after $seconds s, the limit of scripts/test.sh: $*" >&2
    fi
    return "$status"
}

# Each switch gets a target folder of its own, or every change of switch would build everything anew.
base=${CARGO_TARGET_DIR:-target}

say 'servers and a browser, for the tests that start them'
scripts/servers.sh

say 'unit, scenario and property tests, and the examples build (all features)'
cargo test --all-features --lib --tests --examples

say 'doc tests (all features)'
cargo test --all-features --doc

say 'the core without features'
cargo test --no-default-features --lib

say 'example: double_click'
cargo run --quiet --example double_click

say 'the store crates, each on its real database; and the main job over each'
cargo test --all-features -p oncekey-store-testing -p oncekey-sqlite -p oncekey-postgres -p oncekey-redis -p replay_log

say 'the HTTP layer: its rules, real clients over real sockets, and the shop in a real browser'
cargo test --all-features -p oncekey-http

say 'consumers on real brokers, killed while they handle'
cargo test -p oncekey-brokers

say 'traces and metrics'
cargo test --all-features -p oncekey-observe

say 'fuzz bodies over the committed corpus'
CARGO_TARGET_DIR=$base/fuzz cargo test --manifest-path fuzz/Cargo.toml --no-default-features

say 'the engine simulated: 20,000 seeds of clients, faults, crashes and clocks'
ONCEKEY_SIM_SEEDS=20000 cargo test --release --features conformance --test simulation

say 'wrong transition tables and engines, which the simulation must find'
RUSTFLAGS="${RUSTFLAGS:-} --cfg oncekey_planted" CARGO_TARGET_DIR=$base/planted \
    within 900 cargo test --release --features conformance --test wrong_engines

say 'the conformance certificate of the memory store'
cargo run --release --features conformance --example certificate

say 'loom models at the CI bound, and the planted bugs that they must find'
RUSTFLAGS="${RUSTFLAGS:-} --cfg oncekey_loom" CARGO_TARGET_DIR=$base/loom \
    within 900 cargo test --release --test loom -- --test-threads=1

say 'the protocol under the model checker: two clients, and the planted bugs that it must find'
CARGO_TARGET_DIR=$base/verify within 900 cargo test --quiet --release --locked --manifest-path verify/Cargo.toml
CARGO_TARGET_DIR=$base/verify within 900 cargo run --quiet --release --locked --manifest-path verify/Cargo.toml

say 'many callers under schedules that shuttle samples, and the planted bugs that they must find'
RUSTFLAGS="${RUSTFLAGS:-} --cfg oncekey_shuttle" CARGO_TARGET_DIR=$base/shuttle SHUTTLE_SILENCE_WARNINGS=1 ONCEKEY_SHUTTLE_TIMES=4 \
    within 600 cargo test --release --test shuttle -- --test-threads=1

if [ -n "${ONCEKEY_NO_MOUNT:-}" ]; then
    say 'NOT SHOWN, since ONCEKEY_NO_MOUNT is set: the SQLite store on a file system that is really full'
fi
say 'all tests passed'
