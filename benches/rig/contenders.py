"""The gateways under test. Each does the same job: look up `X-Api-Key`, remove it, set `X-Org-Id`,
forward; one worker. A setup says what differs between two runs of one contender."""

import dataclasses
import hashlib
import os
import subprocess
import time

from . import options, tools
from .procs import PROXY_CORE, Failed, free_port, memory_kib, spawn, stop, usage, wait_port


# Scenarios that are a path of the upstream, and how many bytes its body has.
SIZES = {
    "response_1k": ("/1k", 1 << 10),
    "chunked_1k": ("/chunked/1k", 1 << 10),
    "response_64k": ("/64k", 64 << 10),
    "chunked_64k": ("/chunked/64k", 64 << 10),
    "response_10m": ("/10m", 10 << 20),
}


@dataclasses.dataclass(frozen=True)
class Setup:
    """One way to run a contender."""

    keys: int = 1_000_000
    unix: bool = False  # upstream over a Unix socket
    workers: int = 1
    cores: str = str(PROXY_CORE)
    features: frozenset = frozenset({"default"})  # see each contender


class Running:
    """A started contender."""

    def __init__(self, name, process, ports, ready_s, log):
        self.name = name
        self.process = process
        self.http1, self.http2, self.tls = ports
        self.refusing = self.http1
        self.ready_s = ready_s
        self.log = log
        self.keys = 0

    def usage(self):
        return usage(self.process.pid)

    def memory_kib(self):
        return memory_kib(self.process.pid)

    def stop(self):
        stop(self.process)


class Contender:
    """Base: `configure` writes the files and returns the command line."""

    name = "?"
    # Scenarios that it can do; `None`: all.
    scenarios = None
    # Features of its own besides the setup's.
    features = frozenset()

    def __init__(self, bench):
        self.bench = bench
        self.started = 0

    def start(self, setup):
        return self.launch(setup)

    def launch(self, setup, ports=3):
        """With so many of its three ports in use."""
        wanted = ports
        setup = dataclasses.replace(setup, features=setup.features | self.features)
        self.started += 1
        directory = os.path.join(self.bench.run_dir, f"{self.name}-{self.started}")
        os.makedirs(directory)
        ports = (free_port(), free_port(), free_port())
        log = os.path.join(directory, "log")
        argv = self.configure(setup, directory, ports)
        begin = time.monotonic()
        process = spawn(argv, setup.cores, log, cwd=directory)
        try:
            wait_port(ports[0], process, log)
            ready_s = time.monotonic() - begin
            for port in ports[1:wanted]:
                wait_port(port, process, log)
        except Failed:
            stop(process)
            raise
        running = Running(self.name, process, ports, ready_s, log)
        running.keys = setup.keys
        self.bench.running.append(running)
        return running

    def upstream(self, setup):
        up = self.bench.upstream
        return f"unix:{up.unix}" if setup.unix else f"127.0.0.1:{up.port}"

    def version(self):
        raise NotImplementedError

    def binary(self):
        raise NotImplementedError


