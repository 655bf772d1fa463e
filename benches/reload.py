#!/usr/bin/env python3
"""`make bench-reload`: what requests notice while a table of a million keys is replaced 20 times,
beside nginx doing the same with a `map` of a million entries.

Environment: RELOADS=20, KEYS=1000000, RATE=2000, CORES=…, JSON=FILE, CONTENDERS=keygate,nginx,
NO_BUILD=1. benches/README.md has the JSON keys.
"""

import http.client
import os
import signal
import sys
import time

from rig import check, contenders, load, procs, stats
from rig.bench import Bench, build, build_keygate, commit, machine, write_json
from rig.contenders import Setup
from rig.procs import PROXY_CORE, Failed
from rig.report import number, table

RELOADS = int(os.environ.get("RELOADS", 20))
KEYS = int(os.environ.get("KEYS", 1_000_000))
RATE = int(os.environ.get("RATE", 2000))
GIVE_UP_S = 60
# After the new keys are in force: old memory is freed, old workers end.
SETTLE_S = 0.5
QUIET_S = 1.0
NAMES = [n for n in os.environ.get("CONTENDERS", "keygate,nginx").split(",") if n]


class Asker:
    """Asks with one key, over and over, on connections of its own."""

    def __init__(self, port):
        self.port = port
        self.connection = None

    def status(self, secret):
        for attempt in (1, 2):
            if self.connection is None:
                self.connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
            try:
                self.connection.request("GET", "/", headers={"X-Api-Key": secret})
                answer = self.connection.getresponse()
                answer.read()
                return answer.status
            except OSError:
                self.connection = None
                if attempt == 2:
                    raise
            except http.client.HTTPException:
                self.connection = None
                if attempt == 2:
                    raise


def measure(bench, name, reloader):
    """Reloads one after the other under load; figures of requests during and outside them."""
    running = reloader.start()
    keys = bench.keys(KEYS)
    samples = os.path.join(bench.run_dir, f"{name}.samples")
    background = load.Background(
        bench.example("bench-open-loop"), running.http1, RATE, keys, samples
    )
    windows, in_force, peak = [], [], running.memory_kib()
    before = peak
    try:
        time.sleep(QUIET_S * 2)
        for number_ in range(1, RELOADS + 1):
            asker = Asker(running.http1)
            new = reloader.secret(number_)
            if asker.status(new) != 401:
                raise Failed(f"{name}: the new key of reload {number_} is known before it")
            begin_wall, begin = time.time(), time.monotonic()
            reloader.publish(number_)
            looked = begin
            while asker.status(new) != 200:
                now = time.monotonic()
                if now - begin > GIVE_UP_S:
                    raise Failed(f"{name}: reload {number_} not in force after {GIVE_UP_S} s")
                if now - looked > 0.05:
                    peak, looked = max(peak, running.memory_kib()), now
                time.sleep(0.002)
                if background.process.poll() is not None:
                    raise Failed("the load generator ended early")
            in_force.append(time.monotonic() - begin)
            peak = max(peak, running.memory_kib())
            time.sleep(SETTLE_S)
            windows.append((begin_wall, time.time()))
            time.sleep(QUIET_S)
        report, rows = background.stop()
    finally:
        background.kill()
        running.stop()
    during, outside = [], []
    failed = {}
    first = rows[0][0] + QUIET_S
    for at, latency, status in rows:
        if status != 200:
            failed[str(status)] = failed.get(str(status), 0) + 1
        # A request that was due before a reload but answered in it belongs to the reload.
        inside = any(begin <= at + latency and at <= end for begin, end in windows)
        if inside:
            during.append(latency)
        elif at >= first:
            outside.append(latency)
    bench.say(f"{name}: in force after {stats.median(in_force):.3f} s (median)")
    return {
        "reloads": RELOADS,
        "in_force_s": {"p50": stats.median(in_force), "max": max(in_force)},
        "during_us": quantiles(during),
        "outside_us": quantiles(outside),
        "requests_during": len(during),
        "requests_outside": len(outside),
        "failed": failed,
        "connections_dropped": report["reconnects"],
        "connections": 64,
        "memory_kib": {"before": before, "peak": peak},
    }


def quantiles(values):
    q = {"p50": 0.5, "p99": 0.99, "p999": 0.999, "max": 1.0}
    return {name: round(stats.quantile(values, at) * 1e6, 1) for name, at in q.items()}


