#!/usr/bin/env bash
# The image of one program from target/static/: build-image.sh NAME:TAG [CONTAINERFILE]
set -euo pipefail
cd "$(dirname "$0")/.."
image=${1:?usage: build-image.sh NAME:TAG [CONTAINERFILE]}
file=${2:-deploy/Containerfile}

for tool in podman buildah docker; do
    command -v "$tool" >/dev/null || continue
    exec "$tool" build --file "$file" --tag "$image" .
done
echo "no podman, buildah or docker found" >&2
echo "hint: apt-get install buildah" >&2
exit 1