class Nginx(Contender):
    """Tuned: with its defaults bodies go through temporary files, at 2 to 7 times the cost.
    Features: `log` writes an access log in JSON, `limit` counts requests per key, `identity` makes a
    request id, sends it both ways and tells the service of the client; `stream` sends an upload on
    while it arrives instead of holding it in memory first."""

    name = "nginx"

    def version(self):
        return tools.version("nginx", "-v")

    def binary(self):
        return tools.path("nginx")

    def configure(self, setup, directory, ports):
        keys = self.bench.keys(setup.keys)
        http1, http2, tls = ports
        log = "access_log off;"
        if "log" in setup.features:
            fields = ", ".join(f'"{name}": "{value}"' for name, value in LOG_FIELDS.items())
            log = f"log_format json escape=json '{{{fields}}}';\n"
            log += "    access_log access.log json buffer=128k flush=1s;"
        zone = limit = identity = ""
        if "limit" in setup.features:
            zone = "limit_req_zone $http_x_api_key zone=keys:64m rate=1000000r/s;"
            limit = "limit_req zone=keys burst=100000 nodelay;"
        if "identity" in setup.features:
            identity = "\n            ".join(
                (
                    "add_header X-Request-Id $request_id always;",
                    "proxy_set_header X-Request-Id $request_id;",
                    "proxy_set_header X-Forwarded-For $remote_addr;",
                    "proxy_set_header X-Forwarded-Proto $scheme;",
                    "proxy_set_header X-Forwarded-Host $http_host;",
                )
            )
        body = "client_body_buffer_size 16m;"
        if "stream" in setup.features:
            body = "proxy_request_buffering off; client_body_buffer_size 128k;"
        config = f"""
daemon off;
pid nginx.pid;
error_log stderr error;
worker_processes {setup.workers};
events {{ worker_connections 15000; }}
http {{
    {log}
    map_hash_max_size {max(2048, setup.keys * 2)};
    map_hash_bucket_size 128;
    map $http_x_api_key $org {{
        default "";
        include {keys.nginx()};
    }}
    {zone}
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    client_max_body_size 20m;
    keepalive_requests 1000000000;
    keepalive_timeout 600s;
    upstream service {{
        server {self.upstream(setup)};
        keepalive 512;
        keepalive_requests 1000000000;
        keepalive_timeout 600s;
    }}
    server {{
        listen 127.0.0.1:{http1} backlog=4096;
        listen 127.0.0.1:{http2} http2 backlog=4096;
        listen 127.0.0.1:{tls} ssl backlog=4096;
        ssl_certificate {self.bench.cert};
        ssl_certificate_key {self.bench.cert_key};
        location / {{
            if ($org = "") {{ return 401; }}
            {limit}
            {identity}
            proxy_pass http://service;
            proxy_http_version 1.1;
            proxy_buffer_size 32k;
            proxy_buffers 16 32k;
            proxy_busy_buffers_size 256k;
            proxy_max_temp_file_size 0;
            {body}
            proxy_set_header Connection "";
            proxy_set_header Host $http_host;
            proxy_set_header X-Api-Key "";
            proxy_set_header X-Org-Id $org;
        }}
    }}
}}
"""
        path = os.path.join(directory, "nginx.conf")
        with open(path, "w") as f:
            f.write(config)
        return [self.binary(), "-p", directory, "-c", path]


# What a line of keygate's access log says.
LOG_FIELDS = {
    "time": "$time_iso8601",
    "request_id": "$request_id",
    "client": "$remote_addr",
    "protocol": "$server_protocol",
    "method": "$request_method",
    "path": "$uri",
    "org": "$org",
    "status": "$status",
    "bytes_in": "$request_length",
    "bytes_out": "$bytes_sent",
    "duration": "$request_time",
    "upstream": "$upstream_response_time",
    "connect": "$upstream_connect_time",
}


class NginxFeatured(Nginx):
    """The headline's nginx: it does what keygate does by default, where it can."""

    name = "nginx_featured"
    features = frozenset({"log", "limit", "identity"})


class Haproxy(Contender):
    """No features beyond the job."""

    name = "haproxy"

    def version(self):
        return tools.version("haproxy", "-v")

    def binary(self):
        return tools.path("haproxy")

    def configure(self, setup, directory, ports):
        keys = self.bench.keys(setup.keys)
        http1, http2, tls = ports
        upstream = self.upstream(setup).replace("unix:", "unix@")
        config = f"""
global
    nbthread {setup.workers}
    maxconn 15000
    no strict-limits
defaults
    mode http
    timeout connect 5s
    timeout client 600s
    timeout server 600s
    timeout http-keep-alive 600s
    option http-keep-alive
    http-reuse always
frontend in
    bind 127.0.0.1:{http1} backlog 4096
    bind 127.0.0.1:{http2} proto h2 backlog 4096
    bind 127.0.0.1:{tls} ssl crt {self.bench.cert_bundle} backlog 4096
    http-request set-var(txn.org) req.hdr(X-Api-Key),map_str({keys.plain()})
    http-request deny deny_status 401 unless {{ var(txn.org) -m found }}
    http-request del-header X-Api-Key
    http-request set-header X-Org-Id %[var(txn.org)]
    default_backend service
backend service
    server up {upstream} pool-max-conn -1 pool-purge-delay 600s
"""
        path = os.path.join(directory, "haproxy.cfg")
        with open(path, "w") as f:
            f.write(config)
        return [self.binary(), "-db", "-f", path]


