#!/usr/bin/env bash
# Fuzzes each target for so many seconds (600), beginning with the committed seeds; any finding is a failure.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-600}
export PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"

command -v cargo-fuzz >/dev/null || cargo install cargo-fuzz --locked
RUSTC_BOOTSTRAP=1 cargo fuzz build

failed=()
for target in binary json websocket core; do
    case $target in
        websocket) longest=65536 ;;
        *) longest=4096 ;;
    esac
    work=$PWD/fuzz/corpus-work/$target
    mkdir -p "$work"
    echo "fuzzing $target for $seconds s"
    RUSTC_BOOTSTRAP=1 cargo fuzz run "$target" "$work" "$PWD/fuzz/seeds/$target" -- \
        -max_total_time="$seconds" -max_len="$longest" -timeout=30 -print_final_stats=1 || failed+=("$target")
done

if [ ${#failed[@]} -gt 0 ]; then
    echo "error: findings in ${failed[*]}; the inputs are in fuzz/artifacts" >&2
    exit 1
fi
echo "no findings"
