// A person in the browser: signs in, creates a key, uses it, finds it by its name and revokes it.
// KEYGATE_DEMO_PAGE, _SIGN_IN and _SERVICE say where; takes the folder of the pictures.
const path = require("node:path");
const { chromium } = require("playwright-core");

const [folder] = process.argv.slice(2);
const { KEYGATE_DEMO_PAGE: home, KEYGATE_DEMO_SIGN_IN: link, KEYGATE_DEMO_SERVICE: service } = process.env;
const name = "Nightly export";

// How long until the service answers so to the key, in milliseconds.
const until = async (wanted, secret) => {
  const begin = performance.now();
  for (;;) {
    const { status } = await fetch(service, { headers: { "x-api-key": secret } });
    const took = performance.now() - begin;
    if (status === wanted) return Math.round(took);
    if (took > 10000) throw new Error(`the service answers ${status} to the key, not ${wanted}`);
    await new Promise((done) => setTimeout(done, 5));
  }
};

const main = async () => {
  const browser = await chromium.launch({
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
    args: process.getuid() === 0 ? ["--no-sandbox"] : [],
  });
  const page = await browser.newPage({ viewport: { width: 1280, height: 860 }, locale: "en-GB" });
  page.setDefaultTimeout(15000);
  const faults = [];
  page.on("pageerror", (error) => faults.push(error.message));
  let pictures = 0;
  const picture = async (what) => {
    pictures += 1;
    await page.screenshot({ path: path.join(folder, `${pictures}-${what}.png`), fullPage: true });
  };

  await page.goto(link);
  await picture("sign-in");
  await page.getByRole("button", { name: "Sign in" }).click();
  await page.waitForURL(`${home}keys*`);
  await picture("keys");

  await page.locator('a[href*="/keys/new"]').first().click();
  await page.locator("#name").fill(name);
  await page.locator('input[name="permission"][value="orders:read"]').check();
  await page.locator('input[name="environment"][value="live"]').check();
  await picture("new-key");
  await page.locator("form.form button.first").click();
  const secret = (await page.locator("#secret").textContent()).trim();
  const opened = await until(200, secret);
  await picture("shown-once");
  console.log(`browser: a new key works after ${opened} ms`);

  await page.goto(`${home}keys?q=${encodeURIComponent(name)}`);
  await page.getByRole("link", { name }).first().click();
  await picture("key");
  await page.locator("a.danger").first().click();
  await picture("revoke");
  const asks = page.locator("dialog[open]");
  // What it asks is known once it is open: the name only of a key that was used lately.
  await asks.waitFor();
  if (await asks.locator('input[name="confirm"]').count()) {
    await asks.locator('input[name="confirm"]').fill(name);
  }
  await asks.locator("button.danger").click();
  const refused = await until(401, secret);
  await page.waitForLoadState();
  await picture("revoked");
  console.log(`browser: the revoked key is refused after ${refused} ms`);
  await browser.close();
  if (faults.length) throw new Error(faults.join("\n"));
  console.log(`browser: ${pictures} pictures in ${folder}/`);
};

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
