#!/usr/bin/env bash
# Public suites, and our own raw requests, against keygate, nginx and HAProxy side by side. Takes
# some minutes; writes docs/conformance.md. Only loopback traffic, bounded in count and time.
set -euo pipefail
cd "$(dirname "$0")/../.."

missing=()
for need in h2load:nghttp2-client haproxy:haproxy slowhttptest:slowhttptest testssl:testssl.sh; do
    PATH="$PATH:/usr/sbin" command -v "${need%%:*}" >/dev/null || missing+=("${need##*:}")
done
if [ "${#missing[@]}" -gt 0 ]; then
    if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
        echo "the suites need: ${missing[*]}" >&2
        echo "hint: as root on Debian: apt-get install --no-install-recommends ${missing[*]}" >&2
        exit 1
    fi
    # 101: invoke-rc.d starts nothing.
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        trap 'rm -f "$policy"' EXIT
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
    fi
    DEBIAN_FRONTEND=noninteractive apt-get -q -q -y install --no-install-recommends "${missing[@]}" >/dev/null
fi
cargo build --quiet --bins
target/tools/venv/bin/python tests/conformance/run.py "$@"
