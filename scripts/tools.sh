# Sourced: looks for what the tests need. `missing` is then an array of the Debian packages that are not there.
find_tools() {
    initdb=$(command -v initdb || ls /usr/lib/postgresql/*/bin/initdb 2>/dev/null | sort -V | tail -n 1 || true)
    python=
    for candidate in /usr/bin/python3 python3; do
        if "$candidate" -c 'import websockets, h2' 2>/dev/null; then python=$candidate; break; fi
    done
    missing=()
    [ -n "$initdb" ] || missing+=(postgresql)
    command -v ss-server >/dev/null || missing+=(shadowsocks-libev)
    command -v dig >/dev/null || missing+=(bind9-dnsutils)
    pgbouncer=$(command -v pgbouncer || ls /usr/sbin/pgbouncer 2>/dev/null || true)
    [ -n "$pgbouncer" ] || missing+=(pgbouncer)
    command -v faketime >/dev/null || missing+=(faketime)
    nginx=$(command -v nginx || ls /usr/sbin/nginx 2>/dev/null || true)
    [ -n "$nginx" ] || missing+=(nginx-light)
    [ -e /usr/lib/nginx/modules/ngx_stream_module.so ] || missing+=(libnginx-mod-stream)
    haproxy=$(command -v haproxy || ls /usr/sbin/haproxy 2>/dev/null || true)
    [ -n "$haproxy" ] || missing+=(haproxy)
    [ -n "$python" ] || missing+=(python3-websockets python3-h2)
    node=$(command -v node || command -v nodejs || true)
    [ -n "$node" ] || missing+=(nodejs)
    chromium=$(command -v chromium || true)
    [ -n "$chromium" ] || missing+=(chromium)
    command -v nghttp >/dev/null || missing+=(nghttp2-client)
    command -v curl >/dev/null || missing+=(curl)
    command -v pebble >/dev/null && command -v pebble-challtestsrv >/dev/null || missing+=(pebble)
}
