#!/usr/bin/env bash
# `make bench-table [JSON=FILE]`: tables (benches/table.rs), then revocations under load
# (benches/revocation.py), which adds its figures to the same JSON.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo bench --quiet --bench table -- ${JSON:+--json "$JSON"} "$@"
exec benches/revocation.py
