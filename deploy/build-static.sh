#!/usr/bin/env bash
# Both programs as static binaries: build-static.sh FOLDER
#
# glibc, linked statically: the machine's own toolchain does it, no second target is needed. Names
# are resolved by glibc's built-in `files` and `dns` services (2.34 and later), so nothing is
# loaded at run time. An explicit --target keeps the flag away from build scripts and macros.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:?usage: build-static.sh FOLDER}

target=$(rustc -vV | sed -n 's/^host: //p')
case "$target" in
    *-linux-*) ;;
    *) echo "static binaries are built on Linux, not on $target" >&2; exit 1 ;;
esac
profile=${PROFILE:-release}
RUSTFLAGS="${RUSTFLAGS:-} -C target-feature=+crt-static" \
    cargo build --locked --profile "$profile" --bins --target "$target"
mkdir -p "$out"
[ "$profile" = dev ] && folder=debug || folder=$profile
for program in keygate keygatectl; do
    install -m 755 "${CARGO_TARGET_DIR:-target}/$target/$folder/$program" "$out/$program"
    # A dynamic binary would not start FROM scratch; find out here.
    if readelf --program-headers --wide "$out/$program" | grep -q INTERP; then
        echo "$out/$program is not static" >&2
        exit 1
    fi
    "$out/$program" --version
done
