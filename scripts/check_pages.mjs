// Clicks through a gallery of `swav-rt clusters` and a page of `swav-rt report` in headless Chromium, at desktop and phone
// width, light and dark.
//
//   node scripts/check_pages.mjs --gallery DIR --report FILE [--screenshots DIR] [--chromium PATH]
//
// Needs playwright-core (npm install playwright-core) and Chromium. Fails on console errors, requests that leave the
// file system, broken pictures, and pages that are wider than the window.
import { existsSync, mkdirSync } from "node:fs";
import { createRequire } from "node:module";
import { resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { parseArgs } from "node:util";

const { values: options } = parseArgs({
  options: { gallery: { type: "string" }, report: { type: "string" }, screenshots: { type: "string" }, chromium: { type: "string" } },
});
const require = createRequire(pathToFileURL(resolve(process.env.PLAYWRIGHT_FOLDER ?? ".", "package.json")));
const { chromium } = require("playwright-core");
const executablePath = options.chromium ?? ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"].find(existsSync);
if (options.screenshots) mkdirSync(options.screenshots, { recursive: true });

const FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"];
const VIEWS = [
  ["desktop-light", 1280, 900, "light"],
  ["desktop-dark", 1280, 900, "dark"],
  ["phone-light", 390, 844, "light"],
  ["phone-dark", 390, 844, "dark"],
];
const failures = [];
const check = (holds, text) => {
  if (!holds) failures.push(text);
  console.log((holds ? "ok: " : "FAILED: ") + text);
};

const browser = await chromium.launch({ executablePath, headless: true, args: FLAGS });
for (const [view, width, height, colorScheme] of VIEWS) {
  const context = await browser.newContext({ viewport: { width, height }, colorScheme });
  const page = await context.newPage();
  const problems = [];
  page.on("console", (message) => ["error", "warning"].includes(message.type()) && problems.push(message.text()));
  page.on("pageerror", (error) => problems.push(String(error)));
  page.on("requestfailed", (request) => problems.push(request.url() + " " + request.failure()?.errorText));
  page.on("request", (request) => /^(file|data):/.test(request.url()) || problems.push("leaves the file system: " + request.url()));
  const shot = async (name) => {
    await page.waitForTimeout(300);
    if (options.screenshots) await page.screenshot({ path: options.screenshots + "/" + name + "-" + view + ".png" });
    const wide = await page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);
    check(wide <= 0, `${view}: ${name} fits the window` + (wide > 0 ? `, ${wide} px too wide` : ""));
  };
  if (options.gallery) await gallery(page, view, shot);
  if (options.report) await report(page, view, shot);
  check(problems.length === 0, `${view}: no errors` + problems.map((problem) => "\n    " + problem).join(""));
  await context.close();
}
await browser.close();
if (failures.length) console.error(`${failures.length} checks failed`);
process.exit(failures.length ? 1 : 0);

async function gallery(page, view, shot) {
  await page.goto(pathToFileURL(resolve(options.gallery, "index.html")).href);
  await page.waitForSelector(".cards li .thumb");
  await page.waitForFunction(() => document.querySelector(".thumb").style.backgroundImage !== "");
  check(await page.evaluate(drawn, ".thumb"), `${view}: thumbnails are pictures`);
  await shot("gallery");

  const next = page.getByRole("button", { name: "Next" });
  if (await next.count()) {
    const first = await page.locator(".cards h2").first().textContent();
    await next.click();
    await page.waitForFunction((text) => document.querySelector(".cards h2").textContent !== text, first);
    await page.goBack();
    await page.waitForFunction((text) => document.querySelector(".cards h2").textContent === text, first);
    check(true, `${view}: next page and back`);
  }
  for (const filter of ["empty", "duplicate", "all"]) {
    await page.selectOption("#filter", filter);
    await page.waitForTimeout(50);
  }
  await page.selectOption("#order", "tight");
  const means = await page.$$eval(".cards p.muted", (lines) => lines.map((line) => parseFloat(line.textContent.split("similarity ")[1])));
  const filled = means.filter((mean) => !Number.isNaN(mean));
  check(filled.every((mean, at) => at === 0 || filled[at - 1] >= mean), `${view}: the order is by similarity`);
  await page.selectOption("#filter", "filled");

  await page.locator(".cards h2 a").first().click();
  await page.waitForSelector(".grid .thumb");
  await shot("cluster");
  await page.locator(".grid .thumb").first().click();
  await page.waitForSelector("dialog[open] .big");
  const name = (await page.locator(".facts dd").first().textContent()).trim();
  check(name.length > 0, `${view}: an image has a name, ${name}`);
  if (await page.locator("#nearest .thumb").count()) {
    await shot("image");
    await page.locator("#nearest .thumb").first().click();
    await page.waitForFunction((old) => document.querySelector(".facts dd").textContent.trim() !== old, name);
    check(true, `${view}: a neighbour opens`);
  }
  await page.keyboard.press("Escape");
  check(!(await page.locator("dialog[open]").count()), `${view}: Escape closes the image`);

  await page.fill("#search", name.split("/").pop());
  await page.waitForSelector(".names li");
  check((await page.locator(".names").textContent()).includes(name), `${view}: the search finds ${name}`);
  await shot("search");
  await page.fill("#search", "no image has this name");
  await page.waitForFunction(() => document.querySelector("[role=status]")?.textContent.startsWith("0 images"));
  await page.fill("#search", "");
  await page.waitForSelector(".cards");
}

async function report(page, view, shot) {
  await page.goto(pathToFileURL(resolve(options.report)).href);
  check((await page.locator(".charts svg").count()) >= 8, `${view}: the report has its charts`);
  const broken = await page.$$eval("img", (images) => images.filter((image) => !image.complete || image.naturalWidth === 0).length);
  check(broken === 0, `${view}: no broken picture`);
  const small = await page.$$eval("svg text", (texts) => Math.min(...texts.map((text) => text.getBoundingClientRect().height)));
  check(small >= 11, `${view}: text in charts is at least 11 px high, ${small.toFixed(1)}`);
  await shot("report");
  const settings = page.locator("details", { hasText: "Settings" });
  if (!(await settings.evaluate((details) => details.open))) await settings.locator("summary").click();
  check(await page.getByText("model.arch").isVisible(), `${view}: settings open`);
  if (options.screenshots) {
    await page.screenshot({ path: options.screenshots + "/report-whole-" + view + ".png", fullPage: true });
  }
}

// In the page: whether the first element's background is a picture that loads.
function drawn(selector) {
  return new Promise((resolve) => {
    const image = new Image();
    image.onload = () => resolve(image.naturalWidth > 0);
    image.onerror = () => resolve(false);
    image.src = document.querySelector(selector).style.backgroundImage.slice(5, -2);
  });
}
