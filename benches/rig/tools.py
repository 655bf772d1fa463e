"""The programs that the benches call: found, or installed from Debian without starting a service."""

import os
import shutil
import subprocess

from .procs import Failed

PACKAGES = {
    "nginx": "nginx-light",
    "haproxy": "haproxy",
    "wrk": "wrk",
    "h2load": "nghttp2-client",
    "openssl": "openssl",
    "redis-server": "redis-server",
    "taskset": "util-linux",
    "strace": "strace",
    "valgrind": "valgrind",
}
POLICY = "/usr/sbin/policy-rc.d"


def need(*programs):
    missing = sorted({PACKAGES[p] for p in programs if path(p) is None})
    if not missing:
        return
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise Failed(f"missing: {', '.join(missing)}\nhint: apt-get install {' '.join(missing)}")
    # 101 forbids Debian's packages to start the service that they install.
    ours = not os.path.exists(POLICY)
    if ours:
        with open(POLICY, "w") as f:
            f.write("#!/bin/sh\nexit 101\n")
        os.chmod(POLICY, 0o755)
    try:
        env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        subprocess.run(["apt-get", "update", "-q"], env=env, check=False)
        subprocess.run(
            ["apt-get", "install", "-qy", "--no-install-recommends", *missing], env=env, check=True
        )
    finally:
        if ours:
            os.remove(POLICY)


def path(program):
    return shutil.which(program) or shutil.which(program, path="/usr/sbin:/sbin")


def version(program, *args):
    try:
        out = subprocess.run([path(program), *args], capture_output=True, text=True, check=False)
    except (OSError, TypeError):
        return "?"
    text = (out.stdout + out.stderr).strip()
    return text.splitlines()[0] if text else "?"
