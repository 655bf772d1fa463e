#!/usr/bin/env bash
# The notes of a release, from CHANGELOG.md: release-notes.sh [VERSION] (default: what is unreleased)
# Files of the release that are in target/static are listed with their SHA-256.
set -euo pipefail
cd "$(dirname "$0")/.."
version=${1:-Unreleased}

notes=$(awk -v head="## $version" '
    /^## / { inside = ($0 == head || index($0, head " ") == 1); next }
    inside { print }' CHANGELOG.md)
if ! grep -q '[^[:space:]]' <<<"$notes"; then
    echo "CHANGELOG.md has nothing under \"## $version\"" >&2
    echo "hint: there are: $(sed -n 's/^## //p' CHANGELOG.md | paste -sd, | sed 's/,/, /g')" >&2
    exit 1
fi

echo "# keygate $version"
echo "$notes"
breaking=$(grep -c '^- \*\*Breaking' <<<"$notes" || true)
if [ "$breaking" -gt 0 ]; then
    echo
    echo "$breaking of these ask something of who upgrades: see **Breaking**."
fi
files=()
for file in target/static/keygate target/static/keygatectl target/static/*.cdx.json; do
    [ -f "$file" ] && files+=("${file##*/}")
done
if [ "${#files[@]}" -gt 0 ]; then
    echo
    echo "## Files"
    echo
    echo '```'
    (cd target/static && sha256sum "${files[@]}")
    echo '```'
fi
