// A person at the page of a real management service: by keyboard, with the mouse, without script; copies what
// is shown once, and types the name of a key that is in use before it is revoked. A real sidecar decides on
// the keys, and what it counts is brought to the service.
// KEYGATE_PAGE, _SIGN_IN, _SERVICE, _USAGE and _FLEET_TOKEN say where.
const { chromium } = require("playwright-core");

const env = process.env;
const [home, link, service] = [env.KEYGATE_PAGE, env.KEYGATE_SIGN_IN, env.KEYGATE_SERVICE];
const name = "CRM of the sales team";

const check = (holds, what) => {
  if (!holds) throw new Error(what);
};

// Requests that the sidecar knows to be of the first pair.
let known = 0;

const call = async ({ id, secret }, path = "/api/v1/messages/1") => {
  const headers = { "x-api-key": id, "x-api-secret": secret };
  const answer = await fetch(`${service}${path}`, { method: "POST", headers, body: "{}" });
  await answer.arrayBuffer();
  if (answer.status !== 401) known += 1;
  return answer.status;
};

// Until the sidecar answers so.
const until = async (wanted, pair) => {
  for (let tries = 0; tries < 1000; tries += 1) {
    const status = await call(pair);
    if (status === wanted) return;
    await new Promise((done) => setTimeout(done, 10));
  }
  throw new Error(`the sidecar does not answer ${wanted}`);
};

// What the sidecar has counted, as it posts it by itself every 15 s.
const report = async () => {
  let record;
  // A request is counted once its answer has gone out.
  for (let tries = 0; tries < 200; tries += 1) {
    record = await (await fetch(env.KEYGATE_USAGE)).text();
    const uses = record.trim().split("\n").map((line) => JSON.parse(line)).filter((line) => line.key);
    const sums = uses.map((use) => [use.admitted, ...Object.values(use.refused ?? {})]);
    if (sums.flat().reduce((sum, count) => sum + (count ?? 0), 0) >= known) break;
    await new Promise((done) => setTimeout(done, 10));
  }
  const headers = { authorization: `Bearer ${env.KEYGATE_FLEET_TOKEN}` };
  const answer = await fetch(`${home}/v1/usage`, { method: "POST", headers, body: record });
  check(answer.status === 200, `the report: ${answer.status} ${await answer.text()}`);
};

// Presses Tab until what has the focus matches.
const tabTo = async (page, selector) => {
  for (let presses = 0; presses < 80; presses += 1) {
    if (await page.evaluate((s) => document.activeElement?.matches(s), selector)) return;
    await page.keyboard.press("Tab");
  }
  throw new Error(`the Tab key does not reach ${selector}`);
};

const copied = async (page, what) => {
  const button = page.locator(`[data-copy="${what}"]`);
  await button.click();
  await page.waitForFunction((w) => {
    const pressed = document.querySelector(`[data-copy="${w}"]`);
    return pressed.textContent.includes(pressed.dataset.done);
  }, what);
  const told = await page.locator("[data-told]").textContent();
  check(told === "Copied", `a screen reader is told ${told}`);
  const shown = (await page.locator(`#${what}`).textContent()).trim();
  const text = await page.evaluate(() => navigator.clipboard.readText());
  check(text === shown && text.length > 8, `${what}: the clipboard has ${text}, not ${shown}`);
  return text;
};

const makeByKeyboard = async (page) => {
  await page.goto(link);
  await tabTo(page, "button.first");
  await page.keyboard.press("Enter");
  await page.waitForURL(`${home}/keys*`);
  await tabTo(page, 'a[href*="/keys/new"]');
  const label = await page.evaluate(() => document.activeElement.textContent.trim());
  check(label === "Create API Key", `the button says ${label}`);
  await page.keyboard.press("Enter");
  await page.waitForURL(`${home}/keys/new*`);
  await tabTo(page, "#name");
  await page.keyboard.type(name);
  await tabTo(page, 'input[value="send_message"]');
  await page.keyboard.press("Space");
  await tabTo(page, "#networks");
  await page.keyboard.type("203.0.113.0/24");
  await tabTo(page, "form.form button.first:not([name])");
  const save = await page.evaluate(() => document.activeElement.textContent.trim());
  check(save === "Save", `the form's button says ${save}`);
  await page.keyboard.press("Enter");
  await page.locator("#secret").waitFor();
  check(!(await page.locator("#secret").textContent()).includes("…"), "the whole secret is shown");
};

