"""Calls the service of grpc_service.py through keygate: grpc_client.py ADDRESS KEY [CA]."""

import sys
import threading

import grpc

address, key = sys.argv[1:3]
options = [("grpc.enable_http_proxy", 0)]
if len(sys.argv) > 3:
    roots = open(sys.argv[3], "rb").read()
    options.append(("grpc.ssl_target_name_override", "localhost"))
    channel = grpc.secure_channel(address, grpc.ssl_channel_credentials(roots), options)
else:
    channel = grpc.insecure_channel(address, options)
good = (("x-api-key", key),)


def refused(call, metadata, status, word):
    try:
        call(b"x", metadata=metadata, timeout=10)
    except grpc.RpcError as error:
        assert error.code() == status, (error.code(), error.details())
        assert word in error.details(), error.details()
        return error
    raise AssertionError("was not refused")


unary = channel.unary_unary("/demo.Echo/Unary")
answer, call = unary.with_call(b"hello", metadata=good, timeout=10)
assert answer == b"acme:hello", answer
assert dict(call.trailing_metadata())["x-trailer"] == "kept", call.trailing_metadata()
assert unary(b"deadline", metadata=good, timeout=30) in (b"29", b"30")
down = channel.unary_stream("/demo.Echo/Down")(b"5", metadata=good, timeout=10)
assert list(down) == [b"acme:%d" % n for n in range(5)]
up = channel.stream_unary("/demo.Echo/Up")(iter([b"a", b"b", b"c"]), metadata=good, timeout=10)
assert up == b"acme:a,b,c", up
# Both directions at once: every answer comes before the next question is asked.
turn = threading.Semaphore(1)


def questions():
    for word in (b"one", b"two", b"three"):
        turn.acquire()
        yield word


got = []
for answer in channel.stream_stream("/demo.Echo/Both")(questions(), metadata=good, timeout=10):
    got.append(answer)
    turn.release()
assert got == [b"acme:one", b"acme:two", b"acme:three"], got
# The service's own refusal arrives as it was said.
refused(lambda _, **k: unary(b"fail", **k), good, grpc.StatusCode.FAILED_PRECONDITION, "as asked")
# keygate's.
refused(unary, (), grpc.StatusCode.UNAUTHENTICATED, "key")
refused(unary, (("x-api-key", "wa_nope"),), grpc.StatusCode.UNAUTHENTICATED, "key")
admin = channel.unary_unary("/demo.Admin/Unary")
refused(admin, good, grpc.StatusCode.PERMISSION_DENIED, "manage")
print("done")
