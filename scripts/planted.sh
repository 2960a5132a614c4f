#!/usr/bin/env bash
# Plants bugs in a copy of the sources, and checks that the tests find each of them. The sources themselves have none.
#
#   scripts/planted.sh               all four of these
#   scripts/planted.sh simulation    the simulation, first with no bug (20,000 seeds, or ONCEKEY_SIM_SEEDS), then with each:
#                                    it names the broken promise, as proof/planted/wrong_engines.rs says
#   scripts/planted.sh scenarios     scenarios of tests/it and blocking/tests/it that must fail:
#                                    proof/planted/scenarios.rs, blocking.rs
#   scripts/planted.sh loom          all loom models, and the bugs that they must find: proof/planted/loom.rs
#   scripts/planted.sh shuttle       all shuttle schedules, and the same: proof/planted/shuttle.rs
#   scripts/planted.sh lint          checks the copy with rustfmt and clippy, warnings denied
#   scripts/planted.sh copy          makes the copy only, and prints where it is
#
# More arguments of `scenarios`, `loom` and `shuttle` are names of the tests to run there.
#
# The copy is below the target folder. The script applies proof/planted/*.patch to it, and adds the tests to it.
# A file of the copy is written only if it changes, so a second run builds nothing. The copy has target folders of its own:
# Cargo takes the crates of both for the same ones, and would use those of the sources where they are newer. Each switch has
# one too, or every change of switch would build everything anew.
set -euo pipefail
cd "$(dirname "$0")/.."

target=${CARGO_TARGET_DIR:-target}
mkdir -p "$target/planted"
target=$(cd "$target" && pwd -P)
copy=$target/planted/copy fresh=$target/planted/fresh

status=0
grep -rn planted src || status=$?
if ((status != 1)); then # 0: found; more: not looked at
    echo 'src must not know of planted bugs: put the bug into proof/planted' >&2
    exit 1
fi

rm -rf "$fresh"
mkdir -p "$fresh"
# What Git would take: the files of the last commit as they are now, and new ones. Cargo needs no documents.
git ls-files -z --cached --others --exclude-standard -- . ':!docs' ':!fuzz' |
    while IFS= read -r -d '' file; do
        if [ -e "$file" ]; then printf '%s\0' "$file"; fi
    done | tar -cf - --null -T - | tar -xf - -C "$fresh"

for patch in "$PWD"/proof/planted/*.patch; do
    # The ceiling keeps Git from taking the copy for a part of the repository around it.
    if ! (cd "$fresh" && GIT_CEILING_DIRECTORIES=$target/planted git apply --whitespace=nowarn "$patch"); then
        echo "proof/planted/${patch##*/} no longer applies: proof/planted/README.md says how to mend it" >&2
        exit 1
    fi
done

# Adds a module to a file of the copy.
add_module() { # file, path from there, name
    printf '\n#[path = "%s"]\nmod %s;\n' "$2" "$3" >>"$fresh/$1"
}
add_module src/lib.rs ../proof/planted/planted.rs planted
add_module tests/it/main.rs ../../proof/planted/scenarios.rs planted
add_module blocking/tests/it/main.rs ../../../proof/planted/blocking.rs planted
add_module proof/interleaving/tests/loom.rs ../../planted/loom.rs planted
add_module proof/interleaving/tests/shuttle.rs ../../planted/shuttle.rs planted
{ echo && cat "$fresh/proof/planted/wrong_engines.toml"; } >>"$fresh/conformance/Cargo.toml"

if [ ! -d "$copy" ]; then
    mv "$fresh" "$copy"
else
    # Cargo goes by the time of the last change, so only what differs gets a new one.
    (cd "$fresh" && find . ! -type d -print0) | while IFS= read -r -d '' file; do
        if ! cmp -s "$fresh/$file" "$copy/$file"; then
            mkdir -p "$copy/$(dirname "$file")"
            rm -f "$copy/$file"
            cp -P "$fresh/$file" "$copy/$file"
        fi
    done
    (cd "$copy" && find . ! -type d -print0) | while IFS= read -r -d '' file; do
        if [ ! -e "$fresh/$file" ]; then rm "$copy/$file"; fi
    done
    # Cargo takes a folder that is left empty for a crate without a manifest.
    find "$copy" -type d -empty -delete
    rm -rf "$fresh"
fi

export CARGO_TARGET_DIR=$target/planted/build
script=$PWD/scripts/planted.sh
cd "$copy"

with_switch() { # switch, cargo's arguments
    local switch=$1
    shift
    RUSTFLAGS="${RUSTFLAGS:-} --cfg oncekey_$switch" CARGO_TARGET_DIR=$target/planted/$switch cargo "$@"
}

simulation() {
    # First what holds with no bug planted, in many more seeds than a debug build has time for.
    ONCEKEY_SIM_SEEDS=${ONCEKEY_SIM_SEEDS:-20000} \
        cargo test --no-fail-fast --release --locked -p oncekey-conformance --test simulation --test wrong_engines
}

scenarios() {
    cargo test --no-fail-fast --locked --all-features -p oncekey -p oncekey-blocking --test it -- "${@:-planted::}"
}

interleaved() { # switch, names of tests
    local switch=$1
    shift
    with_switch "$switch" test --release --locked -p oncekey-interleaving --test "$switch" -- --test-threads=1 "$@"
}

shuttle() {
    SHUTTLE_SILENCE_WARNINGS=1 ONCEKEY_SHUTTLE_TIMES=${ONCEKEY_SHUTTLE_TIMES:-4} interleaved shuttle "$@"
}

case ${1:-all} in
all)
    simulation
    scenarios
    interleaved loom
    shuttle
    ;;
simulation) simulation ;;
scenarios) scenarios "${@:2}" ;;
loom) interleaved loom "${@:2}" ;;
shuttle) shuttle "${@:2}" ;;
lint)
    cargo fmt --package oncekey --package oncekey-conformance --package oncekey-interleaving --check
    cargo clippy --locked -p oncekey-conformance --test wrong_engines -- -D warnings
    cargo clippy --locked --all-features -p oncekey --lib --test it -- -D warnings
    for switch in loom shuttle; do
        with_switch "$switch" clippy --release --locked -p oncekey-interleaving --test "$switch" -- -D warnings
    done
    ;;
copy) echo "$copy" ;;
*)
    sed -n '2,/^set/s/^# \{0,1\}//p' "$script" >&2
    exit 2
    ;;
esac
