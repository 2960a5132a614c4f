#!/usr/bin/env bash
# Mutation testing of the core: are the tests any good? Not in CI, since it takes some two hours on two cores.
#
#   scripts/mutants.sh                         protocol, memory and engine
#   scripts/mutants.sh memory                  one part
#   scripts/mutants.sh src/engine/lease/mod.rs      one file; several may be given
#
# Needs `cargo install cargo-mutants --locked --version 27.1.0`. JOBS sets how many run at once (2).
#
# Each part has two stages. The first is quick: it builds only the tests that catch most mutants, and skips the few
# slow ones. The second tries what survived against all tests. Results are in $OUT/<part>/mutants.out; docs/mutation.md
# says why each survivor is one.
set -euo pipefail
cd "$(dirname "$0")/.."

out=${OUT:-target/mutants}
jobs=${JOBS:-2}

# No debug information and incremental builds: two seconds a mutant rather than eight.
export CARGO_PROFILE_DEV_DEBUG=0 CARGO_PROFILE_TEST_DEBUG=0 CARGO_INCREMENTAL=1
# Histories and codecs by chance need few cases in the first stage.
export PROPTEST_CASES=${PROPTEST_CASES:-48}
# Each job builds in a folder of its own.
unset CARGO_TARGET_DIR

# Tests of a tenth of a second and more.
slow=(--skip hundred_megabytes --skip two_purgers_and_racing --skip ten_thousand --skip a_thousand_threads
    --skip a_waiter_may_wait_for_ever)

# mutants NAME "CARGO ARGS" [TEST ARGS..] : files are in the array of that name.
mutants() {
    local name=$1 targets=$2 args=()
    shift 2
    for file in "${files[@]}"; do args+=(-f "$file"); done
    # Arguments by -C also select what is built; those after -- select only what runs.
    for target in $targets; do args+=("-C=$target"); done
    local status=0
    cargo mutants -o "$out/$name" -j "$jobs" --timeout 15 --build-timeout 300 --no-shuffle "${args[@]}" "$@" || status=$?
    # 2: some survived; 3: some timed out, which is caught. Anything else is a failure of the run itself.
    case $status in 0 | 2 | 3) ;; *) exit "$status" ;; esac
}

part() {
    local name=$1 quick=$2
    mkdir -p "$out/$name"
    if [ "$quick" = --lib ]; then
        mutants "$name" --lib
    else
        mutants "$name" "$quick" -- -- "${slow[@]}"
    fi
    PROPTEST_CASES=256 mutants "$name" '--lib --test=it --test=histories' --iterate
    echo "== $name: what survived all tests"
    cat "$out/$name/mutants.out/missed.txt"
}

protocol() { files=('src/protocol/**') && part protocol --lib; }
memory() { files=('src/memory/**' src/store/cache.rs) && part memory '--lib --test=it --test=histories'; }
engine() { files=('src/engine/**') && part engine --test=it; }

case ${1:-all} in
all) protocol && memory && engine ;;
protocol | memory | engine) "$1" ;;
*) files=("$@") && part files --test=it ;;
esac
