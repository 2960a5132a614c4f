#!/usr/bin/env bash
# Checks the dependencies by deny.toml: licences, sources, duplicates and wildcards always; security advisories where their
# database can be fetched. Where it cannot, says NOT CHECKED and ends with 3, if nothing else is wrong.
#
#   scripts/deny.sh               check
#   scripts/deny.sh --self-test   plants one violation of each kind in a copy, and expects each to be found
#
# The tool is cargo-deny, built once per target folder: two minutes on two cores. It reads licence texts and expressions, which
# a script over `cargo metadata` would take from the manifests on trust.
set -euo pipefail
cd "$(dirname "$0")/.."

version=0.20.2
mkdir -p "${CARGO_TARGET_DIR:-target}"
target=$(cd "${CARGO_TARGET_DIR:-target}" && pwd)
deny=$target/tools/bin/cargo-deny
# Each has a lock file of its own.
manifests=(Cargo.toml fuzz/Cargo.toml proof/verify/Cargo.toml)
# Of the platforms that users build for, those that bring packages of their own.
triples=(x86_64-unknown-linux-gnu aarch64-apple-darwin x86_64-pc-windows-msvc)

install() {
    if [ "$("$deny" --version 2>/dev/null)" != "cargo-deny $version" ]; then
        cargo install --quiet --locked cargo-deny --version "$version" --root "$target/tools" --target-dir "$target/tools/build"
        rm -rf "$target/tools/build"
    fi
}

# All that needs no database. In the folder given, by its own deny.toml.
check() { # folder, cargo-deny's arguments
    local folder=$1 manifest triple status=0
    shift
    local run=("$deny" --config "$folder/deny.toml" --workspace "$@")
    for manifest in "${manifests[@]}"; do
        echo "licences and sources: $manifest"
        # An allowance may be for one of the three only.
        local unused=(-A license-not-encountered -A license-exception-not-encountered)
        if [ "$manifest" = Cargo.toml ]; then unused=(-A license-exception-not-encountered); fi
        "${run[@]}" --manifest-path "$folder/$manifest" check "${unused[@]}" licenses sources || status=1
    done
    for triple in "${triples[@]}"; do
        echo "duplicates and wildcards among the published crates: $triple"
        "${run[@]}" --manifest-path "$folder/Cargo.toml" --exclude-unpublished --exclude-dev --target "$triple" \
            check -D unmatched-skip -D unnecessary-skip bans || status=1
    done
    return $status
}

# With a limit of time, for a network that answers nothing.
limited() {
    if command -v timeout >/dev/null; then timeout 300 "$@"; else "$@"; fi
}

advisories() { # folder
    local folder=$1 manifest status=0
    if ! limited "$deny" --config "$folder/deny.toml" --manifest-path "$folder/Cargo.toml" fetch db; then
        cat >&2 <<TEXT
*** NOT CHECKED: security advisories of the dependencies: their database cannot be fetched from here.
*** Run scripts/deny.sh where github.com can be reached.
TEXT
        return 3
    fi
    for manifest in "${manifests[@]}"; do
        echo "advisories: $manifest"
        # Offline: the database is there, and all manifests are to be judged by the same.
        "$deny" --config "$folder/deny.toml" --offline --workspace --manifest-path "$folder/$manifest" check advisories || status=1
    done
    return $status
}

# --- The self-test ----------------------------------------------------------------------------------------------------

copies=
copy() { # name
    local to=$copies/$1
    mkdir "$to"
    git ls-files -z | tar --null -T - -cf - | tar -xf - -C "$to"
    echo "$to"
}

append() { # file, section, line
    python3 - "$@" <<'PY'
import pathlib, sys
path, section, line = pathlib.Path(sys.argv[1]), f"[{sys.argv[2]}]\n", sys.argv[3]
text = path.read_text()
assert section in text, f"no {section} in {path}"
path.write_text(text.replace(section, section + line + "\n", 1))
PY
}

