#!/usr/bin/env python3
"""`make bench-memory`: what clients can make the sidecar hold, in a memory cgroup of 256 MiB.

Attacks at full size, from one address and from a hundred, each for 20 s while clients with a key ask
on kept and on new connections; then what one idle connection, unfinished head, stream and the like
cost, beside what the memory budget takes them for. Needs root (it makes the cgroup).

Environment: BUILD=release (target/BUILD), ATTACK_SECONDS=20, ONLY=attacks|costs, JSON=FILE.
"""

import asyncio
import json
import logging
import multiprocessing
import os
import re
import resource
import signal
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import time
import urllib.request

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BUILD = os.path.join(ROOT, "target", os.environ.get("BUILD", "release"))
SECONDS = float(os.environ.get("ATTACK_SECONDS", "20"))
LIMIT = 256 << 20
HEAD = b"GET /v1/a HTTP/1.1\r\nhost: a\r\nx-pad: " + b"a" * 31_000
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
# SETTINGS_INITIAL_WINDOW_SIZE 0.
NO_WINDOW = struct.pack(">HI", 4, 0)


class Cage:
    """A memory cgroup, v1 or v2."""

    def __init__(self):
        with open("/proc/self/cgroup", encoding="ascii") as file:
            lines = [line.strip().split(":", 2) for line in file]
        v1 = [path for _, controllers, path in lines if "memory" in controllers.split(",")]
        v2 = [path for _, controllers, path in lines if controllers == ""]
        if v1:
            above, limit = "/sys/fs/cgroup/memory" + v1[0], "memory.limit_in_bytes"
            self.names = ("memory.usage_in_bytes", "memory.max_usage_in_bytes", "memory.oom_control")
        else:
            above, limit = "/sys/fs/cgroup" + v2[0], "memory.max"
            self.names = ("memory.current", "memory.peak", "memory.events")
        self.path = os.path.join(above, f"keygate-bench-{os.getpid()}-{time.monotonic_ns()}")
        os.mkdir(self.path)
        self.write(limit, str(LIMIT))

    def write(self, name, text):
        with open(os.path.join(self.path, name), "w", encoding="ascii") as file:
            file.write(text)

    def read(self, name):
        with open(os.path.join(self.path, name), encoding="ascii") as file:
            return file.read()

    def usage(self):
        return int(self.read(self.names[0]))

    def peak(self):
        return int(self.read(self.names[1]))

    def kills(self):
        found = re.search(r"^oom_kill (\d+)", self.read(self.names[2]), re.M)
        return int(found.group(1)) if found else 0

    def remove(self):
        for _ in range(100):
            try:
                os.rmdir(self.path)
                return
            except OSError:
                time.sleep(0.05)


