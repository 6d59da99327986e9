/**
 * The step index of every latent position: docs/FORMAT.md, "The step map".
 */

import { BinaryDecoder } from "./binary_decoder.js";
import { CorruptError } from "./errors.js";

const CELL_PX = 64;
const UNIT = 16;
const MAX_OFFSET = 7;
const ZERO_AT = 0;
const SIGN_AT = 3;
const MORE_AT = 6;
const CONTEXTS = MORE_AT + 2 * MAX_OFFSET;

/**
 * @param {import("./container.js").SdlFile} file
 * @param {number} downscale  pixels a side of a latent position
 * @returns {{rows: number, columns: number, indices: Int32Array}} the grid, and indices 0..1023 row by row
 * @throws {CorruptError} the chunk is no map of this grid
 */
export function stepIndices(file, downscale) {
  const rows = Math.ceil(file.codedHeightPx / downscale);
  const columns = Math.ceil(file.codedWidthPx / downscale);
  const indices = new Int32Array(rows * columns).fill(file.stepIndex);
  const chunk = file.chunks.get("STEP");
  if (chunk) {
    const side = Math.max(1, Math.floor(CELL_PX / downscale));
    const cells = Math.ceil(columns / side);
    const offsets = decodeOffsets(chunk, Math.ceil(rows / side), cells);
    for (let y = 0, at = 0; y < rows; y++)
      for (let x = 0; x < columns; x++, at++) {
        const offset = offsets[Math.floor(y / side) * cells + Math.floor(x / side)];
        indices[at] = Math.min(Math.max(file.stepIndex + UNIT * offset, 0), 1023);
      }
  }
  return { rows, columns, indices };
}

/** @returns {Int8Array} offsets -7..7, row by row */
export function decodeOffsets(data, rows, columns) {
  const coder = new BinaryDecoder(data, CONTEXTS, "the step map");
  const offsets = new Int8Array(rows * columns);
  let flat = true;
  for (let y = 0, at = 0; y < rows; y++)
    for (let x = 0; x < columns; x++, at++) {
      const left = x ? offsets[at - 1] : y ? offsets[at - columns] : 0;
      const above = y ? offsets[at - columns] : left;
      const offset = ((left + above) >> 1) + difference(coder, Math.min(2, Math.abs(left - above)));
      if (Math.abs(offset) > MAX_OFFSET) throw new CorruptError(`the step map holds an offset beyond ${MAX_OFFSET}`);
      offsets[at] = offset;
      flat &&= offset === 0;
    }
  coder.finish();
  if (flat) throw new CorruptError("the step map is flat: such a file has none");
  return offsets;
}

function difference(coder, activity) {
  if (!coder.bit(ZERO_AT + activity)) return 0;
  const negative = coder.bit(SIGN_AT + activity);
  let size = 1;
  while (size < 2 * MAX_OFFSET && coder.bit(MORE_AT + size - 1)) size++;
  return negative ? -size : size;
}
