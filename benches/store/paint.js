// Signs in by a link and opens the list of keys a few times: the median time until it is painted, and
// the bytes of the page with all that it loads. Takes the link and the address of the list.
const { chromium } = require("playwright-core");

const [link, list] = process.argv.slice(2);

const main = async () => {
  const browser = await chromium.launch({
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
    args: process.getuid() === 0 ? ["--no-sandbox"] : [],
  });
  const context = await browser.newContext({ viewport: { width: 1280, height: 860 } });
  const page = await context.newPage();
  page.setDefaultTimeout(30000);
  await page.goto(link);
  await page.getByRole("button", { name: "Sign in" }).click();
  await page.waitForURL("**/keys*");
  const times = [];
  let bytes = 0;
  for (let n = 0; n < 11; n += 1) {
    // Each time as somebody who comes for the first time: nothing is cached.
    const fresh = await context.newPage();
    const session = await context.newCDPSession(fresh);
    await session.send("Network.setCacheDisabled", { cacheDisabled: true });
    await fresh.goto(list, { waitUntil: "load" });
    await fresh.waitForFunction(
      () => performance.getEntriesByName("first-contentful-paint").length > 0,
    );
    const found = await fresh.evaluate(() => ({
      painted: performance.getEntriesByName("first-contentful-paint")[0].startTime,
      bytes: [...performance.getEntriesByType("navigation"), ...performance.getEntriesByType("resource")]
        .reduce((sum, entry) => sum + entry.transferSize, 0),
      rows: document.querySelectorAll("tbody tr").length,
    }));
    if (found.rows < 1) throw new Error("the list is empty");
    times.push(found.painted);
    bytes = found.bytes;
    await fresh.close();
  }
  await browser.close();
  times.sort((a, b) => a - b);
  console.log(JSON.stringify({ painted_ms: times[5], bytes }));
};

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
