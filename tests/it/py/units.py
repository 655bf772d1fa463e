"""units.py SOCKET SERVICE...: what systemd does with these unit files of the current folder.

Opens the sockets of SOCKET and then takes a command at a time from the FIFO `systemctl`, as systemctl(1)
takes it: `daemon-reload`, `start UNIT`, `stop UNIT`. The answer goes to the FIFO `answer`: `ok`, or what
went wrong. A service gets the sockets if it has their name or says `Sockets=`, and has started when it
has said so (`Type=notify`).
"""

import fcntl
import os
import pathlib
import signal
import socket
import sys

sockets_of = pathlib.Path(sys.argv[1])


def values(unit, key):
    lines = pathlib.Path(unit).read_text().splitlines()
    return [line.partition("=")[2] for line in lines if line.startswith(key + "=")]


backlog = int(values(sockets_of, "Backlog")[0])
opened = []
for address in values(sockets_of, "ListenStream"):
    host, _, port = address.rpartition(":")
    opened.append(socket.create_server((host, int(port)), backlog=backlog))
notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
notify.bind("notify")
notify.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
notify.settimeout(1)
running = {}


def start(unit):
    has_name = pathlib.Path(unit).stem == sockets_of.stem
    passed = opened if has_name or sockets_of.name in values(unit, "Sockets") else []
    command = values(unit, "ExecStart")[0].split()
    pid = os.fork()
    if pid == 0:
        high = [fcntl.fcntl(one.fileno(), fcntl.F_DUPFD_CLOEXEC, 100) for one in passed]
        for at, descriptor in enumerate(high):
            os.dup2(descriptor, 3 + at)
        os.environ["LISTEN_FDS"] = str(len(high))
        os.environ["LISTEN_PID"] = str(os.getpid())
        # The default of FileDescriptorName= is the name of the socket unit.
        os.environ["LISTEN_FDNAMES"] = ":".join([sockets_of.name] * len(high))
        os.environ["NOTIFY_SOCKET"] = os.path.abspath("notify")
        os.execv(command[0], command)
    print("main pid", unit, pid, flush=True)
    while os.waitpid(pid, os.WNOHANG) == (0, 0):
        try:
            text, control, _, _ = notify.recvmsg(4096, socket.CMSG_SPACE(12))
        except socket.timeout:
            continue
        sender = int.from_bytes(control[0][2][:4], sys.byteorder)
        if sender == pid and b"READY=1" in text.split(b"\n"):
            running[unit] = pid
            return "ok"
    return f"{unit} did not start"


def stop(unit):
    pid = running.pop(unit)
    os.kill(pid, signal.SIGTERM)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return "ok" if code == 0 else f"{unit} ended with {code}"


os.mkfifo("systemctl")
os.mkfifo("answer")
print("units are loaded", flush=True)
while True:
    said = pathlib.Path("systemctl").read_text().split()
    if said == ["daemon-reload"]:
        answer = "ok"
    else:
        answer = {"start": start, "stop": stop}[said[0]](said[1])
    print("systemctl", *said, "->", answer, flush=True)
    pathlib.Path("answer").write_text(answer + "\n")
