"""One run: directories, the upstream, what was started, and the interleaved rounds."""

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time

from . import load, procs, tools
from .contenders import Upstream, certificate
from .keys import Keys
from .procs import LOAD_CORE, PROXY_CORE, Failed

ROOT = os.path.dirname(load.HERE)
STATIC = os.path.join(ROOT, "target", "static")


class Bench:
    def __init__(self, need=("nginx", "haproxy", "wrk", "h2load", "openssl", "taskset")):
        tools.need(*need)
        procs.raise_descriptor_limit()
        self.target = os.environ.get("CARGO_TARGET_DIR", os.path.join(ROOT, "target"))
        # With an explicit target (a build by profile) cargo has one folder more.
        self.built = os.path.join(self.target, os.environ.get("CARGO_BUILD_TARGET", ""), "release")
        self.data = os.path.join(self.target, "bench")
        os.makedirs(self.data, exist_ok=True)
        self.run_dir = tempfile.mkdtemp(prefix="kg", dir="/tmp")  # short: a socket's path is in it
        os.chmod(self.run_dir, 0o755)  # nginx's worker gives up root
        self.running = []
        self.cert, self.cert_key, self.cert_bundle = certificate(self.run_dir)
        self.upstream = None
        self.began = time.monotonic()

    def __enter__(self):
        self.upstream = Upstream(self, LOAD_CORE)
        return self

    def __exit__(self, kind, value, trace):
        self.stop_all()
        if self.upstream is not None:
            self.upstream.stop()
        if kind is None or not os.environ.get("KEEP"):
            shutil.rmtree(self.run_dir, ignore_errors=True)

    def keys(self, count):
        return Keys(os.path.join(self.data, "keys"), count)

    def example(self, name):
        return os.path.join(self.built, "examples", name)

    def program(self, name):
        """The binary that ships (deploy/build-static.sh), or the one that `KEYGATE` names."""
        if name == "keygate" and os.environ.get("KEYGATE"):
            return os.environ["KEYGATE"]
        return os.path.join(STATIC, name)

    def stop_all(self):
        for running in self.running:
            running.stop()
        self.running = []

    def say(self, text):
        print(f"[{time.monotonic() - self.began:6.1f} s] {text}", file=sys.stderr, flush=True)

    def cell(self, running, work):
        """What one contender uses while `work` loads it: name of the figure to figure."""
        before = running.usage()
        requests, seconds = work(running)
        used, user, system, switches = running.usage().since(before)
        return {
            "cpu_us": used / requests * 1e6,
            "user_us": user / requests * 1e6,
            "system_us": system / requests * 1e6,
            "requests_per_s": requests / seconds,
            "core_share": used / seconds,
            "switches": switches / requests,
        }

    def rounds(self, what, contenders, work, count):
        """A B C A B C …: every contender once per round. `contenders`: name to Running. One dict per
        round, contender to figures of `cell`."""
        rounds = []
        order = list(contenders)
        for _ in range(count):
            cells = {}
            rounds.append(cells)
            for name in order:
                try:
                    cells[name] = self.cell(contenders[name], work)
                except Failed as failure:
                    # wrk may lose one request on a loaded machine; a second time is a finding.
                    self.say(f"{what}: {name}: once more: {failure}")
                    cells[name] = self.cell(contenders[name], work)
            # The neighbour's state (caches, boost) is not always the same contender's burden.
            order = order[1:] + order[:1]
        last = rounds[-1]
        self.say(what + ": " + ", ".join(f"{n} {last[n]['cpu_us']:.2f} µs" for n in contenders))
        return rounds


def machine():
    model = "?"
    with open("/proc/cpuinfo") as f:
        for line in f:
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    with open("/proc/meminfo") as f:
        memory = int(f.readline().split()[1]) // 1024
    return {
        "cpu": model,
        "cores": len(procs.CORES),
        "memory_mib": memory,
        "kernel": platform.release(),
        "load_core": LOAD_CORE,
        "proxy_core": PROXY_CORE,
        "load_average_before": os.getloadavg()[0],
    }


def commit():
    def git(*args):
        out = subprocess.run(["git", "-C", ROOT, *args], capture_output=True, text=True, check=False)
        return out.stdout.strip()

    return git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain") else "")


def write_json(report):
    path = os.environ.get("JSON")
    if path:
        with open(path, "w") as f:
            json.dump(report, f, indent=1)
            f.write("\n")


def build(*examples):
    """Release builds of the bench's own programs; a second call costs a second."""
    if os.environ.get("NO_BUILD"):
        return
    targets = [argument for name in examples for argument in ("--example", name)]
    subprocess.run(["cargo", "build", "--release", "--locked", *targets], cwd=ROOT, check=True)


def build_keygate():
    """The binary that ships, and not another selection of the same sources: an example in the same
    call changes the features of its dependencies, and the names by which it finds its profile."""
    if os.environ.get("NO_BUILD") or os.environ.get("KEYGATE"):
        return
    build_static = os.path.join(ROOT, "deploy", "build-static.sh")
    subprocess.run([build_static, STATIC, "keygate"], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
