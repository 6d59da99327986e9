/**
 * The worker that decodes and encodes, so that a page never waits: files are fetched side by side, the rest is done one
 * after another.
 *
 * In:  `{id, pack, url | bytes, maxPixels, tilePx}` to decode, `{id, pack, picture, quality, tilePx}` to encode, or
 * `{id, cancel: true}`.
 * Out: `{id, kind, ...}`: "header" with the picture's size, "progress" after each tile, "strip" with rows of pixels, and
 * at the end "done", or "error" with its name and one line.
 */

import { DEFAULT_MAX_PIXELS, MAX_FILE_BYTES, SIZE_BYTES, joined, readSize } from "./container.js";
import { Decoder } from "./decoder.js";
import { encode } from "./encoder.js";
import { ImageError, LimitError, SdrtError } from "./errors.js";
import { openPack } from "./pack.js";
import { pixelsOf } from "./pixels.js";

const packs = new Map();
const wanted = new Set(); // ids of the jobs that somebody waits for
let working = Promise.resolve();

function packAt(url) {
  if (!packs.has(url)) {
    const opening = openPack(url);
    packs.set(url, opening);
    opening.catch(() => packs.delete(url));
  }
  return packs.get(url);
}

/** Makes this thread the worker. */
export function listen() {
  self.onmessage = ({ data: job }) => answer(job);
}

async function answer(job) {
  const { id } = job;
  if (job.cancel) {
    wanted.delete(id);
    return;
  }
  wanted.add(id);
  const tell = (kind, rest, transfer = []) => self.postMessage({ id, kind, ...rest }, transfer);
  try {
    const work = job.picture ? () => encodePicture(job, tell) : await paintingOf(job, tell);
    const turn = working.then(() => !wanted.has(id) || work());
    working = turn.catch(() => {}); // the next picture does not care
    await turn;
  } catch (error) {
    // What is not refused on purpose is a fault of ours; it is told all the same.
    tell("error", { name: error instanceof SdrtError ? error.name : "Error", message: error.message });
  } finally {
    wanted.delete(id);
  }
}

/** Fetches a file. @returns {Promise<() => Promise<void>>} what paints it */
async function paintingOf(job, tell) {
  const maxPixels = job.maxPixels ?? DEFAULT_MAX_PIXELS;
  const known = sizeTeller(maxPixels, tell);
  const bytes = job.bytes ? new Uint8Array(job.bytes) : await fetchFile(job.url, known);
  known(bytes);
  return () => paint(job, bytes, maxPixels, tell);
}

async function paint({ id, pack, tilePx }, bytes, maxPixels, tell) {
  const started = performance.now();
  const decoder = new Decoder(await packAt(pack));
  const progress = (done, total) => tell("progress", { done, total });
  for await (const { top, rows, rgba } of decoder.paint(bytes, { maxPixels, tilePx, progress })) {
    if (!wanted.has(id)) return;
    const pixels = rgba.byteLength === rgba.buffer.byteLength ? rgba : rgba.slice();
    tell("strip", { top, rows, pixels: pixels.buffer }, [pixels.buffer]);
  }
  tell("done", { ms: performance.now() - started, bytes: bytes.length });
}

async function encodePicture({ id, pack, picture, quality, tilePx }, tell) {
  const started = performance.now();
  const pixels = picture instanceof Blob ? await readPicture(picture) : picture;
  const progress = (done, total) => {
    if (!wanted.has(id)) throw new ImageError("nobody waits for this file"); // so nobody reads this either
    tell("progress", { done, total });
  };
  const file = await encode(await packAt(pack), pixels, { quality, tilePx, progress });
  const { width: widthPx, height: heightPx } = pixels;
  tell("done", { ms: performance.now() - started, widthPx, heightPx, file: file.buffer }, [file.buffer]);
}

/** The pixels of a picture that the browser reads, upright, in sRGB. */
async function readPicture(blob) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(blob);
  } catch {
    throw new ImageError("this is not a picture that the browser reads");
  }
  return pixelsOf(bitmap);
}

/** Tells the size once, as soon as the bytes so far hold it. What is wrong, painting finds in the format's order. */
function sizeTeller(maxPixels, tell) {
  let told = false;
  return (start) => {
    if (told) return;
    try {
      tell("header", readSize(start, maxPixels));
      told = true;
    } catch (error) {
      if (!(error instanceof SdrtError)) throw error;
    }
  };
}

async function fetchFile(url, known) {
  let response;
  try {
    response = await fetch(url);
  } catch (error) {
    throw new ImageError(`${url} cannot be fetched: ${error.message}`);
  }
  if (!response.ok) throw new ImageError(`${url} cannot be fetched: ${response.status} ${response.statusText}`);
  const parts = [];
  let size = 0;
  const reader = response.body.getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    parts.push(value);
    size += value.length;
    if (size > MAX_FILE_BYTES) {
      await reader.cancel();
      throw new LimitError(`${url} has more than ${MAX_FILE_BYTES} bytes`);
    }
    if (size - value.length < SIZE_BYTES) known(joined(parts));
  }
  return joined(parts);
}
