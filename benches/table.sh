#!/usr/bin/env bash
# `make bench-table [JSON=FILE]`: see benches/table.rs.
set -euo pipefail
cd "$(dirname "$0")/.."
exec cargo bench --quiet --bench table -- ${JSON:+--json "$JSON"} "$@"
