/**
 * Alpha coding 3, for masks that are mostly 0 and 255: docs/FORMAT.md, "Edges".
 */

import { BinaryDecoder } from "./binary_decoder.js";
import { CorruptError } from "./errors.js";

const BLOCK = 16;
const MOST_MIXED = 2048;
const TRANSPARENT = 0;
const MIXED = 1;
const OPAQUE = 2;
const FILL = [0, 0, 255]; // mixed blocks are 0 until they are read

// Where each kind of decision keeps its probabilities.
const SOFT_AT = 18;
const OPAQUE_AT = 747;
const ZERO_AT = 1476;
const SIGN_AT = 1480;
const PREFIX_AT = 1484;
const SUFFIX_AT = 1516;
const CONTEXTS = 1572;

const classOf = (value) => (value === 0 ? TRANSPARENT : value === 255 ? OPAQUE : MIXED);
const clip = (value, low, high) => Math.min(Math.max(value, low), high);

/** @param {Uint8Array} data  from the parameter on @returns {Uint8Array} (height, width) */
export function decodeEdges(data, heightPx, widthPx) {
  if (data[0] & 0x40) throw new CorruptError("the alpha plane has no valid parameter");
  const soft = data[0] >= 0x80;
  const step = 2 * (data[0] & 0x3f) + 1;
  const coder = new BinaryDecoder(data.subarray(1), CONTEXTS, "the alpha plane");
  const columns = Math.ceil(widthPx / BLOCK);
  const blocks = readBlocks(coder, Math.ceil(heightPx / BLOCK), columns);
  const alpha = new Uint8Array(heightPx * widthPx);
  for (let y = 0, at = 0; y < heightPx; y++)
    for (let x = 0; x < widthPx; x++, at++) alpha[at] = FILL[blocks[(y >> 4) * columns + (x >> 4)]];

  const look = (x, y) => (x < 0 || y < 0 || x >= widthPx ? 0 : alpha[y * widthPx + x]);
  for (let y = 0; y < heightPx; y++)
    for (let block = 0; block < columns; block++) {
      if (blocks[(y >> 4) * columns + block] !== MIXED) continue;
      const stop = Math.min((block + 1) * BLOCK, widthPx);
      for (let x = block * BLOCK; x < stop; x++) {
        const west = look(x - 1, y);
        const north = look(x, y - 1);
        const northWest = look(x - 1, y - 1);
        const northEast = look(x + 1, y - 1);
        const k =
          classOf(west) + 3 * classOf(north) + 9 * classOf(northWest) + 27 * classOf(northEast) +
          81 * classOf(look(x - 2, y)) + 243 * classOf(look(x, y - 2));
        const at = y * widthPx + x;
        if (!(soft && coder.bit(SOFT_AT + k))) {
          alpha[at] = 255 * coder.bit(OPAQUE_AT + k);
          continue;
        }
        const low = Math.max(Math.min(west, north), 1);
        const prediction = Math.min(clip(west + north - northWest, low, Math.max(west, north, 1)), 254);
        const t = Math.abs(west - north) + Math.abs(north - northWest) + Math.abs(north - northEast);
        const error = readError(coder, (t > 16) + (t > 64) + (t > 200));
        alpha[at] = clip(prediction + error * step, 1, 254);
      }
    }
  coder.finish();
  checkBlocks(alpha, blocks, heightPx, widthPx, columns);
  return alpha;
}

function readBlocks(coder, rows, columns) {
  const blocks = new Uint8Array(rows * columns);
  let mixed = 0;
  for (let at = 0; at < blocks.length; at++) {
    const above = at < columns ? TRANSPARENT : blocks[at - columns];
    const left = at % columns ? blocks[at - 1] : TRANSPARENT;
    const context = 2 * (3 * above + left);
    blocks[at] = coder.bit(context) ? MIXED : coder.bit(context + 1) ? OPAQUE : TRANSPARENT;
    mixed += blocks[at] === MIXED;
  }
  if (mixed < 1 || mixed > MOST_MIXED)
    throw new CorruptError(`the alpha plane has no blocks with edges, or more than ${MOST_MIXED}`);
  return blocks;
}

/** A signed number: zero or not, its sign, then its size by an Exp-Golomb code. */
function readError(coder, activity) {
  if (!coder.bit(ZERO_AT + activity)) return 0;
  const negative = coder.bit(SIGN_AT + activity);
  let prefix = 0;
  while (coder.bit(PREFIX_AT + 8 * activity + prefix))
    if (++prefix > 7) throw new CorruptError("the alpha plane holds an error beyond 255");
  let size = 1;
  for (let place = prefix - 1; place >= 0; place--) size = size * 2 + coder.bit(SUFFIX_AT + 7 * prefix + place);
  return negative ? -size : size;
}

/** Refuses a mixed block whose pixels are all transparent or all opaque. */
function checkBlocks(alpha, blocks, heightPx, widthPx, columns) {
  for (let block = 0; block < blocks.length; block++) {
    if (blocks[block] !== MIXED) continue;
    const top = Math.floor(block / columns) * BLOCK;
    const left = (block % columns) * BLOCK;
    let low = 255;
    let high = 0;
    for (let y = top; y < Math.min(top + BLOCK, heightPx); y++)
      for (let x = left; x < Math.min(left + BLOCK, widthPx); x++) {
        low = Math.min(low, alpha[y * widthPx + x]);
        high = Math.max(high, alpha[y * widthPx + x]);
      }
    if (high === 0 || low === 255) throw new CorruptError("the alpha plane has a block that is not as mixed as it says");
  }
}
