"""What a gRPC client notices of keygate: nothing, until it is refused."""
import sys
import threading
import time

import grpc

address, key, *ca = sys.argv[1:]
if ca:
    trust = grpc.ssl_channel_credentials(open(ca[0], "rb").read())
    channel = grpc.secure_channel(address, trust, (("grpc.ssl_target_name_override", "localhost"),))
else:
    channel = grpc.insecure_channel(address)
mine = (("x-api-key", key),)
unary = channel.unary_unary("/echo.Echo/Unary")
down = channel.unary_stream("/echo.Echo/Down")
up = channel.stream_unary("/echo.Echo/Up")
both = channel.stream_stream("/echo.Echo/Both")
admin = channel.unary_unary("/echo.Admin/Unary")


def refused(call, status, *words):
    try:
        call()
    except grpc.RpcError as error:
        assert error.code() == status, (error.code(), error.details())
        for word in words:
            assert word in error.details(), error.details()
        return error
    raise SystemExit(f"not refused: {status}")


# Unary, with trailers, an identity, and messages larger than a window.
answer, call = unary.with_call(b"hello", metadata=mine, timeout=10)
trailers = dict(call.trailing_metadata())
assert answer == b"hello" and trailers["x-served-by"] == "unary" and trailers["x-bin-bin"] == b"\0\1"
assert unary(b"org", metadata=mine, timeout=10) == b"acme"
big = bytes(3_000_000)
assert unary(big, metadata=mine, timeout=20) == big
# Too much metadata: told as every refusal is.
refused(lambda: unary(b"x", metadata=mine + (("x-long", "x" * 20_000),), timeout=10),
        grpc.StatusCode.RESOURCE_EXHAUSTED, "headers_too_large")
# The error of the service arrives as it was.
refused(lambda: unary(b"fail", metadata=mine, timeout=10), grpc.StatusCode.NOT_FOUND, "no such thing: \u00e4")
# The deadline is passed on, and holds.
left = float(unary(b"deadline", metadata=mine, timeout=5))
assert 3 < left < 5.2, left
assert unary(b"deadline", metadata=mine) == b"none"
begun = time.monotonic()
refused(lambda: unary(b"sleep", metadata=mine, timeout=0.3), grpc.StatusCode.DEADLINE_EXCEEDED)
assert time.monotonic() - begun < 2
# Server streaming, client streaming.
answers = down(b"1000", metadata=mine, timeout=20)
assert [int(n) for n in answers] == list(range(1000))
assert dict(answers.trailing_metadata())["x-served-by"] == "down"
assert up((b"x" * 1000 for _ in range(1000)), metadata=mine, timeout=20) == b"1000000"
# Both ways, one message at a time: nothing is held back.
turn = threading.Semaphore(0)


def questions():
    for n in range(50):
        yield b"%d" % n
        assert turn.acquire(timeout=10)


for n, answer in enumerate(both(questions(), metadata=mine, timeout=20)):
    assert int(answer) == n
    turn.release()
assert n == 49
# A call that the client gives up.
cancelled = both(iter(lambda: b"x", None), metadata=mine, timeout=20)
next(cancelled)
cancelled.cancel()
# Refusals: trailers-only, with a message for people.
refused(lambda: unary(b"x", timeout=10), grpc.StatusCode.UNAUTHENTICATED, "key")
refused(lambda: unary(b"x", metadata=(("x-api-key", "wa_no_such_key_0123456789"),), timeout=10),
        grpc.StatusCode.UNAUTHENTICATED)
refused(lambda: admin(b"x", metadata=mine, timeout=10), grpc.StatusCode.PERMISSION_DENIED, "manage")
refused(lambda: list(down(b"9", timeout=10)), grpc.StatusCode.UNAUTHENTICATED)
refused(lambda: up((b"x" * 10_000 for _ in range(100)), timeout=10), grpc.StatusCode.UNAUTHENTICATED)
refused(lambda: list(both(iter([b"x"]), timeout=10)), grpc.StatusCode.UNAUTHENTICATED)
limited = (("x-api-key", "wa_live_Limited0123456789abcdefg"),)
for _ in range(2):
    unary(b"x", metadata=limited, timeout=10)
error = refused(lambda: unary(b"x", metadata=limited, timeout=10), grpc.StatusCode.RESOURCE_EXHAUSTED)
print("done", dict(error.trailing_metadata()))
