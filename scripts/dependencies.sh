#!/usr/bin/env bash
# Counts the crates that a user of oncekey builds (macros and build scripts included), and refuses more than promised,
# a runtime, or an executor.
set -euo pipefail
cd "$(dirname "$0")/.."

tree() { cargo tree --edges normal,build --prefix none --package oncekey "$@" | sed 's/ (.*//' | sort -u | grep -v '^oncekey v'; }

status=0
check() { # name, most, cargo tree's arguments
    local name=$1 most=$2 crates count
    shift 2
    crates=$(tree "$@")
    count=$(wc -l <<<"$crates")
    echo "$name: $count crates (at most $most)"
    if ((count > most)); then status=1; fi
    if grep -E '^(tokio|async-std|smol|futures-executor|async-executor) ' <<<"$crates"; then
        echo "$name: a runtime or an executor is among them"
        status=1
    fi
}

check 'without default features' 32 --no-default-features
check 'default features' 45
exit $status
