"""Load from wrk, h2load and the open-loop generator; all on the load generator's core."""

import json
import os
import re
import subprocess

from . import tools
from .procs import LOAD_CORE, Failed

HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def run(argv, timeout):
    argv = ["taskset", "-c", str(LOAD_CORE), *map(str, argv)]
    out = subprocess.run(argv, capture_output=True, text=True, timeout=timeout, check=False)
    if out.returncode != 0:
        raise Failed(f"{' '.join(argv)}: exit {out.returncode}\n{out.stdout}\n{out.stderr}")
    return out.stdout


def wrk(url, kind, credentials, connections, seconds):
    """Requests done, refused ones among them, seconds. Fails on lost requests. `credentials`: file of
    those to send, one in a line."""
    script = os.path.join(HERE, "wrk", "common.lua")
    argv = [tools.path("wrk"), "-t1", f"-c{connections}", f"-d{seconds:g}s", "--timeout", "10s"]
    # wrk takes whole seconds only.
    argv[3] = f"-d{max(1, round(seconds))}s"
    out = run([*argv, "-s", script, url, "--", kind, credentials], seconds + 30)
    found = re.search(r"^BENCH (.*)$", out, re.MULTILINE)
    if not found:
        raise Failed(f"wrk printed no report:\n{out}")
    report = json.loads(found.group(1))
    want_refused = report["requests"] if kind == "refused" else 0
    lost = report["connect"] + report["write"] + report["timeout"]
    # With `Connection: close` the end of a connection is no error but wrk counts it as a read one.
    lost += 0 if kind == "close" else report["read"]
    if lost or report["status"] != want_refused or report["requests"] == 0:
        raise Failed(f"wrk {kind}: lost or wrongly answered requests: {report}")
    return report["requests"], report["duration_us"] / 1e6


def h2load(url, keys, connections, streams, seconds):
    secret, _ = keys.sample()[0]
    argv = [tools.path("h2load"), "-t1", f"-c{connections}", f"-m{streams}"]
    argv += ["-D", str(max(1, round(seconds))), "-H", f"x-api-key: {secret}", url]
    out = run(argv, seconds + 30)
    counts = re.search(r"requests: .*?(\d+) done, (\d+) succeeded, (\d+) failed, (\d+) errored", out)
    if not counts:
        raise Failed(f"h2load printed no report:\n{out}")
    done, succeeded, failed, errored = map(int, counts.groups())
    if succeeded != done or failed or errored or done == 0:
        raise Failed(f"h2load: lost or refused requests:\n{out}")
    return done, float(seconds)


class Background:
    """The open-loop generator, running until `stop`. Its samples have the wall clock's time."""

    def __init__(self, program, port, rate, keys, samples, connections=64, limit=900):
        self.samples = samples
        argv = [program, "--address", f"127.0.0.1:{port}", "--rate", rate, "--seconds", limit]
        argv += ["--connections", connections, "--keys", keys.sample_file(), "--samples", samples]
        argv = ["taskset", "-c", LOAD_CORE, *argv, "--until-eof", "--warm-up", "0"]
        self.process = subprocess.Popen(
            [str(a) for a in argv], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def stop(self):
        """The generator's report, and (unix time, latency in s, status) of every request."""
        out, _ = self.process.communicate(timeout=60)
        report = json.loads(out)
        start = report["started_unix_s"]
        rows = []
        with open(self.samples) as f:
            for line in f:
                due, latency, status = map(int, line.split())
                rows.append((start + due / 1e9, latency / 1e9, status))
        return report, rows

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def open_loop(program, port, rate, seconds, keys=None, connections=32, samples=None, timeout=60):
    argv = [program, "--address", f"127.0.0.1:{port}", "--rate", rate, "--seconds", seconds]
    argv += ["--connections", connections]
    if keys is not None:
        argv += ["--keys", keys.sample_file()]
    if samples is not None:
        argv += ["--samples", samples]
    return json.loads(run(argv, seconds + timeout))
