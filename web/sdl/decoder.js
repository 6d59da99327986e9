/**
 * Where the parts meet: the bytes of an .sdl file -> latents -> the decoder graph, tile by tile -> strips of pixels.
 */

import { decodeAlpha } from "./alpha.js";
import { unpack } from "./container.js";
import { engineOf } from "./engine.js";
import { EngineError, ModelError } from "./errors.js";
import { Overlay } from "./overlay.js";
import { decodePayload } from "./payload.js";
import { enlargedRows } from "./scaling.js";
import { stepIndices } from "./step_map.js";
import { FRAME_PX, GLOBAL_FRAME_PX, planTiles, strips } from "./tiles.js";

// Of graphs that look everywhere at once: the overlap of their tiles, and the rim that is thrown away.
const GLOBAL_FADE_PX = 96;
const GLOBAL_TRIM_PX = 32;
/** Rows of a strip that no tile gives: of enlarged pictures, and of those that patches hide. */
const STRIP_ROWS = 256;

/** @typedef {{top: number, rows: number, rgba: Uint8ClampedArray}} Strip  rows of the whole width, not premultiplied */

/** Decodes files of one pack. */
export class Decoder {
  /** @param {import("./pack.js").Pack} pack */
  constructor(pack) {
    this.pack = pack;
  }

  /**
   * The integers of a file. Needs no engine.
   * @param {import("./container.js").SdlFile} file
   * @returns {Promise<{symbols: Int32Array, grid: {rows: number, columns: number, indices: Int32Array}}>}
   * @throws {ModelError | CorruptError}
   */
  async symbols(file) {
    const { space, priors } = this.pack;
    if (file.space !== space.identity)
      throw new ModelError(`the file wants latent space ${file.space}, the pack ${this.pack.name} has ${space.identity}`);
    if (!priors.includes(file.prior))
      throw new ModelError(`the file wants prior ${file.prior}, the pack ${this.pack.name} has ${priors.join(", ")}`);
    const prior = await this.pack.prior(file.prior);
    const grid = stepIndices(file, space.downscale);
    return { symbols: decodePayload(file.payload, prior, grid), grid };
  }

  /**
   * Paints a file from top to bottom.
   * @param {Uint8Array} data
   * @param {object} [options]
   * @param {number} [options.maxPixels]
   * @param {number} [options.tilePx]  side of the tiles that large pictures are cut into, raised to what they need
   * @param {(done: number, total: number) => void} [options.progress]  called after each tile
   * @returns {AsyncGenerator<Strip>}
   * @throws {SdrtError}
   */
  async *paint(data, { maxPixels, tilePx, progress } = {}) {
    const file = unpack(data, maxPixels);
    const overlay = await Overlay.of(file);
    const { symbols, grid } = await this.symbols(file);
    const coded = file.chunks.get("ALPH");
    const alpha = coded && decodeAlpha(coded, file.heightPx, file.widthPx);
    const painted = overlay?.hidesAll ? blank(file) : this.painted(file, symbols, grid, tilePx, progress);
    for await (const strip of painted) {
      overlay?.over(strip);
      if (alpha) {
        const from = strip.top * file.widthPx;
        for (let i = 0; i < strip.rows * file.widthPx; i++) strip.rgba[4 * i + 3] = alpha[from + i];
      }
      yield strip;
    }
  }

  /** Strips of the picture as the network paints it. */
  async *painted(file, symbols, grid, tilePx, progress) {
    const latents = this.latents(symbols, grid, await this.pack.prior(file.prior));
    yield* resampled(file, this.codedStrips(file, latents, grid, tilePx, progress));
  }

  /** What the graph is told: raw latents, and the quality level where it takes it; (channels, rows, columns). */
  latents(symbols, grid, { steps }) {
    const { channels, scale, shift } = this.pack.space;
    const area = grid.rows * grid.columns;
    const latents = new Float32Array((channels + this.pack.qualityInput) * area);
    const factors = Float32Array.from(grid.indices, (index) => 2 ** ((index - 512) / 64));
    for (let c = 0, i = 0; c < channels; c++)
      for (let at = 0; at < area; at++, i++) {
        const latent = Math.fround(Math.fround(symbols[i] * steps[c]) * factors[at]);
        latents[i] = Math.fround(latent / scale) + shift;
      }
    if (!latents.every(Number.isFinite)) throw new ModelError("the pack's prior and scale make latents that are not finite");
    if (this.pack.qualityInput)
      for (let at = 0; at < area; at++) latents[channels * area + at] = (grid.indices[at] - 512) / 64;
    return latents;
  }

