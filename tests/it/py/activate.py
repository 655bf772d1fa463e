"""activate.py CONFIG NAMES SOCKET... -- COMMAND...: opens sockets, writes their addresses into CONFIG
in place of @0@, @1@, …, and becomes COMMAND, which inherits them from descriptor 3 on.

A SOCKET is HOST:PORT, unix:PATH, or file:PATH for a descriptor that is no socket. NAMES is
LISTEN_FDNAMES, or `-` for none. With LISTEN_PID in the environment it is left as it is.
"""

import fcntl
import os
import pathlib
import socket
import sys

split = sys.argv.index("--")
config, names, *wanted = sys.argv[1:split]
command = sys.argv[split + 1 :]
opened = []
text = pathlib.Path(config).read_text()
for at, name in enumerate(wanted):
    kind, _, path = name.partition(":")
    if kind == "unix":
        opened.append(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        opened[-1].bind(path)
        opened[-1].listen(128)
        address = name
    elif kind == "file":
        opened.append(open(path, "a+"))
        address = name
    else:
        opened.append(socket.create_server((kind, int(path)), backlog=128))
        address = "%s:%d" % opened[-1].getsockname()[:2]
    text = text.replace(f"@{at}@", address)
pathlib.Path(config).write_text(text)
high = [fcntl.fcntl(one.fileno(), fcntl.F_DUPFD_CLOEXEC, 100) for one in opened]
for at, descriptor in enumerate(high):
    os.dup2(descriptor, 3 + at)
os.environ["LISTEN_FDS"] = str(len(high))
os.environ.setdefault("LISTEN_PID", str(os.getpid()))
if names != "-":
    os.environ["LISTEN_FDNAMES"] = names
os.execv(command[0], command)
