/**
 * Latents -> the bytes of an .sdl file. One quality for all of the picture, and finer steps where it is smooth.
 */

import { adapted } from "./activity.js";
import { pack as packFile } from "./container.js";
import { encodePayload } from "./payload.js";
import { quantize } from "./quantize.js";
import { cellsOf, encodeOffsets, spread } from "./step_map.js";

/**
 * @param {import("./pack.js").Pack} pack
 * @param {import("./prior.js").Prior} prior  the pack's own
 * @param {{rows: number, columns: number, latents: Float32Array}} picture  (channels, rows, columns)
 * @param {{widthPx: number, heightPx: number, stepIndex: number, chunks: [string, Uint8Array][]}} fields  of the file:
 *   chunks besides the step map
 * @returns {Uint8Array} the file
 */
export function writeFile(pack, prior, { rows, columns, latents }, { chunks, ...fields }) {
  const cells = cellsOf(rows, columns, pack.space.downscale);
  // A decoder that is not told the step of each position would show where it changes.
  const offsets = pack.qualityInput ? adapted(latents, prior, cells, fields.stepIndex) : null;
  const grid = { rows, columns, indices: spread(offsets, fields.stepIndex, cells) };
  return packFile({
    ...fields,
    space: pack.space.identity,
    prior: pack.ownPrior,
    chunks: offsets ? [...chunks, ["STEP", encodeOffsets(offsets, cells.columns)]] : chunks,
    payload: encodePayload(quantize(latents, prior, grid), prior, grid),
  });
}
