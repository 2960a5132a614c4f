#!/usr/bin/env bash
# Plants bugs in a copy of the sources, and checks that the simulation finds each of them and names the broken promise.
#
#   scripts/planted.sh           makes the copy and runs the simulation there, first with no bug (20,000 seeds, or
#                                ONCEKEY_SIM_SEEDS), then with each: proof/planted/wrong_engines.rs
#   scripts/planted.sh lint      makes the copy and checks it with rustfmt and clippy, warnings denied
#   scripts/planted.sh copy      makes the copy only, and prints where it is
#
# The copy is below the target folder. The script applies proof/planted/*.patch to it, and adds the test to its manifest.
# A file of the copy is written only if it changes, so a second run builds nothing. The copy has a target folder of its own:
# Cargo takes the crates of both for the same ones, and would use those of the sources where they are newer.
set -euo pipefail
cd "$(dirname "$0")/.."

target=${CARGO_TARGET_DIR:-target}
mkdir -p "$target/planted"
target=$(cd "$target" && pwd -P)
copy=$target/planted/copy fresh=$target/planted/fresh

# The core's tables and stores hold no planted bug; those of the engine are in src/engine.
status=0
grep -rn planted src/protocol src/store src/memory || status=$?
if ((status != 1)); then # 0: found; more: not looked at
    echo 'src/protocol, src/store and src/memory must not know of planted bugs: put the bug into proof/planted' >&2
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
        cat >&2 <<TEXT

proof/planted/${patch##*/} no longer applies: the lines that it changes are not there any more. To mend it, in a clean tree:
    git apply --reject proof/planted/${patch##*/}     # then make the changes of each *.rej file by hand, and delete those files
    git diff -U1 src >proof/planted/${patch##*/} && git checkout src
TEXT
        exit 1
    fi
done
{ echo && cat "$fresh/proof/planted/target.toml"; } >>"$fresh/conformance/Cargo.toml"

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
cd "$copy"
case ${1:-test} in
test)
    # First what holds with no bug planted, in many more seeds than a debug build has time for.
    ONCEKEY_SIM_SEEDS=${ONCEKEY_SIM_SEEDS:-20000} \
        cargo test --no-fail-fast --release --locked -p oncekey-conformance --test simulation --test wrong_engines
    ;;
lint)
    cargo fmt --package oncekey --package oncekey-conformance --check
    cargo clippy --locked -p oncekey-conformance --test wrong_engines -- -D warnings
    ;;
copy) echo "$copy" ;;
*)
    sed -n '2,/^set/s/^# \{0,1\}//p' "$OLDPWD/scripts/planted.sh" >&2
    exit 2
    ;;
esac
