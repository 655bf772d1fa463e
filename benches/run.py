#!/usr/bin/env python3
"""`make bench`: keygate beside nginx, HAProxy and a bare hyper proxy, doing the same job.

The headline is the ratio to nginx with keygate's features.

Environment: FULL=1, JSON=FILE, ROUNDS=n, SECONDS=n, ONLY=accepted,memory,…, CONTENDERS=…,
LOAD_CORE, PROXY_CORE, NO_BUILD=1, KEYGATE=FILE. benches/README.md explains the figures and every JSON key.
"""

import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import time

from rig import check, contenders, load, options, procs, report, stats, tools
from rig.bench import Bench, build, build_keygate, commit, machine, write_json
from rig.check import Http2
from rig.contenders import Setup
from rig.procs import CORES, Failed

FULL = os.environ.get("FULL") == "1"
ROUNDS = int(os.environ.get("ROUNDS", 9 if FULL else 3))
# Of scenarios whose differences are large, or that are many.
FEW = ROUNDS if FULL else min(ROUNDS, 2)
SECONDS = float(os.environ.get("SECONDS", 3 if FULL else 1))
KEYS = 1_000_000
KINDS = {
    kind.name: kind
    for kind in (
        contenders.Keygate,
        contenders.KeygateTwin,
        contenders.KeygateBare,
        contenders.NginxFeatured,
        contenders.Nginx,
        contenders.Haproxy,
        contenders.Hyper,
        contenders.Forwarder,
    )
}
NAMES = [n for n in os.environ.get("CONTENDERS", ",".join(KINDS)).split(",") if n]
# Each product once, for what is not CPU per request.
PRODUCTS = [n for n in NAMES if n in ("keygate", "nginx", "haproxy", "hyper")]
# The headline's reference has keygate's features; the second one does the bare job.
REFERENCE = "nginx_featured" if "nginx_featured" in NAMES else "nginx"
REFERENCES = ("nginx_featured", "nginx", "hyper", "forwarder")
ONLY = [n for n in os.environ.get("ONLY", "").split(",") if n]
CONNECTION_CALLS = {"accept4", "close", "connect", "epoll_ctl", "setsockopt", "shutdown", "socket"}


def wanted(*names):
    return not ONLY or any(n in ONLY for n in names)


