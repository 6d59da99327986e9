/**
 * Payload bytes -> symbols: docs/PRIOR.md, "Tables" and "The payload".
 */

import { Canvas } from "./context.js";
import { CorruptError } from "./errors.js";
import { FRACTIONS } from "./prior.js";
import { RangeDecoder } from "./range_decoder.js";

const MAX_SYMBOL = 2 ** 20;
const ESCAPE_BITS = 24;

/**
 * @param {Uint8Array} payload
 * @param {import("./prior.js").Prior} prior
 * @param {{rows: number, columns: number, indices: Int32Array}} grid
 * @param {(scan: object, prediction: object) => void} [seen]  told of each scan what the tests compare
 * @returns {Int32Array} (channels, rows, columns), channels as the latent space has them
 * @throws {CorruptError} no symbols of that shape have this payload under this prior
 */
export function decodePayload(payload, prior, grid, seen) {
  const coder = new RangeDecoder(payload);
  const canvas = new Canvas(prior, grid);
  const area = grid.rows * grid.columns;
  const latents = new Int32Array(prior.channels * area);
  for (const scan of prior.scans) {
    const places = canvas.places(scan);
    const prediction = canvas.predict(scan, places);
    const { tables, values } = readScan(coder, prior, prediction);
    seen?.(scan, { ...prediction, places, tables, values });
    if (scan.start < prior.offset && !values.every((extent) => extent >= 0 && extent <= prior.extents.length))
      throw new CorruptError(`payload holds an extent that is not in 0..${prior.extents.length}`);
    for (let p = 0, i = 0; p < places.length; p++) {
      const at = canvas.inGrid(places[p]);
      for (let k = scan.start - prior.offset; k < scan.stop - prior.offset; k++, i++)
        if (k >= 0) latents[prior.order[k] * area + at] = values[i];
    }
    canvas.store(scan, places, values);
  }
  coder.finish();
  return latents;
}

/** The symbols of a scan and the tables that they were coded with, in the scan's order. */
function readScan(coder, prior, { means, scales }) {
  const { classOf, radius, lowBits } = prior;
  const count = means.length;
  const tables = new Uint16Array(count);
  const fractions = new Int8Array(count);
  for (let i = 0; i < count; i++) {
    fractions[i] = means[i] - 8 * ((means[i] + 4) >> 3);
    tables[i] = classOf[scales[i]] * FRACTIONS + Math.abs(fractions[i]);
  }
  const classAt = (i) => Math.floor(tables[i] / FRACTIONS);

  const high = new Int32Array(count);
  const escaped = [];
  let table = -1;
  let starts;
  for (const i of byTable(tables)) {
    if (tables[i] !== table) starts = prior.starts((table = tables[i]));
    const entry = coder.entry(starts);
    high[i] = entry - radius[classAt(i)];
    if (entry === starts.length - 2) escaped.push(i);
  }
  const low = new Int32Array(count);
  for (let i = 0; i < count; i++) {
    const bits = lowBits[classAt(i)];
    if (bits) low[i] = coder.uniform(1 << bits);
  }
  escaped.sort((a, b) => a - b);
  const signs = escaped.map(() => coder.uniform(2));
  const lengths = escaped.map(() => coder.uniform(ESCAPE_BITS));
  const rests = lengths.map((length) => (length ? coder.uniform(1 << length) : 0));
  escaped.forEach((i, e) => {
    const magnitude = radius[classAt(i)] + (1 << lengths[e]) + rests[e];
    high[i] = signs[e] ? -magnitude : magnitude;
  });

  const values = new Int32Array(count);
  for (let i = 0; i < count; i++) {
    // A product: an escape of 24 bits above 16 low ones leaves 32 bits, and is refused.
    const residual = high[i] * 2 ** lowBits[classAt(i)] + low[i];
    const value = ((means[i] + 4) >> 3) + (fractions[i] < 0 ? -residual : residual);
    if (Math.abs(value) > MAX_SYMBOL) throw new CorruptError(`payload holds a symbol beyond ${MAX_SYMBOL}`);
    values[i] = value;
  }
  return { tables, values };
}

/** The indices of a scan's symbols by table, stable. */
function byTable(tables) {
  const next = new Uint32Array(256 * FRACTIONS + 1);
  for (const table of tables) next[table + 1]++;
  for (let table = 1; table < next.length; table++) next[table] += next[table - 1];
  const order = new Uint32Array(tables.length);
  for (let i = 0; i < tables.length; i++) order[next[tables[i]]++] = i;
  return order;
}
