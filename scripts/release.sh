#!/usr/bin/env bash
# Builds the executable for installation: target/dist/httvps, with its debug information aside in httvps.debug.
set -euo pipefail
cd "$(dirname "$0")/.."
built=${CARGO_TARGET_DIR:-target}/release/httvps
dist=${CARGO_TARGET_DIR:-target}/dist

"${CARGO:-cargo}" build --release --locked
mkdir -p "$dist"
objcopy --only-keep-debug --compress-debug-sections=zlib "$built" "$dist/httvps.debug"
chmod 0644 "$dist/httvps.debug"
objcopy --strip-debug --add-gnu-debuglink="$dist/httvps.debug" "$built" "$dist/httvps"
ls -l "$dist"
