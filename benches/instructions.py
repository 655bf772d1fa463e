#!/usr/bin/env python3
"""`make bench-instructions`: user-space instructions of each step of a request, and of whole requests
through keygate and through the bare hyper proxy, under callgrind. They do not drift with the
machine's load, so two commits can be compared:

    make bench-instructions JSON=before.json
    make bench-instructions JSON=after.json BASE=before.json

ONLY=steps,requests,answers: some of it. VARIANTS=keygate: whole requests through that one alone;
VARIANTS=shared: those of one key, with its limit here and in a store.
"""

import glob
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time

from rig import contenders, procs
from rig.bench import Bench, build, build_keygate, commit, write_json
from rig.contenders import Setup
from rig.procs import Failed

# Start-up is in both and falls out of the difference.
STEP_FEW, STEP_MANY = 500, 5500
# What start-up costs differs by some million instructions from run to run (random numbers, clocks). A
# whole request is counted on the gateway's worker alone: starting is other threads' work.
REQUEST_FEW, REQUEST_MANY = 200, 5200
KEYS = 1000
ONLY = [n for n in os.environ.get("ONLY", "steps,requests,answers").split(",") if n]
VARIANTS = [n for n in os.environ.get("VARIANTS", "").split(",") if n]
# Accepted requests for a body; the same number of bytes with a length and in chunks.
BODIES = {
    "1 KiB counted": "/1k",
    "1 KiB in chunks": "/chunked/1k",
    "64 KiB counted": "/64k",
    "64 KiB in chunks": "/chunked/64k",
}


def callgrind(argv, options=("--callgrind-out-file=/dev/null",)):
    return ["valgrind", "--tool=callgrind", *options, *map(str, argv)]


def collected(text, what):
    found = re.search(r"Collected : (\d+)", text)
    if not found:
        raise Failed(f"{what}: no count:\n{text[-2000:]}")
    return int(found.group(1))


def step(program, name, times):
    out = subprocess.run(callgrind([program, name, times]), capture_output=True, text=True, check=False)
    if out.returncode != 0:
        raise Failed(f"{name}: {out.stderr[-2000:]}")
    return collected(out.stderr, name)


def requests(kind, setup, secrets, want, times, path="/", close=False, options=()):
    """Instructions by thread of a gateway that lives for so many requests, on one connection or on one
    each. Under `options` of callgrind's the caller reads them himself."""
    bench = kind.bench
    directory = tempfile.mkdtemp(dir=bench.run_dir)
    ports = (procs.free_port(), procs.free_port(), procs.free_port())
    log = os.path.join(directory, "log")
    out = os.path.join(directory, "callgrind")
    by_thread = ("--separate-threads=yes", f"--callgrind-out-file={out}")
    command = callgrind(kind.configure(setup, directory, ports), options or by_thread)
    process = procs.spawn(command, procs.PROXY_CORE, log, cwd=directory)
    try:
        procs.wait_port(ports[0], process, log, step=0.1)
        for first in range(0, times, 1 if close else times):
            with connect(ports[0]) as connection, connection.makefile("rb") as answers:
                for n in range(first, first + 1 if close else times):
                    ask(connection, answers, path, secrets[n % len(secrets)], want, close)
                if close and answers.read(1):
                    raise Failed(f"{kind.name}: it goes on behind the last answer")
        time.sleep(0.2)
        # valgrind hands it on; both gateways end by it.
        process.send_signal(signal.SIGTERM)
        process.wait(60)
    finally:
        procs.stop(process)
    counts = {}
    for file in glob.glob(f"{out}-*"):
        with open(file) as lines:
            totals = [int(line.split()[1]) for line in lines if line.startswith("totals:")]
        counts[file.rpartition("-")[2]] = sum(totals)
    return counts


def connect(port):
    return socket.create_connection(("127.0.0.1", port), timeout=60)


def ask(connection, answers, path, secret, want, close=False):
    head = f"GET {path} HTTP/1.1\r\nHost: bench\r\nUser-Agent: bench/1.0\r\nAccept: */*\r\n"
    head += "Connection: close\r\n" if close else ""
    connection.sendall(f"{head}X-Api-Key: {secret}\r\n\r\n".encode())
    status = answers.readline() or fail()
    if not status.startswith(b"HTTP/1.1 %d" % want):
        raise Failed(f"want {want}: {status!r}")
    fields = {}
    while line := (answers.readline() or fail()).rstrip():
        name, _, value = line.partition(b":")
        fields[name.lower()] = value.strip()
    if fields.get(b"transfer-encoding") != b"chunked":
        if path.startswith("/chunked/"):
            raise Failed(f"{path}: the answer came without chunks: {fields}")
        return exactly(answers, int(fields[b"content-length"]))
    total = 0
    while size := int(answers.readline() or fail(), 16):
        exactly(answers, size + 2)
        total += size
    exactly(answers, 2)
    return total


