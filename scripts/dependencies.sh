#!/usr/bin/env bash
# Shows which packages oncekey names itself, and refuses one that is not on the list. Counts the crates that a user of oncekey
# builds (macros and build scripts included), and refuses more than promised, a runtime, or an executor.
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
    if ((count > most)); then
        echo "$name: more crates than promised" >&2
        status=1
    fi
    if grep -E '^(tokio|async-std|smol|futures-executor|async-executor) ' <<<"$crates"; then
        echo "$name: a runtime or an executor is among them" >&2
        status=1
    fi
}

# Each with a reason: the traits of stores, futures, random ids, the maps and locks of the memory store, errors.
without='async-trait futures getrandom hashbrown parking_lot smallvec thiserror'
# `json` and `sha256`.
default='serde serde_json sha2'
# `tokio`.
all='tokio'

direct() { # name, the list, cargo tree's arguments
    local name=$1 list=$2 package
    shift 2
    for package in $(cargo tree --edges normal,build --depth 1 --prefix none --package oncekey "$@" | sed 1d | cut -d ' ' -f 1 | sort -u); do
        if [[ " $list " != *" $package "* ]]; then
            echo "$name: oncekey depends on $package, which is not on the list in this script" >&2
            status=1
        fi
    done
}

cargo tree --edges normal --depth 1 --package oncekey
direct 'without default features' "$without" --no-default-features
direct 'default features' "$without $default"
direct 'all features' "$without $default $all" --all-features
# The packages of our tests stay away from the users.
if tree --all-features | grep -E '^(proptest|loom|shuttle) '; then
    echo 'all features: a package for tests is among them' >&2
    status=1
fi
check 'without default features' 26 --no-default-features
check 'default features' 38
exit $status
