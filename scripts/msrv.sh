#!/usr/bin/env bash
# Checks the libraries against the minimum Rust version that Cargo.toml states: with the compiler named by MSRV_RUSTC, or with
# rustup's toolchain of that version, which is installed if it is missing. Where it cannot be had, says NOT CHECKED and ends with 3.
set -euo pipefail
cd "$(dirname "$0")/.."

version=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
packages=(-p oncekey -p oncekey-sqlite -p oncekey-postgres -p oncekey-redis -p oncekey-http -p oncekey-observe)
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target}/msrv

not_checked() {
    cat >&2 <<TEXT
*** NOT CHECKED: the minimum Rust version, $version: $1.
*** Install it with 'rustup toolchain install $version --profile minimal', or name a compiler: MSRV_RUSTC=.. $0
TEXT
    exit 3
}

if [ -n "${MSRV_RUSTC:-}" ]; then
    "$MSRV_RUSTC" --version
    RUSTC=$MSRV_RUSTC cargo check --lib --all-features "${packages[@]}"
    exit
fi
command -v rustup >/dev/null || not_checked 'there is no rustup here to install its compiler'
if ! rustup run "$version" rustc --version 2>/dev/null; then
    echo "rustc $version is missing: installing it"
    # Not for ever on a network that answers nothing.
    limit=()
    if command -v timeout >/dev/null; then limit=(timeout 600); fi
    ${limit[@]+"${limit[@]}"} rustup toolchain install "$version" --profile minimal --no-self-update || not_checked 'its compiler cannot be installed from here'
fi
# What is there must pass: from here on, a failure is one.
cargo "+$version" check --lib --all-features "${packages[@]}"