class NginxReload:
    """A new map file by rename, then SIGHUP to the master."""

    def __init__(self, bench):
        self.bench = bench
        self.kind = contenders.Nginx(bench)

    def start(self):
        self.running = self.kind.start(Setup(keys=KEYS, cores=CORES))
        check.contender("nginx", self.running.http1, self.bench.keys(KEYS))
        # The map that its configuration includes, as a copy that may change.
        directory = os.path.dirname(self.running.log)
        self.map = os.path.join(directory, "map")
        self.config = os.path.join(directory, "nginx.conf")
        original = self.bench.keys(KEYS).nginx()
        with open(original) as f:
            self.text = f.read()
        with open(self.config) as f:
            config = f.read().replace(original, self.map)
        with open(self.config, "w") as f:
            f.write(config)
        # All before the load begins: writing them would be felt.
        for number_ in range(1, RELOADS + 1):
            with open(f"{self.map}.{number_}", "w") as f:
                f.write(f"{self.secret(number_)} org-1;\n")
                f.write(self.text)
        return self.running

    def secret(self, number_):
        return f"kg_live_reload{number_:034d}"

    def publish(self, number_):
        os.rename(f"{self.map}.{number_}", self.map)
        os.kill(self.running.process.pid, signal.SIGHUP)


class KeygateReload:
    """A new table by rename; the directory is watched."""

    def __init__(self, bench):
        self.bench = bench
        self.kind = contenders.Keygate(bench)

    def start(self):
        self.running = self.kind.start(Setup(keys=KEYS, cores=CORES, features=frozenset({"default"})))
        check.contender("keygate", self.running.http1, self.bench.keys(KEYS))
        self.target = os.path.join(os.path.dirname(self.running.log), "tables", "keys.kgt")
        for number_ in range(1, RELOADS + 1):
            secret, name = self.secret(number_), f"reload-{KEYS}-{number_}"
            made = self.kind.table(KEYS, serial=1 + number_, extra=secret, name=name)
            os.link(made, f"{self.target}.{number_}")
        return self.running

    def secret(self, number_):
        return f"kg_live_reload{number_:034d}"

    def publish(self, number_):
        os.rename(f"{self.target}.{number_}", self.target)


CORES = os.environ.get("CORES", str(PROXY_CORE))
KINDS = {"keygate": KeygateReload, "nginx": NginxReload}


def markdown(out):
    rows = []
    for name, r in out["contenders"].items():
        for label in ("outside", "during"):
            q = r[f"{label}_us"]
            rows.append(
                (
                    f"{name}, {label} reloads",
                    *(number(q[k] / 1000, 2) for k in ("p50", "p99", "p999", "max")),
                    f"{r['requests_' + label]:,}",
                )
            )
    latency = table(("ms", "p50", "p99", "p99.9", "max", "requests"), rows)
    facts = table(
        ("", "new keys in force after (median, max)", "connections dropped", "failed", "memory before, peak"),
        [
            (
                name,
                f"{r['in_force_s']['p50']:.2f} s, {r['in_force_s']['max']:.2f} s",
                f"{r['connections_dropped']} in {r['reloads']} reloads (64 kept alive)",
                r["failed"] or "none",
                f"{r['memory_kib']['before'] / 1024:.0f}, {r['memory_kib']['peak'] / 1024:.0f} MiB",
            )
            for name, r in out["contenders"].items()
        ],
    )
    head = (
        f"# make bench-reload\n\n{out['date']}, commit {out['commit']}: {KEYS:,} keys replaced {RELOADS} "
        f"times at {RATE:,} requests/s over 64 kept-alive connections, open loop; contender on core "
        f"{CORES}. During: from the replacement until {SETTLE_S} s after the new keys are in force."
    )
    return "\n\n".join((head, latency, facts))


def main():
    if "keygate" in NAMES:
        build_keygate()
    build("bench-upstream", "bench-open-loop", "bench-make-table")
    need = ("nginx", "openssl", "taskset")
    with Bench(need) as bench:
        out = {
            "schema": 1,
            "commit": commit(),
            "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "machine": machine(),
            "keys": KEYS,
            "rate": RATE,
            "cores": CORES,
            "contenders": {name: measure(bench, name, KINDS[name](bench)) for name in NAMES},
        }
    print(markdown(out))
    write_json(out)


if __name__ == "__main__":
    try:
        procs.raise_descriptor_limit()
        main()
    except Failed as failure:
        sys.exit(f"bench: {failure}")
