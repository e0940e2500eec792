#!/usr/bin/env bash
# Tries the REST API against its contract with schemathesis, on both databases: so many examples of each operation.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ -z "${HTTVPS_TEST_POSTGRES:-}" ]; then exec scripts/test.sh scripts/schemathesis.sh "$@"; fi
. scripts/serve.sh
examples=${1:-30}
venv=${XDG_CACHE_HOME:-$HOME/.cache}/httvps-schemathesis
version=4.32.5

if ! "$venv/bin/pip" show schemathesis 2>/dev/null | grep -qx "Version: $version"; then
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet "schemathesis==$version"
fi
executable=${HTTVPS_SCHEMATHESIS_EXECUTABLE:-}
if [ -z "$executable" ]; then
    cargo build --locked
    executable=$(target)/debug/httvps
fi

set -a
eval "$("$executable" admin keygen)"
HTTVPS_CONTROL__LISTEN=127.0.0.1:0
HTTVPS_OPS__CONTROL_LISTEN=
HTTVPS_EVENTS__ACK_TIMEOUT=10ms
HTTVPS_LOG__LEVEL=error
SCHEMATHESIS_HOOKS=$PWD/scripts/schemathesis/hooks.py
set +a

try() {
    export HTTVPS_DATABASE__URL=$2
    local known=$work/$1
    mkdir "$known"
    "$executable" migrate >"$work/migrated"
    serve "the control plane" "control " "$executable" serve-control
    "$venv/bin/python" scripts/schemathesis/seed.py "$served" "$known" >"$known/environment"
    set -a
    . "$known/environment"
    set +a
    cp scripts/schemathesis/schemathesis.toml "$known"
    echo "schemathesis: $1"
    (cd "$known" && "$venv/bin/st" run "$served/api/v1/openapi.json" --checks all --max-examples "$examples") || status=1
    kill "$server"
    wait "$server" || true
    server=
    if grep ' ERROR ' "$work/log"; then status=1; fi
}

status=0
try sqlite "sqlite://$work/control.db"
"$HTTVPS_TEST_POSTGRES_BIN/createdb" --maintenance-db="$HTTVPS_TEST_POSTGRES/postgres" schemathesis
try postgresql "$HTTVPS_TEST_POSTGRES/schemathesis?sslmode=disable"
exit $status
