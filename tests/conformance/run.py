"""Runs the suites against keygate, nginx and HAProxy and writes docs/conformance.md.

    run.py [raw|h2|load|slow|tls …]     all of them without an argument

Every contender stands in front of the same upstream, which counts what reaches it. Nothing but
loopback is used, and everything that is started is ended by its id.
"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
os.environ["PATH"] += ":/usr/sbin:/sbin"
KEY = "conformance-key-0123456789abcdef"


class Upstream:
    """Answers every request with 200 and keeps the bytes that came."""

    def __init__(self):
        self.seen = []
        self.socket = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port = self.socket.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            peer, _ = self.socket.accept()
            threading.Thread(target=self.serve, args=(peer,), daemon=True).start()

    def serve(self, peer):
        data = b""
        peer.settimeout(20)
        try:
            while True:
                while b"\r\n\r\n" not in data:
                    more = peer.recv(65536)
                    if not more:
                        return
                    data += more
                head, data = data.split(b"\r\n\r\n", 1)
                self.seen.append(head)
                length = re.search(rb"\r\ncontent-length: *(\d+)", head, re.I)
                if length:
                    while len(data) < int(length[1]):
                        more = peer.recv(65536)
                        if not more:
                            return
                        data += more
                    data = data[int(length[1]) :]
                elif re.search(rb"\r\ntransfer-encoding:", head, re.I):
                    while b"0\r\n\r\n" not in data:
                        more = peer.recv(65536)
                        if not more:
                            return
                        data += more
                    data = data.split(b"0\r\n\r\n", 1)[1]
                peer.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok\n")
        except OSError:
            pass
        finally:
            peer.close()


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as s:
        return s.getsockname()[1]


def run(*command, **options):
    return subprocess.run(command, capture_output=True, text=True, timeout=900, **options)


class Contender:
    def __init__(self, name, clear, tls, clear_h2, process, version):
        self.name, self.clear, self.tls, self.clear_h2 = name, clear, tls, clear_h2
        self.process, self.version = process, version


def wait_port(port, process):
    for _ in range(200):
        if process.poll() is not None:
            raise SystemExit(f"{process.args} ended: {process.returncode}")
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise SystemExit(f"nothing listens on {port}")


def certificates(folder):
    run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
        "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
        "-keyout", f"{folder}/key.pem", "-out", f"{folder}/cert.pem", check=True)
    (folder / "both.pem").write_text((folder / "cert.pem").read_text() + (folder / "key.pem").read_text())


def start(command, folder):
    return subprocess.Popen(command, cwd=folder, stdout=open(folder / "out.log", "ab"), stderr=subprocess.STDOUT)


def keygate(folder, upstream):
    bins = ROOT / "target/debug"
    clear, tls, admin = free_port(), free_port(), free_port()
    public = run(bins / "keygatectl", "signer", "new", "--out", "signer.pem", cwd=folder, check=True).stdout
    (folder / "signer.pub").write_text(public)
    digest = run("sha256sum", input=KEY).stdout.split()[0]
    (folder / "keys.toml").write_text(
        f'registry = 1\nserial = 0\naudience = "c"\n[[key]]\nid = "key_c"\norg = "c"\ndigest = "sha256:{digest}"\n')
    run(bins / "keygatectl", "table", "build", "--registry", "keys.toml", "--signer", "signer.pem", "--out", "keys.kgt",
        cwd=folder, check=True)
    (folder / "keygate.toml").write_text(f"""
[[listen]]
address = "127.0.0.1:{clear}"
[[listen]]
address = "127.0.0.1:{tls}"
tls.certificate = "cert.pem"
tls.key = "key.pem"
[admin]
address = "127.0.0.1:{admin}"
[upstream]
url = "http://127.0.0.1:{upstream}"
[table]
path = "keys.kgt"
audience = "c"
trusted_signers = ["signer.pub"]
state_file = "state"
[log]
access = false
[[credentials]]
source = "header"
name = "x-api-key"
[[routes]]
path = "/*"
""")
    process = start([bins / "keygate", "serve", "--config", "keygate.toml"], folder)
    wait_port(clear, process)
    version = run(bins / "keygate", "--version").stdout.strip()
    return Contender("keygate", clear, tls, clear, process, version)


def nginx(folder, upstream):
    clear, tls, h2 = free_port(), free_port(), free_port()
    (folder / "nginx.conf").write_text(f"""
