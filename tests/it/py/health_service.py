"""A gRPC service that says how it is, by the health service of grpcio's own authors."""
import concurrent.futures
import time

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

Status = health_pb2.HealthCheckResponse
told = health.HealthServicer()
told.set("orders.v1.Orders", Status.SERVING)
told.set("stock.v1.Stock", Status.NOT_SERVING)
told.set("prices.v1.Prices", Status.UNKNOWN)

server = grpc.server(concurrent.futures.ThreadPoolExecutor(4), options=(("grpc.so_reuseport", 0),))
health_pb2_grpc.add_HealthServicer_to_server(told, server)
port = server.add_insecure_port("127.0.0.1:0")
server.start()
print("listening", port, flush=True)
time.sleep(120)
