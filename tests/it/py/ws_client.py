"""Talks to ws_service.py through keygate: ws_client.py URL KEY WEAK_KEY [CA].

The key comes in each carrier that a client of the wa product has.
"""

import asyncio
import json
import ssl
import sys

import websockets

url, key, weak = sys.argv[1:4]
tls = {}
if len(sys.argv) > 4:
    tls = {"ssl": ssl.create_default_context(cafile=sys.argv[4]), "server_hostname": "localhost"}


async def talk(fields, offered=("wa.v1",)):
    options = {"additional_headers": fields, "subprotocols": list(offered), "proxy": None}
    async with websockets.connect(url, **options, **tls) as socket:
        told = json.loads(await socket.recv())
        text = json.dumps(told)
        assert key not in text, told
        assert told["headers"].get("x-org-id") == "org_acme", told
        for message in ("text", b"\x00binary\xff", "x" * 300_000):
            await socket.send(message)
            assert await socket.recv() == message
        return socket.subprotocol, told["headers"].get("sec-websocket-protocol")


async def refused(fields, status):
    try:
        await talk(fields)
    except websockets.InvalidStatus as error:
        assert error.response.status_code == status, error.response
    else:
        raise AssertionError("was not refused")


async def main():
    await talk({"Authorization": f"Bearer {key}"})
    await talk({"x-api-key": key})
    # A browser has only subprotocols: the key's entry goes, the other is negotiated.
    chosen, seen = await talk({}, ["wa.v1", f"api-key.{key}"])
    assert (chosen, seen) == ("wa.v1", "wa.v1"), (chosen, seen)
    await refused({"x-api-key": "wa_nope"}, 401)
    await refused({"x-api-key": weak}, 403)
    print("done")


asyncio.run(main())
