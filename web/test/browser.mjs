/**
 * Runs the decoder in a headless Chromium: `node browser.mjs CHROMIUM < job.json`, JSON on standard output.
 *
 * The job: `folders`, names of folders to serve -> their paths; `cases`, each `{pack, url, tilePx}` to decode; and
 * `pages`, each `{html, script}`: a page to open and the body of an async function whose value is wanted.
 */

import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

import puppeteer from "puppeteer-core";

import { assemble, serve } from "../site.mjs";

const job = JSON.parse(readFileSync(0, "utf8"));
const site = mkdtempSync(join(tmpdir(), "sdl-site-"));
const HERE = fileURLToPath(new URL(".", import.meta.url));
let browser;
try {
  assemble(job.pack, site);
  const mounts = Object.fromEntries(Object.entries(job.folders).map(([name, path]) => [`/${name}/`, path]));
  const origin = `http://localhost:${await serve({ ...mounts, "/test/": HERE, "/": site })}`;
  browser = await puppeteer.launch({
    executablePath: process.argv[2],
    args: ["--no-sandbox", "--disable-dev-shm-usage", "--disable-background-networking"],
  });
  const hosts = new Set();
  const open = async (html) => {
    const page = await browser.newPage();
    page.on("request", (request) => request.url().startsWith("http") && hosts.add(new URL(request.url()).origin));
    await page.goto(`${origin}/test/blank.html`);
    if (html) await page.setContent(html, { waitUntil: "load" });
    return page;
  };
  const page = await open();
  const cases = [];
  for (const one of job.cases) cases.push(await page.evaluate(decodeInPage, one));
  const workers = page.workers().length;
  const pages = [];
  for (const { html, script } of job.pages) {
    const page = await open(html);
    pages.push(await page.evaluate(`(async () => {${script}})()`));
    await page.close();
  }
  console.log(JSON.stringify({ cases, pages, workers, hosts: [...hosts].filter((host) => host !== origin) }));
} finally {
  await browser?.close();
  rmSync(site, { recursive: true });
}

/** Runs in the page: the pixels of a file as base64 of RGBA, or the name of the error. */
async function decodeInPage({ pack, url, tilePx }) {
  const { decode } = await import("/sdl/client.js");
  let size;
  const parts = [];
  let strips = 0;
  try {
    const { ms } = await decode(url, {
      pack,
      tilePx,
      onHeader: ({ widthPx, heightPx }) => (size = [heightPx, widthPx]),
      onStrip: ({ image }) => {
        strips++;
        for (let i = 0; i < image.data.length; i += 8192) parts.push(String.fromCharCode(...image.data.subarray(i, i + 8192)));
      },
    });
    return { size, strips, ms, rgba: btoa(parts.join("")) };
  } catch (error) {
    return { error: error.name, message: error.message };
  }
}
