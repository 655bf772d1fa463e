"""Processes of a contender: start pinned, wait, CPU time, memory, stop."""

import dataclasses
import os
import random
import re
import resource
import signal
import socket
import subprocess
import time

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
    """A port that nothing listens on, and that the kernel gives to no outgoing connection: a load with
    a connection for each request would take it before its contender has bound it."""
    with open("/proc/sys/net/ipv4/ip_local_port_range") as f:
        lowest_outgoing = int(f.read().split()[0])
    for port in random.sample(range(10_000, lowest_outgoing), 100):
        with socket.socket() as s:
            try:
                s.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise Failed(f"no free port between 10000 and {lowest_outgoing}")


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


@dataclasses.dataclass(frozen=True)
class Usage:
    """What the threads of a process tree have used until now."""

    seconds: float  # on a core, by the scheduler's own clock (schedstat)
    user: int  # ticks in user space: a sample, good for the share alone
    system: int  # ticks in the kernel
    switches: int  # voluntary: times that a thread had nothing to do and slept

    def since(self, before):
        """Seconds on a core, of these in user space and in the kernel, and voluntary switches."""
        seconds = self.seconds - before.seconds
        user, system = self.user - before.user, self.system - before.system
        share = user / (user + system) if user + system else 0.0
        return seconds, seconds * share, seconds * (1 - share), self.switches - before.switches


def usage(root):
    """Of the process tree's living threads: no contender ends one while it is measured."""
    seconds, user, system, switches = 0, 0, 0, 0
    for pid in tree(root):
        try:
            threads = os.listdir(f"/proc/{pid}/task")
        except OSError:
            continue
        for thread in threads:
            path = f"/proc/{pid}/task/{thread}"
            try:
                with open(f"{path}/schedstat") as f:
                    nanoseconds = int(f.read().split()[0])
                with open(f"{path}/stat") as f:
                    fields = f.read().rpartition(")")[2].split()
                with open(f"{path}/status") as f:
                    slept = int(re.search(r"^voluntary_ctxt_switches:\s*(\d+)", f.read(), re.MULTILINE)[1])
            except OSError:
                continue
            seconds += nanoseconds
            # utime and stime: fields 14 and 15 of proc(5), counted after the name.
            user, system = user + int(fields[11]), system + int(fields[12])
            switches += slept
    return Usage(seconds / 1e9, user, system, switches)


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
