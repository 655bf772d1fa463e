#!/usr/bin/env python3
"""From a revocation published to the first 401: 200 patches over a table of a million keys, each by
rename, or by http where a server holds the request for the patch (BY=http), while 5,000 requests/s
run. One clock: from just before the rename, or before the server knows of the patch.

Environment: REVOCATIONS=200, KEYS=1000000, ENTRIES=1000 (revocations that every patch has
besides), RATE=5000, BY=file, JSON=FILE, NO_BUILD=1. Part of `make bench-table`.
"""

import json
import os
import random
import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from rig import contenders, load, procs, stats
from rig.bench import Bench, build, build_keygate, commit, machine, write_json
from rig.contenders import Setup
from rig.keys import org, secret
from rig.procs import PROXY_CORE, Failed

REVOCATIONS = int(os.environ.get("REVOCATIONS", 200))
KEYS = int(os.environ.get("KEYS", 1_000_000))
ENTRIES = int(os.environ.get("ENTRIES", 1000))
RATE = int(os.environ.get("RATE", 5000))
CORES = os.environ.get("CORES", str(PROXY_CORE))
BY = os.environ.get("BY", "file")
WANTED_MS = {"file": 20, "http": 50}[BY]


class PatchServer(ThreadingHTTPServer):
    """Holds a request until there is a patch that the client has not taken."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), PatchRequest)
        self.changed = threading.Condition()
        self.version, self.body = 0, None
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def url(self):
        return f"http://127.0.0.1:{self.server_port}/keys.kgp"

    def put(self, body):
        with self.changed:
            self.version, self.body = self.version + 1, body
            self.changed.notify_all()


class PatchRequest(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        server = self.server
        taken = self.headers.get("if-none-match", '"0"')
        wait = int(self.headers.get("prefer", "wait=0").removeprefix("wait="))
        with server.changed:
            is_new = lambda: f'"{server.version}"' != taken
            server.changed.wait_for(is_new, timeout=wait)
            new, version, body = is_new(), server.version, server.body
        status = 404 if body is None else 200 if new else 304
        head = [f"HTTP/1.1 {status} X", f'ETag: "{version}"', "Preference-Applied: wait"]
        body = body if status == 200 else b""
        head += [f"Content-Length: {len(body)}"] if status != 304 else []
        self.wfile.write("\r\n".join([*head, "", ""]).encode() + body)

    def log_message(self, *_):
        pass


class Caller:
    """Asks on one kept-alive connection and looks at the status alone."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def status(self, head):
        self.socket.sendall(head)
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += self.more()
        fields, _, body = answer.partition(b"\r\n\r\n")
        for line in fields.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                length = int(line.partition(b":")[2])
        while len(body) < length:
            body += self.more()
        return int(answer[9:12])

    def more(self):
        got = self.socket.recv(65536)
        if not got:
            raise Failed("the gateway closed the connection")
        return got


