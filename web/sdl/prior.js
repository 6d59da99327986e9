/**
 * A prior: the arrays of prior.npz, checked and cut into scans and tables. docs/PRIOR.md, "The file" and "Widths".
 */

import { ModelError } from "./errors.js";
import { readArrays } from "./npz.js";

export const BAND = 8;
export const SYMBOL_LIMIT = 1023;
export const HIDDEN_LIMIT = 4095;
export const SCALE_LIMIT = 65535;
/** The largest reach of a tap. */
export const WINDOW = 2;
/** The tables of each class: |fraction| is 0 to 4. */
export const FRACTIONS = 5;

const LATTICE = 4;
const AROUND = 9;
const EXACT = 2 ** 24;
const TOTAL = 65536;
const LARGEST_INVERSE = 8192;

/**
 * @typedef {object} Scan  one row of `scans` with its parts of the flat arrays; all tables are row by row
 * @property {number} start        coded channels [start, stop)
 * @property {number} stop
 * @property {number} size         stop - start
 * @property {number} hidden
 * @property {number} columns      of `weights` and `meanWeights`: hidden + 2 size, of a wide scan hidden
 * @property {boolean} wide
 * @property {number} seen         near channels that it sees one by one
 * @property {number} shown        channels whose energies and mean magnitudes it sees
 * @property {number} bandsHere    bands at the position
 * @property {number} bandsAround  bands around it
 * @property {number} minExtent    positions of a smaller extent are left out
 * @property {number[][]} grids    y0, x0, stride
 * @property {number[][]} taps     dy, dx
 * @property {number[][]} ownTaps
 * @property {Int32Array} weights        (inputs, columns)
 * @property {Int32Array} meanWeights    (shown, columns)
 * @property {Int32Array} ownWeights     (2, own taps, size), of a wide scan
 * @property {Int32Array} globalWeights  (2, hidden + 2 size)
 * @property {Uint8Array} shift          (hidden)
 * @property {Int32Array} outWeights     (hidden, 2 size)
 * @property {Uint8Array} outShift       (2 size)
 */

/**
 * @typedef {object} Prior
 * @property {number} channels       latent channels
 * @property {number} codedChannels  and one more where extents are coded
 * @property {number} offset         how many more: 0 or 1
 * @property {Float32Array} steps
 * @property {Uint8Array} order
 * @property {number[]} extents      empty where none are coded
 * @property {Float32Array} sensitivity  for encoders: pixel error for a squared step of error, of each latent channel
 * @property {number} decisions          for encoders: the weight of bits in decisions
 * @property {number} near
 * @property {Scan[]} scans
 * @property {Uint8Array} classOf    (65536) scale -> class
 * @property {Uint8Array} radius     of each class
 * @property {Uint8Array} lowBits
 * @property {(table: number) => Uint32Array} starts  where a table's intervals begin, in 2^-24, and 2^24
 */

/** @param {boolean} good @param {string} rule */
function check(good, rule) {
  if (!good) throw new ModelError(`prior.npz breaks a rule of priors: ${rule}`);
}

/** Cuts a flat array into pieces and notices when it is too short or too long. */
class Pieces {
  constructor(array, key) {
    this.array = array;
    this.key = key;
    this.at = 0;
  }

  take(count) {
    const piece = this.array.subarray(this.at, this.at + count);
    check(piece.length === count, `array ${this.key} is too short`);
    this.at += count;
    return piece;
  }

  rows(count, width) {
    return Array.from({ length: count }, () => Array.from(this.take(width)));
  }

  end() {
    check(this.at === this.array.length, `array ${this.key} is too long`);
  }
}

/**
 * @param {Uint8Array} data  the bytes of a prior.npz
 * @returns {Prior}
 * @throws {ModelError}
 */
