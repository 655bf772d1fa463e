// People sign in at a real OpenID provider in Chromium, and the real management service believes it. KEYGATE_PAGE
// is the service, KEYGATE_PROVIDER says which provider it is (`oidc-provider` or `mock`). Leaves pictures in
// KEYGATE_PICTURES.
const path = require("node:path");
const { chromium } = require("playwright-core");

const env = process.env;
const home = env.KEYGATE_PAGE;
const isMock = env.KEYGATE_PROVIDER === "mock";

const check = (holds, what) => {
  if (!holds) throw new Error(what);
};

const faults = [];
const opened = async (browser, options = {}) => {
  const context = await browser.newContext(options);
  // A provider's page asks for a font of the internet: nothing leaves this machine.
  await context.route((url) => url.hostname !== "127.0.0.1", (route) => route.abort());
  const page = await context.newPage();
  page.on("console", (message) => {
    // The service's own pages; what a provider's pages complain of is theirs.
    if (message.type() === "error" && page.url().startsWith(home)) faults.push(message.text());
  });
  return page;
};

const picture = (page, name) => {
  const file = `oidc-${env.KEYGATE_PROVIDER}-${name}.png`;
  return page.screenshot({ path: path.join(env.KEYGATE_PICTURES, file), fullPage: true });
};

// At the provider: signs in as `name`, and comes back.
const pass = async (page, name) => {
  const moved = async (act) => {
    const before = page.url();
    await act();
    await page.waitForURL((url) => url.href !== before);
  };
  if (isMock) return moved(() => page.getByRole("button", { name, exact: true }).click());
  await page.locator("input[name=login]").fill(name);
  await page.locator("input[name=password]").fill("any");
  await moved(() => page.locator("button[type=submit]").click());
  // Who has agreed once is not asked again.
  if (!page.url().startsWith(home)) await moved(() => page.locator("button[type=submit]").click());
};

const signIn = async (page, name) => {
  await page.goto(`${home}/keys`);
  check(page.url().startsWith(`${home}/sign-in`), `nobody is signed in, and sees ${page.url()}`);
  await page.getByRole("button", { name: "Sign in with Example" }).press("Enter");
  await page.waitForURL((url) => !url.href.startsWith(home));
  await pass(page, name);
  await page.waitForURL((url) => url.href.startsWith(home));
};

const main = async (browser) => {
  const page = await opened(browser);
  const answers = [];
  page.on("request", (request) => {
    if (request.url().includes("/sign-in/oidc/") && request.method() === "GET") answers.push(request.url());
  });
  await signIn(page, "kim");
  if (!isMock) {
    // In two organizations: one is chosen, and the other is at the top of every page.
    check((await page.locator("h1").textContent()).includes("Which organization"), "no choice");
    await picture(page, "org");
    await page.getByLabel("globex").check();
    await page.getByRole("button", { name: "Switch" }).click();
    await page.waitForURL(`${home}/keys*`);
    check((await page.locator("#org").inputValue()) === "globex", "not in globex");
    await page.locator("#org").selectOption("acme");
    await page.waitForFunction(() => document.querySelector("#org option[selected]")?.value === "acme");
  }
  check(page.url().startsWith(`${home}/keys`), page.url());
  check((await page.locator(".who .name").textContent()) === "Kim Example", "another name");

  // A key of hers, and what it says of its owner.
  await page.goto(`${home}/keys/new`);
  await page.locator("#name").fill("Made by Kim");
  await page.locator("form.form button.first:not([name])").click();
  await page.locator("#secret").waitFor();
  await page.goto(`${home}/keys?q=Made`);
  await page.getByRole("link", { name: "Made by Kim" }).click();
  const owner = await page.locator("main").textContent();
  check(/oidc:[\w-]{16}:kim/.test(owner), `the owner is not said: ${owner}`);
  await picture(page, "key");

  // The answer of the provider is good once, and in no other browser.
  const [answer] = answers;
  for (const other of [page, await opened(browser)]) {
    const told = await other.goto(answer);
    check(told.status() === 400, `a replayed answer: ${told.status()}`);
    check((await other.textContent("main")).includes("Nobody was signed in"), "no reason is given");
    await picture(other, "replayed");
  }
  faults.length = 0; // Chromium writes the status 400 to the console.

  // Changing members wants a fresh sign-in by the provider's word.
  await page.goto(`${home}/sign-in?again`);
  await page.getByRole("button", { name: "Sign in with Example" }).click();
  await page.waitForURL((url) => !url.href.startsWith(home));
  await pass(page, "kim");
  await page.waitForURL((url) => url.href.startsWith(home));
  if (!isMock) {
    check((await page.locator("h1").textContent()).includes("Which organization"), page.url());
    await page.getByLabel("acme").check();
    await page.getByRole("button", { name: "Switch" }).click();
    await page.locator("#org").waitFor();
  }
  await page.goto(`${home}/members`);
  await page.locator("#iss").fill("https://elsewhere.example");
  await page.locator("#sub").fill("somebody");
  await page.locator(".bar button.first").click();
  await page.locator("main", { hasText: "https://elsewhere.example" }).waitFor();

  if (!isMock) {
    // Another person with the same address is somebody else, and has no role.
    const pat = await opened(browser);
    await signIn(pat, "pat");
    const told = await pat.textContent("main");
    check(told.includes("nobody has given you a role") && told.includes("pat"), told);
    await picture(pat, "no-role");
    // A member by another group, without script.
    const lee = await opened(browser);
    await signIn(lee, "lee");
    check((await lee.locator(".who .name").textContent()) === "Lee Example", "another name");
    await lee.goto(`${home}/keys?q=Made`);
    check(!(await lee.textContent("main")).includes("Made by Kim"), "a member sees others' keys");
    faults.length = 0;
    // Signing out here, and there.
    await lee.getByRole("button", { name: "Sign out" }).click();
    await lee.waitForURL(`${home}/sign-in?out=*`);
    await lee.getByRole("link", { name: "Sign out of Example as well" }).click();
    await lee.waitForURL((url) => !url.href.startsWith(home));
    await lee.getByRole("button", { name: /yes/i }).click();
    await lee.waitForURL(`${home}/sign-in*`);
    await lee.getByRole("button", { name: "Sign in with Example" }).click();
    await lee.locator("input[name=login]").waitFor();
  }
  check(faults.length === 0, `the console: ${faults.join("\n")}`);
  console.log(`signed in at ${env.KEYGATE_PROVIDER}`);
};

(async () => {
  const browser = await chromium.launch({
    executablePath: env.CHROMIUM ?? "/usr/bin/chromium",
    args: process.getuid() === 0 ? ["--no-sandbox"] : [],
  });
  try {
    await main(browser);
  } finally {
    await browser.close();
  }
})().catch((error) => {
  console.error(error);
  process.exit(1);
});