def main():
    build_keygate()
    build("bench-make-table", "bench-upstream", "bench-open-loop")
    with Bench(("openssl", "taskset")) as bench:
        kind = contenders.Keygate(bench)
        keys = bench.keys(KEYS)
        # The sample is what the load presents; the doomed are others.
        busy = {secret for secret, _ in keys.sample()}
        numbers = random.Random(2).sample(range(KEYS - ENTRIES), REVOCATIONS * 2)
        doomed = [n for n in numbers if secret(n) not in busy][:REVOCATIONS]
        doomed_file = os.path.join(bench.run_dir, "doomed")
        with open(doomed_file, "w") as f:
            f.writelines(f"{secret(n)} {org(n)}\n" for n in doomed)
        # The table is made anew: its patches name it by its hash.
        more = ["--revoke", doomed_file, "--entries", str(ENTRIES)]
        table = kind.table(KEYS, name=f"revoke-{KEYS}-{ENTRIES}-{REVOCATIONS}", more=more)
        server = PatchServer() if BY == "http" else None
        kind.patch_url = server and server.url()
        running = kind.start(Setup(keys=KEYS, cores=CORES, features=frozenset({"default", "patch"})))
        directory = os.path.join(os.path.dirname(running.log), "tables")
        patch = lambda n: f"{table.removesuffix('.kgt')}.kgt.{n}.kgp"
        for n in range(1, REVOCATIONS + 1):
            os.link(patch(n), f"{directory}/next.{n}")

        def publish(n, body):
            if server:
                server.put(body)
            else:
                os.rename(f"{directory}/next.{n}", f"{directory}/keys.kgp")

        background = load.Background(
            *(bench.example("bench-open-loop"), running.http1, RATE, keys),
            os.path.join(bench.run_dir, "samples"),
        )
        took = []
        try:
            time.sleep(1)
            caller = Caller(running.http1)
            for n, number in enumerate(doomed, 1):
                head = f"GET / HTTP/1.1\r\nHost: bench\r\nX-Api-Key: {secret(number)}\r\n\r\n".encode()
                if caller.status(head) != 200:
                    raise Failed(f"key {n} is refused before it is revoked")
                with open(patch(n), "rb") as f:
                    body = f.read()
                begin = time.monotonic()
                publish(n, body)
                while (status := caller.status(head)) != 401:
                    if status != 200 or time.monotonic() - begin > 20:
                        raise Failed(f"revocation {n}: status {status}:\n{procs.tail(running.log)}")
                took.append((time.monotonic() - begin) * 1000)
                time.sleep(random.uniform(0.01, 0.05))
            report, rows = background.stop()
        finally:
            background.kill()
        slow = [(n, round(ms)) for n, ms in enumerate(took, 1) if ms > 50]
        if slow:
            bench.say(f"slower than 50 ms (number, ms): {slow}")
        out = {
            "schema": 1,
            "commit": commit(),
            "machine": machine(),
            "keys": KEYS,
            "rate": RATE,
            "revocations": REVOCATIONS,
            "by": BY,
            "patch": {
                "entries": ENTRIES + REVOCATIONS,
                "revocation_p50_ms": round(stats.quantile(took, 0.5), 3),
                "revocation_p99_ms": round(stats.quantile(took, 0.99), 3),
                "revocation_max_ms": round(max(took), 3),
            },
            "traffic_us": report["latency_us"],
            "traffic_statuses": report["statuses"],
        }
    p = out["patch"]
    print(
        f"revocation in force after p50 {p['revocation_p50_ms']:.1f} ms, p99 {p['revocation_p99_ms']:.1f} ms, "
        f"max {p['revocation_max_ms']:.1f} ms ({REVOCATIONS} patches of up to {p['entries']:,} entries "
        f"over {KEYS:,} keys by {BY}, {RATE:,} requests/s; wanted p99 ≤ {WANTED_MS} ms)\n"
        f"traffic meanwhile: p50 {out['traffic_us']['p50']:.0f} µs, p99 {out['traffic_us']['p99']:.0f} µs, "
        f"answers {out['traffic_statuses']}"
    )
    merge_json(out)


def merge_json(out):
    """Into the report of benches/table.rs where there is one, else alone."""
    path = os.environ.get("JSON")
    try:
        with open(path or "") as f:
            report = json.load(f)
    except (OSError, ValueError):
        report = {}
    if "tables" not in report:
        write_json(out)
        return
    entries = report.setdefault("patch", {}).get("entries", out["patch"]["entries"])
    report["patch"] = {**report["patch"], **out["patch"], "entries": entries}
    report["revocation"] = {k: v for k, v in out.items() if k != "patch"}
    with open(path, "w") as f:
        json.dump(report, f, indent=1)
        f.write("\n")


if __name__ == "__main__":
    try:
        main()
    except Failed as failure:
        sys.exit(f"bench: {failure}")