daemon off; master_process off; pid {folder}/pid; error_log stderr;
events {{ worker_connections 4096; }}
http {{
  access_log off; keepalive_requests 1000000; client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  upstream service {{ server 127.0.0.1:{upstream}; keepalive 32; }}
  server {{
    listen 127.0.0.1:{clear}; listen 127.0.0.1:{h2} http2; listen 127.0.0.1:{tls} ssl http2;
    ssl_certificate {folder}/cert.pem; ssl_certificate_key {folder}/key.pem;
    location / {{ proxy_pass http://service; proxy_http_version 1.1; proxy_set_header Connection ""; }}
  }}
}}
""")
    process = start(["nginx", "-c", str(folder / "nginx.conf"), "-p", str(folder), "-e", "stderr"], folder)
    wait_port(clear, process)
    return Contender("nginx", clear, tls, h2, process, run("nginx", "-v").stderr.strip().split(": ")[-1])


def haproxy(folder, upstream):
    clear, tls, h2 = free_port(), free_port(), free_port()
    (folder / "haproxy.cfg").write_text(f"""
global
  maxconn 4096
defaults
  mode http
  timeout connect 2s
  timeout client 30s
  timeout server 30s
  timeout http-request 10s
frontend f
  bind 127.0.0.1:{clear}
  bind 127.0.0.1:{h2} proto h2
  bind 127.0.0.1:{tls} ssl crt {folder}/both.pem alpn h2,http/1.1
  default_backend b
backend b
  server s 127.0.0.1:{upstream}
""")
    process = start(["haproxy", "-db", "-f", str(folder / "haproxy.cfg")], folder)
    wait_port(clear, process)
    return Contender("HAProxy", clear, tls, h2, process, run("haproxy", "-v").stdout.splitlines()[0].split(" - ")[0])


# Requests with more than one reading. `K` is the key's field.
RAW = [
    ("a plain request", "GET /a HTTP/1.1\r\nHost: a\r\nK\r\n\r\n"),
    ("no Host", "GET /a HTTP/1.1\r\nK\r\n\r\n"),
    ("two Hosts", "GET /a HTTP/1.1\r\nHost: a\r\nHost: b\r\nK\r\n\r\n"),
    ("absolute form, other host", "GET http://evil/a HTTP/1.1\r\nHost: a\r\nK\r\n\r\n"),
    ("`Transfer-Encoding: gzip, chunked`", "POST /a HTTP/1.1\r\nHost: a\r\nK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
    ("`Transfer-Encoding: identity, chunked`", "POST /a HTTP/1.1\r\nHost: a\r\nK\r\nTransfer-Encoding: identity, chunked\r\n\r\n0\r\n\r\n"),
    ("two Transfer-Encoding lines", "POST /a HTTP/1.1\r\nHost: a\r\nK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("Content-Length beside Transfer-Encoding", "POST /a HTTP/1.1\r\nHost: a\r\nK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\nK\r\n\r\n"),
    ("Transfer-Encoding in HTTP/1.0", "POST /a HTTP/1.0\r\nHost: a\r\nK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("`Content-Length: +5`", "POST /a HTTP/1.1\r\nHost: a\r\nK\r\nContent-Length: +5\r\n\r\nabcde"),
    ("`Content-Length: 2^63`", "POST /a HTTP/1.1\r\nHost: a\r\nK\r\nContent-Length: 9223372036854775808\r\n\r\nabcde"),
    ("`Content-Length: 2^64`", "POST /a HTTP/1.1\r\nHost: a\r\nK\r\nContent-Length: 18446744073709551616\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\nK\r\n\r\n"),
    ("two different lengths", "POST /a HTTP/1.1\r\nHost: a\r\nK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef"),
    ("two equal lengths", "POST /a HTTP/1.1\r\nHost: a\r\nK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nabcde"),
    ("bare LF in a chunk size", "POST /a HTTP/1.1\r\nHost: a\r\nK\r\nTransfer-Encoding: chunked\r\n\r\n3\nabc\r\n0\r\n\r\n"),
    ("LF in a chunk extension", "POST /a HTTP/1.1\r\nHost: a\r\nK\r\nTransfer-Encoding: chunked\r\n\r\n3;a\nb\r\nabc\r\n0\r\n\r\n"),
    ("obs-fold", "GET /a HTTP/1.1\r\nHost: a\r\nK\r\nX-A: b\r\n c\r\n\r\n"),
    ("space before the colon", "GET /a HTTP/1.1\r\nHost: a\r\nK\r\nX-A : b\r\n\r\n"),
    ("NUL in a value", "GET /a HTTP/1.1\r\nHost: a\r\nK\r\nX-A: b\0c\r\n\r\n"),
    ("bare CR in a value", "GET /a HTTP/1.1\r\nHost: a\r\nK\r\nX-A: b\rX-Org-Id: c\r\n\r\n"),
    ("empty field name", "GET /a HTTP/1.1\r\nHost: a\r\nK\r\n: b\r\n\r\n"),
    ("field name with `_`", "GET /a HTTP/1.1\r\nHost: a\r\nK\r\nX_Org_Id: c\r\n\r\n"),
    ("bare LF line ends", "GET /a HTTP/1.1\nHost: a\nK\n\n"),
    ("`Expect: x`", "POST /a HTTP/1.1\r\nHost: a\r\nK\r\nExpect: x\r\nContent-Length: 0\r\n\r\n"),
    ("`/a/../b`", "GET /a/../b HTTP/1.1\r\nHost: a\r\nK\r\n\r\n"),
    ("`/a/%2e%2e/b`", "GET /a/%2e%2e/b HTTP/1.1\r\nHost: a\r\nK\r\n\r\n"),
    ("`//a`", "GET //a HTTP/1.1\r\nHost: a\r\nK\r\n\r\n"),
    ("`/a%2Fb`", "GET /a%2Fb HTTP/1.1\r\nHost: a\r\nK\r\n\r\n"),
    ("`/a;x=1`", "GET /a;x=1 HTTP/1.1\r\nHost: a\r\nK\r\n\r\n"),
    ("`/a#b`", "GET /a#b HTTP/1.1\r\nHost: a\r\nK\r\n\r\n"),
    ("`/a%00`", "GET /a%00 HTTP/1.1\r\nHost: a\r\nK\r\n\r\n"),
    ("TRACE", "TRACE /a HTTP/1.1\r\nHost: a\r\nK\r\n\r\n"),
    ("`Connection: X-Org-Id`", "GET /a HTTP/1.1\r\nHost: a\r\nK\r\nConnection: X-Org-Id\r\n\r\n"),
    ("`PROXY` line of a stranger", "PROXY TCP4 6.6.6.6 7.7.7.7 1 2\r\nGET /a HTTP/1.1\r\nHost: a\r\nK\r\n\r\n"),
]


def raw(contenders, upstream):
    statuses = {}
    for at, (name, text) in enumerate(RAW):
        for contender in contenders:
            # What arrives says which case it belongs to, also when it arrives late.
            fields = f"X-Api-Key: {KEY}\r\nX-Case: {at}-{contender.name}"
            data = text.replace("\r\nK\r\n", f"\r\n{fields}\r\n").replace("\nK\n", f"\n{fields}\n")
            got = b""
            with socket.create_connection(("127.0.0.1", contender.clear), 5) as s:
                s.settimeout(1.0)
                try:
                    s.sendall(data.encode("latin-1"))
                    while more := s.recv(65536):
                        got += more
                except OSError:
                    pass
            statuses[at, contender.name] = re.findall(rb"HTTP/1\.[01] (\d\d\d)", got)
    time.sleep(2)
    rows = []
    for at, (name, _) in enumerate(RAW):
        row = [name]
        for contender in contenders:
            tag = f"{at}-{contender.name}".encode()
            heads = [h for h in upstream.seen if re.search(rb"x-case: *" + tag + rb"\r?(\n|$)", h + b"\n", re.I)]
            cell = "+".join(s.decode() for s in statuses[at, contender.name]) or "closed"
            if heads:
                cell += ", forwarded" + (f" ×{len(heads)}" if len(heads) > 1 else "")
            if any(b"smuggled" in h.split(b"\r\n")[0] for h in heads):
                cell += " **smuggled**"
            row.append(cell)
        rows.append(row)
    return rows


def h2(contenders, _upstream):
    """The malformed requests of tests/it/py/h2_probe.py."""
    good = [[":method", "GET"], [":scheme", "http"], [":authority", "a"], [":path", "/a"], ["x-api-key", KEY]]
    cases = [
        ("a plain request", good),
        ("upper-case field name", good + [["X-A", "b"]]),
        ("space behind a field name", good + [["x-a ", "b"]]),
        ("CR LF in a value", good + [["x-a", "b\r\nx-c: d"]]),
        ("NUL in a value", good + [["x-a", "b\0c"]]),
        ("`connection`", good + [["connection", "close"]]),
        ("`transfer-encoding`", good + [["transfer-encoding", "chunked"]]),
        ("`te: gzip`", good + [["te", "gzip"]]),
        ("unknown pseudo-field", good + [[":x", "y"]]),
        ("pseudo-field behind a field", good + [[":path", "/b"]]),
        ("path twice", [[":path", "/b"]] + good),
        ("no path", [f for f in good if f[0] != ":path"]),
        ("empty path", [[n, "" if n == ":path" else v] for n, v in good]),
        ("space in the path", [[n, "/a b" if n == ":path" else v] for n, v in good]),
        ("Host contradicts :authority", good + [["host", "b"]]),
        ("CONNECT", [[":method", "CONNECT"], [":authority", "a:1"], ["x-api-key", KEY]]),
    ]
    probe = ROOT / "tests/it/py/h2_probe.py"
    columns = []
    for contender in contenders:
        said = run(sys.executable, str(probe), f"127.0.0.1:{contender.clear_h2}",
                   input=json.dumps([{"headers": h} for _, h in cases]))
        columns.append([str(o["status"] or o["end"]) for o in json.loads(said.stdout)])
    return [[name, *cells] for (name, _), *cells in zip(cases, *columns)]


def load(contenders, _upstream):
    """h2load: every request of 20,000 answered, over each protocol."""
    rows = []
    for label, options, url in [
        ("HTTP/1.1, 32 connections", ["--h1"], lambda c: f"http://127.0.0.1:{c.clear}/a"),
        ("HTTP/2 in clear, 8 × 32 streams", ["-m", "32"], lambda c: f"http://127.0.0.1:{c.clear_h2}/a"),
        ("HTTP/2 over TLS, 8 × 32 streams", ["-m", "32"], lambda c: f"https://127.0.0.1:{c.tls}/a"),
    ]:
        row = [label]
        for contender in contenders:
            clients = "32" if "--h1" in options else "8"
            said = run("h2load", "-n", "20000", "-c", clients, "-t", "1", *options, "-H", f"x-api-key: {KEY}", url(contender))
            codes = re.search(r"status codes: (.*)", said.stdout)
            failed = re.search(r"(\d+) failed", said.stdout)
            row.append(f"{codes[1] if codes else 'no answer'}; {failed[1] if failed else '?'} failed")
        rows.append(row)
    return rows


def slow(contenders, _upstream):
    """slowhttptest: 300 slow clients; is a fast one still served, and how many slow ones stay?"""
    rows = []
    for label, options in [
        ("slow heads (-H)", ["-H", "-i", "5"]),
        ("slow bodies (-B)", ["-B", "-i", "5", "-s", "8192"]),
        ("slow reading (-X)", ["-X", "-w", "10", "-y", "20", "-n", "5", "-z", "32", "-k", "3"]),
    ]:
        row = [label]
        for contender in contenders:
            attack = subprocess.Popen(
                ["slowhttptest", *options, "-c", "300", "-r", "200", "-l", "25", "-p", "3", "-u",
                 f"http://127.0.0.1:{contender.clear}/a"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            time.sleep(6)
            worst = 0.0
            for _ in range(20):
                begun = time.monotonic()
                fast = run("curl", "-sS", "-m", "10", "-o", "/dev/null", "-w", "%{http_code}", "-H", f"x-api-key: {KEY}",
                           f"http://127.0.0.1:{contender.clear}/a")
                worst = max(worst, time.monotonic() - begun) if fast.stdout == "200" else 99.0
                time.sleep(0.1)
            said = re.sub(r"\x1b\[[0-9;]*m", "", attack.communicate(timeout=120)[0])
            # It shows numbers every five seconds, and ends early when nobody is left.
            end = re.search(r"Test ended on (\d+)\w* second\s+Exit status:\s*(.*)", said)
            still = re.findall(r"connected:\s+(\d+)", said)
            if end and "No open connections" in end[2]:
                left = f"all 300 ended within {end[1]} s"
            else:
                left = f"{still[-1] if still else '?'} of 300 still open after 25 s"
            row.append(f"fast client {'served' if worst < 99 else 'NOT served'}; {left}")
        rows.append(row)
    return rows


def tls(contenders, _upstream):
    """testssl.sh: findings of severity LOW and above, certificate chain left out (it is self-signed)."""
    rows = {}
    for at, contender in enumerate(contenders):
        out = Path(tempfile.mkdtemp()) / "testssl.json"
        run("testssl", "--quiet", "--warnings", "off", "--color", "0", "-p", "-s", "-f", "-h", "-U", "--jsonfile", str(out),
            f"https://127.0.0.1:{contender.tls}", env={**os.environ, "TERM": "dumb"})
        findings = json.loads(out.read_text()) if out.exists() else []
        bad = [f for f in findings if f["severity"] in ("LOW", "MEDIUM", "HIGH", "CRITICAL")]
        for name in ("SSLv2", "SSLv3", "TLS1", "TLS1_1", "TLS1_2", "TLS1_3", "ALPN", "FS"):
            got = [f["finding"] for f in findings if f["id"] == name]
            rows.setdefault(name, [name] + ["-"] * len(contenders))[at + 1] = (got or ["-"])[0].replace("|", "/")
        rows.setdefault("bad", ["findings LOW and above"] + ["-"] * len(contenders))[at + 1] = (
            ", ".join(sorted({f["id"] for f in bad})) or "none")
    return list(rows.values())


SUITES = {
    "raw": ("Requests with more than one reading", raw,
            "Each request goes out byte for byte, with a good key. Shown: the status, and whether the request reached the upstream."),
    "h2": ("Malformed HTTP/2", h2, "Handmade frames. Shown: the status, or how the stream or connection ended."),
    "load": ("h2load: 20,000 requests", load, "Does each request get a 2xx answer?"),
    "slow": ("slowhttptest: 300 slow clients", slow, "Each with its default time-outs. Does another client get an answer meanwhile? slowhttptest sends no key, so keygate refuses its slow bodies immediately; `timeouts.body` ends stalled bodies of key holders (tests/it/gate_limits.rs)."),
    "tls": ("testssl.sh", tls, "Each with its default settings and the same P-256 certificate."),
}


def main():
    wanted = sys.argv[1:] or list(SUITES)
    upstream = Upstream()
    top = Path(tempfile.mkdtemp(prefix="conformance-"))
    contenders = []
    try:
        for maker in (keygate, nginx, haproxy):
            folder = top / maker.__name__
            folder.mkdir()
            certificates(folder)
            contenders.append(maker(folder, upstream.port))
        page = ROOT / "docs/conformance.md"
        old = page.read_text() if page.exists() else ""
        sections = dict(re.findall(r"<!-- (\w+) -->\n(.*?)(?=<!-- |\Z)", old, re.S))
        for name in wanted:
            title, suite, how = SUITES[name]
            print(f"{title} …", flush=True)
            lines = [f"## {title}", "", how, "", "| | " + " | ".join(c.name for c in contenders) + " |",
                     "|---" * (len(contenders) + 1) + "|"]
            lines += ["| " + " | ".join(row) + " |" for row in suite(contenders, upstream)]
            sections[name] = "\n".join(lines) + "\n\n"
        versions = ", ".join(c.version for c in contenders)
        head = (
            "# Conformance\n\nWritten by `make conformance` on one machine, in front of one upstream: "
            f"{versions}. nginx and HAProxy are plain proxies here, with their default settings; "
            "they are meant to forward what keygate refuses. No package registry has the suites "
            "h2spec and Autobahn, so handmade frames and bytes stand in for them; `make test` checks those "
            "too (`tests/it/gate_*.rs`).\n\n"
            "keygate does not pass on 1xx answers of the upstream (hyper's server cannot send 103).\n\n")
        page.write_text(head + "".join(f"<!-- {n} -->\n{sections[n]}" for n in SUITES if n in sections))
        print(f"wrote {page.relative_to(ROOT)}")
    finally:
        for contender in contenders:
            contender.process.terminate()
        for contender in contenders:
            try:
                contender.process.wait(10)
            except subprocess.TimeoutExpired:
                contender.process.kill()
        shutil.rmtree(top, ignore_errors=True)


main()
