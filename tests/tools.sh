#!/usr/bin/env bash
# Installs what the tests need and is missing: Debian packages, a Python environment and the packages
# of two npm lock files under target/. Starts no service and leaves the machine's service policy as it was. Without root it says
# what to install and fails, so that a test is never skipped in silence.
set -euo pipefail
cd "$(dirname "$0")/.."

# command:package
needs=(
    c++:g++
    cc:gcc
    chromium:chromium
    curl:curl
    go:golang-go
    groff:groff-base
    nginx:nginx-light
    node:nodejs
    npm:npm
    openssl:openssl
    pgbouncer:pgbouncer
    promtool:prometheus
    python3:python3
    redis-server:redis-server
    runc:runc
)
# Packages from PyPI: the documented Python examples, public HTTP/2, gRPC and WebSocket clients and services,
# the schemas of Compose files and of SBOMs, and a reader of JSON Web Tokens.
wheels=(
    'requests' 'websockets' 'grpcio' 'grpcio-health-checking' 'httpx[http2]' 'h2'
    'compose-spec' 'cyclonedx-python-lib[json-validation]' 'pyjwt[crypto]'
)
venv=target/tools/venv

missing=()
# Its programs are on nobody's PATH: a folder for each version.
if ! compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null && ! command -v initdb >/dev/null; then
    missing+=(postgresql)
fi
for need in "${needs[@]}"; do
    # nginx lives in /usr/sbin, which is not on every user's PATH.
    PATH="$PATH:/usr/sbin:/sbin" command -v "${need%%:*}" >/dev/null || missing+=("${need##*:}")
done
if [ ! -x "$venv/bin/python" ] && command -v python3 >/dev/null && ! python3 -c 'import ensurepip' 2>/dev/null; then
    missing+=(python3-venv)
fi

if [ "${#missing[@]}" -gt 0 ]; then
    if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
        echo "the tests need: ${missing[*]}" >&2
        echo "hint: as root on Debian: apt-get install --no-install-recommends ${missing[*]}" >&2
        exit 1
    fi
    echo "installing: ${missing[*]}"
    # Exit status 101 tells invoke-rc.d to start nothing. An existing policy stays in force.
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        trap 'rm -f "$policy"' EXIT
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
    fi
    # Debian's package makes a database that starts with the machine, unless it is told not to.
    cluster=/etc/postgresql-common/createcluster.conf
    if [ ! -e "$cluster" ]; then
        mkdir -p "${cluster%/*}"
        echo 'create_main_cluster = false' >"$cluster"
    fi
    export DEBIAN_FRONTEND=noninteractive
    apt-get -q -q update
    apt-get -q -q -y install --no-install-recommends "${missing[@]}" >/dev/null
fi

stamp="$venv/installed"
wanted="${wheels[*]}"
if [ ! -x "$venv/bin/python" ] || [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
    mkdir -p "${venv%/*}"
    python3 -m venv "$venv"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "${wheels[@]}"
    printf '%s' "$wanted" >"$stamp"
fi

# What tests the API of the management service by its document, at pinned versions.
schemathesis=target/tools/schemathesis
if ! cmp -s tests/it/py/schemathesis.txt "$schemathesis/installed"; then
    python3 -m venv "$schemathesis"
    "$schemathesis/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps \
        --requirement tests/it/py/schemathesis.txt
    cp tests/it/py/schemathesis.txt "$schemathesis/installed"
fi

# An OpenID provider, likewise. (The other one is a package of npm, below.)
oidc=target/tools/oidc
if ! cmp -s tests/it/py/oidc.txt "$oidc/installed"; then
    python3 -m venv "$oidc"
    "$oidc/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes \
        --requirement tests/it/py/oidc.txt
    cp tests/it/py/oidc.txt "$oidc/installed"
fi

# Helm as a library, which needs Python 3.12. Where none runs, the tests of the chart say that they did
# not run, and fail under CI=true.
helm=target/tools/helm
if ! cmp -s tests/it/py/helm.txt "$helm/installed"; then
    pyenv="${PYENV_ROOT:-$HOME/.pyenv}"
    for python in python3.14 python3.13 python3.12 "$pyenv"/versions/3.1[2-4]*/bin/python3; do
        if "$python" -c 'import ensurepip' 2>/dev/null; then
            rm -rf "$helm"
            "$python" -m venv "$helm"
            "$helm/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes \
                --requirement tests/it/py/helm.txt
            cp tests/it/py/helm.txt "$helm/installed"
            break
        fi
    done
    [ -x "$helm/bin/python" ] || echo "chart: NOT RUN, needs Python 3.12"
fi

# HTTP clients in JavaScript, a driver of Chromium and a judge of accessibility, at the versions and
# checksums of the lock file.
node_modules=target/tools/node
if ! cmp -s tests/node/package-lock.json "$node_modules/installed"; then
    mkdir -p "$node_modules"
    cp tests/node/package.json tests/node/package-lock.json "$node_modules/"
    npm ci --prefix "$node_modules" --ignore-scripts --no-audit --no-fund --silent
    cp tests/node/package-lock.json "$node_modules/installed"
fi

# Packages from npm, as tests/it/js/package-lock.json pins them: the documented JavaScript examples.
js=target/tools/js
if ! cmp -s tests/it/js/package-lock.json "$js/installed"; then
    mkdir -p "$js"
    cp tests/it/js/package.json tests/it/js/package-lock.json "$js"
    npm ci --prefix "$js" --silent --no-audit --no-fund
    cp tests/it/js/package-lock.json "$js/installed"
fi
