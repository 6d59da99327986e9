/**
 * Contexts: from the symbols decoded so far to a prediction of the next scan's symbols. docs/PRIOR.md, "Scans" and
 * "The network of a scan". All numbers are integers that 32 bits hold: `prior.js` has checked the sums.
 */

import { BAND, HIDDEN_LIMIT, SCALE_LIMIT, SYMBOL_LIMIT, WINDOW } from "./prior.js";

const MEAN_LIMIT = SYMBOL_LIMIT * 8;

/** The largest integers whose 64th power is at most 2^(13 * 64 + i): roots of integers, not a platform's `pow`. */
const POWERS = Array.from({ length: 64 }, (_, i) => {
  let power = BigInt(Math.floor(2 ** (13 + i / 64))) + 1n;
  while (power ** 64n > 2n ** BigInt(13 * 64 + i)) power--;
  return Number(power);
});

/** The network's quality input for a step index 0..1023: 8192 to 0. */
export function inverseStep(index) {
  const octave = (512 - index) >> 6;
  const part = (512 - index) & 63;
  return ((POWERS[part] << (8 + octave)) + 2 ** 15) >> 16;
}

/** What is known of a picture, and what later scans see of it: cells with WINDOW of margin on every side. */
export class Canvas {
  /**
   * @param {import("./prior.js").Prior} prior
   * @param {{rows: number, columns: number, indices: Int32Array}} grid  of latents, and their step indices
   */
  constructor(prior, grid) {
    this.prior = prior;
    this.grid = grid;
    this.stride = grid.columns + 2 * WINDOW;
    this.channels = prior.codedChannels;
    this.bandCount = Math.ceil((this.channels - prior.near) / BAND);
    const cells = (grid.rows + 2 * WINDOW) * this.stride;
    this.symbols = new Int16Array(cells * this.channels);
    this.energy = new Int32Array(cells * prior.near);
    this.bands = new Int32Array(cells * this.bandCount);
    this.around = new Int32Array(cells * this.bandCount);
    this.sums = new Float64Array(prior.near);
    this.counts = new Float64Array(prior.near);
    this.window = [-1, 0, 1].flatMap((dy) => [-1, 0, 1].map((dx) => dy * this.stride + dx));
  }

  /** The place in the grid, row by row, of a place in the canvas. */
  inGrid(place) {
    return (Math.floor(place / this.stride) - WINDOW) * this.grid.columns + (place % this.stride) - WINDOW;
  }

  /** Where a scan codes, in its order. @returns {Int32Array} places in the canvas */
  places(scan) {
    const { rows, columns } = this.grid;
    let count = 0;
    for (const [y0, x0, stride] of scan.grids)
      count += Math.max(0, Math.ceil((rows - y0) / stride)) * Math.max(0, Math.ceil((columns - x0) / stride));
    const places = new Int32Array(count);
    let found = 0;
    for (const [y0, x0, stride] of scan.grids)
      for (let y = y0; y < rows; y += stride)
        for (let x = x0; x < columns; x += stride) {
          const place = (y + WINDOW) * this.stride + x + WINDOW;
          if (!scan.minExtent || this.symbols[place * this.channels] >= scan.minExtent) places[found++] = place;
        }
    return places.subarray(0, found);
  }

  /** What the columns of a scan get from inputs that are the same everywhere (6 to 8), for a step index. */
  bias(scan, index) {
    const { globalWeights, meanWeights, columns, shown } = scan;
    const width = scan.hidden + 2 * scan.size;
    const inverse = inverseStep(index);
    const bias = new Int32Array(width);
    for (let j = 0; j < width; j++) bias[j] = Math.floor((globalWeights[j] + globalWeights[width + j] * inverse) / 256);
    for (let j = 0; j < columns; j++) {
      let sum = 0;
      for (let k = 0; k < shown; k++)
        if (this.counts[k]) sum += Math.floor((16 * this.sums[k]) / this.counts[k]) * meanWeights[k * columns + j];
      bias[j] += sum >> 4;
    }
    return bias;
  }

