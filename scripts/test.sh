#!/usr/bin/env bash
# Starts a private PostgreSQL, then runs the command given, with what the tests need in its environment.
set -euo pipefail
scripts=$(dirname "$0")
. "$scripts/tools.sh"

find_tools
if [ ${#missing[@]} -gt 0 ]; then
    "$scripts/setup.sh" packages
    find_tools
fi

bin=$(dirname "$(readlink -f "$initdb")")
data=$(mktemp -d)
as_user=()
if [ "$(id -u)" -eq 0 ]; then
    chown postgres "$data"
    as_user=(setpriv --reuid=postgres --regid=postgres --init-groups)
fi
stop() {
    (cd / && "${as_user[@]}" "$bin/pg_ctl" -D "$data/db" -m immediate stop >/dev/null 2>&1) || true
    rm -rf "$data"
}
trap stop EXIT

(cd / && "${as_user[@]}" "$initdb" -D "$data/db" -U httvps --auth=trust -E UTF8 >/dev/null)
for _ in 1 2 3 4 5; do
    port=$((20000 + RANDOM % 20000))
    options="-c listen_addresses=127.0.0.1 -c port=$port -c unix_socket_directories=$data -c fsync=off -c max_connections=400"
    if (cd / && "${as_user[@]}" "$bin/pg_ctl" -D "$data/db" -w -l "$data/log" -o "$options" start >/dev/null); then
        started=yes
        break
    fi
done
[ "${started:-}" = yes ] || { cat "$data/log" >&2; exit 1; }

export HTTVPS_TEST_POSTGRES="postgres://httvps@127.0.0.1:$port"
export HTTVPS_TEST_POSTGRES_BIN="$bin"
export HTTVPS_TEST_PGBOUNCER="$pgbouncer"
export HTTVPS_TEST_NGINX="$nginx"
export HTTVPS_TEST_HAPROXY="$haproxy"
export HTTVPS_TEST_PYTHON="$python"
export HTTVPS_TEST_NODE="$node"
export HTTVPS_TEST_CHROMIUM="$chromium"
"$@"
