"""Options that are off by default, as lines of a configuration, and the files that they name."""

import base64
import json
import os
import subprocess
import time

from .procs import Failed

ISSUER = "https://idp.bench/"
# Users whose tokens are sent in turn, so that all of them are verified once and then known.
USERS = 100

OBSERVE = """
[observe]
enforce = "0%"
"""
# Beside the limit of each key: another window of it, on every route.
POLICIES = """
[[policies]]
name = "daily"
limit = "1000000000/s"
"""
TOKENS = f"""
[[tokens]]
issuer = "{ISSUER}"
audiences = ["bench"]
algorithms = ["EdDSA"]
jwks = "idp.jwks"
org_claim = "org"
"""
ASSERTION = """
[assertion]
key_file = "own.pem"
audience = "bench"
"""
CREDENTIAL = """
[upstream.credential]
kind = "jwt"
algorithm = "EdDSA"
secret_file = "own.pem"
claims = '{"organization":"$org","exp":"$exp"}'
"""
ON = {
    "observe": OBSERVE,
    "policies": POLICIES,
    "tokens": TOKENS,
    "assertion": ASSERTION,
    "credential": CREDENTIAL,
}


def names():
    """As features of a setup."""
    return [f"with_{name}" for name in ON]


def configuration(features, directory):
    """What belongs behind everything else, with its files written."""
    on = [name for name in ON if f"with_{name}" in features]
    if {"assertion", "credential"} & set(on):
        new_key(os.path.join(directory, "own.pem"))
    if "tokens" in on:
        key = os.path.join(directory, "idp.pem")
        new_key(key)
        # The last 32 bytes of the public key's DER are the key (RFC 8410).
        public = openssl("pkey", "-in", key, "-pubout", "-outform", "DER")[-32:]
        jwk = {"kty": "OKP", "crv": "Ed25519", "kid": "1", "alg": "EdDSA", "x": encode(public)}
        with open(os.path.join(directory, "idp.jwks"), "w") as f:
            json.dump({"keys": [jwk]}, f)
        with open(os.path.join(directory, "tokens"), "w") as f:
            f.writelines(token(key, f"user-{n}") + "\n" for n in range(USERS))
    return "".join(ON[name] for name in on)


def tokens_file(running):
    return os.path.join(os.path.dirname(running.log), "tokens")


def token(key, subject):
    """Good for an hour."""
    now = int(time.time())
    head = {"alg": "EdDSA", "kid": "1", "typ": "JWT"}
    claims = {"iss": ISSUER, "aud": "bench", "sub": subject, "org": "org-of-users"}
    claims |= {"iat": now, "exp": now + 3600}
    signed = ".".join(encode(json.dumps(part).encode()) for part in (head, claims))
    file = key + ".in"
    with open(file, "w") as f:
        f.write(signed)
    return signed + "." + encode(openssl("pkeyutl", "-sign", "-rawin", "-inkey", key, "-in", file))


def new_key(path):
    openssl("genpkey", "-algorithm", "ed25519", "-out", path)
    os.chmod(path, 0o600)


def encode(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def openssl(*arguments):
    made = subprocess.run(["openssl", *arguments], capture_output=True, check=False)
    if made.returncode != 0:
        raise Failed(f"openssl {arguments[0]}: {made.stderr.decode(errors='replace')}")
    return made.stdout