def exactly(answers, size):
    if len(answers.read(size)) < size:
        fail()
    return size


def fail():
    raise Failed("the gateway closed the connection")


class Shared(contenders.Keygate):
    """With its limits in a store beside it."""

    name = "keygate_shared"

    def __init__(self, bench, store):
        super().__init__(bench)
        self.store = store

    def configure(self, setup, directory, ports):
        command = super().configure(setup, directory, ports)
        with open(command[-1], "a") as f:
            f.write(f'\n[shared]\nurl = "unix://{self.store}"\ntimeout = "1s"\n')
        return command


def shared(bench, whole, secret):
    """The limit of one busy key: counted here, and answered from what was taken in advance."""
    socket_path = os.path.join(bench.run_dir, "store.sock")
    argv = ["redis-server", "--port", "0", "--save", "", "--unixsocket", socket_path]
    log = os.path.join(bench.run_dir, "store.log")
    process = procs.spawn(argv, procs.PROXY_CORE, log, cwd=bench.run_dir)
    try:
        while not os.path.exists(socket_path):
            time.sleep(0.05)
        features, asked = frozenset({"default"}), {"secrets": [secret], "want": 200}
        whole("request: keygate, one key", contenders.Keygate(bench), features, **asked)
        whole("request: keygate, one key, shared limits", Shared(bench, socket_path), features, **asked)
    finally:
        procs.stop(process)


def main():
    build_keygate()
    build("bench-bare-proxy")
    build("bench-make-table", "bench-instructions", "bench-upstream")
    base = {}
    if os.environ.get("BASE"):
        with open(os.environ["BASE"]) as f:
            base = json.load(f)["instructions"]
    found = {}

    def show(name, now):
        found[name] = round(now, 1)
        before = base.get(name)
        change = f"{(now / before - 1) * 100:+.1f} %" if before else ""
        print(f"| {name} | {now:,.0f} | {f'{before:,.0f}' if before else ''} | {change} |", flush=True)

    print("| | instructions | before | change |\n|---|---|---|---|")
    with Bench(("valgrind", "openssl", "redis-server", "taskset")) as bench:
        if "steps" in ONLY:
            program = bench.example("bench-instructions")
            listed = subprocess.run([program], capture_output=True, text=True, check=True)
            for name in listed.stdout.splitlines():
                few, many = (step(program, name, times) for times in (STEP_FEW, STEP_MANY))
                show(name, (many - few) / (STEP_MANY - STEP_FEW))

        def whole(label, gateway, features, **how):
            setup = Setup(keys=KEYS, features=features)
            few, many = (
                requests(gateway, setup, times=times, **how) for times in (REQUEST_FEW, REQUEST_MANY)
            )
            # The one worker is the thread that has had to do more.
            more = max(count - few.get(thread, 0) for thread, count in many.items())
            show(label, more / (REQUEST_MANY - REQUEST_FEW))

        right = [secret for secret, _ in bench.keys(KEYS).sample()]
        wrong = [secret[:-1] + "z" for secret in right]
        kinds = [
            (name, contenders.Keygate, features)
            for name, features in contenders.Keygate.variants().items()
        ]
        kinds.append(("hyper", contenders.Hyper, frozenset()))
        for name, kind, features in kinds:
            if "requests" not in ONLY or (VARIANTS and name not in VARIANTS):
                continue
            name = name.replace("_", " ")
            for what, secrets, want in (("accepted", right, 200), ("refused", wrong, 401)):
                asked = {"secrets": secrets, "want": want}
                whole(f"request: {name}, {what}", kind(bench), features, **asked)
                if name in ("keygate", "hyper"):
                    label = f"request: {name}, {what}, connection per request"
                    whole(label, kind(bench), features, close=True, **asked)
        if "requests" in ONLY and (not VARIANTS or "shared" in VARIANTS):
            shared(bench, whole, right[0])
        for label, path in BODIES.items() if "answers" in ONLY else ():
            features = frozenset({"default"})
            label = f"answer: keygate, {label}"
            whole(label, contenders.Keygate(bench), features, secrets=right, want=200, path=path)
        print()
        for size in ("1 KiB", "64 KiB") if "answers" in ONLY else ():
            ratio = found[f"answer: keygate, {size} in chunks"] / found[f"answer: keygate, {size} counted"]
            print(f"{size} in chunks to {size} counted: {ratio:.2f}")
    write_json({"schema": 1, "commit": commit(), "instructions": found})


if __name__ == "__main__":
    try:
        main()
    except Failed as failure:
        sys.exit(f"bench: {failure}")