class Hyper(Contender):
    """What keygate is made of, without keygate: benches/bare_proxy.rs. One worker, no features."""

    name = "hyper"

    def version(self):
        return "benches/bare_proxy.rs, same build as keygate"

    def binary(self):
        return self.bench.example("bench-bare-proxy")

    def configure(self, setup, directory, ports):
        if setup.workers != 1:
            raise Failed("the bare hyper proxy has one worker")
        keys = self.bench.keys(setup.keys)
        return [
            self.binary(),
            *("--http1", f"127.0.0.1:{ports[0]}"),
            *("--http2", f"127.0.0.1:{ports[1]}"),
            *("--tls", f"127.0.0.1:{ports[2]}"),
            *("--cert", self.bench.cert, "--key", self.bench.cert_key),
            *("--upstream", self.upstream(setup), "--keys", keys.plain()),
        ]


class Forwarder(Contender):
    """The floor: benches/forwarder.rs, which moves bytes and reads nothing in them."""

    name = "forwarder"
    scenarios = frozenset({"accepted", "think", "refused", *SIZES})

    def version(self):
        return "benches/forwarder.rs, no proxy: moves bytes"

    def binary(self):
        return self.bench.example("bench-forwarder")

    def configure(self, setup, directory, ports):
        return [self.binary(), *(f"127.0.0.1:{p}" for p in (ports[0], ports[1], self.bench.upstream.port))]

    def start(self, setup):
        running = self.launch(setup, ports=2)
        # It cannot tell a request to be refused from another.
        running.refusing, running.http2, running.tls = running.http2, None, None
        return running