  /**
   * Means in eighths of a symbol and scales in 1/256, position by position, channels innermost.
   * @param {import("./prior.js").Scan} scan
   * @param {Int32Array} places
   * @returns {{means: Int32Array, scales: Int32Array}}
   */
  predict(scan, places) {
    const { hidden, size, columns, wide, seen, shown, start, weights, shift, outWeights, outShift } = scan;
    const { symbols, channels, energy, bands, around, bandCount } = this;
    const near = this.prior.near;
    const taps = scan.taps.map(([dy, dx]) => dy * this.stride + dx);
    const ownTaps = scan.ownTaps.map(([dy, dx]) => dy * this.stride + dx);
    const means = new Int32Array(places.length * size);
    const scales = new Int32Array(places.length * size);
    const sums = new Int32Array(hidden + 2 * size);
    const out = new Int32Array(2 * size);
    const biases = new Map();

    // Most inputs are 0: those that are not are listed, with where their weights begin, and multiplied together.
    const inputs = new Int32Array(Math.max(weights.length / columns, hidden));
    const rows = new Int32Array(inputs.length);
    let listed = 0;
    const list = (values, at, count, row) => {
      for (let k = 0; k < count; k++) {
        const value = values[at + k];
        if (value === 0) continue;
        inputs[listed] = value;
        rows[listed++] = (row + k) * columns;
      }
      return row + count;
    };

    for (let p = 0; p < places.length; p++) {
      const place = places[p];
      const index = this.grid.indices[this.inGrid(place)];
      let bias = biases.get(index);
      if (!bias) biases.set(index, (bias = this.bias(scan, index)));
      sums.set(bias);
      let row = 0;
      listed = 0;
      for (const tap of taps) row = list(symbols, (place + tap) * channels, seen, row);
      if (!wide) for (const tap of ownTaps) row = list(symbols, (place + tap) * channels + start, size, row);
      row = list(energy, place * near, shown, row);
      row = list(bands, place * bandCount, scan.bandsHere, row);
      list(around, place * bandCount, scan.bandsAround, row);
      multiply(sums, columns, weights, inputs, rows, listed);
      if (wide) addOwn(sums, symbols, scan, ownTaps, place * channels + start, channels);

      for (let m = 0; m < 2 * size; m++) out[m] = sums[hidden + m] << 4;
      listed = 0;
      for (let h = 0; h < hidden; h++) {
        const active = Math.min(Math.max(sums[h] >> shift[h], 0), HIDDEN_LIMIT);
        if (active === 0) continue;
        inputs[listed] = active;
        rows[listed++] = h * 2 * size;
      }
      multiply(out, 2 * size, outWeights, inputs, rows, listed);
      const to = p * size;
      for (let m = 0; m < size; m++) {
        means[to + m] = Math.min(Math.max(out[m] >> outShift[m], -MEAN_LIMIT), MEAN_LIMIT);
        scales[to + m] = Math.min(Math.max(out[size + m] >> outShift[size + m], 0), SCALE_LIMIT);
      }
    }
    return { means, scales };
  }

  /** Puts the symbols of a scan, channels innermost, where later scans look for them. */
  store(scan, places, values) {
    const { symbols, channels, energy, bands, around, bandCount } = this;
    const { start, size, wide } = scan;
    const near = this.prior.near;
    for (let p = 0; p < places.length; p++) {
      const place = places[p];
      for (let m = 0; m < size; m++) {
        const value = Math.min(Math.max(values[p * size + m], -SYMBOL_LIMIT), SYMBOL_LIMIT);
        const magnitude = Math.abs(value);
        symbols[place * channels + start + m] = value;
        if (wide) bands[place * bandCount + Math.floor((start + m - near) / BAND)] += magnitude;
        else if (magnitude) {
          this.sums[start + m] += magnitude;
          for (const tap of this.window) energy[(place + tap) * near + start + m] += magnitude;
        }
      }
      if (!wide) continue;
      for (let b = scan.bandsHere; b < scan.bandsAround; b++) {
        const at = place * bandCount + b;
        bands[at] = Math.min(bands[at], SYMBOL_LIMIT);
        for (const tap of this.window) around[(place + tap) * bandCount + b] += bands[at];
      }
    }
    if (!wide) for (let k = start; k < start + size; k++) this.counts[k] += places.length;
  }
}

/** Adds to `sums` the products of inputs with their rows of weights, four at a time: sums are loaded and stored less. */
function multiply(sums, columns, weights, inputs, rows, count) {
  let i = 0;
  for (; i + 3 < count; i += 4) {
    const [a, b, c, d] = [inputs[i], inputs[i + 1], inputs[i + 2], inputs[i + 3]];
    const [atA, atB, atC, atD] = [rows[i], rows[i + 1], rows[i + 2], rows[i + 3]];
    for (let j = 0; j < columns; j++)
      sums[j] +=
        Math.imul(a, weights[atA + j]) + Math.imul(b, weights[atB + j]) + Math.imul(c, weights[atC + j]) + Math.imul(d, weights[atD + j]);
  }
  for (; i < count; i++) {
    const a = inputs[i];
    const at = rows[i];
    for (let j = 0; j < columns; j++) sums[j] += Math.imul(a, weights[at + j]);
  }
}

/** What the own neighbors of a wide scan's channels add to their means and scales. `at`: its first channel's symbol. */
function addOwn(sums, symbols, scan, ownTaps, at, channels) {
  const { hidden, size, ownWeights } = scan;
  const half = ownWeights.length / 2;
  for (let t = 0; t < ownTaps.length; t++) {
    const from = at + ownTaps[t] * channels;
    for (let m = 0; m < size; m++) {
      const value = symbols[from + m];
      if (value === 0) continue;
      sums[hidden + m] += value * ownWeights[t * size + m];
      sums[hidden + size + m] += Math.abs(value) * ownWeights[half + t * size + m];
    }
  }
}
