#!/usr/bin/env bash
# Installs what `make test` needs and the machine lacks: all of it, or only `packages` or `cargo-deny`.
set -euo pipefail
scripts=$(dirname "$0")
. "$scripts/tools.sh"
cargo_deny=0.20.2
export PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"

packages() {
    find_tools
    if [ ${#missing[@]} -gt 0 ] && [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
        echo "installing ${missing[*]}"
        DEBIAN_FRONTEND=noninteractive apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "${missing[@]}" >/dev/null
        find_tools
    fi
    if [ ${#missing[@]} -gt 0 ]; then
        echo "error: the tests need the Debian packages ${missing[*]}" >&2
        exit 1
    fi
}

cargo-deny() {
    if [ "$(command cargo-deny --version 2>/dev/null)" = "cargo-deny $cargo_deny" ]; then return; fi
    echo "installing cargo-deny $cargo_deny"
    CARGO_PROFILE_DEV_DEBUG=false "${CARGO:-cargo}" install cargo-deny --version "$cargo_deny" --locked --debug --force --quiet
}

case ${1:-all} in
    packages) packages ;;
    cargo-deny) cargo-deny ;;
    all)
        packages
        cargo-deny
        ;;
    *)
        echo "error: there is packages, cargo-deny, or nothing for both" >&2
        exit 2
        ;;
esac
