#!/usr/bin/env bash
# Licences, bans and sources of every dependency; advisories where the database can be reached.
set -euo pipefail
cd "$(dirname "$0")/.."

if ! cargo deny --version >/dev/null 2>&1; then
    echo "installing cargo-deny (a few minutes, once)"
    cargo install --quiet --locked cargo-deny
fi
cargo deny --all-features check licenses bans sources
# The fuzz targets are not shipped, but they are built: nothing from elsewhere there either.
cargo deny --config deny.toml --manifest-path fuzz/Cargo.toml check sources
# The advisory database is a git repository on a host of its own: not reachable from every CI.
if said=$(cargo deny --all-features fetch db 2>&1); then
    cargo deny --offline --all-features check advisories
else
    echo "advisories skipped: the advisory database cannot be reached from here"
    echo "${said##*$'\n'}"
fi
