"""oidc-provider-mock on a port of its own, whose URL it prints. Ends by itself after five minutes."""

import threading

import oidc_provider_mock
from werkzeug.serving import make_server

app = oidc_provider_mock.app(
    require_nonce=True,
    user_claims=[
        oidc_provider_mock.User(
            sub="kim",
            claims={"name": "Kim Example", "groups": ["key-admins"], "org": "acme"},
        )
    ],
)
server = make_server("127.0.0.1", 0, app, threaded=True)
print(f"listening on http://127.0.0.1:{server.server_port}", flush=True)
threading.Timer(300, server.shutdown).start()
server.serve_forever()