const main = async () => {
  const browser = await chromium.launch({
    executablePath: env.CHROMIUM ?? "/usr/bin/chromium",
    args: process.getuid() === 0 ? ["--no-sandbox"] : [],
  });
  const context = await browser.newContext({ permissions: ["clipboard-read", "clipboard-write"] });
  const page = await context.newPage();
  page.setDefaultTimeout(15000);
  const faults = [];
  page.on("pageerror", (error) => faults.push(error.message));
  page.on("console", (message) => {
    if (message.type() === "error" && /Content Security Policy|Trusted/.test(message.text())) faults.push(message.text());
  });

  await makeByKeyboard(page);
  const pair = { id: await copied(page, "public-id"), secret: await copied(page, "secret") };
  const command = await copied(page, "curl");
  check(command.includes(pair.id) && command.includes(pair.secret), `the command is ${command}`);
  await page.getByRole("link", { name: "Done" }).click();
  check(!(await page.content()).includes(pair.secret), "the secret is shown once");
  // "IP restrictions", set on the page, hold at the sidecar.
  await until(403, pair);
  await page.locator('a[href*="/edit"]').click();
  await page.locator("#networks").fill("");
  await page.locator("button[data-adds]").click();
  check((await page.locator("#networks").inputValue()) === "127.0.0.1", "the browser's address");
  await page.locator("form.form .bar button.first").click();
  await page.getByText("Your changes are saved").waitFor();
  await until(200, pair);
  // "Allowed actions": one that was not ticked.
  check((await call(pair, "/api/v1/followups/1")) === 403, "an action that was not ticked");
  await report();
  await page.goto(`${home}/keys?q=CRM`);
  const row = page.locator("tr", { has: page.getByRole("link", { name, exact: true }) });
  const used = await row.locator('td[data-label="Last used"]').textContent();
  check(/just now|min ago/.test(used) && used.includes("127.0.0.0/24"), `the list says ${used}`);
  await row.getByRole("link", { name, exact: true }).click();
  const usage = page.locator("section", { has: page.locator("#h-usage") });
  const total = Number(await usage.locator(".stat").textContent());
  check(total === known, `${total} requests of the last 30 days, and ${known} were sent`);
  await usage.locator("summary").click();
  const day = await usage.locator("tbody tr").first().locator("td.end").textContent();
  check(Number(day) === known, `today's bar stands for ${day} requests`);
  check((await usage.locator("rect:not(.none)").count()) === 1, "one day has a bar");

  // The dialog: opened by keyboard, left by Escape and by Cancel; the name has to be typed.
  const dialog = page.locator("dialog[open]");
  await tabTo(page, 'a[data-opens="revoke"]');
  await page.keyboard.press("Enter");
  await dialog.waitFor();
  await page.keyboard.press("Escape");
  await dialog.waitFor({ state: "hidden" });
  await page.locator('a[data-opens="revoke"]').click();
  await dialog.locator("[data-closes]").click();
  await dialog.waitFor({ state: "hidden" });
  await page.locator('a[data-opens="revoke"]').click();
  await dialog.locator('input[name="confirm"]').fill("another key");
  await dialog.locator("button.danger").click();
  await page.locator("#confirm-fault").waitFor();
  check((await call(pair)) === 200, "a wrong name revokes nothing");
  await page.locator("#confirm").fill(name);
  await page.locator("button.danger.first").click();
  await page.getByText("The key is revoked").waitFor();
  await until(401, pair);

  // Pressed twice, it is made once, and the secret is shown.
  await page.goto(`${home}/keys/new`);
  await page.locator("#name").fill("Pressed twice");
  await page.locator("form.form .bar button.first").dblclick();
  await page.waitForURL(`${home}/keys`);
  await page.locator("#public-id").waitFor();
  check((await page.locator("#secret").count()) === 1, "the second press hides the secret");

  // Without script, everything but copying.
  const plain = await browser.newContext({ javaScriptEnabled: false });
  await plain.addCookies(await context.cookies());
  const bare = await plain.newPage();
  bare.setDefaultTimeout(15000);
  await bare.goto(`${home}/keys/new`);
  await bare.locator("#name").fill("Without script");
  await bare.locator('input[value="send_message"]').check();
  await bare.locator('button[name="add_address"]').click();
  check((await bare.locator("#networks").inputValue()) === "127.0.0.1", "added by a round trip");
  await bare.locator("form.form .bar button.first").click();
  const text = async (selector) => (await bare.locator(selector).textContent()).trim();
  const second = { id: await text("#public-id"), secret: await text("#secret") };
  await until(200, second);
  check(!(await bare.locator("[data-copy]").first().isVisible()), "no button that does nothing");
  await bare.getByRole("link", { name: "Done" }).click();
  await bare.locator("a.danger").click();
  await bare.waitForURL("**/revoke*");
  await bare.locator("button.danger.first").click();
  await bare.getByText("The key is revoked").waitFor();
  await until(401, second);
  check(faults.length === 0, faults.join("\n"));
  // Something that the policy forbids is noticed, or the line above says nothing.
  await page.goto(`${home}/keys`);
  await page.evaluate(() => document.querySelector("main").setAttribute("style", "color: red"));
  for (let tries = 0; tries < 100 && !faults.length; tries += 1) await page.waitForTimeout(20);
  check(faults.length > 0, "nobody sees what the policy forbids");
  await browser.close();
  console.log("made, copied, used, revoked; with the keyboard and without script");
};

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
