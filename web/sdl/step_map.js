/**
 * The step index of every latent position: docs/FORMAT.md, "The step map".
 */

import { BinaryDecoder } from "./binary_decoder.js";
import { BinaryEncoder } from "./binary_encoder.js";
import { CorruptError } from "./errors.js";

/** Step indices that an offset of 1 means. */
export const UNIT = 16;

const CELL_PX = 64;
const MAX_OFFSET = 7;
const ZERO_AT = 0;
const SIGN_AT = 3;
const MORE_AT = 6;
const CONTEXTS = MORE_AT + 2 * MAX_OFFSET;

/**
 * @typedef {object} Cells  of the step map of a grid of latents
 * @property {number} rows
 * @property {number} columns
 * @property {Int32Array} of  the cell of each latent position, row by row
 */

/**
 * @param {import("./container.js").SdlFile} file
 * @param {number} downscale  pixels a side of a latent position
 * @returns {{rows: number, columns: number, indices: Int32Array}} the grid, and indices 0..1023 row by row
 * @throws {CorruptError} the chunk is no map of this grid
 */
export function stepIndices(file, downscale) {
  const rows = Math.ceil(file.codedHeightPx / downscale);
  const columns = Math.ceil(file.codedWidthPx / downscale);
  const cells = cellsOf(rows, columns, downscale);
  const chunk = file.chunks.get("STEP");
  const offsets = chunk && decodeOffsets(chunk, cells.rows, cells.columns);
  return { rows, columns, indices: spread(offsets, file.stepIndex, cells) };
}

/** @param {number} rows  of latents @returns {Cells} */
export function cellsOf(rows, columns, downscale) {
  const side = Math.max(1, Math.floor(CELL_PX / downscale));
  const across = Math.ceil(columns / side);
  const of = new Int32Array(rows * columns);
  for (let y = 0, at = 0; y < rows; y++)
    for (let x = 0; x < columns; x++, at++) of[at] = Math.floor(y / side) * across + Math.floor(x / side);
  return { rows: Math.ceil(rows / side), columns: across, of };
}

/** The step index 0..1023 of each latent position. @param {Int8Array} [offsets]  without any, all are `stepIndex` */
export function spread(offsets, stepIndex, { of }) {
  return of.map((cell) => (offsets ? Math.min(Math.max(stepIndex + UNIT * offsets[cell], 0), 1023) : stepIndex));
}

/** @returns {Int8Array} offsets -7..7, row by row */
export function decodeOffsets(data, rows, columns) {
  const coder = new BinaryDecoder(data, CONTEXTS, "the step map");
  const offsets = walk(coder, new Int8Array(rows * columns), columns);
  coder.finish();
  if (!offsets.some(Boolean)) throw new CorruptError("the step map is flat: such a file has none");
  return offsets;
}

/** @param {Int8Array} offsets  -7..7, row by row, not all 0 @returns {Uint8Array} the data of the chunk */
export function encodeOffsets(offsets, columns) {
  const coder = new BinaryEncoder(CONTEXTS);
  walk(coder, offsets, columns);
  return coder.finish();
}

/** Codes every cell as the difference from a prediction. An encoder takes `offsets`, a decoder fills them. */
function walk(coder, offsets, columns) {
  for (let at = 0; at < offsets.length; at++) {
    const over = offsets[at - columns];
    const left = at % columns ? offsets[at - 1] : (over ?? 0);
    const above = over ?? left;
    const promised = (left + above) >> 1;
    const offset = promised + difference(coder, Math.min(2, Math.abs(left - above)), offsets[at] - promised);
    if (Math.abs(offset) > MAX_OFFSET) throw new CorruptError(`the step map holds an offset beyond ${MAX_OFFSET}`);
    offsets[at] = offset;
  }
  return offsets;
}

/** `wanted`: what an encoder codes. */
function difference(coder, activity, wanted) {
  if (!coder.bit(ZERO_AT + activity, Number(wanted !== 0))) return 0;
  const negative = coder.bit(SIGN_AT + activity, Number(wanted < 0));
  let size = 1;
  while (size < 2 * MAX_OFFSET && coder.bit(MORE_AT + size - 1, Number(Math.abs(wanted) > size))) size++;
  return negative ? -size : size;
}
