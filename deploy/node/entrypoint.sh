#!/bin/sh
set -eu
: "${NODE_PASSWORD:?NODE_PASSWORD is not set}"
method=${NODE_METHOD:-chacha20-ietf-poly1305}
port=${NODE_PORT:-8388}
case "$NODE_PASSWORD$method$port" in
  *[\"\\]* | *[[:cntrl:]]*)
    echo 'NODE_PASSWORD, NODE_METHOD and NODE_PORT may not contain quotes, backslashes or control characters' >&2
    exit 2
    ;;
esac
umask 077
config=/tmp/shadowsocks.json
cat >"$config" <<JSON
{
  "server": "0.0.0.0",
  "server_port": $port,
  "password": "$NODE_PASSWORD",
  "method": "$method",
  "timeout": 300,
  "mode": "tcp_and_udp"
}
JSON
unset NODE_PASSWORD
ulimit -n "$(ulimit -Hn)"
exec ss-server -c "$config"
