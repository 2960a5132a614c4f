#!/usr/bin/env bash
# curl, by its own retries. A line of the input is the name of an operation and its key, with a tab between them; a line of the
# output is the name, the status, curl's exit code (empty if it is 0), how often the caller had to ask again, and the body.
set -uo pipefail

base=$1 timeout=$2 retries=$3
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

operation() { # name, key
    local file=$folder/$1 status code again
    for ((again = 0; again <= retries; again++)); do
        # `--retry` alone leaves connections that break alone; with `--fail` a 409 is an error too, and so is any other 4xx.
        # To a file, which each try begins anew: a pipe would get the halves of broken replies as well.
        status=$(curl -s -o "$file" -w '%{http_code}' --max-time "$timeout" --fail \
            --retry "$retries" --retry-all-errors --retry-delay 1 \
            -H "Idempotency-Key: $2" -d "amount=50&description=$1" "$base/v1/charges")
        code=$?
        # curl takes a head that breaks off for a whole one, and then there is no body.
        if ((code != 0)) || [ -s "$file" ]; then break; fi
    done
    printf '%s\t%s\t%s\t%s\t%s\n' "$1" "$status" "${code#0}" "$again" "$(cat "$file" 2>/dev/null)"
}

while IFS=$'\t' read -r name key; do
    operation "$name" "$key" &
done
wait
