// <keygate-keys> in the page of a product, and the service's page on a path of it, in Chromium. KEYGATE_PRODUCT is a
// listed origin, KEYGATE_OTHER the same product at one that is not, KEYGATE_SERVICE the management service. Leaves
// pictures in KEYGATE_PICTURES. KEYGATE_PARTS is `all`, or `pairs` for an audience with pairs.
const fs = require("node:fs");
const path = require("node:path");
const { chromium } = require("playwright-core");

const env = process.env;
const [product, other, service] = [env.KEYGATE_PRODUCT, env.KEYGATE_OTHER, env.KEYGATE_SERVICE];
const axe = fs.readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");

const check = (holds, what) => {
  if (!holds) throw new Error(what);
};

// The test looks into the component, as nobody else can.
const opened = () => {
  const attach = Element.prototype.attachShadow;
  Element.prototype.attachShadow = function open(options) {
    return attach.call(this, { ...options, mode: "open" });
  };
};

const faults = [];
const page = async (context) => {
  const made = await context.newPage();
  made.setDefaultTimeout(15_000);
  made.on("console", (message) => message.type() === "error" && faults.push(message.text()));
  made.on("pageerror", (error) => faults.push(String(error)));
  return made;
};

const picture = (view, name) =>
  view.screenshot({ path: path.join(env.KEYGATE_PICTURES, `embed-${name}.png`), fullPage: true });

// Presses Tab until the button with this name has the focus.
const tabTo = async (view, name) => {
  for (let presses = 0; presses < 40; presses += 1) {
    const at = await view.evaluate(() => document.activeElement?.shadowRoot?.activeElement?.textContent ?? "");
    if (at === name) return;
    await view.keyboard.press("Tab");
  }
  throw new Error(`the Tab key does not reach ${name}`);
};

const component = async (browser) => {
  const context = await browser.newContext({ permissions: ["clipboard-read", "clipboard-write"] });
  await context.addInitScript(opened);
  const view = await page(context);
  const requests = [];
  view.on("request", (request) => request.url().startsWith(service) && requests.push(request));
  await view.goto(product);
  const keys = view.locator("keygate-keys");
  await keys.getByRole("heading", { name: "No keys yet" }).waitFor();

  // A key by keyboard alone.
  await tabTo(view, "New key");
  await view.keyboard.press("Enter");
  await keys.locator("#name").waitFor();
  await view.waitForFunction(() => document.activeElement?.shadowRoot?.activeElement?.id === "name");
  await view.keyboard.type("Nightly <b>export</b>");
  await view.keyboard.press("Tab");
  await view.keyboard.press("Space");
  const boxes = await keys.getByRole("checkbox").count();
  check(boxes === 1, `${boxes} permissions: a member has one of the two`);
  await tabTo(view, "Create key");
  await view.keyboard.press("Enter");
  const output = keys.locator("output");
  await output.waitFor();
  const secret = await output.textContent();
  check(secret.length > 30, secret);
  await keys.getByRole("button", { name: "Copy the secret" }).click();
  await keys.getByRole("button", { name: "Copied" }).waitFor();
  check((await view.evaluate(() => navigator.clipboard.readText())) === secret, "another text was copied");
  await keys.getByRole("button", { name: "Done" }).click();
  const row = keys.getByRole("listitem").filter({ hasText: "Nightly <b>export</b>" });
  await row.waitFor();
  await picture(view, "list");
  check((await keys.locator("b").count()) === 0, "a name became HTML");
  check(!(await view.content()).includes(secret), "the secret is still there");

  // Rotated, and both revoked.
  await row.getByRole("button", { name: "Rotate" }).click();
  await keys.getByRole("button", { name: "Make the new secret" }).click();
  await output.waitFor();
  check((await output.textContent()) !== secret, "no new secret");
  await keys.getByRole("button", { name: "Done" }).click();
  await row.nth(1).waitFor();
  for (let left = 2; left > 0; left -= 1) {
    check((await row.count()) === left, `${await row.count()} keys, not ${left}`);
    await row.first().getByRole("button", { name: "Revoke" }).click();
    await keys.getByRole("heading", { name: "Revoke Nightly <b>export</b>?" }).waitFor();
    if (left === 2) {
      await keys.getByRole("button", { name: "Cancel" }).click();
      await row.nth(1).waitFor();
      await row.first().getByRole("button", { name: "Revoke" }).click();
    }
    await keys.getByRole("button", { name: "Revoke key" }).click();
    await keys.getByRole("button", { name: "New key" }).waitFor();
  }
  await keys.getByRole("heading", { name: "No keys yet" }).waitFor();

  // No cookie, nothing kept, nothing that is not about keys.
  const kept = await view.evaluate(() => [localStorage.length, sessionStorage.length, document.cookie]);
  check(kept.join() === "0,0,", `kept: ${kept}`);
  for (const request of requests) {
    const fields = await request.allHeaders();
    check(fields.cookie === undefined, "a cookie went along");
    check(/\/(embed\/keys\.js$|v1\/orgs\/acme\/keys)/.test(request.url()), request.url());
  }
  const token = (await requests.find((r) => r.method() === "GET" && r.url().includes("/v1/")).allHeaders()).authorization;
  check(faults.length === 0, `the console of the product: ${faults.join("\n")}`);
  await context.close();
  return token;
};

