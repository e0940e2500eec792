#!/usr/bin/env bash
# Runs the WebSocket cases of Autobahn against examples/echo.rs: with kosoku, and with wstest if AUTOBAHN_WSTEST is its path.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/serve.sh
sections=(1 2 3 4 5 6 7 9 10)
venv=${XDG_CACHE_HOME:-$HOME/.cache}/httvps-autobahn

if ! "$venv/bin/pip" show kosoku 2>/dev/null | grep -qx 'Version: 0.1.0'; then
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet 'kosoku==0.1.0'
fi
cargo build --locked --release --example echo
serve "the echo server" "echo " "$(target)/release/examples/echo" 127.0.0.1:0
url=$served

check() {
    "$venv/bin/python" - "$1" "$2" <<'PYTHON'
import collections
import json
import sys

CASES = 301
GOOD = {"OK", "NON-STRICT", "INFORMATIONAL"}
name, path = sys.argv[1:]
try:
    with open(path) as file:
        agents = json.load(file)
except OSError as error:
    sys.exit(f"error: {name} left no report: {error}")
results = {case: result for cases in agents.values() for case, result in cases.items()}
counts = collections.Counter(result["behavior"] for result in results.values())
print(f"{name}: {len(results)} cases,", ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items())))
bad = {
    case: (result["behavior"], result["behaviorClose"])
    for case, result in results.items()
    if not {result["behavior"], result["behaviorClose"]} <= GOOD
}
for case, (behavior, close) in bad.items():
    print(f"{name}: case {case}: {behavior}, close {close}")
if bad or len(agents) != 1 or len(results) != CASES:
    sys.exit(f"error: {name}: {len(bad)} bad cases, {len(results)} of {CASES} cases")
PYTHON
}

status=0
includes=()
for section in "${sections[@]}"; do includes+=(-i "$section.*"); done
timeout 300 "$venv/bin/kosoku" "$url" "${includes[@]}" -p 2 -o "$work/kosoku" || echo "kosoku ended with $?"
check kosoku "$work/kosoku/index.json" || status=1

if [ -n "${AUTOBAHN_WSTEST:-}" ]; then
    cases=$(printf '"%s.*", ' "${sections[@]}")
    cat >"$work/spec.json" <<JSON
{
    "outdir": "$work/wstest",
    "servers": [{"agent": "httvps", "url": "$url"}],
    "cases": [${cases%, }],
    "exclude-cases": [],
    "exclude-agent-cases": {}
}
JSON
    timeout 900 "$AUTOBAHN_WSTEST" -m fuzzingclient -s "$work/spec.json" || echo "wstest ended with $?"
    check wstest "$work/wstest/index.json" || status=1
fi
exit $status
