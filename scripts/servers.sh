#!/usr/bin/env bash
# Sees to it that the programs are here which the tests of the companion crates start (database servers and their clients, a
# browser): installs what is missing where it can, and says exactly what to install where it cannot. The tests start their
# own servers, on free ports, and delete them again; no service of this machine is used or changed.
set -euo pipefail

# PostgreSQL's server is not in the PATH of Debian and its kin.
has() {
    command -v "$1" >/dev/null || compgen -G "/usr/lib/postgresql/*/bin/$1" >/dev/null
}

# Command, and the package that has it: in Debian and Ubuntu; in Fedora; in Homebrew.
needed='postgres postgresql postgresql-server postgresql
psql postgresql-client postgresql postgresql
pgbouncer pgbouncer pgbouncer pgbouncer
redis-server redis-server redis redis
redis-cli redis-tools redis redis
sqlite3 sqlite3 sqlite sqlite
openssl openssl openssl openssl
curl curl curl curl
chromium chromium chromium chromium
chromedriver chromium-driver chromedriver chromedriver'

missing=() debian=() fedora=() brew=()
while read -r command deb rpm formula; do
    if ! has "$command"; then
        missing+=("$command") debian+=("$deb") fedora+=("$rpm") brew+=("$formula")
    fi
done <<<"$needed"
if ((${#missing[@]} == 0)); then exit 0; fi

echo "missing for the tests: ${missing[*]}"
as_root=()
if ((EUID != 0)); then as_root=(sudo -n); fi
if command -v apt-get >/dev/null && { ((EUID == 0)) || sudo -n true 2>/dev/null; }; then
    echo "installing ${debian[*]}"
    # Packages of servers start them as services on fixed ports; none is wanted.
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee "$policy" >/dev/null
        "${as_root[@]}" chmod +x "$policy"
        trap '"${as_root[@]}" rm -f "$policy"' EXIT
    fi
    "${as_root[@]}" apt-get update -qq
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${debian[@]}"
    for command in "${missing[@]}"; do
        has "$command" || { echo "still missing after the installation: $command" >&2; exit 1; }
    done
    exit 0
fi
cat >&2 <<TEXT
They cannot be installed from here. Install them, and run this again:
  Debian, Ubuntu:  sudo apt-get install ${debian[*]}
  Fedora:          sudo dnf install ${fedora[*]}
  macOS:           brew install ${brew[*]} (chromium and chromedriver: brew install --cask)
TEXT
exit 1
