"""Sends HTTP/2 as it is told to, legal or not, and says what came back.

Reads a JSON list of cases from standard input, prints a JSON list of outcomes. A case is
{"headers": [[name, value], …], "body": [chunk, …], "trailers": [[name, value], …]}.
hpack encodes whatever it is given, and frames are made by hand: nothing here corrects a fault.
"""

import json
import socket
import struct
import sys

import hpack

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST, SETTINGS, GOAWAY, WINDOW = 0, 1, 3, 4, 7, 8
END_STREAM, END_HEADERS, ACK = 1, 4, 1


def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def encode(fields):
    pairs = [(n.encode("latin-1"), v.encode("latin-1")) for n, v in fields]
    return hpack.Encoder().encode(pairs, huffman=False)


class Connection:
    def __init__(self, address):
        self.socket = socket.create_connection(address, timeout=8)
        self.buffer = b""
        self.decoder = hpack.Decoder()
        self.decoder.max_allowed_table_size = 1 << 16

    def send(self, data):
        try:
            self.socket.sendall(data)
            return True
        except OSError:
            return False

    def read(self):
        """The next frame, or None at the end."""
        while True:
            if len(self.buffer) >= 9:
                length = int.from_bytes(self.buffer[:3], "big")
                if len(self.buffer) >= 9 + length:
                    kind, flags = self.buffer[3], self.buffer[4]
                    stream = int.from_bytes(self.buffer[5:9], "big") & 0x7FFFFFFF
                    payload, self.buffer = self.buffer[9 : 9 + length], self.buffer[9 + length :]
                    return kind, flags, stream, payload
            try:
                more = self.socket.recv(65536)
            except socket.timeout:
                return "timeout"
            except OSError:
                return None
            if not more:
                return None
            self.buffer += more


def outcome(connection, stream=1):
    out = {"status": None, "headers": [], "trailers": [], "body": "", "end": None}
    while True:
        got = connection.read()
        if got in (None, "timeout"):
            out["end"] = out["end"] or ("closed" if got is None else "timeout")
            return out
        kind, flags, on, payload = got
        if kind == SETTINGS and not flags & ACK:
            connection.send(frame(SETTINGS, ACK, 0))
        elif kind == HEADERS and on == stream:
            decoded = connection.decoder.decode(payload)
            fields = [[str(n), str(v)] for n, v in decoded]
            if out["status"] is None:
                out["status"] = int(dict(fields)[":status"])
                out["headers"] = fields
                out["never_indexed"] = [str(f[0]) for f in decoded if not f.indexable]
            else:
                out["trailers"] = fields
        elif kind == DATA and on == stream:
            out["body"] += payload.decode("latin-1")
            if payload:
                size = struct.pack(">I", len(payload))
                connection.send(frame(WINDOW, 0, 0, size) + frame(WINDOW, 0, stream, size))
        elif kind == RST and on == stream:
            out["end"] = "reset"
            return out
        elif kind == GOAWAY:
            out["end"] = "goaway"
            return out
        if kind in (HEADERS, DATA) and on == stream and flags & END_STREAM:
            out["end"] = "done"
            return out


def ask(address, case):
    connection = Connection(address)
    connection.send(PREFACE + frame(SETTINGS, 0, 0))
    body, trailers = case.get("body", []), case.get("trailers")
    last = END_STREAM if not body and trailers is None else 0
    connection.send(frame(HEADERS, END_HEADERS | last, 1, encode(case["headers"])))
    for at, chunk in enumerate(body):
        last = END_STREAM if at + 1 == len(body) and trailers is None else 0
        connection.send(frame(DATA, last, 1, chunk.encode("latin-1")))
    if trailers is not None:
        connection.send(frame(HEADERS, END_HEADERS | END_STREAM, 1, encode(trailers)))
    return outcome(connection)


def main():
    host, port = sys.argv[1].rsplit(":", 1)
    cases = json.load(sys.stdin)
    json.dump([ask((host, int(port)), case) for case in cases], sys.stdout)


main()
