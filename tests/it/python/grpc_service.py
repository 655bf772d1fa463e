"""A gRPC service with all four kinds of call. Prints its port, serves until its input ends."""

import sys
import threading
from concurrent import futures

import grpc


def told(context):
    """What the gate said about the caller, and that it hid the key."""
    fields = dict(context.invocation_metadata())
    assert "x-api-key" not in fields and "authorization" not in fields, fields
    return fields.get("x-org-id", "-").encode()


def unary(request, context):
    context.set_trailing_metadata((("x-trailer", "kept"),))
    if request == b"fail":
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "as asked")
    if request == b"deadline":
        return str(round(context.time_remaining())).encode()
    return told(context) + b":" + request


def server_stream(request, context):
    for n in range(int(request)):
        yield told(context) + b":%d" % n


def client_stream(requests, context):
    return told(context) + b":" + b",".join(requests)


def both(requests, context):
    for request in requests:
        yield told(context) + b":" + request


class Service(grpc.GenericRpcHandler):
    def service(self, details):
        return {
            "/demo.Echo/Unary": grpc.unary_unary_rpc_method_handler(unary),
            "/demo.Echo/Down": grpc.unary_stream_rpc_method_handler(server_stream),
            "/demo.Echo/Up": grpc.stream_unary_rpc_method_handler(client_stream),
            "/demo.Echo/Both": grpc.stream_stream_rpc_method_handler(both),
            "/demo.Admin/Unary": grpc.unary_unary_rpc_method_handler(unary),
        }.get(details.method)


server = grpc.server(futures.ThreadPoolExecutor(8))
server.add_generic_rpc_handlers((Service(),))
port = server.add_insecure_port("127.0.0.1:0")
server.start()
print(f"port {port}", flush=True)
sys.stdin.read()
server.stop(0)
