#!/usr/bin/env bash
# Runs the drills of tests/integration/drills/ at full size, one after the other: so many idle and busy tunnels, so many
# seconds for the crowd, a fortieth of them for each phase of the others; then what a user sees of it
# (tests/integration/continuity/user_view.rs).
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-600}
export HTTVPS_DRILL_IDLE=${HTTVPS_DRILL_IDLE:-2000}
export HTTVPS_DRILL_BUSY=${HTTVPS_DRILL_BUSY:-50}
export HTTVPS_DRILL_STALLED=${HTTVPS_DRILL_STALLED:-200}
ulimit -n "$(ulimit -Hn)"

drill() {
    scripts/test.sh cargo test --release --locked --test integration -- --nocapture --test-threads=1 "$@"
}

export HTTVPS_DRILL_PHASE_MS=$((seconds * 1000 / 4))
drill drills::crowd::
export HTTVPS_DRILL_PHASE_MS=$((seconds * 1000 / 40))
drill drills:: --skip drills::crowd::
drill continuity::user_view:: continuity::resume::
