"""Does a contender do the job at all? Asked before it is timed."""

import http.client
import socket
import ssl

from .contenders import SIZES
from .procs import Failed


def request(port, method="GET", path="/", headers=None, tls=False, body=None):
    if tls:
        context = ssl._create_unverified_context()
        connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=10, context=context)
    else:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, path, body=body, headers=headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def contender(name, port, keys, tls=False):
    """Right key: the upstream sees the org and no credential. Wrong, no, forged: not."""
    for secret, org in keys.sample()[:5]:
        forged = {"X-Api-Key": secret, "X-Org-Id": "org-forged", "X-Other": "stays"}
        status, echo = request(port, path="/echo", headers=forged, tls=tls)
        if status != 200:
            raise Failed(f"{name}: right key: want 200, got {status}: {echo[:200]!r}")
        head = echo.decode("latin-1")
        fields = [line.partition(":") for line in head.split("\r\n")[1:] if line]
        seen = [value.strip() for field, _, value in fields if field.lower() == "x-org-id"]
        if seen != [org]:
            raise Failed(f"{name}: upstream saw organization {seen}, want [{org!r}]")
        if secret in head or any(f.lower() == "x-api-key" for f, _, _ in fields):
            raise Failed(f"{name}: the credential reached the upstream:\n{head}")
        if "stays" not in head:
            raise Failed(f"{name}: a plain header was lost:\n{head}")
    wrong = "kg_live_" + "0" * 40
    for what, headers in (("wrong key", {"X-Api-Key": wrong}), ("no key", {})):
        status, _ = request(port, path="/echo", headers=headers, tls=tls)
        if status != 401:
            raise Failed(f"{name}: {what}: want 401, got {status}")
    secret, _ = keys.sample()[0]
    for path, size in SIZES.values():
        status, body = request(port, path=path, headers={"X-Api-Key": secret}, tls=tls)
        if status != 200 or len(body) != size:
            raise Failed(f"{name}: {path}: got {status} with {len(body)} bytes")
    status, body = request(
        port, "POST", "/", {"X-Api-Key": secret}, tls=tls, body=b"x" * (10 << 20)
    )
    if (status, body) != (200, b"ok\n"):
        raise Failed(f"{name}: upload: got {status} {body[:100]!r}")


def features(name, port, keys):
    """A contender of the headline: a request id both ways, and who the client is."""
    secret, _ = keys.sample()[0]
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", "/echo", headers={"X-Api-Key": secret})
        answer = connection.getresponse()
        echo = answer.read().decode("latin-1")
    finally:
        connection.close()
    fields = [line.partition(":") for line in echo.split("\r\n")[1:] if line]
    seen = {field.lower(): value.strip() for field, _, value in fields}
    told = answer.getheader("X-Request-Id")
    if not told or seen.get("x-request-id") != told:
        raise Failed(f"{name}: request id: client {told!r}, upstream {seen.get('x-request-id')!r}")
    for field, want in (("x-forwarded-for", "127.0.0.1"), ("x-forwarded-proto", "http")):
        if seen.get(field) != want:
            raise Failed(f"{name}: {field}: want {want!r}, upstream saw {seen.get(field)!r}")


def forwarder(name, port, refusing):
    for path, size in SIZES.values():
        status, body = request(port, path=path)
        if status != 200 or len(body) != size:
            raise Failed(f"{name}: {path}: got {status} with {len(body)} bytes")
    status, _ = request(refusing)
    if status != 401:
        raise Failed(f"{name}: refusal: want 401, got {status}")


def http2(name, port, keys):
    """One request by prior knowledge, written by hand: 200 with a right key, 401 with a wrong one."""
    secret, _ = keys.sample()[0]
    for key, want in ((secret, b"200"), ("kg_live_" + "0" * 40, b"401")):
        connection = Http2(port)
        try:
            got = connection.get("/", key)
        finally:
            connection.close()
        if got != want:
            raise Failed(f"{name}: HTTP/2: want {want.decode()}, got {got!r}")


class Http2:
    """Just enough of RFC 9113 to ask for a status and to stay connected."""

    STATUSES = {8: b"200", 9: b"204", 10: b"206", 11: b"304", 12: b"400", 13: b"404", 14: b"500"}

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self.socket.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, b""))
        self.buffer = b""
        self.stream = -1

    def get(self, path, key):
        self.stream += 2
        block = b"\x82\x86" + literal(4, path) + literal(1, "bench") + named("x-api-key", key)
        self.socket.sendall(frame(1, 5, self.stream, block))
        status = None
        while True:
            kind, flags, stream, payload = self.read_frame()
            if kind == 4 and not flags & 1:
                self.socket.sendall(frame(4, 1, 0, b""))
            if stream == self.stream and kind == 1:
                status = self.status(payload)
            if stream == self.stream and kind == 3:
                return b"reset"
            if stream == self.stream and kind in (0, 1) and flags & 1:
                return status

    def status(self, block):
        # :status comes first; servers index it (one byte) or write it as a literal with name 8.
        while block and block[0] & 0xE0 == 0x20:  # dynamic table size update
            block = block[1:]
        if block[0] & 0x80:
            return self.STATUSES.get(block[0] & 0x7F, b"?")
        length = block[1] & 0x7F
        value = block[2 : 2 + length]
        if not block[1] & 0x80:
            return value
        # Huffman (RFC 7541 appendix B): of the digits, 0 to 2 have five bits and 3 to 9 six.
        bits = "".join(f"{byte:08b}" for byte in value)
        digits = ""
        while len(digits) < 3:
            if bits[:5] in ("00000", "00001", "00010"):
                digits, bits = digits + str(int(bits[:5], 2)), bits[5:]
            else:
                digits, bits = digits + str(int(bits[:6], 2) - 0b011001 + 3), bits[6:]
        return digits.encode()

    def read_frame(self):
        head = self.read(9)
        payload = self.read(int.from_bytes(head[:3], "big"))
        return head[3], head[4], int.from_bytes(head[5:], "big") & 0x7FFFFFFF, payload

    def read(self, size):
        while len(self.buffer) < size:
            got = self.socket.recv(65536)
            if not got:
                raise Failed("HTTP/2 connection closed")
            self.buffer += got
        out, self.buffer = self.buffer[:size], self.buffer[size:]
        return out

    def close(self):
        self.socket.close()


def frame(kind, flags, stream, payload):
    head = len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big")
    return head + payload


def literal(index, value):
    """Literal without indexing, name from the static table, no Huffman."""
    return bytes([index, len(value)]) + value.encode()


def named(name, value):
    return bytes([0, len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
