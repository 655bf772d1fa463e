#!/usr/bin/env python3
"""`benches/share.py [FILE]`: what part of an accepted request's user-space instructions one source file
of ours has (src/proxy/streams.rs), under callgrind. An instruction counts for the file if any of the
inlined functions that it belongs to is in it; what such an instruction calls counts with it.
"""

import collections
import os
import re
import subprocess
import sys

from instructions import KEYS, REQUEST_FEW, REQUEST_MANY, requests
from rig import contenders
from rig.bench import ROOT, Bench, build
from rig.contenders import Setup
from rig.procs import Failed


class Profile:
    """Instructions by address, and of calls by address and callee."""

    def __init__(self, path):
        self.own, self.calls, self.function = (collections.Counter(), collections.Counter(), {})
        where = function = callee = None
        call = False
        with open(path) as lines:
            for line in lines:
                key, _, value = line.rstrip("\n").partition("=")
                if key == "ob":
                    where = value
                elif key == "fn":
                    function = value
                elif key == "cfn":
                    callee = value
                elif key == "calls":
                    call = True
                elif line.startswith("0x"):
                    address, _, cost = line.split()
                    at = (where, int(address, 16))
                    if call:
                        self.calls[(at, callee)] += int(cost)
                        call = False
                    else:
                        self.own[at] += int(cost)
                        self.function[at] = function


def inlined(binary, addresses):
    """For each address the files of the functions that were inlined there, the outermost last."""
    asked = "\n".join(map(hex, addresses))
    tool = ["addr2line", "-a", "-i", "-e", binary]
    lines = subprocess.run(tool, input=asked, capture_output=True, text=True, check=True).stdout.splitlines()
    files, at = {}, None
    for line in lines:
        if re.fullmatch("0x[0-9a-f]+", line):
            at = files.setdefault(int(line, 16), [])
        else:
            at.append(line)
    return files


def share(few, many, binary, file):
    """Instructions per request in the file, those it calls, and all."""
    requests_more = REQUEST_MANY - REQUEST_FEW
    ours = [at for at in many.own if at[0] and os.path.realpath(at[0]) == os.path.realpath(binary)]
    files = inlined(binary, sorted({address for _, address in ours}))
    if not any(file in line for lines in files.values() for line in lines):
        raise Failed(f"{file} is not in the line tables of {binary}")
    inside = {at for at in ours if any(file in line for line in files[at[1]])}
    # Functions of the file that were not inlined: counted by their own instructions.
    known = {many.function[at] for at in ours if file in files[at[1]][-1]}
    own = sum(many.own[at] - few.own[at] for at in inside)
    called = sum(
        cost - few.calls[(at, callee)]
        for (at, callee), cost in many.calls.items()
        if at in inside and callee not in known
    )
    total = sum(many.own.values()) - sum(few.own.values())
    return tuple(n / requests_more for n in (own, called, total))


def main():
    file = sys.argv[1] if len(sys.argv) > 1 else "src/proxy/streams.rs"
    build("bench-make-table", "bench-upstream")
    # What ships has no line tables.
    out = os.path.join(ROOT, "target", "lines")
    lines = {"CARGO_PROFILE_RELEASE_DEBUG": "line-tables-only", "CARGO_PROFILE_RELEASE_STRIP": "none"}
    command = [os.path.join(ROOT, "deploy", "build-static.sh"), out, "keygate"]
    environment = {**os.environ, **lines, "CARGO_TARGET_DIR": os.path.join(out, "build")}
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    os.environ["KEYGATE"] = os.path.join(out, "keygate")
    with Bench(("valgrind", "addr2line", "openssl", "taskset")) as bench:
        secrets = [secret for secret, _ in bench.keys(KEYS).sample()]
        gateway = contenders.Keygate(bench)
        setup = Setup(keys=KEYS, features=frozenset({"default"}))
        profiles = []
        for times in (REQUEST_FEW, REQUEST_MANY):
            out = os.path.join(bench.run_dir, f"callgrind.{times}")
            plain = ("--dump-instr=yes", "--compress-pos=no", "--compress-strings=no")
            requests(gateway, setup, secrets, 200, times, options=(*plain, f"--callgrind-out-file={out}"))
            profiles.append(Profile(out))
        own, called, total = share(*profiles, gateway.binary(), file)
    part = (own + called) / total * 100
    print(f"{file}: {own:,.0f} + {called:,.0f} called, of {total:,.0f} instructions: {part:.2f} %")


if __name__ == "__main__":
    try:
        main()
    except Failed as failure:
        sys.exit(f"bench: {failure}")
