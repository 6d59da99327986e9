/**
 * Chunk PTCH: which cells of a picture a classical codec keeps, and its stream: docs/FORMAT.md, "Patches".
 */

import { BinaryDecoder } from "./binary_decoder.js";
import { FieldReader } from "./container.js";
import { CorruptError, UnsupportedError } from "./errors.js";

export const CELL_PX = 16;

const CODINGS = ["av1", "vp8l"];
const FEATHERS_PX = [0, 2, 4, 8];
const MASKED = 1 << 4;
const HALVED = 1 << 5;
const RESERVED = 0b11 << 6;
const CONTEXTS = 16;

/**
 * @typedef {object} Patches
 * @property {number} rows     of cells
 * @property {number} columns
 * @property {Uint8Array} mask row by row, 1 where a cell is patched; at least one is
 * @property {boolean} hidesAll  every cell is patched
 * @property {number} featherPx  0, 2, 4 or 8
 * @property {"av1" | "vp8l"} coding  of the atlas
 * @property {Uint8Array} stream      the atlas
 * @property {boolean} halved   the stream holds the atlas at a half of its sides, rounded up
 */

/**
 * @param {Uint8Array} data  of the chunk
 * @returns {Patches}
 * @throws {CorruptError | UnsupportedError}
 */
export function decodePatches(data, heightPx, widthPx) {
  const reader = new FieldReader(data, 0);
  const head = reader.take(1, "kind of patches")[0];
  if (head & RESERVED) throw new CorruptError(`reserved bits of the patches are set: ${head & RESERVED}`);
  const coding = CODINGS[head & 3];
  if (!coding) throw new UnsupportedError(`the patches have coding ${head & 3}, this decoder knows ${CODINGS.join(", ")}`);
  const rows = Math.ceil(heightPx / CELL_PX);
  const columns = Math.ceil(widthPx / CELL_PX);
  let mask;
  if (head & MASKED) {
    const bytes = reader.varint(4, "length of the patches' mask");
    mask = decodeMask(reader.take(bytes, "mask of the patches"), rows, columns);
  } else mask = new Uint8Array(rows * columns).fill(1);
  const hidesAll = mask.every(Boolean);
  const featherPx = FEATHERS_PX[(head >> 2) & 3];
  if (featherPx && hidesAll) throw new CorruptError("patches over the whole picture have nothing to fade into");
  const stream = data.subarray(reader.at);
  return { rows, columns, mask, hidesAll, featherPx, coding, stream, halved: (head & HALVED) > 0 };
}

function decodeMask(data, rows, columns) {
  const coder = new BinaryDecoder(data, CONTEXTS, "the mask of the patches");
  const mask = new Uint8Array(rows * columns);
  const known = (y, x) => (y < 0 || x < 0 || x === columns ? 0 : mask[y * columns + x]);
  let marked = 0;
  for (let y = 0, at = 0; y < rows; y++)
    for (let x = 0; x < columns; x++, at++) {
      const context = known(y, x - 1) + 2 * known(y - 1, x) + 4 * known(y - 1, x - 1) + 8 * known(y - 1, x + 1);
      marked += mask[at] = coder.bit(context);
    }
  coder.finish();
  if (marked === 0 || marked === mask.length)
    throw new CorruptError("the mask of the patches marks no cell, or all of them");
  return mask;
}

/**
 * Which rows and which columns of cells have a marked one: those that the atlas is made of.
 * @param {Patches} patches
 * @returns {{rows: boolean[], columns: boolean[]}}
 */
export function markedLines({ rows, columns, mask }) {
  const marked = { rows: Array(rows).fill(false), columns: Array(columns).fill(false) };
  for (let y = 0, at = 0; y < rows; y++)
    for (let x = 0; x < columns; x++, at++) if (mask[at]) marked.rows[y] = marked.columns[x] = true;
  return marked;
}
