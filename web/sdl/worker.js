/**
 * The worker that decodes, so that a page never waits: files are fetched side by side and painted one after another.
 *
 * In:  `{id, pack, url | bytes, maxPixels, tilePx}`, or `{id, cancel: true}`.
 * Out: `{id, kind, ...}`: "header" with the picture's size, "progress" after each tile, "strip" with rows of pixels, and
 * at the end "done", or "error" with its name and one line.
 */

import { DEFAULT_MAX_PIXELS, MAX_FILE_BYTES, SIZE_BYTES, readSize } from "./container.js";
import { Decoder } from "./decoder.js";
import { ImageError, LimitError, SdrtError } from "./errors.js";

const decoders = new Map();
const cancelled = new Set();
let painting = Promise.resolve();

function decoderOf(pack) {
  if (!decoders.has(pack)) {
    const opening = Decoder.open(pack);
    decoders.set(pack, opening);
    opening.catch(() => decoders.delete(pack));
  }
  return decoders.get(pack);
}

/** Makes this thread the worker. */
export function listen() {
  self.onmessage = ({ data: job }) => answer(job);
}

async function answer(job) {
  const { id } = job;
  if (job.cancel) {
    cancelled.add(id);
    return;
  }
  const tell = (kind, rest, transfer = []) => self.postMessage({ id, kind, ...rest }, transfer);
  try {
    const maxPixels = job.maxPixels ?? DEFAULT_MAX_PIXELS;
    const known = sizeTeller(maxPixels, tell);
    const bytes = job.bytes ? new Uint8Array(job.bytes) : await fetchFile(job.url, known);
    known(bytes);
    const turn = painting.then(() => cancelled.has(id) || paint(job, bytes, maxPixels, tell));
    painting = turn.catch(() => {}); // the next picture does not care
    await turn;
  } catch (error) {
    // What is not refused on purpose is a fault of ours; it is told all the same.
    tell("error", { name: error instanceof SdrtError ? error.name : "Error", message: error.message });
  } finally {
    cancelled.delete(id);
  }
}

async function paint({ id, pack, tilePx }, bytes, maxPixels, tell) {
  const started = performance.now();
  const decoder = await decoderOf(pack);
  const progress = (done, total) => tell("progress", { done, total });
  for await (const { top, rows, rgba } of decoder.paint(bytes, { maxPixels, tilePx, progress })) {
    if (cancelled.has(id)) return;
    const pixels = rgba.byteLength === rgba.buffer.byteLength ? rgba : rgba.slice();
    tell("strip", { top, rows, pixels: pixels.buffer }, [pixels.buffer]);
  }
  tell("done", { ms: performance.now() - started, bytes: bytes.length });
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
    if (size - value.length < SIZE_BYTES) known(joined(parts, size));
  }
  return joined(parts, size);
}

function joined(parts, size) {
  if (parts.length === 1) return parts[0];
  const whole = new Uint8Array(size);
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}
