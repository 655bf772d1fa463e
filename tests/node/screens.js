// Looks at every screen of the management service's page in Chromium: widths, colours, languages, keyboard,
// with and without script. Takes the folder of the screens and, for all of them in every way, `all`.
// Writes a picture of each beside it; what is wrong goes to standard error.
const fs = require("node:fs");
const http = require("node:http");
const path = require("node:path");
const { chromium } = require("playwright-core");

const [folder, extent] = process.argv.slice(2);
const axe = fs.readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");
const csp =
  "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
  "form-action 'self'; frame-ancestors 'none'; base-uri 'none'; require-trusted-types-for 'script'";
const types = { css: "text/css", html: "text/html; charset=utf-8", js: "text/javascript", svg: "image/svg+xml" };
const faults = [];

const server = http.createServer((request, answer) => {
  const file = path.join(folder, path.basename(request.url.split("?")[0]));
  const type = types[file.split(".").pop()];
  if (!type || !fs.existsSync(file)) {
    answer.writeHead(404, { "content-type": "application/json" });
    return answer.end("{}");
  }
  answer.writeHead(200, { "content-type": type, "content-security-policy": csp });
  answer.end(fs.readFileSync(file));
});

const ways = (name) => {
  const all = [
    { width: 320, scheme: "light" },
    { width: 320, scheme: "dark" },
    { width: 1280, scheme: "light" },
    { width: 1280, scheme: "dark" },
    { width: 1280, scheme: "light", script: false },
  ];
  if (extent === "all") return all;
  const bare = all[4];
  if (name.endsWith("-pseudo")) return /^(list|key|new)-pseudo$/.test(name) ? [all[0]] : [];
  return /^(list|key|new-faults|shown)$/.test(name) ? [all[0], all[3], bare] : [all[0], bare];
};

// What can be reached with the Tab key, against what is there.
const reach = async (page) => {
  const there = await page.evaluate(() => {
    const focusable = "a[href], button, input:not([type=hidden]), select, textarea, summary, [tabindex='0']";
    const seen = (e) => e.checkVisibility({ visibilityProperty: true }) && !e.disabled;
    const all = [...document.querySelectorAll(focusable)].filter(seen);
    const groups = new Set();
    const stops = all.filter((e) => {
      if (e.type !== "radio") return true;
      return groups.has(e.name) ? false : groups.add(e.name);
    });
    return stops.length;
  });
  await page.evaluate(() => document.activeElement?.blur());
  const reached = await page.evaluate(() => {
    window.reached = new Set();
    window.hidden = [];
    document.addEventListener("focusin", ({ target }) => {
      window.reached.add(target.type === "radio" ? target.name : target);
      const style = getComputedStyle(target);
      const shows = style.outlineStyle !== "none" || style.boxShadow !== "none";
      const around = target.closest(".choice");
      if (!shows && !(around && getComputedStyle(around).outlineStyle !== "none")) {
        window.hidden.push(target.outerHTML.slice(0, 120));
      }
    });
    return 0;
  });
  for (let presses = reached; presses < there + 8; presses += 1) await page.keyboard.press("Tab");
  const found = await page.evaluate(() => ({ count: window.reached.size, hidden: window.hidden }));
  return { there, ...found };
};

// What has to be there for somebody without script: the heading, every control of every form, and a way to send it.
const withoutScript = async (page, fault) => {
  const missing = await page.evaluate(() => {
    const seen = (element) => {
      const { width, height } = element.getBoundingClientRect();
      return element.checkVisibility({ visibilityProperty: true, opacityProperty: true }) && width > 0 && height > 0;
    };
    const told = [];
    const heading = document.querySelector("h1");
    if (!heading || !seen(heading) || !heading.textContent.trim()) told.push("no heading");
    // What a dialog asks has a page of its own, where the link leads.
    for (const link of document.querySelectorAll("a[data-opens]")) {
      if (!link.getAttribute("href") || !seen(link)) told.push(`a link that only opens a dialog: ${link.textContent}`);
    }
    for (const form of [...document.forms].filter((form) => !form.closest("dialog"))) {
      const controls = [...form.elements].filter((e) => !["hidden", "fieldset", "output"].includes(e.type));
      for (const control of controls) {
        if (!seen(control)) told.push(`not to be seen: ${control.outerHTML.slice(0, 120)}`);
        if (control.disabled) told.push(`disabled: ${control.outerHTML.slice(0, 120)}`);
      }
      if (!controls.some((control) => control.type === "submit")) told.push(`no button: ${form.outerHTML.slice(0, 120)}`);
    }
    for (const button of document.querySelectorAll("[data-copy]")) {
      if (seen(button)) told.push(`a button that does nothing: ${button.textContent}`);
    }
    return told;
  });
  for (const what of missing) fault(what);
};

const look = async (browser, name, way) => {
  const { width, scheme, script = true } = way;
  const what = `${name} ${width} ${scheme}${script ? "" : " without script"}`;
  const fault = (text) => faults.push(`${what}: ${text}`);
  const options = {
    viewport: { width, height: 800 },
    colorScheme: scheme,
    reducedMotion: "reduce",
    javaScriptEnabled: script,
  };
  const context = await browser.newContext(options);
  const page = await context.newPage();
  page.on("console", (message) => {
    if (message.type() === "error" && !message.text().includes("404")) fault(message.text());
  });
  page.on("pageerror", (error) => fault(error.message));
  const url = `http://127.0.0.1:${server.address().port}/${name}.html`;
  await page.goto(url);
  const picture = `${name}-${width}-${scheme}${script ? "" : "-without-script"}.png`;
  await page.screenshot({ path: path.join(folder, picture), fullPage: true });
  if (script) {
    const over = await page.evaluate(() => {
      const wide = document.documentElement.scrollWidth - document.documentElement.clientWidth;
      return wide > 0 ? wide : 0;
    });
    if (over) fault(`is ${over} px wider than its window`);
    const focus = await page.evaluate(() => document.activeElement?.matches("h1, [role=alert]"));
    if (!focus) fault("the focus is neither on the heading nor on what is wrong");
    const { there, count, hidden } = await reach(page);
    if (count < there) fault(`the Tab key reaches ${count} of ${there} controls`);
    if (hidden.length) fault(`no focus to be seen on ${hidden[0]}`);
  }
  if (!script) await withoutScript(page, fault);
  await context.close();
  if (!script) return;
  // axe is put into the page by force, which its policy rightly forbids.
  const open = await browser.newContext({ ...options, bypassCSP: true });
  const copy = await open.newPage();
  await copy.goto(url);
  await copy.evaluate(axe);
  const tags = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"];
  const { violations } = await copy.evaluate((tags) => window.axe.run({ runOnly: tags }), tags);
  for (const { id, nodes } of violations) {
    fault(`${id}: ${nodes[0].html.slice(0, 160)}: ${nodes[0].failureSummary}`);
  }
  await open.close();
};

const main = async () => {
  await new Promise((done) => server.listen(0, "127.0.0.1", done));
  const browser = await chromium.launch({
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
    args: process.getuid() === 0 ? ["--no-sandbox"] : [],
  });
  const names = fs.readdirSync(folder).filter((file) => file.endsWith(".html"));
  let looks = 0;
  for (const name of names.map((file) => file.slice(0, -5)).sort()) {
    for (const way of ways(name)) {
      await look(browser, name, way);
      looks += 1;
    }
  }
  await browser.close();
  server.close();
  console.log(`${looks} looks`);
  if (faults.length) {
    console.error(faults.join("\n"));
    process.exit(1);
  }
};

main().catch((error) => {
  console.error(error);
  process.exit(2);
});
