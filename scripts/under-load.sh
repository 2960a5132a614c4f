#!/usr/bin/env bash
# The tests that depend on real time, threads, processes or servers, while four processes spin beside them: a test that
# counts on a quiet machine fails here. Three rounds, or as many as the argument says. On more than two cores, only two are
# used where `taskset` is there, and else two processes spin for each core.
set -uo pipefail
cd "$(dirname "$0")/.."

# Built first: the compiler would only be in the way.
ONCEKEY_BUILD_ONLY=1 scripts/test.sh real || exit

on_two=() spinners=4 cores=$(getconf _NPROCESSORS_ONLN)
if ((cores > 2)); then
    if command -v taskset >/dev/null; then on_two=(taskset -c 0,1); else spinners=$((2 * cores)); fi
fi
spinning=()
trap 'kill "${spinning[@]}" 2>/dev/null' EXIT
for ((spinner = 0; spinner < spinners; spinner++)); do
    # Ends with this script, also if that is killed.
    ${on_two[@]+"${on_two[@]}"} bash -c 'while kill -0 "$1" 2>/dev/null; do for ((n = 0; n < 100000; n++)); do :; done; done' spin $$ &
    spinning+=($!)
done

rounds=${1:-3} failed=0
for ((round = 1; round <= rounds; round++)); do
    printf '\n== under load, round %s of %s\n' "$round" "$rounds"
    ${on_two[@]+"${on_two[@]}"} scripts/test.sh real || failed=$((failed + 1))
done
if ((failed > 0)); then
    echo "under load: $failed of $rounds rounds failed" >&2
    exit 1
fi
echo "under load: $rounds of $rounds rounds passed"
