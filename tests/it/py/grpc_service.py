"""A gRPC service without generated code: unary and the three streaming kinds, trailers, deadlines."""
import concurrent.futures
import sys
import time

import grpc


def who(context):
    fields = dict(context.invocation_metadata())
    assert not any("wa_" in str(v) for v in fields.values()), fields
    assert fields.get("te") in (None, "trailers"), fields
    return fields.get("x-org-id", "?")


def unary(request, context):
    context.set_trailing_metadata((("x-served-by", "unary"), ("x-bin-bin", b"\x00\x01")))
    if request == b"deadline":
        left = context.time_remaining()
        return b"none" if left is None or left > 1e6 else str(left).encode()
    if request == b"fail":
        context.abort(grpc.StatusCode.NOT_FOUND, "no such thing: \u00e4")
    if request == b"sleep":
        time.sleep(3)
    if request == b"org":
        return who(context).encode()
    return request


def down(request, context):
    context.set_trailing_metadata((("x-served-by", "down"),))
    for n in range(int(request)):
        yield b"%d" % n


def up(requests, context):
    return b"%d" % sum(len(r) for r in requests)


def both(requests, context):
    who(context)
    for request in requests:
        yield request


def tick(request, context):
    n = 0
    while context.is_active():
        yield b"%d" % n
        n += 1
        time.sleep(0.02)


server = grpc.server(concurrent.futures.ThreadPoolExecutor(16), options=(("grpc.so_reuseport", 0),))
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("echo.Echo", {
    "Unary": grpc.unary_unary_rpc_method_handler(unary),
    "Down": grpc.unary_stream_rpc_method_handler(down),
    "Up": grpc.stream_unary_rpc_method_handler(up),
    "Both": grpc.stream_stream_rpc_method_handler(both),
    "Tick": grpc.unary_stream_rpc_method_handler(tick),
}), grpc.method_handlers_generic_handler("echo.Admin", {
    "Unary": grpc.unary_unary_rpc_method_handler(unary),
})))
if len(sys.argv) > 1:
    chain, key = (open(path, "rb").read() for path in sys.argv[1:3])
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(key, chain)]))
else:
    port = server.add_insecure_port("127.0.0.1:0")
server.start()
print("listening", port, flush=True)
time.sleep(120)
