#!/usr/bin/env bash
# Looks at a gateway's TLS with Debian's testssl.sh; fails for a finding above "low" that is not of the test authority or the site.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/serve.sh

testssl=$(command -v testssl || command -v testssl.sh || true)
if [ -z "$testssl" ] && [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
    echo "installing testssl.sh"
    DEBIAN_FRONTEND=noninteractive apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq testssl.sh >/dev/null
    testssl=$(command -v testssl || command -v testssl.sh || true)
fi
[ -n "$testssl" ] || { echo "error: this needs the Debian package testssl.sh" >&2; exit 1; }

executable=${HTTVPS_TESTSSL_EXECUTABLE:-}
if [ -z "$executable" ]; then
    cargo build --locked --release
    executable=$(target)/release/httvps
fi

openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout "$work/ca.key" -out "$work/ca.pem" \
    -days 30 -subj "/CN=A test authority" 2>/dev/null
openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout "$work/key.pem" -out "$work/request.pem" \
    -subj "/CN=localhost" 2>/dev/null
openssl x509 -req -in "$work/request.pem" -CA "$work/ca.pem" -CAkey "$work/ca.key" -CAcreateserial -days 80 -out "$work/leaf.pem" \
    -extfile <(printf 'subjectAltName=DNS:localhost\nextendedKeyUsage=serverAuth\nkeyUsage=digitalSignature\n') 2>/dev/null
cat "$work/leaf.pem" "$work/ca.pem" >"$work/cert.pem"

serve "the gateway" "gateway wss:.*:" env -i PATH="$PATH" HTTVPS_GATEWAY__LISTEN=127.0.0.1:0 \
    HTTVPS_GATEWAY__CONTROL_URL=http://127.0.0.1:9 HTTVPS_GATEWAY__TOKEN=none \
    HTTVPS_GATEWAY__STATE_DIR="$work/state" HTTVPS_TUNNEL__PATH=/none HTTVPS_OPS__GATEWAY_LISTEN= \
    HTTVPS_TUNNEL__MAX_PRE_HELLO_PER_ADDRESS=512 HTTVPS_TLS__CERT="$work/cert.pem" HTTVPS_TLS__KEY="$work/key.pem" \
    "$executable" serve-gateway

timeout 1200 "$testssl" --quiet --color 0 --warnings batch --ip 127.0.0.1 --add-ca "$work/ca.pem" --jsonfile "$work/report.json" \
    "localhost:$served" >"$work/text" 2>&1 || echo "testssl ended with $?"
python3 - "$work/report.json" <<'PYTHON'
import collections
import json
import sys

GOOD = {"OK", "INFO", "LOW", "DEBUG"}
OF_THE_TEST_AUTHORITY = {
    "cert_chain_of_trust",
    "cert_expirationStatus",
    "cert_notAfter",
    "cert_revocation",
    "cert_trust",
}
OF_THE_SITE = {"security_headers"}
EXCEPTED = OF_THE_TEST_AUTHORITY | OF_THE_SITE
TLS_SEEN = {"TLS1_2", "TLS1_3", "SSLv3", "TLS1", "TLS1_1"}
try:
    with open(sys.argv[1]) as file:
        findings = json.load(file)
except (OSError, ValueError) as error:
    sys.exit(f"error: testssl left no report: {error}")
seen = {finding["id"] for finding in findings}
counts = collections.Counter(finding["severity"] for finding in findings)
print(f"testssl: {len(findings)} findings,", ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items())))
bad = [finding for finding in findings if finding["severity"] not in GOOD]
for finding in bad:
    kept = "excepted" if finding["id"] in EXCEPTED else "BAD"
    print(f"testssl: {kept}: {finding['id']} {finding['severity']}: {finding['finding']}")
left = [finding for finding in bad if finding["id"] not in EXCEPTED]
if left or not TLS_SEEN <= seen:
    sys.exit(f"error: testssl: {len(left)} findings above low, not looked at: {sorted(TLS_SEEN - seen)}")
PYTHON
