#!/usr/bin/env bash
# The programs as static binaries: build-static.sh FOLDER [PROGRAM...] (both when none is named)
#
# glibc, linked statically: the machine's own toolchain does it, no second target is needed. Names
# are resolved by glibc's built-in `files` and `dns` services (2.34 and later), so nothing is
# loaded at run time. An explicit --target keeps the flag away from build scripts and macros.
#
# Build programs here and nothing else. An example or a test in the same call would bring the features
# of the dev-dependencies into the binaries, and give every function another name than the profile
# has. Under with-profile.sh the build fails when the profile does not fit. FEATURES: cargo features of
# the programs; the sidecar is built without any, so in a call of its own.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:?usage: build-static.sh FOLDER [PROGRAM...]}
shift
programs=("${@:-keygate}")
selection=("${@/#/--bin=}")
[ $# -gt 0 ] || { programs=(keygate keygatectl); selection=(--bins); }

target=$(rustc -vV | sed -n 's/^host: //p')
case "$target" in
    *-linux-*) ;;
    *) echo "static binaries are built on Linux, not on $target" >&2; exit 1 ;;
esac
profile=${PROFILE:-release}
built=$(mktemp)
trap 'rm -f "$built"' EXIT
RUSTFLAGS="${RUSTFLAGS:-} -C target-feature=+crt-static" \
    cargo build --locked --profile "$profile" --features "${FEATURES:-}" "${selection[@]}" \
    --target "$target" \
    --message-format=json-render-diagnostics >"$built"
if [ -n "${KEYGATE_PROFILE:-}" ]; then
    deploy/profile-fits.py "$KEYGATE_PROFILE" "$built"
fi
mkdir -p "$out"
[ "$profile" = dev ] && folder=debug || folder=$profile
for program in "${programs[@]}"; do
    install -m 755 "${CARGO_TARGET_DIR:-target}/$target/$folder/$program" "$out/$program"
    # A dynamic binary would not start FROM scratch; find out here.
    if readelf --program-headers --wide "$out/$program" | grep -q INTERP; then
        echo "$out/$program is not static" >&2
        exit 1
    fi
    "$out/$program" --version
done