export function readPrior(data) {
  const arrays = readArrays(data);
  const take = (key, kind, dimensions) => {
    const array = arrays.get(key);
    check(array !== undefined, `array ${key} is there`);
    check(array.kind === kind, `array ${key} is ${kind}`);
    check(dimensions === undefined || array.shape.length === dimensions, `array ${key} has ${dimensions} dimensions`);
    return array.values;
  };
  const format = take("format", "<u2", 0)[0];
  if (format !== 2) throw new ModelError(`prior.npz has format ${format}, this decoder reads 2`);
  const steps = take("steps", "<f4", 1);
  const channels = steps.length;
  check(channels >= 1 && channels <= 256, "1 to 256 channels");
  check(steps.every((step) => step > 0 && step < Infinity), "steps are finite and positive");
  const sensitivity = take("sensitivity", "<f4", 1);
  check(sensitivity.length === channels && sensitivity.every((s) => s > 0 && s < Infinity), "one sensitivity for each channel");
  const decisions = take("decisions", "<f4", 0)[0];
  check(decisions >= 0 && decisions <= 100, "decisions are from 0 to 100");
  const order = take("order", "|u1", 1);
  check(order.length === channels && new Set(order).size === channels && order.every((k) => k < channels),
    "order is a permutation of the channels");
  const extents = Array.from(take("extents", "<i2", 1));
  check(extents.length <= 32, "at most 32 extents");
  check(extents.every((extent, i) => extent > (i ? extents[i - 1] : 0)), "extents increase");
  check(!extents.length || extents.at(-1) === channels, "the last extent is all channels");
  const offset = extents.length ? 1 : 0;
  const near = take("near", "<i2", 0)[0];
  check(near >= 1 && near <= channels + offset, "near is a number of channels");
  const scans = readScans(arrays, take, channels + offset, extents, near);
  const numbers = { channels, codedChannels: channels + offset, offset, steps, order, extents, near, sensitivity, decisions };
  return { ...numbers, scans, ...readTables(take) };
}

function readScans(arrays, take, coded, extents, near) {
  const table = take("scans", "<i2", 2);
  const [count, width] = arrays.get("scans").shape;
  check(width === 6, "scans has six columns");
  check(count >= 1 && count <= 96, "1 to 96 scans");
  const pieces = (key, kind) => new Pieces(take(key, kind), key);
  const read = {
    grids: pieces("grids", "|i1"), taps: pieces("taps", "|i1"), weights: pieces("weights", "|i1"),
    ownWeights: pieces("own_weights", "|i1"), globalWeights: pieces("global_weights", "<i4"),
    shift: pieces("shift", "|u1"), outWeights: pieces("out_weights", "|i1"), outShift: pieces("out_shift", "|u1"),
  };
  const covered = new Int32Array(coded * LATTICE * LATTICE);
  // A latent channel is coded where the extent reaches it; the extents are coded everywhere, and first.
  const reach = (channel) => (extents.length && channel ? extents.findIndex((extent) => extent > channel - 1) + 1 : 0);
  const scans = [];
  for (let row = 0; row < count; row++) {
    const [start, stop, gridCount, tapCount, ownCount, hidden] = table.subarray(6 * row, 6 * row + 6);
    check(start >= 0 && start < stop && stop <= coded, "a scan codes channels");
    check(gridCount >= 1 && gridCount <= LATTICE ** 2 && hidden >= 1 && hidden <= 1024, "sizes of a scan");
    const maxTaps = (2 * WINDOW + 1) ** 2;
    check(Math.min(tapCount, ownCount) >= 0 && Math.max(tapCount, ownCount) <= maxTaps, "taps of a scan");
    const wide = start >= near;
    const size = stop - start;
    const seen = Math.min(start, near);
    check(reach(start) === reach(stop - 1), "the channels of a scan have one extent");
    check(!extents.length || start === 0 || covered.subarray(0, LATTICE ** 2).every((n) => n === 1), "extents are coded first");
    check(wide || stop <= near, "a scan is on one side of the near channels");
    check(!wide || ((start - near) % BAND === 0 && (stop === coded || (stop - near) % BAND === 0)), "wide scans code whole bands");
    const bandsHere = wide ? (start - near) / BAND : 0;
    const bandsAround = wide ? Math.ceil((stop - near) / BAND) : 0;
    const grids = read.grids.rows(gridCount, 3);
    const taps = read.taps.rows(tapCount, 2);
    const ownTaps = read.taps.rows(ownCount, 2);
    check([...taps, ...ownTaps].flat().every((d) => Math.abs(d) <= WINDOW), `taps reach ${WINDOW} symbols at most`);
    for (const [y0, x0, stride] of grids) {
      check([1, 2, 4].includes(stride) && y0 >= 0 && y0 < stride && x0 >= 0 && x0 < stride, "grids of stride 1, 2 or 4");
      for (let channel = start; channel < stop; channel++)
        for (let y = y0; y < LATTICE; y += stride)
          for (let x = x0; x < LATTICE; x += stride) covered[(channel * LATTICE + y) * LATTICE + x]++;
    }
    const columns = wide ? hidden : hidden + 2 * size;
    const shown = wide ? seen : stop;
    const symbols = tapCount * seen + (wide ? 0 : ownCount * size);
    const inputs = symbols + shown + bandsHere + bandsAround;
    const scan = {
      start, stop, size, hidden, columns, wide, seen, shown, bandsHere, bandsAround, grids, taps, ownTaps,
      minExtent: reach(start),
      weights: Int32Array.from(read.weights.take(inputs * columns)),
      meanWeights: Int32Array.from(read.weights.take(shown * columns)),
      ownWeights: Int32Array.from(read.ownWeights.take(wide ? 2 * ownCount * size : 0)),
      globalWeights: read.globalWeights.take(2 * (hidden + 2 * size)),
      shift: read.shift.take(hidden),
      outWeights: Int32Array.from(read.outWeights.take(hidden * 2 * size)),
      outShift: read.outShift.take(2 * size),
    };
    checkWidths(scan, symbols);
    check(scan.shift.every((s) => s < 24) && scan.outShift.every((s) => s < 31), "shifts are small");
    scans.push(scan);
  }
  check(covered.every((n) => n === 1), "every symbol is coded exactly once");
  for (const key in read) read[key].end();
  return scans;
}

