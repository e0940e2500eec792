#!/usr/bin/env bash
# For other scripts to source: a folder for their files and a server that runs until they end.

work=$(mktemp -d)
server=
stop() {
    [ -z "$server" ] || kill "$server" 2>/dev/null || true
    rm -rf "$work"
}
trap stop EXIT

target() {
    cargo metadata --locked --no-deps --format-version 1 |
        python3 -c 'import json, sys; print(json.load(sys.stdin)["target_directory"])'
}

serve() {
    local name=$1 pattern=$2
    shift 2
    "$@" >"$work/out" 2>"$work/log" &
    server=$!
    for _ in $(seq 100); do
        if grep -qx ready "$work/out"; then break; fi
        kill -0 "$server" 2>/dev/null || break
        sleep 0.1
    done
    served=$(sed -n "s/^$pattern//p" "$work/out")
    if ! grep -qx ready "$work/out" || [ -z "$served" ]; then
        echo "error: $name did not start" >&2
        cat "$work/log" >&2
        exit 1
    fi
}
