#!/usr/bin/env bash
# Checks `rust-version`: no dependency asks for a newer Rust, and the code compiles with that one if rustup has it.
set -euo pipefail
cd "$(dirname "$0")/.."
version=$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' Cargo.toml)

"${CARGO:-cargo}" metadata --locked --format-version 1 | python3 -c '
import json
import sys

def number(version):
    return tuple(int(part) for part in (version.split(".") + ["0"])[:3])

stated = sys.argv[1]
metadata = json.load(sys.stdin)
used = {node["id"] for node in metadata["resolve"]["nodes"]}
packages = [package for package in metadata["packages"] if package["id"] in used and package["rust_version"]]
newer = [package for package in packages if number(package["rust_version"]) > number(stated)]
for package in newer:
    asked = package["rust_version"]
    print("error: {} {} needs Rust {}".format(package["name"], package["version"], asked), file=sys.stderr)
if newer:
    sys.exit(f"error: Cargo.toml: rust-version: must be at least what these ask for, not {stated}")
' "$version"

toolchain=$(rustup toolchain list 2>/dev/null | awk -v version="$version" '
    index($1, version "-") == 1 || index($1, version ".") == 1 { print $1; exit }' || true)
if [ -z "$toolchain" ]; then
    echo "rust $version is not installed: looked at the dependencies only"
    exit 0
fi
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target}/msrv
rustup run "$toolchain" cargo check --locked --all-targets