/** No sum leaves 24 bits, so that 32-bit integers hold everything that `context.js` computes. */
function checkWidths(scan, symbols) {
  const { hidden, size, columns } = scan;
  const bound = new Float64Array(hidden + 2 * size);
  for (let j = 0; j < bound.length; j++)
    bound[j] = 2 + Math.floor((Math.abs(scan.globalWeights[j]) + LARGEST_INVERSE * Math.abs(scan.globalWeights[bound.length + j])) / 256);
  const add = (weights, row, limit) => {
    for (let j = 0; j < columns; j++) bound[j] += limit * Math.abs(weights[row * columns + j]);
  };
  const inputs = scan.weights.length / columns;
  for (let i = 0; i < inputs; i++) {
    const here = i < symbols || (i >= symbols + scan.shown && i < symbols + scan.shown + scan.bandsHere);
    add(scan.weights, i, here ? SYMBOL_LIMIT : AROUND * SYMBOL_LIMIT);
  }
  for (let i = 0; i < scan.shown; i++) add(scan.meanWeights, i, SYMBOL_LIMIT);
  const half = scan.ownWeights.length / 2;
  scan.ownWeights.forEach((weight, i) => {
    bound[hidden + (i < half ? 0 : size) + (i % size)] += SYMBOL_LIMIT * Math.abs(weight);
  });
  check(bound.every((sum) => sum < EXACT), "sums of the first layer stay below 2**24");
  const out = new Float64Array(2 * size);
  scan.outWeights.forEach((weight, i) => {
    out[i % (2 * size)] += HIDDEN_LIMIT * Math.abs(weight);
  });
  check(out.every((sum) => sum < EXACT), "sums of the second layer stay below 2**24");
}

function readTables(take) {
  const thresholds = take("thresholds", "<u2", 1);
  const radius = take("radius", "|u1", 1);
  const lowBits = take("low_bits", "|u1", 1);
  check(thresholds.every((threshold, i) => !i || threshold > thresholds[i - 1]), "thresholds increase");
  const classes = thresholds.length + 1;
  check(classes <= 256 && radius.length === classes && lowBits.length === classes, "one radius and low_bits for each class");
  check(lowBits.every((bits) => bits <= 16), "at most 16 low bits");
  const pieces = new Pieces(take("frequencies", "<u2"), "frequencies");
  const frequencies = [];
  for (const r of radius)
    for (let fraction = 0; fraction < FRACTIONS; fraction++) {
      const row = pieces.take(2 * r + 2);
      check(row.every((f) => f > 0) && row.reduce((sum, f) => sum + f, 0) === TOTAL, `frequencies are positive, sum ${TOTAL}`);
      frequencies.push(row);
    }
  pieces.end();
  const classOf = new Uint8Array(SCALE_LIMIT + 1);
  thresholds.forEach((threshold, i) => classOf.fill(i + 1, threshold));
  const made = [];
  return { radius, lowBits, classOf, starts: (table) => (made[table] ??= intervalStarts(frequencies[table])) };
}

/** docs/PRIOR.md, "Tables" of the range coder. @param {Uint16Array} frequencies */
function intervalStarts(frequencies) {
  const count = frequencies.length;
  const starts = new Uint32Array(count + 1);
  let sum = 0;
  for (let i = 0; i < count; i++) {
    starts[i] = i + Math.floor(Math.fround((sum * (2 ** 24 - count)) / 65536));
    sum += frequencies[i];
  }
  starts[count] = 2 ** 24;
  return starts;
}
