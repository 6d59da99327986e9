/**
 * Latents -> symbols: how `runtime/sdrt/coding/quantize.py` chooses them. Not normative: any integers make a valid file.
 */

import { Canvas } from "./context.js";
import { entriesOf, tablesOf } from "./payload.js";

const MAX_SYMBOL = 2 ** 20;
/** Squared steps that a bit is worth at high rates: there D = step^2 / 12 and a bit halves the step. */
const BIT_PRICE = Math.log(2) / 6;
/** Of a step: what is smaller is rarely worth a symbol that is not 0. */
export const KEPT = Math.fround(0.6);

/**
 * @param {Float32Array} latents  (channels, rows, columns), `(raw - shift) * scale`
 * @param {import("./prior.js").Prior} prior
 * @param {{rows: number, columns: number, indices: Int32Array}} grid
 * @returns {Int32Array} (rows, columns, coded channels): extents first, then channels in the prior's order
 */
export function quantize(latents, prior, grid) {
  const { channels, order, steps } = prior;
  const area = grid.rows * grid.columns;
  const exact = new Float32Array(area * channels);
  for (let at = 0; at < area; at++) {
    const factor = 2 ** ((grid.indices[at] - 512) / 64);
    for (let k = 0; k < channels; k++) {
      const value = latents[order[k] * area + at] / steps[order[k]] / factor;
      exact[at * channels + k] = Math.min(Math.max(value, -MAX_SYMBOL), MAX_SYMBOL);
    }
  }
  if (!prior.decisions) return withExtents(Int32Array.from(exact, roundEven), prior, area);
  const kept = withExtents(Int32Array.from(exact, (value) => Number(Math.abs(value) > KEPT)), prior, area);
  return withExtents(decide(exact, kept, prior, grid), prior, area);
}

/** To the nearest, ties to even. */
export function roundEven(value) {
  const below = Math.floor(value);
  const rest = value - below;
  return rest < 0.5 || (rest === 0.5 && below % 2 === 0) ? below : below + 1;
}

/** Prepends to the symbols of each position the smallest extent that covers them, where the prior codes extents. */
function withExtents(symbols, { channels, codedChannels, offset, extents }, area) {
  if (!offset) return symbols;
  const coded = new Int32Array(area * codedChannels);
  for (let at = 0; at < area; at++) {
    const own = symbols.subarray(at * channels, (at + 1) * channels);
    const used = own.findLastIndex((symbol) => symbol !== 0) + 1;
    coded[at * codedChannels] = [0, ...extents].findIndex((extent) => extent >= used);
    coded.set(own, at * codedChannels + offset);
  }
  return coded;
}

/**
 * One of the two integers around each value, in coding order, under the contexts that earlier decisions leave behind: the
 * cheaper in bits and squared error. `kept`: coded symbols whose extents stand.
 */
function decide(exact, kept, prior, grid) {
  const { channels, codedChannels, offset, order, sensitivity, decisions } = prior;
  const canvas = new Canvas(prior, grid);
  const symbols = new Int32Array(exact.length);
  for (const scan of prior.scans) {
    const places = canvas.places(scan);
    const { size } = scan;
    const first = scan.start - offset;
    let values = new Int32Array(places.length * size);
    if (first < 0) values = values.map((_, p) => kept[canvas.inGrid(places[p]) * codedChannels]);
    else {
      const prediction = canvas.predict(scan, places);
      const tables = tablesOf(prior, prediction);
      const wanted = new Float32Array(values.length);
      for (let p = 0, i = 0; p < places.length; p++)
        for (let k = first; k < first + size; k++, i++) wanted[i] = exact[canvas.inGrid(places[p]) * channels + k];
      const below = Int32Array.from(wanted, Math.floor);
      const above = below.map((value) => value + 1);
      const entries = [below, above].map((candidate) => entriesOf(prior, prediction, tables, candidate).entries);
      for (let i = 0; i < values.length; i++) {
        const starts = prior.starts(tables[i]);
        const bits = (entry) => -Math.log2(starts[entry + 1] - starts[entry]);
        const weight = sensitivity[order[first + (i % size)]] / (decisions * BIT_PRICE);
        const rest = wanted[i] - below[i];
        const saved = bits(entries[0][i]) - bits(entries[1][i]) + weight * (rest ** 2 - (1 - rest) ** 2);
        values[i] = Math.min(saved > 0 ? above[i] : below[i], MAX_SYMBOL);
      }
      for (let p = 0, i = 0; p < places.length; p++)
        for (let k = first; k < first + size; k++, i++) symbols[canvas.inGrid(places[p]) * channels + k] = values[i];
    }
    canvas.store(scan, places, values);
  }
  return symbols;
}
