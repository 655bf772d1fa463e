"""A WebSocket echo that first says what it was told. Prints its port, serves until its input ends."""

import asyncio
import json
import sys

import websockets


async def echo(socket):
    fields = {k.lower(): v for k, v in socket.request.headers.raw_items()}
    await socket.send(json.dumps({"path": socket.request.path, "headers": fields}))
    async for message in socket:
        await socket.send(message)


async def main():
    async with websockets.serve(echo, "127.0.0.1", 0, subprotocols=["wa.v1"], max_size=None) as server:
        print(f"port {server.sockets[0].getsockname()[1]}", flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


asyncio.run(main())
