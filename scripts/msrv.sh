#!/usr/bin/env bash
# Checks each published library with the minimum Rust version that its own manifest states, and the dependencies of Cargo.lock.
# The compiler is the one named by MSRV_RUSTC, or rustup's toolchain of that version, or Debian's package rustc-web, if it has
# that version; what is missing is installed. Where none can be had, says NOT CHECKED and ends with 3.
set -euo pipefail
cd "$(dirname "$0")/.."

export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target}/msrv

# One line per version: the version, and the published crates that state it.
stated() {
    cargo metadata --no-deps --format-version 1 | python3 -c '
import json, sys
crates = {}
for p in json.load(sys.stdin)["packages"]:
    if p["publish"] != []:
        crates.setdefault(p["rust_version"] or "none", []).append(p["name"])
for version, names in sorted(crates.items()):
    print(version, *sorted(names))'
}

# The version of a compiler, as 1.85.
minor() { "$1" --version 2>/dev/null | sed -n 's/^rustc \([0-9]*\.[0-9]*\)\..*/\1/p'; }

# With a limit of time, for a network that answers nothing.
limited() {
    if command -v timeout >/dev/null; then timeout 600 "$@"; else "$@"; fi
}

from_rustup() { # version
    command -v rustup >/dev/null || return
    rustup run "$1" rustc --version >/dev/null 2>&1 || limited rustup toolchain install "$1" --profile minimal --no-self-update >&2 || return
    rustup which --toolchain "$1" rustc
}

# Debian 12 has compilers that are newer than its own `rustc`, for building browsers. It may have several versions.
from_debian() { # version
    if [ "$(minor /usr/bin/rustc)" != "$1" ]; then
        local full package packages=() as_root=()
        command -v apt-get >/dev/null || return
        if ((EUID != 0)); then
            sudo -n true 2>/dev/null || return
            as_root=(sudo -n)
        fi
        "${as_root[@]}" apt-get update -qq >&2 || return
        full=$(apt-cache madison rustc-web | tr -d ' ' | cut -d '|' -f 2 | grep -m 1 "^${1//./\\.}\.") || return
        for package in rustc-web libstd-rust-web-dev "libstd-rust-web-$1"; do packages+=("$package=$full"); done
        DEBIAN_FRONTEND=noninteractive limited "${as_root[@]}" apt-get install -y -qq --no-install-recommends "${packages[@]}" >&2 || return
    fi
    [ "$(minor /usr/bin/rustc)" = "$1" ] && echo /usr/bin/rustc
}

status=0
list=$(stated)
while read -r version names; do
    packages=()
    for name in $names; do packages+=(--package "$name"); done
    if [ "$version" = none ]; then
        echo "no rust-version in the manifest of: $names" >&2
        exit 1
    fi
    if ! compiler=${MSRV_RUSTC:-$(from_rustup "$version" || from_debian "$version")}; then
        cat >&2 <<TEXT
*** NOT CHECKED: the minimum Rust version, $version, of $names: no compiler of that version is here, and none can be installed.
*** Install it with 'rustup toolchain install $version --profile minimal', or name a compiler: MSRV_RUSTC=.. $0
TEXT
        status=3
        continue
    fi
    # A newer compiler shows nothing.
    if [ "$(minor "$compiler")" != "$version" ]; then
        echo "$compiler is not of version $version: $("$compiler" --version)" >&2
        exit 1
    fi
    echo "Rust $version ($("$compiler" --version)): $names"
    RUSTC=$compiler cargo check --locked --lib --all-features "${packages[@]}"
done <<<"$list"
exit $status
