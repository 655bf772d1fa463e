// Tokens of jose (npm): see make.py, which runs this.
import { readFileSync } from "node:fs";
import { SignJWT, UnsecuredJWT, exportJWK, generateKeyPair } from "jose";

const claims = { iss: "https://idp.example/", aud: "orders", sub: "u", org: "acme" };
const algorithms = ["ES256", "ES384", "EdDSA", "RS256", "PS256"];
const keys = {};
const set = [];
for (const alg of algorithms) {
  const pair = await generateKeyPair(alg, { modulusLength: 2048 });
  keys[alg] = pair.privateKey;
  set.push({ ...(await exportJWK(pair.publicKey)), kid: alg, alg, use: "sig" });
}
const tokens = [];
const add = (name, result, token) => tokens.push({ name, result, token });
const sign = (alg, header = {}, more = {}, end = 4102444800) =>
  new SignJWT({ ...claims, ...more })
    .setProtectedHeader({ alg, kid: alg, typ: "at+jwt", ...header })
    .setIssuedAt(1700000000)
    .setExpirationTime(end)
    .sign(keys[alg]);
for (const alg of algorithms) add(`good ${alg}`, "accepted", await sign(alg));
add("jku and jwk of a stranger", "accepted", await sign("ES256", {
  jku: "https://evil.example/jwks.json",
  jwk: { kty: "OKP", crv: "Ed25519", x: "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo" },
}));
add("over", "expired", await sign("EdDSA", {}, {}, 1700000001));
add("no org", "org", await sign("EdDSA", {}, { org: undefined }));
add("org as a list", "org", await sign("EdDSA", {}, { org: ["acme"] }));
add("another issuer", "issuer", await sign("EdDSA", {}, { iss: "https://evil.example/" }));
add("wrong curve", "algorithm", await sign("ES384", { kid: "ES256" }));
add("unsecured", "algorithm", new UnsecuredJWT(claims).setExpirationTime(4102444800).encode());
const { version } = JSON.parse(readFileSync(new URL("node_modules/jose/package.json", import.meta.url)));
console.log(JSON.stringify({ made_by: `jose ${version}`, jwks: { keys: set }, tokens }));
