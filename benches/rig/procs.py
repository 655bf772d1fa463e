"""Processes of a contender: start pinned, wait, CPU time, memory, stop."""

import os
import resource
import signal
import socket
import subprocess
import time

TICK = os.sysconf("SC_CLK_TCK")
CORES = sorted(os.sched_getaffinity(0))
# The load generator and the upstream share the first core; the contender has the last one alone.
LOAD_CORE = int(os.environ.get("LOAD_CORE", CORES[0]))
PROXY_CORE = int(os.environ.get("PROXY_CORE", CORES[-1]))


class Failed(Exception):
    """A contender or tool did not do what the bench needs; the message says what."""


def raise_descriptor_limit():
    """10,000 idle connections need as many descriptors on either side."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    want = 65536
    if soft < want:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (want, max(want, hard)))
        except (ValueError, PermissionError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait_port(port, process, log, deadline=60.0, step=0.002):
    """Seconds until something accepts on the port."""
    start = time.monotonic()
    while time.monotonic() - start < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return time.monotonic() - start
        except OSError:
            if process is not None and process.poll() is not None:
                raise Failed(f"{process.args} ended with {process.returncode}:\n{tail(log)}") from None
            time.sleep(step)
    raise Failed(f"nothing listens on port {port} after {deadline} s:\n{tail(log)}")


def tail(path, size=2000):
    try:
        with open(path, "rb") as f:
            f.seek(max(0, os.path.getsize(path) - size))
            return f.read().decode(errors="replace")
    except OSError:
        return ""


def spawn(argv, cores, log, **kwargs):
    """Starts a program pinned to `cores` (a number or a list such as "0,1")."""
    with open(log, "ab") as out:
        return subprocess.Popen(
            ["taskset", "-c", str(cores), *map(str, argv)],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
            **kwargs,
        )


def stop(process, grace=5.0):
    """Ends a process that we started, and the children that it leads."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(grace)
    except subprocess.TimeoutExpired:
        # spawn() made it the leader of its own session and group: nothing else is in there.
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def tree(root):
    """Process ids of `root` and everything below it."""
    children = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat") as f:
                    stat = f.read()
            except OSError:
                continue
            parent = int(stat.rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(name))
    found, todo = [], [root]
    while todo:
        pid = todo.pop()
        found.append(pid)
        todo += children.get(pid, [])
    return found


def cpu_seconds(root):
    """User and system time of the process tree, ended and waited-for children included."""
    total = 0
    for pid in tree(root):
        try:
            with open(f"/proc/{pid}/stat") as f:
                fields = f.read().rpartition(")")[2].split()
        except OSError:
            continue
        # utime, stime, cutime, cstime: fields 14 to 17 of proc(5), counted after the name.
        total += sum(int(x) for x in fields[11:15])
    return total / TICK


def memory_kib(root):
    """Resident memory of the process tree; pages shared between its processes count once."""
    total = 0
    for pid in tree(root):
        try:
            with open(f"/proc/{pid}/smaps_rollup") as f:
                for line in f:
                    if line.startswith("Pss:"):
                        total += int(line.split()[1])
        except OSError:
            continue
    return total


def peak_kib(pid):
    with open(f"/proc/{pid}/status") as f:
        for line in f:
            if line.startswith("VmHWM:"):
                return int(line.split()[1])
    return 0