expect() { # the code that cargo-deny must name, or `nothing`; folder; what checks it
    local code=$1 folder=$2 by=${3:-check} said status=0
    said=$("$by" "$folder" 2>&1) || status=$?
    if [ "$code" = nothing ]; then
        if ((status == 0)); then echo 'no violation: none found' && return; fi
    elif ((status == 1)) && grep -q "^error\[$code\]" <<<"$said"; then
        echo "$code: found" && return
    elif ((status == 3)) && grep -q "^\*\*\* $code" <<<"$said"; then
        echo "$code: found" && return
    fi
    printf '%s\n*** the self-test expects: %s\n' "$said" "$code" >&2
    return 1
}

a_crate() { # folder, licence
    mkdir -p "$1/src"
    printf '[package]\nname = "planted"\nversion = "1.0.0"\nedition = "2024"\nlicense = "%s"\n' "$2" >"$1/Cargo.toml"
    touch "$1/src/lib.rs"
}

a_repository() { # folder
    git -C "$1" init -q -b main
    git -C "$1" add .
    git -C "$1" -c user.name=test -c user.email=test@example.com commit -qm planted
}

an_advisory() { # folder
    mkdir -p "$1/crates/thiserror"
    cat >"$1/crates/thiserror/RUSTSEC-2026-9999.md" <<'TEXT'
```toml
[advisory]
id = "RUSTSEC-2026-9999"
package = "thiserror"
date = "2026-11-30"

[versions]
patched = []
```

# Planted
TEXT
    a_repository "$1"
}

self_test() {
    local folder status=0
    # What is planted is in one manifest, and on every platform.
    manifests=(Cargo.toml) triples=(x86_64-unknown-linux-gnu)
    copies=$(mktemp -d)
    trap 'rm -rf "$copies"' EXIT
    expect nothing "$(copy clean)" || status=1

    folder=$(copy licence)
    a_crate "$folder/planted" GPL-3.0-only
    append "$folder/observe/Cargo.toml" dependencies 'planted = { version = "1", path = "../planted" }'
    expect rejected "$folder" || status=1

    folder=$(copy source)
    a_crate "$copies/elsewhere" MIT
    a_repository "$copies/elsewhere"
    append "$folder/observe/Cargo.toml" dependencies "planted = { version = \"1\", git = \"file://$copies/elsewhere\" }"
    expect source-not-allowed "$folder" || status=1

    # The workspace's lock file has it for the broker drills: a published crate must not bring it in beside the second.
    folder=$(copy duplicate)
    append "$folder/observe/Cargo.toml" dependencies 'planted = { package = "thiserror", version = "1" }'
    append "$folder/observe/Cargo.toml" dependencies 'planted2 = { package = "thiserror", version = "2" }'
    expect duplicate "$folder" || status=1

    folder=$(copy wildcard)
    append "$folder/observe/Cargo.toml" dependencies 'planted = { package = "thiserror", version = "*" }'
    expect wildcard "$folder" || status=1

    folder=$(copy exception)
    sed -i.bak 's/^skip = \[/&{ crate = "thiserror@0.9", reason = "planted" },/' "$folder/deny.toml"
    expect unmatched-skip "$folder" || status=1

    # A database of our own in the place of the real one, so that this part is shown where that cannot be reached.
    folder=$(copy advisory)
    an_advisory "$copies/database"
    sed -i.bak "s#^\[advisories\]#&\ndb-path = \"$copies/databases\"#" "$folder/deny.toml"
    export GIT_CONFIG_COUNT=1 GIT_CONFIG_VALUE_0=https://github.com/RustSec/advisory-db
    export GIT_CONFIG_KEY_0=url.file://$copies/database.insteadOf
    expect vulnerability "$folder" advisories || status=1
    export GIT_CONFIG_KEY_0=url.file://$copies/nowhere.insteadOf
    expect 'NOT CHECKED' "$folder" advisories || status=1
    return $status
}

install
case ${1:-} in
--self-test) self_test ;;
'')
    status=0
    check . --locked || status=1
    advisories . || {
        if [ $? -ne 3 ]; then status=1; elif ((status == 0)); then status=3; fi
    }
    exit $status
    ;;
*)
    sed -n '2,9s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac
