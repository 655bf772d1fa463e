#!/usr/bin/env python3
"""`make bench-instructions`: instructions of each step of a request, and of whole requests, under
callgrind. They do not drift with the machine's load, so two commits can be compared:

    make bench-instructions JSON=before.json
    make bench-instructions JSON=after.json BASE=before.json
"""

import json
import os
import re
import subprocess
import sys
import tempfile

from rig import tools
from rig.bench import ROOT, build, commit, write_json
from rig.procs import Failed

FEW, MANY = 500, 5500


def count(argv):
    """Instructions that a program executes until it ends."""
    with tempfile.TemporaryDirectory() as scratch:
        out = subprocess.run(
            [
                *("valgrind", "--tool=callgrind", "--callgrind-out-file=" + scratch + "/out"),
                *map(str, argv),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
    found = re.search(r"Collected : (\d+)", out.stderr)
    if out.returncode != 0 or not found:
        raise Failed(f"{argv}: {out.stderr[-2000:]}")
    return int(found.group(1))


def main():
    tools.need("valgrind")
    build("--example", "bench-instructions")
    target = os.environ.get("CARGO_TARGET_DIR", os.path.join(ROOT, "target"))
    program = os.path.join(target, "release", "examples", "bench-instructions")
    listed = subprocess.run([program], capture_output=True, text=True, check=True)
    base = {}
    if os.environ.get("BASE"):
        with open(os.environ["BASE"]) as f:
            base = json.load(f)["instructions"]
    found = {}
    print("| step | instructions | before | change |\n|---|---|---|---|")
    for name in listed.stdout.splitlines():
        # Start-up is in both runs and falls out.
        per_call = (count([program, name, MANY]) - count([program, name, FEW])) / (MANY - FEW)
        found[name] = round(per_call, 1)
        show(name, found[name], base.get(name))
    write_json({"schema": 1, "commit": commit(), "instructions": found})


def show(name, now, before):
    change = f"{(now / before - 1) * 100:+.1f} %" if before else ""
    print(f"| {name} | {now:,.0f} | {before and f'{before:,.0f}' or ''} | {change} |", flush=True)


if __name__ == "__main__":
    try:
        main()
    except Failed as failure:
        sys.exit(f"bench: {failure}")