// In an audience with pairs: both halves are shown, and each can be copied; a new secret keeps the id.
const pairs = async (browser) => {
  const context = await browser.newContext({ bypassCSP: true, permissions: ["clipboard-read", "clipboard-write"] });
  await context.addInitScript(opened);
  const view = await page(context);
  await view.goto(product);
  const keys = view.locator("keygate-keys");
  await keys.getByRole("button", { name: "New key" }).click();
  await keys.locator("#name").fill("Pair");
  await keys.getByRole("button", { name: "Create key" }).click();
  const halves = keys.locator("output");
  await halves.nth(1).waitFor();
  const [id, secret] = await halves.allTextContents();
  check(id !== secret && id.length > 8 && secret.length > 30, `the halves are ${id} and ${secret}`);
  for (const [button, want] of [["Copy the public id", id], ["Copy the secret", secret]]) {
    await keys.getByRole("button", { name: button }).click();
    await keys.getByRole("button", { name: button }).waitFor({ state: "detached" });
    check((await view.evaluate(() => navigator.clipboard.readText())) === want, `${button} copies something else`);
  }
  await view.evaluate(axe);
  const found = await view.evaluate(() => window.axe.run("keygate-keys"));
  check(found.violations.length === 0, found.violations.map((v) => v.id).join());
  await picture(view, "pair");
  await keys.getByRole("button", { name: "Done" }).click();
  const row = keys.getByRole("listitem").filter({ hasText: "Pair" });
  await row.getByRole("button", { name: "Rotate" }).click();
  await keys.getByRole("button", { name: "Make the new secret" }).click();
  await halves.nth(1).waitFor();
  const again = await halves.allTextContents();
  check(again[0] === id && again[1] !== secret, "the id changed, or the secret did not");
  // Rotated again at once: the former secret makes room, and the question says so.
  await keys.getByRole("button", { name: "Done" }).click();
  await row.getByRole("button", { name: "Rotate" }).click();
  await keys.getByText("ends at once").waitFor();
  await keys.getByRole("button", { name: "Make the new secret" }).click();
  await halves.nth(1).waitFor();
  check((await halves.allTextContents())[1] !== again[1], "no third secret");
  // Without the policy of its page, Chromium also looks for an icon of the product, which has none.
  const others = faults.filter((text) => !text.includes("404"));
  check(others.length === 0, `the console of the product: ${others.join("\n")}`);
  await context.close();
};

// What a checker of accessibility says of the component.
const accessible = async (browser) => {
  const context = await browser.newContext({ bypassCSP: true, viewport: { width: 320, height: 700 } });
  await context.addInitScript(opened);
  const view = await page(context);
  await view.goto(product);
  const keys = view.locator("keygate-keys");
  const judge = async (screen) => {
    await view.evaluate(axe);
    const found = await view.evaluate(() => window.axe.run("keygate-keys"));
    const told = found.violations.map((v) => `${v.id}: ${v.nodes.map((n) => n.html).join(" ")}`);
    check(told.length === 0, `${screen}: ${told.join("\n")}`);
    const wide = await view.evaluate(() => document.documentElement.scrollWidth);
    check(wide <= 320, `${screen} is ${wide} wide`);
    await picture(view, `${screen.split(" ").pop()}-320`);
  };
  await keys.getByRole("button", { name: "New key" }).click();
  await keys.locator("#name").fill("x".repeat(100));
  await judge("the form");
  await keys.getByRole("button", { name: "Create key" }).click();
  await keys.locator("output").waitFor();
  await judge("the secret");
  await keys.getByRole("button", { name: "Done" }).click();
  await keys.getByRole("listitem").waitFor();
  await judge("the list");
  await keys.getByRole("button", { name: "Revoke" }).click();
  await judge("the question");
  await keys.getByRole("button", { name: "Revoke key" }).click();
  await keys.getByRole("heading", { name: "No keys yet" }).waitFor();
  await context.close();
};

