/**
 * A picture -> the encoder graph, tile by tile -> latents -> the bytes of an .sdl file. No patches, no metadata.
 */

import { encodeAlpha } from "./alpha_writer.js";
import { writeFile } from "./bitstream.js";
import { DEFAULT_MAX_PIXELS, MAX_SIDE_PX } from "./container.js";
import { engineOf } from "./engine.js";
import { ArgumentError, LimitError, ModelError } from "./errors.js";
import { FRAME_PX, GLOBAL_FRAME_PX, planTiles } from "./tiles.js";

/** What a graph is given for a sample of 8 bits: [-1, 1]. */
const SAMPLES = Float32Array.from({ length: 256 }, (_, value) => Math.fround(value * Math.fround(1 / 127.5)) - 1);

/**
 * @param {import("./pack.js").Pack} pack
 * @param {{data: Uint8ClampedArray, width: number, height: number}} picture  RGBA, not premultiplied, sRGB
 * @param {object} options
 * @param {number} options.quality    0 to 100
 * @param {number} [options.tilePx]   side of the tiles that large pictures are cut into, raised to what they need
 * @param {(done: number, total: number) => void} [options.progress]  called after each tile
 * @returns {Promise<Uint8Array>} the file
 * @throws {ArgumentError | LimitError | ModelError | EngineError}
 */
export async function encode(pack, picture, { quality, tilePx, progress }) {
  const { width: widthPx, height: heightPx } = picture;
  if (!(quality >= 0 && quality <= 100)) throw new ArgumentError(`quality is ${quality}, it must be from 0 to 100`);
  if (widthPx * heightPx > DEFAULT_MAX_PIXELS || Math.max(widthPx, heightPx) > MAX_SIDE_PX)
    throw new LimitError(`the picture has ${widthPx} x ${heightPx} pixels, the limit is ${DEFAULT_MAX_PIXELS}`);
  const { coarse, fine } = pack.quality;
  const stepIndex = Math.round(coarse + ((fine - coarse) * quality) / 100);
  const rows = Math.ceil(heightPx / pack.space.downscale);
  const columns = Math.ceil(widthPx / pack.space.downscale);
  const prior = await pack.prior(pack.ownPrior);
  const latents = await toLatents(pack, picture, { rows, columns }, { tilePx, progress });
  const alpha = await encodeAlpha(picture.data, heightPx, widthPx);
  const chunks = alpha ? [["ALPH", alpha]] : [];
  return writeFile(pack, prior, { rows, columns, latents }, { widthPx, heightPx, stepIndex, chunks });
}

/** `(raw - shift) * scale`, (channels, rows, columns). */
async function toLatents(pack, picture, grid, { tilePx, progress }) {
  const { downscale: cell, channels, scale, shift } = pack.space;
  const { rows, columns } = grid;
  const whole = pack.haloPx === null; // such a graph looks everywhere at once
  if (whole && rows * columns * cell ** 2 > GLOBAL_FRAME_PX)
    throw new LimitError(`the pack ${pack.name} encodes pictures of up to ${GLOBAL_FRAME_PX} pixels in a browser`);
  const framePx = tilePx && !whole ? tilePx ** 2 : FRAME_PX;
  const plan = planTiles(grid, Math.floor(framePx / cell ** 2), whole ? 0 : Math.ceil(pack.haloPx / cell));
  const engine = await engineOf(pack, "encoder");
  const latents = new Float32Array(channels * rows * columns);
  const total = plan.rows.length * plan.columns.length;
  let done = 0;
  for (const row of plan.rows)
    for (const column of plan.columns) {
      const [high, wide] = [row.frameStop - row.frameStart, column.frameStop - column.frameStart];
      const [highPx, widePx] = [high * cell, wide * cell];
      const sample = new Float32Array(3 * highPx * widePx);
      fill(sample, picture, row.frameStart * cell, column.frameStart * cell, highPx, widePx);
      const { data, dims } = await engine.run(sample, [1, 3, highPx, widePx]);
      // A graph of a distribution gives its means first.
      const wanted = [1, channels * (pack.latentDistribution ? 2 : 1), high, wide];
      if (dims.join() !== wanted.join()) throw new ModelError(`the encoder gives the shape ${dims}, not ${wanted}`);
      for (let c = 0; c < channels; c++)
        for (let y = row.start; y < row.stop; y++)
          for (let x = column.start; x < column.stop; x++) {
            const raw = data[(c * high + y - row.frameStart) * wide + x - column.frameStart];
            latents[(c * rows + y) * columns + x] = Math.fround(raw - shift) * scale;
          }
      progress?.(++done, total);
    }
  if (!latents.every(Number.isFinite)) throw new ModelError("the encoder gives values that are not finite");
  return latents;
}

/** The planes of a rectangle of the picture, which beyond its right and lower edges repeats its last pixels. */
function fill(sample, { data, width, height }, top, left, highPx, widePx) {
  const plane = highPx * widePx;
  for (let y = 0, to = 0; y < highPx; y++) {
    const from = Math.min(top + y, height - 1) * width;
    for (let x = 0; x < widePx; x++, to++) {
      const at = (from + Math.min(left + x, width - 1)) * 4;
      for (let c = 0; c < 3; c++) sample[c * plane + to] = SAMPLES[data[at + c]];
    }
  }
}