class Keygate(Contender):
    """Features: `default` has all on (access log to a file, metrics, identity headers, limits, uses);
    `no_X` switches one off. Metrics cannot be switched off. `with_X` switches on what is off by
    default (rig/options.py)."""

    name = "keygate"
    LIMIT = "1000000000/s"
    OFF = ("no_log", "no_limit", "no_identity", "no_usage")
    # Where the patch comes from instead of a file.
    patch_url = None

    def version(self):
        return tools.version(self.binary(), "--version")

    def binary(self):
        return self.bench.program("keygate")

    @classmethod
    def variants(cls):
        """Name in reports to features."""
        found = {"keygate": frozenset({"default"})}
        found.update({f"keygate_{off}": frozenset({"default", off}) for off in cls.OFF})
        found["keygate_bare"] = frozenset({"default", *cls.OFF})
        return found

    def configure(self, setup, directory, ports):
        http1, http2, tls = ports
        off = setup.features
        # A directory of its own, as a mounted volume would be.
        tables, logs = os.path.join(directory, "tables"), os.path.join(directory, "logs")
        os.makedirs(tables)
        os.makedirs(logs)
        table = os.path.join(tables, "keys.kgt")
        os.link(self.table(setup.keys, limit="no_limit" not in off), table)
        url = self.upstream(setup) if setup.unix else "http://" + self.upstream(setup)
        log = "access = false" if "no_log" in off else 'access_file = "logs/access.log"'
        identity = ""
        if "no_identity" in off:
            names = ("key_id", "key_name", "permissions", "environment", "anonymous")
            identity = "[identity]\n" + "\n".join(f"{name} = false" for name in names)
        usage = "[usage]\nenabled = false" if "no_usage" in off else ""
        patch = f'patch = "{self.patch_url or tables + "/keys.kgp"}"' if "patch" in off else ""
        patch += '\nhttp.long_poll = "30s"' if self.patch_url else ""
        access = 'access = "key-or-token"' if "with_tokens" in off else ""
        more = options.configuration(off, directory)
        self.admin = free_port()
        config = f"""
environment = "live"
[[listen]]
address = "127.0.0.1:{http1}"
[[listen]]
address = "127.0.0.1:{http2}"
[[listen]]
address = "127.0.0.1:{tls}"
tls.certificate = "{self.bench.cert}"
tls.key = "{self.bench.cert_key}"
[upstream]
url = "{url}"
[table]
path = "{table}"
{patch}
audience = "bench"
trusted_signers = ["{self.signer}"]
state_file = "state"
[[credentials]]
source = "header"
name = "x-api-key"
[[routes]]
path = "/*"
{access}
[admin]
address = "127.0.0.1:{self.admin}"
[workers]
count = {setup.workers}
[log]
{log}
{identity}
{usage}
{more}
"""
        path = os.path.join(directory, "keygate.toml")
        with open(path, "w") as f:
            f.write(config)
        return [self.binary(), "serve", "--config", path]

    def table(self, count, limit=True, serial=1, extra=None, more=(), name=None):
        """A table of so many keys, made once per writer."""
        maker = self.bench.example("bench-make-table")
        with open(maker, "rb") as f:
            version = hashlib.sha256(f.read()).hexdigest()[:12]
        directory = os.path.join(self.bench.data, "tables", version)
        os.makedirs(directory, exist_ok=True)
        name = name or f"{count}{'-limit' if limit else ''}"
        path = os.path.join(directory, f"{name}.kgt")
        signer = os.path.join(directory, "signer")
        if not os.path.exists(path):
            partial = path + ".part"
            command = [maker, "--keys", self.bench.keys(count).plain(), "--out", partial]
            command += ["--serial", str(serial), *more]
            command += ["--limit", self.LIMIT] if limit else []
            command += ["--extra", extra] if extra else []
            made = subprocess.run(command, capture_output=True, text=True, check=False)
            if made.returncode != 0:
                raise Failed(f"{command}: {made.stderr}")
            with open(signer, "w") as f:
                f.write(made.stdout.strip())
            os.rename(partial, path)
        with open(signer) as f:
            self.signer = f.read()
        return path


class KeygateTwin(Keygate):
    """The null contender: the same keygate once more. What differs between the two is noise."""

    name = "keygate_twin"


class KeygateBare(Keygate):
    """Without what bare nginx does not do either: for the row beside bare nginx."""

    name = "keygate_bare"
    features = frozenset({"default", *Keygate.OFF})


class Upstream:
    """benches/upstream.rs on the load generator's core."""

    def __init__(self, bench, core):
        self.port = free_port()
        self.unix = os.path.join(bench.run_dir, "upstream.sock")
        log = os.path.join(bench.run_dir, "upstream.log")
        argv = [bench.example("bench-upstream"), "--tcp", f"127.0.0.1:{self.port}", "--unix", self.unix]
        self.process = spawn(argv, core, log)
        wait_port(self.port, self.process, log)
        os.chmod(self.unix, 0o777)

    def stop(self):
        stop(self.process)


def certificate(directory):
    """A self-signed P-256 certificate: certificate, key, both in one file."""
    cert, key, both = (os.path.join(directory, n) for n in ("cert.pem", "key.pem", "both.pem"))
    if not os.path.exists(both):
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
        command += ["-nodes", "-days", "3650", "-subj", "/CN=bench", "-keyout", key, "-out", cert]
        command += ["-addext", "subjectAltName=DNS:bench,IP:127.0.0.1"]
        made = subprocess.run(command, capture_output=True, text=True, check=False)
        if made.returncode != 0:
            raise Failed(f"openssl: {made.stderr}")
        with open(both, "w") as out:
            for path in (cert, key):
                with open(path) as f:
                    out.write(f.read())
    return cert, key, both
