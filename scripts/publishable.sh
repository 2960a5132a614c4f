#!/usr/bin/env bash
# Whether the published crates are fit to be published: their manifests, what their archives hold, and whether the archives
# build, with the newest dependencies that their ranges admit, with the oldest, and as documentation.
# Goes on after a failure, names each at the end, and ends with 1 if there was one. Needs python3 (3.11), and the registry.
set -uo pipefail
cd "$(dirname "$0")/.."

target=$(cargo metadata --no-deps --format-version 1 | python3 -c 'import json, sys; print(json.load(sys.stdin)["target_directory"])')
work=$target/publishable
space=$work/workspace
mkdir -p "$work"
failed=()
step() { # name, command
    local name=$1 begun=$SECONDS
    shift
    printf '\n-- %s\n' "$name"
    "$@" || failed+=("$name")
    echo "-- $((SECONDS - begun)) s"
}

names=$(scripts/publishable.py names) || exit
packages=()
for name in $names; do packages+=(--package "$name"); done
echo "published:" $names

step 'manifests' scripts/publishable.py manifests

# Together, since they depend on each other. Without a build of their own: the archives are built below.
pack() {
    rm -rf "$work/package"
    cargo package --quiet --no-verify --allow-dirty --target-dir "$work" "${packages[@]}" 2>"$work/package.log" ||
        { cat "$work/package.log" >&2 && return 1; }
}
step 'archives' pack
if [ ! -d "$work/package" ]; then exit 1; fi
step 'what the archives hold' scripts/publishable.py unpack "$work/package" "$space"

# In the workspace of the unpacked archives, with one target folder for all. Cargo's and rustdoc's unstable parts are needed;
# dependencies must not take the compiler for a nightly one. Set for all steps, since a change would build everything anew.
crates=$(tr ' \n-' ',,_' <<<"$names")
inside() { (cd "$space" && RUSTC_BOOTSTRAP=${crates%,} CARGO_TARGET_DIR=$work/build "$@"); }
builds() { inside cargo check --quiet --locked --workspace --all-features --lib --examples; }
newest() {
    # Also versions that are too new for our minimum of Rust: a user with a newer compiler gets them.
    rm -f "$space/Cargo.lock"
    inside cargo update --quiet && builds
}
minimal() {
    rm -f "$space/Cargo.lock"
    inside env RUSTC_BOOTSTRAP=1 cargo update --quiet -Z direct-minimal-versions && builds
}
step 'the newest dependencies' newest

# As docs.rs builds it, of the same dependencies.
pages() {
    rm -rf "$work/build/doc"
    inside env RUSTDOCFLAGS='--cfg docsrs -D warnings' cargo doc --quiet --locked --workspace --no-deps --all-features &&
        scripts/publishable.py labels "$work/build/doc"
}
step 'documentation, with a label on what a feature adds' pages
step 'the oldest dependencies' minimal

if ((${#failed[@]} > 0)); then
    printf 'not publishable: %s\n' "${failed[@]}" >&2
    exit 1
fi
echo 'publishable'