// An answer that is lost, or that is none, says nothing about the change: sent again, it is made only once.
const lost = async (browser) => {
  const context = await browser.newContext();
  await context.addInitScript(opened);
  const view = await page(context);
  let lose = null;
  const sent = [];
  await view.route(/\/v1\/orgs\/acme\/keys/, async (route) => {
    const request = route.request();
    const loses = lose;
    if (!["POST", "DELETE"].includes(request.method()) || !loses) return route.continue();
    lose = null;
    const answer = await route.fetch();
    check(answer.ok(), `the service itself answers ${answer.status()}`);
    const headers = { "access-control-allow-origin": product };
    return loses === "abort" ? route.abort() : route.fulfill({ headers, ...loses });
  });
  view.on("request", (request) => {
    const changes = ["POST", "DELETE"].includes(request.method()) && request.url().includes("/v1/orgs/");
    if (changes) sent.push(request.headers()["idempotency-key"]);
  });
  const json = (status, told) => ({ status, contentType: "application/problem+json", body: JSON.stringify(told) });
  const ways = {
    abort: "abort",
    unavailable: json(503, { code: "unavailable", detail: "the database does not answer" }),
    timeout: json(504, { code: "timeout", detail: "the service took too long" }),
    "bad gateway": { status: 502, contentType: "text/html", body: "<h1>Bad Gateway</h1>" },
    "too many": { status: 429, contentType: "text/html", body: "<h1>Too many</h1>" },
    cut: { status: 201, contentType: "application/json", body: '{"key":' },
  };
  await view.goto(product);
  const keys = view.locator("keygate-keys");
  const named = (text) => keys.getByRole("listitem").filter({ hasText: text });
  const alert = async (way) => {
    await keys.getByRole("alert").filter({ hasText: "done only once" }).waitFor();
    const told = await keys.getByRole("alert").textContent();
    check(!told.includes("JSON"), `${way}: ${told}`);
    check(way !== "unavailable" || told.includes("the database does not answer"), told);
  };
  const wasShown = async () => {
    await keys.getByRole("heading", { name: "was shown already" }).waitFor();
    check((await keys.getByText("rotate the key for a new one").count()) === 1, "what to do about it");
    await keys.getByRole("button", { name: "Done" }).click();
  };
  for (const [way, loses] of Object.entries(ways)) {
    await keys.getByRole("button", { name: "New key" }).click();
    await keys.locator("#name").fill(`Lost ${way}`);
    lose = loses;
    await keys.getByRole("button", { name: "Create key" }).click();
    await alert(way);
    await keys.getByRole("button", { name: "Create key" }).click();
    await wasShown();
    await named(`Lost ${way}`).first().waitFor();
    check((await named(`Lost ${way}`).count()) === 1, `${way}: made twice`);
  }
  // What was made is not made again out of other content without a word.
  await keys.getByRole("button", { name: "New key" }).click();
  await keys.locator("#name").fill("Before");
  lose = "abort";
  await keys.getByRole("button", { name: "Create key" }).click();
  await alert("other content");
  await keys.locator("#name").fill("After");
  await keys.getByRole("button", { name: "Create key" }).click();
  await keys.getByRole("alert").filter({ hasText: "was sent before" }).waitFor();
  await keys.getByRole("button", { name: "Create key" }).click();
  await keys.locator("output").waitFor();
  await keys.getByRole("button", { name: "Done" }).click();
  // Rotated: once, even if somebody goes back to the list and begins again.
  const rotated = named("After");
  await rotated.getByRole("button", { name: "Rotate" }).click();
  lose = "abort";
  await keys.getByRole("button", { name: "Make the new secret" }).click();
  await alert("rotate");
  await keys.getByRole("button", { name: "Cancel" }).click();
  await rotated.nth(1).waitFor();
  await rotated.last().getByRole("button", { name: "Rotate" }).click();
  await keys.getByRole("button", { name: "Make the new secret" }).click();
  await wasShown();
  await rotated.nth(1).waitFor();
  check((await rotated.count()) === 2, `rotated into ${await rotated.count()}`);
  await rotated.last().getByRole("button", { name: "Revoke" }).click();
  lose = ways.timeout;
  await keys.getByRole("button", { name: "Revoke key" }).click();
  await alert("revoke");
  await keys.getByRole("button", { name: "Revoke key" }).click();
  await keys.getByRole("button", { name: "New key" }).waitFor();
  await rotated.waitFor();
  check(sent.every((name) => name?.length > 16), `changes without a name: ${sent}`);
  // Two clicks make one key, and its secret stays on the screen.
  await keys.getByRole("button", { name: "New key" }).click();
  await keys.locator("#name").fill("Clicked twice");
  await keys.getByRole("button", { name: "Create key" }).dblclick();
  await keys.locator("output").waitFor();
  await view.waitForTimeout(300);
  check((await keys.locator("output").count()) === 1, "the second click hides the secret");
  await keys.getByRole("button", { name: "Done" }).click();
  // A page of the list that does not come can be asked for again.
  await view.unroute(/\/v1\/orgs\/acme\/keys/);
  let cuts = true;
  await view.route(/\/v1\/orgs\/acme\/keys\?/, async (route) => {
    if (!route.request().url().includes("cursor=")) {
      const answer = await route.fetch();
      return route.fulfill({ response: answer, json: { ...(await answer.json()), next: "more" } });
    }
    if (cuts) return route.abort();
    const headers = { "access-control-allow-origin": product };
    return route.fulfill({ headers, json: { keys: [], next: null } });
  });
  await view.reload();
  const more = keys.getByRole("button", { name: "Next page" });
  await more.click();
  await keys.getByRole("alert").filter({ hasText: "cannot be reached" }).waitFor();
  check(await more.isEnabled(), "the button stays disabled");
  cuts = false;
  await more.click();
  await more.waitFor({ state: "detached" });
  await view.unrouteAll();
  await view.reload();
  await named("Clicked twice").waitFor();
  for (let left = await keys.getByRole("listitem").count(); left > 0; left -= 1) {
    await keys.getByRole("listitem").first().getByRole("button", { name: "Revoke" }).click();
    await keys.getByRole("button", { name: "Revoke key" }).click();
    await keys.getByRole("button", { name: "New key" }).waitFor();
  }
  await context.close();
  // What was lost on purpose is in the console.
  faults.length = 0;
};

