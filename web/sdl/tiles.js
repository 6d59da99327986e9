/**
 * Geometry of tiles: which latents a graph is run on, and which of its pixels are kept (docs/TILES.md).
 *
 * Lengths are in cells, one latent each way. A graph of convolutions gives a cell exactly as in the whole picture where
 * at least `halo` cells around it are in the same run, or where the run ends with the picture. Tiles of any other graph
 * overlap by `fade` cells and are blended linearly there.
 */

/** Pixels of a frame that a graph of convolutions is run on at once. */
export const FRAME_PX = 1024 * 1024;
/** The same for graphs that look everywhere at once. */
export const GLOBAL_FRAME_PX = 768 * 768;

/**
 * @typedef {object} Span  one tile along one axis; ends are exclusive
 * @property {number} start       what is kept of the result
 * @property {number} stop
 * @property {number} frameStart  what the graph is run on
 * @property {number} frameStop
 * @property {number} fade        kept cells that are also the last kept ones of the span before
 */

/** Spans that cover an axis of `length` cells with frames of `frame` cells. @returns {Span[]} */
function spans(length, frame, halo, fade) {
  frame = Math.min(Math.max(frame, 2 * halo + fade + 1), length);
  const stride = Math.max(frame - 2 * halo - fade, 1);
  const found = [];
  for (let frameStart = 0; ; frameStart += stride) {
    const last = frameStart + frame >= length;
    if (last) frameStart = length - frame;
    const done = found.at(-1)?.stop;
    found.push({
      start: found.length ? done - fade : 0,
      stop: last ? length : frameStart + frame - halo,
      frameStart,
      frameStop: frameStart + frame,
      fade: found.length ? fade : 0,
    });
    if (last) return found;
  }
}

/** The length of a frame of an axis: no longer than its share, at most half of it overlap. */
function evenFrame(extent, frame, shared) {
  frame = Math.max(frame, 2 * shared + 1);
  if (frame >= extent) return extent;
  const count = Math.ceil((extent - shared) / (frame - shared));
  return Math.ceil((extent - shared) / count) + shared;
}

/**
 * Tiles of a grid: every row span with every column span.
 * @param {{rows: number, columns: number}} grid
 * @param {number} maxCells  of a frame, unless its overlap needs more
 * @returns {{rows: Span[], columns: Span[]}}
 */
export function planTiles({ rows, columns }, maxCells, halo, fade = 0) {
  let high = rows;
  let wide = columns;
  if (rows * columns > maxCells) {
    high = Math.min(rows, Math.floor(Math.sqrt(maxCells)));
    wide = Math.min(columns, Math.floor(maxCells / high));
    high = evenFrame(rows, Math.min(rows, Math.floor(maxCells / wide)), 2 * halo + fade);
    wide = evenFrame(columns, wide, 2 * halo + fade);
  }
  return { rows: spans(rows, high, halo, fade), columns: spans(columns, wide, halo, fade) };
}

/**
 * Runs `paint` on every tile and gives the result in strips from top to bottom.
 * @param {{rows: Span[], columns: Span[]}} plan
 * @param {number} cell  pixels a side of a cell
 * @param {(row: Span, column: Span) => Promise<Uint8ClampedArray>} paint  RGBA of a frame
 * @returns {AsyncGenerator<{top: number, rows: number, rgba: Uint8ClampedArray}>} rows of the grid's whole width
 */
export async function* strips(plan, cell, paint) {
  const widthPx = plan.columns.at(-1).stop * cell;
  let carried = null;
  for (let index = 0; index < plan.rows.length; index++) {
    const row = plan.rows[index];
    const rowsPx = (row.stop - row.start) * cell;
    let strip = new Uint8ClampedArray(rowsPx * widthPx * 4);
    for (const column of plan.columns) {
      const tile = await paint(row, column);
      const framePx = (column.frameStop - column.frameStart) * cell;
      const keptPx = (column.stop - column.start) * cell;
      for (let y = 0; y < rowsPx; y++) {
        const from = (((row.start - row.frameStart) * cell + y) * framePx + (column.start - column.frameStart) * cell) * 4;
        const line = tile.subarray(from, from + keptPx * 4);
        const to = (y * widthPx + column.start * cell) * 4;
        const fadedPx = column.fade * cell;
        for (let i = 0; i < fadedPx * 4; i++) strip[to + i] = blend(strip[to + i], line[i], i >> 2, fadedPx);
        strip.set(line.subarray(fadedPx * 4), to + fadedPx * 4);
      }
    }
    const fadedPx = row.fade * cell;
    if (carried)
      for (let i = 0; i < carried.length; i++) strip[i] = blend(carried[i], strip[i], Math.floor(i / (4 * widthPx)), fadedPx);
    const keptPx = rowsPx - (plan.rows[index + 1]?.fade ?? 0) * cell;
    carried = keptPx < rowsPx ? strip.slice(keptPx * widthPx * 4) : null;
    if (carried) strip = strip.slice(0, keptPx * widthPx * 4);
    yield { top: row.start * cell, rows: keptPx, rgba: strip };
  }
}

/** A Uint8ClampedArray rounds what it is given, ties to even. */
function blend(before, after, place, length) {
  const weight = (place + 0.5) / length;
  return before * (1 - weight) + after * weight;
}
