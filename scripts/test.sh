#!/usr/bin/env bash
# Finds or installs what the tests need, starts a private PostgreSQL, runs the command given.
set -euo pipefail

find_tools() {
    initdb=$(command -v initdb || ls /usr/lib/postgresql/*/bin/initdb 2>/dev/null | sort -V | tail -n 1 || true)
    python=
    for candidate in /usr/bin/python3 python3; do
        if "$candidate" -c 'import websockets' 2>/dev/null; then python=$candidate; break; fi
    done
    missing=()
    [ -n "$initdb" ] || missing+=(postgresql)
    command -v ss-server >/dev/null || missing+=(shadowsocks-libev)
    command -v dig >/dev/null || missing+=(bind9-dnsutils)
    pgbouncer=$(command -v pgbouncer || ls /usr/sbin/pgbouncer 2>/dev/null || true)
    [ -n "$pgbouncer" ] || missing+=(pgbouncer)
    command -v faketime >/dev/null || missing+=(faketime)
    command -v pebble >/dev/null && command -v pebble-challtestsrv >/dev/null || missing+=(pebble)
    [ -n "$python" ] || missing+=(python3-websockets)
}

find_tools
if [ ${#missing[@]} -gt 0 ]; then
    if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
        echo "installing ${missing[*]}"
        DEBIAN_FRONTEND=noninteractive apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "${missing[@]}" >/dev/null
        find_tools
    fi
    if [ ${#missing[@]} -gt 0 ]; then
        echo "error: the tests need the Debian packages ${missing[*]}" >&2
        exit 1
    fi
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
export HTTVPS_TEST_PYTHON="$python"
"$@"
