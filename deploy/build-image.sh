#!/usr/bin/env bash
# The image from target/static/keygate: build-image.sh NAME:TAG
set -euo pipefail
cd "$(dirname "$0")/.."
image=${1:?usage: build-image.sh NAME:TAG}

for tool in podman buildah docker; do
    command -v "$tool" >/dev/null || continue
    case "$tool" in
        buildah) exec buildah build --file deploy/Containerfile --tag "$image" . ;;
        *) exec "$tool" build --file deploy/Containerfile --tag "$image" . ;;
    esac
done
echo "no podman, buildah or docker found" >&2
echo "hint: apt-get install buildah" >&2
exit 1
