#!/usr/bin/env bash
# After the tour of `make demo ONCE=1`: a key's life in the browser, with a picture of each screen under
# target/demo/. `keygatectl demo --then` runs it and tells it where everything is. Without Chromium it
# says so and is content.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ -z "${KEYGATE_DEMO_PAGE:-}" ]; then
    echo "no pictures: this keygatectl was built without the management service (--features admin)"
    exit 0
fi
for program in chromium node npm; do
    if ! command -v "$program" >/dev/null; then
        echo "no pictures: $program is not installed; \`make tools\` does that on Debian"
        exit 0
    fi
done

# The driver of Chromium, as `make tools` installs it, at the version and checksum of the lock file.
node_modules=target/tools/node
if ! cmp -s tests/node/package-lock.json "$node_modules/installed"; then
    mkdir -p "$node_modules"
    cp tests/node/package.json tests/node/package-lock.json "$node_modules/"
    npm ci --prefix "$node_modules" --ignore-scripts --no-audit --no-fund --silent
    cp tests/node/package-lock.json "$node_modules/installed"
fi

mkdir -p target/demo
NODE_PATH="$node_modules/node_modules" CHROMIUM=$(command -v chromium) \
    node tests/node/demo.js target/demo
