#!/usr/bin/env python3
"""Does a profile reach the code that was built? profile-fits.py PROFILE MESSAGES

PROFILE is what with-profile.sh leaves for it: a text profile of LLVM (`llvm-profdata merge --text`).
MESSAGES is the output of `cargo build --message-format=json-render-diagnostics`. A function finds
its counts by its name, and a name contains a hash of the crate's features: a build of another
selection of targets finds none, and says nothing about it. So this looks for the names of the
functions that ran, crate by crate, in the libraries that were built. It fails where a crate of the
request path has too few of them.
"""

import json
import re
import sys

# A function that the compiler inlined everywhere before the library was written has no name in it
# any more, so even a profile of the very build does not reach 100 %; one of another selection
# reaches 0 %.
LEAST = 0.1
# On the path of a request.
CRATES = ("keygate", "tokio", "hyper", "h2", "rustls")


def executed(path):
    """Names of functions that ran: those whose counters are not all zero."""
    found = set()
    name, counting = None, False
    with open(path, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            line = line.strip()
            if line == "# Counter Values:":
                counting = True
            elif not line:
                # Functions are separated by an empty line.
                name, counting = None, False
            elif counting and line.isdigit():
                if line != "0":
                    found.add(name)
            elif name is None and not line.startswith((":", "#")):
                # A local function has its file in front.
                name = line.rpartition(";")[2]
    return found


def of_crate(name, crate):
    """By the mangled name, in either of rustc's two schemes: a function, or a method of a trait."""
    path = f"{len(crate)}{crate}"
    return re.match(rf"_ZN(?:{path}\d|\d+_\$LT\${crate}\.\.)|_R\w*?Cs\w+?_{path}", name) is not None


def libraries(path):
    """Crate to the library that this build used of it."""
    found = {}
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            message = json.loads(line)
            if message.get("reason") != "compiler-artifact":
                continue
            if "lib" in message["target"]["kind"]:
                name = message["target"]["name"].replace("-", "_")
                files = [f for f in message["filenames"] if f.endswith(".rlib")]
                # Two versions of one crate: the names of both count.
                found.setdefault(name, []).extend(files)
    return found


def main():
    if len(sys.argv) != 3:
        sys.exit("usage: profile-fits.py PROFILE MESSAGES")
    ran, built = executed(sys.argv[1]), libraries(sys.argv[2])
    misses = []
    for crate in CRATES:
        wanted = {n for n in ran if of_crate(n, crate)}
        text = b"".join(open(f, "rb").read() for f in built.get(crate, []))
        have = sum(n.encode() in text for n in wanted)
        share = have / len(wanted) if wanted else 0.0
        print(f"profile: {crate}: {have} of {len(wanted)} functions that ran are in this build")
        if share < LEAST:
            misses.append(crate)
    if misses:
        sys.exit(
            f"the profile does not fit this build: {', '.join(misses)}\n"
            "hint: the instrumented build and this one must select the same targets, features and "
            "target triple (deploy/with-profile.sh, deploy/build-static.sh)"
        )


if __name__ == "__main__":
    main()
