#!/usr/bin/env bash
# All tests at the bounds of every day. TESTING.md says what each stage shows.
#
#   scripts/test.sh            all stages
#   scripts/test.sh quick      the core and its kit, with no server: for the next line you change
#   scripts/test.sh real       what depends on real time, threads, processes or servers
#   scripts/test.sh models     what depends on none of them: simulation, models, fuzz corpus
#
# A stage that fails does not stop the others. A table at the end says what passed, and the exit code is 1 if anything failed.
# Needs a Rust toolchain, Python 3, and the servers that scripts/servers.sh installs or asks for (`quick` and `models`: none).
set -uo pipefail
cd "$(dirname "$0")/.."

part=${1:-all}
case $part in all | quick | real | models) ;; *)
    sed -n '2,10s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac

# Each switch gets a target folder of its own, or every change of switch would build everything anew.
base=${CARGO_TARGET_DIR:-target}
log=$(mktemp)
trap 'rm -f "$log"' EXIT

# Seconds at most, since a model that has no end says nothing. macOS has no `timeout`.
limit=$(command -v timeout || command -v gtimeout || true)
if [ -z "$limit" ]; then
    echo "no 'timeout' in the PATH (macOS: brew install coreutils): the stages run without a limit of time" >&2
fi

rows=() failures=0 passed_in_all=0 failed_in_all=0

# Runs one stage if it belongs to the part that was asked for, and writes down what came of it.
stage() { # parts, seconds at most, name, command
    local parts=$1 seconds=$2 name=$3 begun=$SECONDS status=0 passed failed
    shift 3
    if [[ $part != all && " $parts " != *" $part "* ]]; then return; fi
    # scripts/under-load.sh has the tests built before the load begins: by the same commands, or they would be built again.
    if [[ -n ${ONCEKEY_BUILD_ONLY:-} ]]; then
        if [[ " $* " == *" test "* ]]; then "$@" --no-run || failures=$((failures + 1)); fi
        return
    fi
    printf '\n== %s\n' "$name"
    : >"$log"
    ${limit:+"$limit" -k 30 "$seconds"} "$@" 2>&1 | tee "$log"
    status=${PIPESTATUS[0]}
    passed=$(sed -n 's/^test result: .* \([0-9][0-9]*\) passed;.*/\1/p' "$log" | awk '{ sum += $1 } END { print sum + 0 }')
    failed=$(sed -n 's/^test result: .* \([0-9][0-9]*\) failed;.*/\1/p' "$log" | awk '{ sum += $1 } END { print sum + 0 }')
    if ((status == 124)); then echo "stopped after $seconds s, the limit of this stage" >&2; fi
    # A stage of tests that found none has shown nothing.
    if ((status == 0 && passed == 0)) && [[ " $* " == *" test "* || " $* " == *planted.sh* ]]; then
        echo 'this stage ran no test' >&2
        status=1
    fi
    if ((status != 0)); then
        failures=$((failures + 1))
        if ((failed == 0)); then failed=1; fi
        sed -n 's/^test \(.*\) \.\.\. FAILED$/   failed: \1/p' "$log" >&2
    fi
    passed_in_all=$((passed_in_all + passed)) failed_in_all=$((failed_in_all + failed))
    rows+=("$(printf '%-58s %7s %7s %8s' "$name" "$passed" "$failed" "$((SECONDS - begun))")")
}

stage 'real' 1800 'servers and a browser, for the tests that start them' scripts/servers.sh
# The quick part first: what a change breaks most often is seen soonest.
stage 'quick' 60 'structure: no circle, no way up, and both are found' \
    bash -c 'scripts/structure.py && scripts/structure.py --self-test'
stage 'quick' 300 "the compiler's messages where a bound is not met" scripts/messages.py
stage 'quick real' 1200 'core and kit: unit, scenario, property, wrong stores' \
    cargo test --no-fail-fast --all-features -p oncekey -p oncekey-conformance --lib --tests --examples
stage 'quick real' 900 'consumers of messages; plain threads, and stores whose calls block' \
    cargo test --no-fail-fast --all-features -p oncekey-consume -p oncekey-blocking --lib --tests
stage 'quick' 600 'core without features' cargo test --no-default-features --lib
stage 'quick' 600 'example: double_click' cargo run --quiet --example double_click
stage 'quick' 600 'example: saga' cargo run --quiet --example saga
stage 'quick' 600 'example: batch, on plain threads' cargo run --quiet -p oncekey-blocking --example batch
stage 'quick' 600 "the memory store's certificate" cargo run --quiet -p oncekey-conformance --example certificate
stage 'quick' 600 "a store of one's own, and its certificate" cargo run --quiet -p oncekey-conformance --example own_store
stage 'docs' 900 'doc tests, all crates' cargo test --no-fail-fast --workspace --all-features --doc

stage 'real' 1800 'stores on their real databases; the main job over each' \
    cargo test --no-fail-fast --all-features --lib --bins --tests --examples \
    -p oncekey-store-testing -p oncekey-sqlite -p oncekey-postgres -p oncekey-redis -p replay_log
stage 'real' 600 'example: effect and outcome in one transaction' \
    cargo run --quiet -p oncekey-sqlite --example same_transaction --all-features
stage 'real' 600 'example: webhooks whose bodies move' \
    cargo run --quiet -p oncekey-http --example webhook --all-features
stage 'real' 900 'HTTP: rules, real clients, a browser; traces and metrics' \
    cargo test --no-fail-fast --all-features --lib --tests --examples -p oncekey-http -p oncekey-observe
stage 'real' 900 'consumers on real brokers, killed while they handle' \
    cargo test --no-fail-fast -p oncekey-brokers --features sqs --lib --tests --examples

stage 'models' 600 'fuzz bodies over the committed corpus' \
    env CARGO_TARGET_DIR="$base" cargo test --manifest-path fuzz/Cargo.toml --no-default-features

# These run in a copy of the sources, in which the bugs are planted.
stage 'models' 1800 'engine simulated, 20,000 seeds; each planted bug is found' scripts/planted.sh simulation
stage 'models' 1200 'scenarios that find a planted bug' scripts/planted.sh scenarios
stage 'models' 1800 'loom models, and the planted bugs that they must find' scripts/planted.sh loom
stage 'models' 1800 'shuttle schedules, and the planted bugs that they must find' scripts/planted.sh shuttle
stage 'models' 900 'the model checker: its own tests' \
    env CARGO_TARGET_DIR="$base/verify" cargo test --quiet --release --locked --manifest-path proof/verify/Cargo.toml
stage 'models' 900 'the model checker: every history of two clients, plants' \
    env CARGO_TARGET_DIR="$base/verify" cargo run --quiet --release --locked --manifest-path proof/verify/Cargo.toml

if [[ -n ${ONCEKEY_BUILD_ONLY:-} ]]; then exit $((failures > 0)); fi
printf '\n%-58s %7s %7s %8s\n' stage passed failed seconds
printf '%s\n' "${rows[@]}"
printf '%-58s %7s %7s %8s\n' 'in all' "$passed_in_all" "$failed_in_all" "$SECONDS"
if [[ -n ${ONCEKEY_NO_MOUNT:-} && ($part == all || $part == real) ]]; then
    echo 'NOT SHOWN, since ONCEKEY_NO_MOUNT is set: the SQLite store on a file system that is really full'
fi
if ((failures > 0)); then
    echo "$failures stages failed" >&2
    exit 1
fi
echo "all stages of '$part' passed"
