#!/usr/bin/env bash
# Checks the libraries against the minimum Rust version that Cargo.toml states. Uses rustup's toolchain of that version,
# or the compiler named by MSRV_RUSTC.
set -euo pipefail
cd "$(dirname "$0")/.."

version=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
packages=(-p oncekey -p oncekey-sqlite -p oncekey-postgres -p oncekey-redis -p oncekey-http -p oncekey-observe)
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target}/msrv
if [ -n "${MSRV_RUSTC:-}" ]; then
    "$MSRV_RUSTC" --version
    RUSTC=$MSRV_RUSTC cargo check --lib --all-features "${packages[@]}"
elif command -v rustup >/dev/null && rustup toolchain list | grep -q "^$version"; then
    cargo "+$version" check --lib --all-features "${packages[@]}"
else
    echo "NOT CHECKED: no rustc $version here. Install it with 'rustup toolchain install $version', or name one: MSRV_RUSTC=.. $0"
    exit 3
fi