  /** Strips of the coded picture, cut to its size. */
  async *codedStrips(file, latents, grid, tilePx, progress) {
    const cell = this.pack.space.downscale;
    const { halo } = this.pack;
    const framePx = tilePx ? tilePx ** 2 : halo === null ? GLOBAL_FRAME_PX : FRAME_PX;
    const maxCells = Math.floor(framePx / cell ** 2);
    const plan =
      halo === null
        ? planTiles(grid, maxCells, Math.ceil(GLOBAL_TRIM_PX / cell), Math.ceil(GLOBAL_FADE_PX / cell))
        : planTiles(grid, maxCells, halo);
    const total = plan.rows.length * plan.columns.length;
    const engine = await engineOf(this.pack, "decoder");
    let done = 0;
    const paint = async (row, column) => {
      const rgba = await runTile(engine, latents, grid, row, column, cell);
      progress?.(++done, total);
      return rgba;
    };
    for await (const strip of strips(plan, cell, paint))
      if (strip.top < file.codedHeightPx) yield cut(strip, grid.columns * cell, file.codedWidthPx, file.codedHeightPx);
  }
}

/** The pixels of one frame, RGBA. */
async function runTile(engine, latents, grid, row, column, cell) {
  const area = grid.rows * grid.columns;
  const channels = latents.length / area;
  const rows = row.frameStop - row.frameStart;
  const columns = column.frameStop - column.frameStart;
  const frame = new Float32Array(channels * rows * columns);
  for (let c = 0, to = 0; c < channels; c++)
    for (let y = row.frameStart; y < row.frameStop; y++, to += columns) {
      const from = c * area + y * grid.columns + column.frameStart;
      frame.set(latents.subarray(from, from + columns), to);
    }
  const { data, dims } = await engine.run(frame, [1, channels, rows, columns]);
  const [high, wide] = [rows * cell, columns * cell];
  const done = data instanceof Uint8Array; // a decoder that gives pixels has rounded them itself
  const wanted = done ? [1, high, wide, 3] : [1, 3, high, wide];
  if (dims.join() !== wanted.join()) throw new ModelError(`the decoder gives the shape ${dims}, not ${wanted}`);
  const rgba = new Uint8ClampedArray(high * wide * 4);
  const plane = high * wide;
  let sum = 0;
  for (let c = 0; c < 3; c++)
    for (let i = 0, to = c; i < plane; i++, to += 4) {
      const value = done ? data[3 * i + c] : Math.fround(Math.fround(data[c * plane + i] * 127.5) + 127.5);
      sum += value;
      rgba[to] = value; // rounded, ties to even, and clipped
    }
  for (let to = 3; to < rgba.length; to += 4) rgba[to] = 255;
  if (Number.isNaN(sum)) throw new EngineError("the decoder gave values that are not numbers");
  return rgba;
}

/** A strip of a picture of `strideWidth` pixels a row, less what lies outside of the picture. */
function cut(strip, strideWidth, widthPx, heightPx) {
  const rows = Math.min(strip.rows, heightPx - strip.top);
  if (widthPx === strideWidth) return { top: strip.top, rows, rgba: strip.rgba.subarray(0, rows * widthPx * 4) };
  const rgba = new Uint8ClampedArray(rows * widthPx * 4);
  for (let y = 0; y < rows; y++)
    rgba.set(strip.rgba.subarray(y * strideWidth * 4, (y * strideWidth + widthPx) * 4), y * widthPx * 4);
  return { top: strip.top, rows, rgba };
}

/** A picture of which nothing will be seen, in strips: where patches hide all no network is needed. */
function* blank({ widthPx, heightPx }) {
  for (let top = 0; top < heightPx; top += STRIP_ROWS) {
    const rows = Math.min(STRIP_ROWS, heightPx - top);
    yield { top, rows, rgba: new Uint8ClampedArray(rows * widthPx * 4).fill(255) };
  }
}

/** Strips of the picture from those of its coded picture. */
async function* resampled(file, coded) {
  if (file.resampling === 1) {
    yield* coded;
    return;
  }
  const { codedWidthPx, codedHeightPx, resampling, widthPx, heightPx } = file;
  const small = new Uint8ClampedArray(codedWidthPx * codedHeightPx * 4);
  for await (const strip of coded) small.set(strip.rgba, strip.top * codedWidthPx * 4);
  for (let top = 0; top < heightPx; top += STRIP_ROWS) {
    const rows = Math.min(STRIP_ROWS, heightPx - top);
    yield { top, rows, rgba: enlargedRows(small, codedWidthPx, codedHeightPx, resampling, widthPx, top, rows) };
  }
}