const strangers = async (browser, token) => {
  const context = await browser.newContext();
  const view = await page(context);
  await view.goto(product);
  const root = await view.evaluate(async () => {
    await customElements.whenDefined("keygate-keys");
    return document.querySelector("keygate-keys").shadowRoot;
  });
  check(root === null, "the shadow root is open");
  // A page of another origin, with the token of this one.
  await view.goto(other);
  await view.evaluate(() => customElements.whenDefined("keygate-keys"));
  const read = await view.evaluate(
    ([url, authorization]) => fetch(url, { headers: { authorization } }).then((a) => a.status, () => "refused"),
    [`${service}/v1/orgs/acme/keys`, token],
  );
  check(read === "refused", `another origin reads ${read}`);
  // A script that is not the one that the product knows does not run.
  const told = view.waitForEvent("console", (message) => message.text().includes("integrity"));
  await view.goto(`${product}/wrong`);
  await told;
  check(await view.evaluate(() => customElements.get("keygate-keys") === undefined), "another script has run");
  // No page of the service is in a frame.
  await view.goto(`${product}/frame`);
  const frame = view.frames().find((f) => f !== view.mainFrame());
  check(frame.url().startsWith("chrome-error:"), `the sign-in page is in a frame: ${frame.url()}`);
  await context.close();
};

const mounted = async (browser) => {
  const context = await browser.newContext();
  const view = await page(context);
  const mount = `${product}/settings/api-keys`;
  const away = await view.goto(mount);
  check(view.url() === `${product}/login`, `without a session: ${view.url()} ${away.status()}`);
  faults.length = 0;
  await view.goto(mount);
  check(view.url() === `${mount}/keys`, view.url());
  await view.getByRole("link", { name: "New key" }).first().click();
  await view.waitForURL(`${mount}/keys/new*`);
  await view.locator("#name").fill("From the dashboard");
  await view.locator("form.form button.first:not([name])").click();
  await view.locator("#secret").waitFor();
  await picture(view, "mounted");
  await view.goto(`${mount}/keys?q=dashboard`);
  await view.getByRole("link", { name: "From the dashboard" }).click();
  await view.waitForURL(`${mount}/keys/key_*`);
  const cookies = (await context.cookies()).map((cookie) => cookie.name);
  check(cookies.join() === "app", `cookies: ${cookies}`);
  check(faults.length === 0, `the console: ${faults.join("\n")}`);
  await context.close();
};

(async () => {
  const browser = await chromium.launch({
    executablePath: env.CHROMIUM ?? "/usr/bin/chromium",
    args: process.getuid() === 0 ? ["--no-sandbox"] : [],
  });
  try {
    if (env.KEYGATE_PARTS === "pairs") {
      await pairs(browser);
    } else {
      const token = await component(browser);
      await accessible(browser);
      await lost(browser);
      await strangers(browser, token);
      faults.length = 0;
      await mounted(browser);
    }
    console.log("embedded");
  } finally {
    await browser.close();
  }
})().catch((error) => {
  console.error(error);
  process.exit(1);
});
