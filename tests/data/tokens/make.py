#!/usr/bin/env python3
"""Makes vectors.json: user tokens as three libraries sign them, good and bad, with their public keys.

Needs PyJWT (pip install 'pyjwt[crypto]'), node with jose (npm install jose, NODE_PATH) and Go.
Run: tests/data/tokens/make.py DIRECTORY_WITH_NODE_MODULES > tests/data/tokens/vectors.json

The private keys are made anew each time and never written. `result` is what keygate must say: the
word of keygate_tokens_total.
"""

import base64
import hashlib
import hmac
import json
import pathlib
import subprocess
import sys

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

HERE = pathlib.Path(__file__).parent
GOOD = {"iss": "https://idp.example/", "aud": "orders", "sub": "u", "org": "acme",
        "exp": 4102444800, "iat": 1700000000}


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def pyjwt() -> dict:
    keys = {
        "ES256": (ec.generate_private_key(ec.SECP256R1()), ECAlgorithm),
        "ES384": (ec.generate_private_key(ec.SECP384R1()), ECAlgorithm),
        "EdDSA": (ed25519.Ed25519PrivateKey.generate(), OKPAlgorithm),
        "RS256": (rsa.generate_private_key(65537, 2048), RSAAlgorithm),
        "PS256": (rsa.generate_private_key(65537, 3072), RSAAlgorithm),
    }
    small = rsa.generate_private_key(65537, 1024)
    public = []
    for alg, (key, kind) in keys.items():
        jwk = json.loads(kind.to_jwk(key.public_key()))
        public.append({**jwk, "kid": alg, "use": "sig"} | ({"alg": alg} if alg != "EdDSA" else {}))
    public.append({**json.loads(RSAAlgorithm.to_jwk(small.public_key())), "kid": "small"})
    tokens = []

    def add(name, result, token):
        tokens.append({"name": name, "result": result, "token": token})

    def sign(claims, alg="ES256", kid=None, **headers):
        return jwt.encode(claims, keys[alg][0], alg, {"kid": kid or alg, **headers})

    for alg in keys:
        add(f"good {alg}", "accepted", sign(GOOD, alg))
        add(f"{alg} under another kid", "algorithm" if alg != "EdDSA" else "algorithm",
            sign(GOOD, alg, "EdDSA" if alg != "EdDSA" else "RS256"))
    add("aud as a list", "accepted", sign({**GOOD, "aud": ["billing", "orders"]}))
    add("another key of the curve", "signature",
        jwt.encode(GOOD, ec.generate_private_key(ec.SECP256R1()), "ES256", {"kid": "ES256"}))
    add("a short RSA key", "key_unknown", jwt.encode(GOOD, small, "RS256", {"kid": "small"}))
    add("over", "expired", sign({**GOOD, "exp": 1700000001}))
    add("unknown kid", "key_unknown", sign(GOOD, kid="nobody"))
    add("another audience", "audience", sign({**GOOD, "aud": "billing"}))
    add("none", "algorithm", jwt.encode(GOOD, None, "none"))
    # By hand: libraries do not make these.
    spki = keys["RS256"][0].public_key().public_bytes
    from cryptography.hazmat.primitives import serialization as s
    pem = spki(s.Encoding.PEM, s.PublicFormat.SubjectPublicKeyInfo)
    message = b64(b'{"alg":"HS256","kid":"RS256"}') + "." + b64(json.dumps(GOOD).encode())
    tag = hmac.new(pem, message.encode(), hashlib.sha256).digest()
    add("HS256 with the public key", "algorithm", f"{message}.{b64(tag)}")
    ws = jwt.PyJWS()

    def raw(payload: str, **headers):
        return ws.encode(payload.encode(), keys["ES256"][0], "ES256", {"kid": "ES256", **headers})

    add("exp as text", "claims", raw(json.dumps({**GOOD, "exp": "4102444800"})))
    add("nbf as text", "claims", raw(json.dumps({**GOOD, "nbf": "0"})))
    add("iss as a list", "issuer", raw(json.dumps({**GOOD, "iss": [GOOD["iss"]]})))
    add("crit", "critical", raw(json.dumps(GOOD), crit=["x"], x=1))
    add("9 KiB", "size", raw(json.dumps({**GOOD, "pad": "x" * 9000})))
    return {"made_by": f"PyJWT {jwt.__version__}", "jwks": {"keys": public}, "tokens": tokens}


def main() -> None:
    modules = pathlib.Path(sys.argv[1]).resolve()
    script = modules / "keygate-vectors.mjs"
    script.write_text((HERE / "make.mjs").read_text())
    jose = json.loads(subprocess.check_output(["node", script]))
    script.unlink()
    go = json.loads(subprocess.check_output(["go", "run", HERE / "make.go"]))
    json.dump([pyjwt(), jose, go], sys.stdout, indent=1)
    print()


main()
