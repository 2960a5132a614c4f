#!/usr/bin/env bash
# The tests that depend on real time, threads, processes or servers, while four processes spin beside them: a test that
# counts on a quiet machine fails here. Three rounds, or as many as the argument says.
set -uo pipefail
cd "$(dirname "$0")/.."

# Built first: the compiler would only be in the way.
cargo test --no-run --workspace --all-features --tests --lib --bins --examples || exit

spinning=()
trap 'kill "${spinning[@]}" 2>/dev/null' EXIT
for _ in 1 2 3 4; do
    (while :; do :; done) &
    spinning+=($!)
done

rounds=${1:-3} failed=0
for ((round = 1; round <= rounds; round++)); do
    printf '\n== under load, round %s of %s\n' "$round" "$rounds"
    scripts/test.sh real || failed=$((failed + 1))
done
if ((failed > 0)); then
    echo "under load: $failed of $rounds rounds failed" >&2
    exit 1
fi
echo "under load: $rounds of $rounds rounds passed"
