/**
 * Runs the decoder in a headless Chromium: `node browser.mjs CHROMIUM < job.json`, JSON on standard output.
 *
 * The job: `folders`, names of folders to serve -> their paths; `cases`, each `{pack, url, tilePx, quiet}` to decode, or
 * `{pack, picture}`, the address of one to encode; and
 * `pages`, each `{html | path, script, isolated}`: a page to open and the body of an async function whose value is wanted. An
 * answer to a page has `value` and the number of `workers`, one to a case `cpu_s`, seconds of processor time of all of the browser's processes (Linux only).
 */

import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
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
  await assemble(job.pack, site);
  const mounts = Object.fromEntries(Object.entries(job.folders).map(([name, path]) => [`/${name}/`, path]));
  const all = { ...mounts, "/test/": HERE, "/": site };
  const origin = await serve(all);
  const isolatedOrigin = await serve(all, { isolated: true });
  browser = await puppeteer.launch({
    executablePath: process.argv[2],
    args: ["--no-sandbox", "--disable-dev-shm-usage", "--disable-background-networking"],
  });
  const hosts = new Set();
  const open = async ({ html, path = "/test/blank.html", isolated } = {}) => {
    const page = await browser.newPage();
    page.on("request", (request) => request.url().startsWith("http") && hosts.add(new URL(request.url()).origin));
    await page.goto((isolated ? isolatedOrigin : origin) + path);
    if (html) await page.setContent(html, { waitUntil: "load" });
    return page;
  };
  const page = await open();
  const cases = [];
  for (const one of job.cases) {
    const before = cpuSeconds(browser.process().pid);
    const answer = await page.evaluate(one.picture ? encodeInPage : decodeInPage, one);
    cases.push({ ...answer, cpu_s: cpuSeconds(browser.process().pid) - before });
  }
  const workers = page.workers().length;
  const pages = [];
  for (const one of job.pages) {
    const page = await open(one);
    const value = await page.evaluate(`(async () => {${one.script}})()`);
    pages.push({ value, workers: page.workers().length });
    await page.close();
  }
  const others = [...hosts].filter((host) => host !== origin && host !== isolatedOrigin);
  console.log(JSON.stringify({ cases, pages, workers, hosts: others }));
} finally {
  await browser?.close();
  rmSync(site, { recursive: true });
}

/** Processor time of a process and its descendants, as /proc tells it, in hundredths of a second. */
function cpuSeconds(root) {
  const processes = new Map();
  for (const pid of readdirSync("/proc").filter((name) => /^\d+$/.test(name))) {
    try {
      const fields = readFileSync(`/proc/${pid}/stat`, "latin1").replace(/^.*\) /s, "").split(" ");
      processes.set(Number(pid), { parent: Number(fields[1]), ticks: Number(fields[11]) + Number(fields[12]) });
    } catch {
      // It has ended since.
    }
  }
  const below = (pid) => pid === root || (processes.has(pid) && below(processes.get(pid).parent));
  let ticks = 0;
  for (const [pid, found] of processes) if (below(pid)) ticks += found.ticks;
  return ticks / 100;
}

/** Runs in the page: the pixels of a file as base64 of RGBA, or the name of the error. `quiet`: none of the pixels. */
async function decodeInPage({ pack, url, tilePx, quiet }) {
  const { decode } = await import("/sdl/sdl.js");
  let size;
  let strips = 0;
  const parts = [];
  try {
    const { ms } = await decode(url, {
      pack,
      tilePx,
      onHeader: ({ widthPx, heightPx }) => (size = [heightPx, widthPx]),
      onStrip: ({ image }) => {
        strips++;
        if (quiet) return;
        for (let i = 0; i < image.data.length; i += 8192) parts.push(String.fromCharCode(...image.data.subarray(i, i + 8192)));
      },
    });
    return { size, strips, ms, rgba: btoa(parts.join("")) };
  } catch (error) {
    return { error: error.name, message: error.message };
  }
}

/** Runs in the page: the number of bytes of the file that a picture becomes. */
async function encodeInPage({ pack, picture }) {
  const { encode } = await import("/sdl/sdl.js");
  const { file } = await encode(await (await fetch(picture)).blob(), { pack });
  return { bytes: file.size };
}