class Run:
    def __init__(self, bench):
        self.bench = bench
        self.kinds = {name: KINDS[name](bench) for name in NAMES}
        self.failed = []
        self.out = {
            "schema": 2,
            "mode": "full" if FULL else "quick",
            "commit": commit(),
            "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "machine": machine(),
            "rounds": ROUNDS,
            "seconds": SECONDS,
            "keys": KEYS,
            "reference": REFERENCE,
            "contenders": {
                name: {"version": kind.version(), "binary_bytes": os.path.getsize(kind.binary())}
                for name, kind in self.kinds.items()
            },
            "scenarios": {},
        }

    def attempt(self, what, work, *given):
        """The figures so far, and those of what follows, are worth keeping if this fails."""
        try:
            work(*given)
            return True
        except (Failed, OSError) as failure:
            self.failed.append(f"{what}: {failure}")
            self.bench.say(self.failed[-1])
            return False

    # --- starting ---

    def start(self, name, setup, http2=True, tls=True):
        """Started and found to do the job."""
        running = self.kinds[name].start(setup)
        keys = self.bench.keys(setup.keys)
        if running.tls is None:
            check.forwarder(name, running.http1, running.refusing)
            return running
        if name in ("keygate", "keygate_twin", "nginx_featured") and "no_identity" not in setup.features:
            check.features(name, running.http1, keys)
        check.contender(name, running.http1, keys)
        if tls:
            check.contender(f"{name} (TLS)", running.tls, keys, tls=True)
        if http2:
            check.http2(f"{name} (HTTP/2)", running.http2, keys)
        return running

    def start_all(self, setup, names=None):
        return {name: self.start(name, setup) for name in names or NAMES}

    def timed(self, scenario, runs, work, rounds=None, reference=None, **facts):
        cells = self.bench.rounds(scenario, runs, work, rounds or ROUNDS)
        cpu = [{name: cell["cpu_us"] for name, cell in r.items()} for r in cells]
        reference = reference or (REFERENCE if REFERENCE in runs else "nginx")
        rows = stats.summary(cpu, dict.fromkeys((reference, *REFERENCES)))
        for name, row in rows.items():
            row["rounds"] = [round(v, 3) for v in row["rounds"]]
            for figure, digits in (
                ("user_us", 3),
                ("system_us", 3),
                ("requests_per_s", None),
                ("core_share", 3),
                ("switches", 4),
            ):
                row[figure] = round(stats.median([r[name][figure] for r in cells]), digits)
        self.out["scenarios"][scenario] = {
            "reference": reference,
            "null_spread": stats.spread(cpu, "keygate", "keygate_twin"),
            "cpu_us_per_request": rows,
            **facts,
        }

    def wrk(self, kind, connections, scheme="http"):
        def work(running):
            port = running.tls if scheme == "https" else running.http1
            port = running.refusing if kind == "refused" else port
            keys = self.bench.keys(running.keys).sample_file()
            return load.wrk(f"{scheme}://127.0.0.1:{port}/", kind, keys, connections, SECONDS)

        return work

    # --- CPU per request ---

    def job(self):
        scenarios = [
            ("accepted", self.wrk("accepted", 64), ROUNDS),
            ("refused", self.wrk("refused", 64), ROUNDS),
            ("think", self.wrk("think", 100), ROUNDS),
            ("http2", self.h2load(), ROUNDS),
            ("close", self.wrk("close", 64), FEW),
            *(
                (name, self.wrk(path, 8 if size > 1 << 20 else 64), FEW)
                for name, (path, size) in contenders.SIZES.items()
            ),
            ("upload_10m", self.wrk("upload", 8), FEW),
            ("tls", self.wrk("accepted", 64, "https"), FEW),
        ]
        if not wanted("latency", "syscalls", *(s for s, _, _ in scenarios)):
            return
        runs = self.start_all(Setup())
        for scenario, work, rounds in scenarios:
            if wanted(scenario):
                self.attempt(scenario, self.scenario, scenario, runs, work, rounds)
        products = {name: running for name, running in runs.items() if name in PRODUCTS}
        if wanted("latency"):
            self.attempt("latency", self.latency, products)
        if wanted("syscalls"):
            self.attempt("syscalls", self.syscalls, products)
        self.bench.stop_all()

    def scenario(self, scenario, runs, work, rounds):
        extra = {}
        if scenario == "upload_10m" and "nginx" in runs:
            setup = Setup(keys=1000, features=frozenset({"stream"}))
            extra["nginx_stream"] = self.start("nginx", setup)
        able = {
            name: running
            for name, running in runs.items()
            if scenario in (self.kinds[name].scenarios or (scenario,))
        }
        try:
            self.timed(scenario, {**able, **extra}, work, rounds)
        finally:
            for running in extra.values():
                running.stop()

    def h2load(self):
        def work(running):
            url = f"http://127.0.0.1:{running.http2}/"
            return load.h2load(url, self.bench.keys(running.keys), 8, 16, SECONDS)

        return work

    def unix(self):
        """Over a Unix socket, beside each one's own figure over TCP."""
        if not wanted("unix"):
            return
        runs = {}
        for name in PRODUCTS:
            keys = KEYS if FULL or name == "keygate" else 1000
            runs[name] = self.start(name, Setup(keys=keys))
            runs[f"{name}_unix"] = self.start(name, Setup(keys=keys, unix=True))
        self.timed("unix", runs, self.wrk("accepted", 64), FEW)
        self.bench.stop_all()

    def key_counts(self):
        if not wanted("keys"):
            return
        counts = [1000, 100_000, 1_000_000] + ([10_000_000] if FULL else [])
        runs = {}
        for count in counts:
            for name in PRODUCTS:
                # The others' tables of 10 M take minutes to load and gigabytes to hold.
                if name == "keygate" or (FULL and name != "hyper" and count <= KEYS):
                    runs[f"{name}_{count}"] = self.start(name, Setup(keys=count))
        if runs:
            first = next(iter(runs))
            self.timed("keys", runs, self.wrk("accepted", 64), FEW, reference=first)
        self.bench.stop_all()

    def features(self):
        if not wanted("features") or "keygate" not in NAMES:
            return
        runs = {"nginx": self.start("nginx", Setup(keys=1000))} if "nginx" in NAMES else {}
        if runs:
            for what in ({"log"}, {"log", "limit"}, {"log", "limit", "identity"}):
                setup = Setup(keys=1000, features=frozenset(what))
                runs["nginx_" + "_".join(sorted(what))] = self.start("nginx", setup)
        if "hyper" in NAMES:
            runs["hyper"] = self.start("hyper", Setup(keys=1000))
        for label, on in contenders.Keygate.variants().items():
            runs[label] = self.start("keygate", Setup(keys=1000, features=on))
        self.timed("features", runs, self.wrk("accepted", 64), FEW)
        self.bench.stop_all()

    def options(self):
        """What is off by default, each on in turn, beside the same keygate with all of them off."""
        if not wanted("options") or "keygate" not in NAMES:
            return
        runs = {name: self.start("keygate", Setup(keys=1000)) for name in ("keygate", "keygate_twin")}
        for on in options.names():
            setup = Setup(keys=1000, features=frozenset({"default", on}))
            if on == "with_observe":
                # It refuses nobody, which is what every other contender is asked for.
                runs[f"keygate_{on}"] = self.kinds["keygate"].start(setup)
            else:
                runs[f"keygate_{on}"] = self.start("keygate", setup)
        with_tokens = Setup(keys=1000, features=frozenset({"default", "with_tokens"}))
        users = runs["keygate_by_token"] = self.start("keygate", with_tokens)
        of_keys = self.wrk("accepted", 64)

        def work(running):
            if running is not users:
                return of_keys(running)
            url = f"http://127.0.0.1:{running.http1}/"
            return load.wrk(url, "token", options.tokens_file(running), 64, SECONDS)

        self.timed("options", runs, work, FEW, reference="keygate")
        self.bench.stop_all()

    # --- latency ---

    def latency(self, runs):
        """At a third of what nginx can do, the same rate for all, and direct."""
        bench, program = self.bench, self.bench.example("bench-open-loop")
        accepted = self.out["scenarios"].get("accepted", {}).get("cpu_us_per_request", {})
        rate = accepted.get("nginx", {}).get("requests_per_s", 45_000) // 3 // 1000 * 1000
        seconds = 10 if FULL else 1.5
        found = {name: [] for name in ["direct", *runs]}
        for number in range(FEW):
            order = ["direct", *runs]
            for name in order[number % len(order) :] + order[: number % len(order)]:
                port = bench.upstream.port if name == "direct" else runs[name].http1
                keys = bench.keys(KEYS)
                found[name].append(load.open_loop(program, port, rate, seconds, keys, 64))
                bad = found[name][-1]["statuses"]
                if set(bad) != {"200"}:
                    raise Failed(f"latency: {name}: answers {bad}")
        rows = {}
        for name, rounds in found.items():
            row = {q: stats.median([r["latency_us"][q] for r in rounds]) for q in rounds[0]["latency_us"]}
            base = found["direct"]
            added = {
                f"added_{q}": stats.median(
                    [r["latency_us"][q] - d["latency_us"][q] for r, d in zip(rounds, base)]
                )
                for q in ("p50", "p99")
            }
            rows[name] = {**row, **added}
        self.out["latency"] = {"rate": rate, "connections": 64, "us": rows}
        bench.say(f"latency at {rate}/s: " + ", ".join(f"{n} p50 {r['p50']:.0f} p99 {r['p99']:.0f}" for n, r in rows.items()))

    # --- system calls ---

    def syscalls(self, runs):
        """Per accepted request: busy (64 connections) and alone (one connection)."""
        if tools.path("strace") is None:
            self.bench.say("system calls: no strace, not counted")
            return
        rows = {}
        for name, running in runs.items():
            rows[name] = {}
            for label, connections in (("busy", 64), ("alone", 1)):
                pid = procs.tree(running.process.pid)[-1]
                log = os.path.join(self.bench.run_dir, f"strace-{name}-{label}")
                command = ["taskset", "-c", str(procs.LOAD_CORE), "strace", "-c", "-f", "-o", log]
                tracer = subprocess.Popen([*command, "-p", str(pid)], stderr=subprocess.DEVNULL)
                time.sleep(0.3)
                try:
                    work = self.wrk("accepted", connections)
                    requests, _ = work(running)
                finally:
                    tracer.send_signal(signal.SIGINT)
                    tracer.wait(10)
                calls = {}
                for line in open(log):
                    found = re.match(r"\s*[\d.]+\s+[\d.]+\s+\d+\s+(\d+)\s+(?:(\d+)\s+)?(\w+)$", line)
                    if found and found.group(3) != "total":
                        calls[found.group(3)] = round(int(found.group(1)) / requests, 3)
                calls = {n: c for n, c in sorted(calls.items(), key=lambda x: -x[1]) if c >= 0.005}
                # Connections are made once, under the tracer at a tenth of the usual speed.
                once = {n: c for n, c in calls.items() if n in CONNECTION_CALLS}
                per_request = sum(c for n, c in calls.items() if n not in once)
                rows[name][label] = {"per_request": round(per_request, 2), "calls": calls}
        self.out["syscalls"] = rows
        self.bench.say("system calls: " + ", ".join(f"{n} {r['busy']['per_request']} busy {r['alone']['per_request']} alone" for n, r in rows.items()))

    # --- memory ---

    def memory(self):
        if not wanted("memory"):
            return
        rows = {}
        for name in PRODUCTS:
            rows[name] = row = {}
            one = self.start(name, Setup(keys=1000))
            # Buffers of the checks' 10 MiB bodies may still be held: a fresh process is idle.
            one.stop()
            one = self.kinds[name].start(Setup(keys=1000))
            time.sleep(0.3)
            row["idle_1000_keys_kib"] = one.memory_kib()
            row["per_connection_kib"] = {
                "http1_1000": self.per_connection(one, "http1", 1000),
                "http1_10000": self.per_connection(one, "http1", 10_000),
            }
            one.stop()
            for kind in ("tls", "http2"):
                one = self.kinds[name].start(Setup(keys=1000))
                row["per_connection_kib"][f"{kind}_1000"] = self.per_connection(one, kind, 1000)
                one.stop()
            self.bench.say(f"memory: {name}: {row}")
        self.out["memory"] = rows
        self.bench.stop_all()

    def per_connection(self, running, kind, count):
        """KiB per connection that has had one answer and is idle now."""
        secret, _ = self.bench.keys(1000).sample()[0]
        head = f"GET / HTTP/1.1\r\nHost: bench\r\nX-Api-Key: {secret}\r\n\r\n".encode()
        context = ssl._create_unverified_context()
        before = running.memory_kib()
        held = []
        try:
            for _ in range(count):
                if kind == "http2":
                    held.append(Http2(running.http2))
                    if held[-1].get("/", secret) != b"200":
                        raise Failed(f"memory: {running.name}: HTTP/2 refused")
                    continue
                port = running.tls if kind == "tls" else running.http1
                one = socket.create_connection(("127.0.0.1", port), timeout=10)
                if kind == "tls":
                    one = context.wrap_socket(one)
                held.append(one)
                one.sendall(head)
                if not one.recv(4096).startswith(b"HTTP/1.1 200"):
                    raise Failed(f"memory: {running.name}: connection {len(held)} refused")
            time.sleep(0.3)
            after = running.memory_kib()
        finally:
            for one in held:
                one.close()
        time.sleep(0.3)
        return round((after - before) / count, 2)

    # --- start ---

    def start_times(self):
        """From exec to the first accepted request, and memory per key."""
        if not wanted("start"):
            return
        rows = {name: {} for name in PRODUCTS}
        counts = [1000, KEYS]
        for name in PRODUCTS:
            memory = {}
            for count in counts:
                seconds = []
                for _ in range(3 if FULL or name in ("keygate", "hyper") else 1):
                    running = self.kinds[name].start(Setup(keys=count))
                    # Listening is not ready: the first answer is.
                    begin = time.monotonic()
                    key = self.bench.keys(count).sample()[0][0]
                    status, _ = check.request(running.http1, headers={"X-Api-Key": key})
                    if status != 200:
                        raise Failed(f"start: {name}: got {status}")
                    seconds.append(running.ready_s + time.monotonic() - begin)
                    memory[count] = running.memory_kib()
                    running.stop()
                rows[name][f"ready_s_{count}"] = round(stats.median(seconds), 4)
            per_key = (memory[KEYS] - memory[1000]) * 1024 / (KEYS - 1000)
            rows[name]["memory_per_key_bytes"] = round(per_key, 1)
            rows[name][f"memory_kib_{KEYS}"] = memory[KEYS]
            self.bench.say(f"start: {name}: {rows[name]}")
        self.out["start"] = rows
        self.bench.stop_all()

    # --- workers ---

    def workers(self):
        """One and two workers. With fewer than four cores two workers share theirs with the load,
        so only CPU per request can be compared there, not throughput."""
        if not wanted("workers"):
            return
        roomy = len(CORES) >= 4
        two = f"{CORES[-2]},{CORES[-1]}" if roomy else ",".join(map(str, CORES))
        one = str(CORES[-1]) if roomy else two
        runs = {}
        for name in PRODUCTS:
            if name != "hyper":
                runs[f"{name}_1"] = self.start(name, Setup(keys=1000, cores=one))
                runs[f"{name}_2"] = self.start(name, Setup(keys=1000, workers=2, cores=two))
        self.timed("workers", runs, self.wrk("accepted", 64), FEW, reference="nginx_1", own_cores=roomy)
        rows = self.out["scenarios"]["workers"]["cpu_us_per_request"]
        scaling = {}
        for name in PRODUCTS:
            if name != "hyper":
                a, b = rows[f"{name}_1"], rows[f"{name}_2"]
                if roomy:
                    scaling[name] = b["requests_per_s"] / a["requests_per_s"]
                else:
                    scaling[name] = 2 * a["median"] / b["median"]
        self.out["scenarios"]["workers"]["scaling"] = scaling
        self.bench.stop_all()


def main():
    unknown = [name for name in NAMES if name not in KINDS]
    if unknown:
        raise Failed(f"no such contender: {', '.join(unknown)}\nhint: there are {', '.join(KINDS)}")
    if any(issubclass(KINDS[name], contenders.Keygate) for name in NAMES):
        build_keygate()
    # A call of its own, with one example: as deploy/with-profile.sh builds it for the profile.
    build("bench-bare-proxy")
    build("bench-upstream", "bench-open-loop", "bench-make-table", "bench-forwarder")
    with Bench() as bench:
        run = Run(bench)
        steps = (run.start_times, run.job, run.unix, run.key_counts, run.features, run.options, run.workers, run.memory)
        for step in steps:
            if not run.attempt(step.__name__, step):
                bench.stop_all()
        run.out["seconds_total"] = round(time.monotonic() - bench.began, 1)
        run.out["targets"] = report.targets(run.out)
        print(report.markdown(run.out))
        write_json(run.out)
    if run.failed:
        raise Failed("not all could be measured:\n" + "\n".join(run.failed))


if __name__ == "__main__":
    try:
        main()
    except Failed as failure:
        sys.exit(f"bench: {failure}")
