/**
 * Payload bytes <-> symbols: docs/PRIOR.md, "Tables" and "The payload".
 */

import { Canvas } from "./context.js";
import { CorruptError } from "./errors.js";
import { FRACTIONS } from "./prior.js";
import { RangeDecoder } from "./range_decoder.js";
import { RangeEncoder } from "./range_encoder.js";

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

/**
 * The payload of symbols: the only one that they have.
 * @param {Int32Array} coded  (rows, columns, coded channels): extents first, then channels in the prior's order
 * @param {import("./prior.js").Prior} prior
 * @param {{rows: number, columns: number, indices: Int32Array}} grid
 * @returns {Uint8Array}
 */
export function encodePayload(coded, prior, grid) {
  const coder = new RangeEncoder();
  const canvas = new Canvas(prior, grid);
  for (const scan of prior.scans) {
    const places = canvas.places(scan);
    const prediction = canvas.predict(scan, places);
    const values = new Int32Array(places.length * scan.size);
    for (let p = 0, i = 0; p < places.length; p++) {
      const from = canvas.inGrid(places[p]) * prior.codedChannels;
      for (let k = scan.start; k < scan.stop; k++, i++) values[i] = coded[from + k];
    }
    writeScan(coder, prior, prediction, values);
    canvas.store(scan, places, values);
  }
  return coder.finish();
}

const center = (mean) => (mean + 4) >> 3;
const fraction = (mean) => mean - 8 * center(mean);

/** The number of each symbol's table: class * FRACTIONS + |fraction|. @returns {Uint16Array} */
export function tablesOf({ classOf }, { means, scales }) {
  const tables = new Uint16Array(means.length);
  for (let i = 0; i < means.length; i++) tables[i] = classOf[scales[i]] * FRACTIONS + Math.abs(fraction(means[i]));
  return tables;
}

/**
 * What symbols are coded as: entries of their tables, low bits, and residuals above those.
 * @returns {{entries: Int32Array, low: Int32Array, high: Int32Array}}
 */
export function entriesOf({ radius, lowBits }, { means }, tables, values) {
  const found = { entries: new Int32Array(values.length), low: new Int32Array(values.length), high: new Int32Array(values.length) };
  for (let i = 0; i < values.length; i++) {
    const inClass = Math.floor(tables[i] / FRACTIONS);
    const distance = values[i] - center(means[i]);
    const residual = fraction(means[i]) < 0 ? -distance : distance;
    const high = residual >> lowBits[inClass];
    found.high[i] = high;
    found.low[i] = residual - (high << lowBits[inClass]);
    found.entries[i] = Math.abs(high) <= radius[inClass] ? high + radius[inClass] : 2 * radius[inClass] + 1;
  }
  return found;
}

/** The mirror of `readScan`. */
function writeScan(coder, prior, prediction, values) {
  const { radius, lowBits } = prior;
  const tables = tablesOf(prior, prediction);
  const { entries, low, high } = entriesOf(prior, prediction, tables, values);
  const classAt = (i) => Math.floor(tables[i] / FRACTIONS);
  for (const i of byTable(tables)) coder.entry(prior.starts(tables[i]), entries[i]);
  const escaped = [];
  for (let i = 0; i < values.length; i++) {
    const bits = lowBits[classAt(i)];
    if (bits) coder.uniform(1 << bits, low[i]);
    if (entries[i] > 2 * radius[classAt(i)]) escaped.push(i);
  }
  const excess = escaped.map((i) => Math.abs(high[i]) - radius[classAt(i)]); // at least 1
  const lengths = excess.map((magnitude) => 31 - Math.clz32(magnitude));
  for (const i of escaped) coder.uniform(2, Number(high[i] < 0));
  for (const length of lengths) coder.uniform(ESCAPE_BITS, length);
  lengths.forEach((length, e) => length && coder.uniform(1 << length, excess[e] - (1 << length)));
}

/** The symbols of a scan and the tables that they were coded with, in the scan's order. */
function readScan(coder, prior, prediction) {
  const { radius, lowBits } = prior;
  const { means } = prediction;
  const count = means.length;
  const tables = tablesOf(prior, prediction);
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
    const value = center(means[i]) + (fraction(means[i]) < 0 ? -residual : residual);
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
