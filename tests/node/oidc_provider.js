// An OpenID provider (oidc-provider) on a port of its own, whose URL it prints. KEYGATE_REDIRECT and
// KEYGATE_SIGNED_OUT are the client's addresses, KEYGATE_ALGORITHM is that of its ID tokens. Anybody signs in
// with any password; what it tells of them is below. Ends by itself after five minutes.
const { generateKeyPairSync, randomBytes } = require("node:crypto");
const http = require("node:http");
const { Provider } = require("oidc-provider");

const env = process.env;
const people = {
  kim: { name: "Kim Example", email: "kim@example.com", groups: ["key-admins"], org: ["acme", "globex"] },
  lee: { name: "Lee Example", email: "lee@example.com", groups: ["staff"], org: ["acme"] },
  pat: { name: "Pat Example", email: "kim@example.com", groups: [], org: ["acme"] },
};

const key = (kid, ...made) => ({ ...generateKeyPairSync(...made).privateKey.export({ format: "jwk" }), kid, use: "sig" });
const keys = [
  key("rsa", "rsa", { modulusLength: 2048 }),
  key("ec", "ec", { namedCurve: "P-256" }),
  key("ed", "ed25519"),
];

const server = http.createServer();
server.listen(0, "127.0.0.1", () => {
  const issuer = `http://127.0.0.1:${server.address().port}`;
  const provider = new Provider(issuer, {
    clients: [
      {
        client_id: "keygate",
        client_secret: "secret-of-the-client",
        redirect_uris: [env.KEYGATE_REDIRECT],
        post_logout_redirect_uris: [env.KEYGATE_SIGNED_OUT],
        id_token_signed_response_alg: env.KEYGATE_ALGORITHM,
      },
    ],
    jwks: { keys },
    enabledJWA: { idTokenSigningAlgValues: ["RS256", "PS256", "ES256", "EdDSA", "Ed25519"] },
    cookies: { keys: [randomBytes(16).toString("hex")] },
    // Beside the subject an ID token has nothing: all of this is at the userinfo endpoint.
    claims: { openid: ["sub"], profile: ["name"], email: ["email"], groups: ["groups", "org"] },
    scopes: ["openid", "profile", "email", "groups"],
    pkce: { required: () => true },
    findAccount: (_, id) => ({ accountId: id, claims: () => ({ sub: id, ...people[id] }) }),
  });
  server.on("request", provider.callback());
  console.log(`listening on ${issuer}`);
});
setTimeout(() => process.exit(1), 300_000).unref();
setInterval(() => {}, 1000).unref();