class Sidecar:
    """keygate before a service of this script, in a cgroup of its own."""

    def __init__(self, upstream_port, more=""):
        self.cage = Cage()
        self.folder = tempfile.TemporaryDirectory(prefix="keygate-memory-")
        self.key = self.prepare(upstream_port, more)
        keygate = os.path.join(BUILD, "keygate")
        self.log = open(os.path.join(self.folder.name, "log"), "wb")
        self.process = subprocess.Popen(
            ["sh", "-c", 'echo $$ > "$1" && exec "$0" serve', keygate, f"{self.cage.path}/cgroup.procs"],
            cwd=self.folder.name,
            stderr=self.log,
        )
        for _ in range(200):
            try:
                self.metrics()
                return
            except OSError:
                time.sleep(0.05)
        raise SystemExit("keygate does not start:\n" + open(self.log.name, encoding="utf-8").read())

    def prepare(self, upstream_port, more):
        def ctl(*arguments):
            command = [os.path.join(BUILD, "keygatectl"), *arguments]
            out = subprocess.run(command, cwd=self.folder.name, capture_output=True, text=True, check=False)
            if out.returncode != 0:
                raise SystemExit(f"{arguments}: {out.stderr}")
            return out.stdout

        with open(os.path.join(self.folder.name, "signer.pub"), "w", encoding="ascii") as file:
            file.write(ctl("signer", "new", "--out", "signer.pem"))
        ctl("keys", "init", "--audience", "a")
        made = ctl("keys", "create", "--org", "o", "--permission", "read", "--json")
        ctl("table", "build", "--signer", "signer.pem", "--out", "keys.kgt")
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
             "-subj", "/CN=localhost", "-days", "2", "-keyout", "k.pem", "-out", "c.pem"],
            cwd=self.folder.name, check=True, capture_output=True,
        )
        self.port, self.tls_port, self.admin = free_port(), free_port(), free_port()
        text = f"""
[[listen]]
address = "127.0.0.1:{self.port}"
[[listen]]
address = "127.0.0.1:{self.tls_port}"
[listen.tls]
certificate = "c.pem"
key = "k.pem"
[upstream]
url = "http://127.0.0.1:{upstream_port}"
[admin]
address = "127.0.0.1:{self.admin}"
[table]
path = "keys.kgt"
audience = "a"
trusted_signers = ["signer.pub"]
[[credentials]]
source = "header"
name = "x-api-key"
[[routes]]
path = "/v1/*"
permissions = ["read"]
{more}
"""
        with open(os.path.join(self.folder.name, "keygate.toml"), "w", encoding="ascii") as file:
            file.write(text)
        return json.loads(made)["secret"]

    def metrics(self):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin}/metrics", timeout=10) as answer:
            return answer.read().decode()

    def metric(self, name):
        for line in self.metrics().splitlines():
            if line.startswith(name + " "):
                return float(line.rsplit(" ", 1)[1])
        return 0

    def rss(self):
        with open(f"/proc/{self.process.pid}/status", encoding="ascii") as file:
            return int(re.search(r"RssAnon:\s+(\d+)", file.read()).group(1)) << 10

    def stop(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.cage.remove()
        self.folder.cleanup()


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


async def service(reader, writer):
    """Answers 200 to whatever asks."""
    try:
        while await reader.readuntil(b"\r\n\r\n"):
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
            await writer.drain()
    except (asyncio.CancelledError, asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def connect(port, last=1, context=None, buffer=None):
    sock = socket.socket()
    sock.setblocking(False)
    if buffer:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    sock.bind((f"127.0.0.{last}", 0))
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
    name = "localhost" if context else None
    return await asyncio.open_connection(sock=sock, ssl=context, server_hostname=name)


def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def literal(name, value):
    """HPACK, without indexing and without Huffman coding."""
    return b"\x00" + bytes([len(name)]) + name + bytes([len(value)]) + value


def ask_h2(stream, key=None):
    fields = b"".join(
        literal(*field)
        for field in ((b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/v1/a"), (b":authority", b"a"))
    )
    if key:
        fields += literal(b"x-api-key", key.encode())
    return frame(1, 5, stream, fields)


async def heads(sidecar, last):
    """An unfinished head, again as soon as it is turned away."""
    reader, writer = await connect(sidecar.port, last)
    try:
        writer.write(HEAD)
        await reader.read()
    finally:
        writer.transport.abort()


async def streams(sidecar, last):
    """A hundred answers that are not taken, and a sign of life every second."""
    reader, writer = await connect(sidecar.port, last)
    writer.write(PREFACE + frame(4, 0, 0, NO_WINDOW))
    for n in range(100):
        writer.write(ask_h2(2 * n + 1))

    async def alive():
        while True:
            await asyncio.sleep(1)
            writer.write(frame(6, 0, 0, b"12345678"))

    beat = asyncio.create_task(alive())
    try:
        while await reader.read(1 << 16):
            pass
    finally:
        beat.cancel()
        writer.transport.abort()


async def again(attack, sidecar, last, gone):
    while True:
        try:
            await attack(sidecar, last)
        except (ConnectionError, OSError):
            pass
        gone.append(1)
        await asyncio.sleep(0.5)


def good(port, key, kept, until, answers):
    """Asks ten times a second, on one connection or on a new one each time. A process of its own: the
    attacker's is busy."""
    ask = f"GET /v1/a HTTP/1.1\r\nhost: a\r\nx-api-key: {key}\r\n\r\n".encode()
    said, connection = [], None
    while time.monotonic() < until:
        began = time.monotonic()
        try:
            if connection is None:
                connection = socket.create_connection(("127.0.0.1", port), timeout=5)
            connection.sendall(ask)
            answer = b""
            while not answer.endswith(b"\r\n\r\nok"):
                piece = connection.recv(4096)
                if not piece:
                    raise ConnectionError
                answer += piece
            said.append((answer[9:12] == b"200", time.monotonic() - began))
        except OSError:
            said.append((False, 0))
            connection = None
        if not kept and connection is not None:
            connection.close()
            connection = None
        time.sleep(0.1)
    answers.put((kept, said))


async def attacked(name, attack, count, addresses, upstream):
    sidecar = Sidecar(upstream)
    try:
        clients, gone, answers = [], [], multiprocessing.Queue()
        until = time.monotonic() + SECONDS + 2
        watchers = [
            multiprocessing.Process(target=good, args=(sidecar.port, sidecar.key, kept, until, answers))
            for kept in (True, False)
            for _ in range(2)
        ]
        for watcher in watchers:
            watcher.start()
        await asyncio.sleep(1)
        for n in range(count):
            last = 2 + n % addresses
            clients.append(asyncio.create_task(again(attack, sidecar, last, gone)))
            if n % 200 == 199:
                await asyncio.sleep(0.02)
        held = 0
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            await asyncio.sleep(0.5)
            held = max(held, await asyncio.to_thread(sidecar.metric, "keygate_memory_held_bytes"))
        said = {True: [], False: []}
        for _ in watchers:
            kept, some = await asyncio.to_thread(answers.get)
            said[kept] += some
        row = {
            "attack": name,
            "cgroup_peak_mib": round(sidecar.cage.peak() / 2**20),
            "held_peak_mib": round(held / 2**20),
            "budget_mib": round(sidecar.metric("keygate_memory_budget_bytes") / 2**20),
            "oom_kills": sidecar.cage.kills(),
            "alive": sidecar.process.poll() is None,
            "turned_away": len(gone),
        }
        for what, some in (("kept", said[True]), ("new", said[False])):
            times = sorted(took for ok, took in some if ok) or [0]
            row[f"good_{what}"] = f"{sum(ok for ok, _ in some)} of {len(some)}"
            row[f"good_{what}_p99_ms"] = round(times[int(len(times) * 0.99)] * 1000, 1)
        for task in clients:
            task.cancel()
        await asyncio.gather(*clients, return_exceptions=True)
        print(row, flush=True)
        return row
    finally:
        sidecar.stop()


async def cost(name, open_one, count, upstream, more=""):
    """Bytes by which the cgroup grows for each of `count`, beside those that the account says."""
    sidecar = Sidecar(upstream, more)
    try:
        held = []
        # What the first ones warm up is not theirs.
        for _ in range(50):
            held.append(await open_one(sidecar))
        await asyncio.sleep(1.5)
        before = (sidecar.cage.usage(), sidecar.rss(), sidecar.metric("keygate_memory_held_bytes"))
        for _ in range(count):
            held.append(await open_one(sidecar))
        await asyncio.sleep(2)
        after = (sidecar.cage.usage(), sidecar.rss(), sidecar.metric("keygate_memory_held_bytes"))
        each = [round((b - a) / count) for a, b in zip(before, after)]
        row = {"cost": name, "cgroup": each[0], "heap": each[1], "account": each[2]}
        print(row, flush=True)
        for _, writer in held:
            writer.transport.abort()
        return row
    finally:
        sidecar.stop()


async def idle(sidecar):
    return await connect(sidecar.port)


async def served(sidecar):
    pair = await connect(sidecar.port)
    pair[1].write(f"GET /v1/a HTTP/1.1\r\nhost: a\r\nx-api-key: {sidecar.key}\r\n\r\n".encode())
    await pair[0].readuntil(b"\r\n\r\nok")
    return pair


async def refused(sidecar):
    pair = await connect(sidecar.port)
    pair[1].write(b"GET /v1/a HTTP/1.1\r\nhost: a\r\n\r\n")
    await pair[0].readuntil(b"\r\n\r\n")
    return pair


def head_of(size):
    async def open_one(sidecar):
        pair = await connect(sidecar.port)
        pair[1].write(HEAD[:size])
        return pair

    return open_one


async def tls(sidecar, protocols=()):
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if protocols:
        context.set_alpn_protocols(list(protocols))
    return await connect(sidecar.tls_port, context=context)


async def tls_refused(sidecar):
    pair = await tls(sidecar)
    pair[1].write(b"GET /v1/a HTTP/1.1\r\nhost: a\r\n\r\n")
    await pair[0].readuntil(b"\r\n\r\n")
    return pair


def h2_with(count, settings=b"", keyed=False):
    async def open_one(sidecar):
        pair = await connect(sidecar.port)
        pair[1].write(PREFACE + frame(4, 0, 0, settings))
        for n in range(count):
            pair[1].write(ask_h2(2 * n + 1, sidecar.key if keyed else None))
        return pair

    return open_one


async def silent(reader, writer):
    """A service that never answers."""
    try:
        await reader.read()
    except (asyncio.CancelledError, ConnectionError):
        pass
    finally:
        writer.close()


async def main():
    # Sockets that are reset while written to are part of an attack.
    logging.getLogger("asyncio").setLevel(logging.ERROR)
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    answering = await asyncio.start_server(service, "127.0.0.1", 0)
    mute = await asyncio.start_server(silent, "127.0.0.1", 0)
    port, mute_port = (one.sockets[0].getsockname()[1] for one in (answering, mute))
    only, rows = os.environ.get("ONLY", "attacks,costs"), []
    if "attacks" in only:
        for addresses, whose in ((1, "one address"), (100, "100 addresses")):
            name = f"5,000 unfinished heads of 31 KB, {whose}"
            rows.append(await attacked(name, heads, 5000, addresses, port))
            name = f"700 HTTP/2 connections, window 0, 100 requests each, {whose}"
            rows.append(await attacked(name, streams, 700, addresses, port))
    if "costs" in only:
        patient = "[timeouts]\nheader = \"60s\"\n"
        costs = (
            ("idle, no byte", idle, 1000, port),
            ("idle after a refusal", refused, 1000, port),
            ("idle after an answer", served, 1000, port),
            ("head of 1 KB", head_of(1000), 1000, port),
            ("head of 8 KB", head_of(8000), 1000, port),
            ("head of 31 KB", head_of(31_000), 500, port),
            ("TLS, no byte", tls, 500, port),
            ("TLS, idle after a refusal", tls_refused, 500, port),
            ("HTTP/2, no stream", h2_with(0), 1000, port),
            ("HTTP/2, 1 refused, not taken", h2_with(1, NO_WINDOW), 500, port),
            ("HTTP/2, 100 refused, not taken", h2_with(100, NO_WINDOW), 100, port),
            ("HTTP/2, 1 with the service", h2_with(1, keyed=True), 300, mute_port),
            ("HTTP/2, 20 with the service", h2_with(20, keyed=True), 30, mute_port),
        )
        for name, open_one, count, at in costs:
            rows.append(await cost(name, open_one, count, at, patient))
    if os.environ.get("JSON"):
        with open(os.environ["JSON"], "w", encoding="ascii") as file:
            json.dump(rows, file, indent=1)
    bad = [row for row in rows if row.get("oom_kills") or not row.get("alive", True)]
    sys.exit(f"the sidecar did not survive: {bad}" if bad else 0)


if __name__ == "__main__":
    asyncio.run(main())
