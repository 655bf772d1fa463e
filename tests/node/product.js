// A product of others: its dashboard has <keygate-keys> in it, and the page of the management service on one of
// its paths. KEYGATE_SERVICE and KEYGATE_KEY are the service and the key of the product's backend, KEYGATE_ORIGIN
// its own origin. Prints where it listens, and ends by itself after three minutes.
const http = require("node:http");

const { KEYGATE_SERVICE: service, KEYGATE_KEY: key, KEYGATE_ORIGIN: origin } = process.env;
const policy =
  `default-src 'none'; script-src 'self' ${service}; connect-src 'self' ${service}; frame-src ${service}; ` +
  "require-trusted-types-for 'script'; trusted-types 'none'";

const page = (script, integrity) => `<!doctype html><html lang="en"><head><meta charset="utf-8">
<title>Dashboard</title><script type="module" crossorigin src="${script}" integrity="${integrity}"></script>
<script type="module" src="/dashboard.js"></script></head>
<body><main><h1>Dashboard</h1><keygate-keys></keygate-keys></main></body></html>`;

const dashboard = `const keys = document.querySelector("keygate-keys");
customElements.whenDefined("keygate-keys").then(() =>
  keys.open(async () => (await fetch("/token", { method: "POST" })).json()));`;

const send = (answer, status, type, body, fields = {}) => {
  answer.writeHead(status, { "content-type": type, "content-security-policy": policy, ...fields });
  answer.end(body);
};

const token = async () => {
  const told = await fetch(`${service}/v1/embed-tokens`, {
    method: "POST",
    headers: { authorization: `Bearer ${key}`, "content-type": "application/json" },
    body: JSON.stringify({ origin, subject: "user-7", email: "kim@example.com", permissions: ["read", "send"] }),
  });
  return { status: told.status, body: await told.text() };
};

const server = http.createServer(async (request, answer) => {
  const path = request.url.split("?")[0];
  const html = "text/html; charset=utf-8";
  if (path === "/" || path === "/wrong") {
    const { script, integrity } = await (await fetch(`${service}/embed/keys.json`)).json();
    return send(answer, 200, html, page(script, path === "/" ? integrity : integrity.replace(/.{4}$/, "AAAA")));
  }
  if (path === "/dashboard.js") return send(answer, 200, "text/javascript", dashboard);
  if (path === "/token") {
    const told = await token();
    return send(answer, told.status, "application/json", told.body);
  }
  if (path === "/frame") {
    return send(answer, 200, html, `<!doctype html><title>Frame</title><iframe src="${service}/sign-in"></iframe>`);
  }
  if (path === "/login") {
    return send(answer, 200, html, "signed in", { "set-cookie": "app=good; Path=/; HttpOnly; SameSite=Lax" });
  }
  if (path === "/api/session") {
    const good = /(^|; )app=good(;|$)/.test(request.headers.cookie ?? "");
    const told = { org: "acme", user: "user-7", role: "admin" };
    return send(answer, good ? 200 : 401, "application/json", JSON.stringify(good ? told : {}));
  }
  if (path.startsWith("/settings/api-keys")) {
    // As a reverse proxy does it: the path and the fields as they are.
    const { method, headers } = request;
    const on = http.request(`${service}${request.url}`, { method, headers }, (told) => {
      answer.writeHead(told.statusCode, told.headers);
      told.pipe(answer);
    });
    on.on("error", () => answer.destroy());
    return request.pipe(on);
  }
  send(answer, 404, "text/plain", "nothing");
});
server.listen(0, "127.0.0.1", () => console.log(`listening on http://127.0.0.1:${server.address().port}`));
setTimeout(() => process.exit(1), 180_000);
