/**
 * Finer steps where a picture is smooth, coarser ones where it is busy: `runtime/sdrt/coding/activity.py`, whose words and
 * figures these are. Not normative.
 */

import { KEPT, roundEven } from "./quantize.js";
import { UNIT, encodeOffsets } from "./step_map.js";

/** Step indices that double the steps. */
const OCTAVE = 64;
/** Octaves of the step for each octave of activity. */
const STRENGTH = 0.25;
/** Octaves. */
const FINEST = -1.25;
const COARSEST = 0.25;
/** Added to the symbols of a position, that parts without any have an activity. */
const FLOOR = 0.25;
/** What a symbol that is not 0 costs, roughly. */
const SYMBOL_BYTES = 0.5;
/** Of the file: a map that takes more is not worth it. */
const MAX_SHARE = 1 / 64;
/** Of a step map beside its data. */
const CHUNK_BYTES = 6;

/**
 * The step map that a picture's activity asks for.
 * @param {Float32Array} latents  (channels, rows, columns), `(raw - shift) * scale`
 * @param {import("./prior.js").Prior} prior
 * @param {import("./step_map.js").Cells} cells
 * @param {number} stepIndex  where the file will be coded: decides which symbols are not 0
 * @returns {Int8Array | null} offsets, row by row; null where the map would take more of the file than it gives
 */
export function adapted(latents, { steps }, { rows, columns, of }, stepIndex) {
  const scale = Math.fround(KEPT * Math.fround(2 ** ((stepIndex - 512) / 64)));
  const symbols = new Float64Array(rows * columns);
  const positions = new Float64Array(rows * columns);
  for (const cell of of) positions[cell]++;
  steps.forEach((step, c) => {
    const bound = Math.fround(scale * step);
    for (let at = 0, i = c * of.length; at < of.length; at++, i++) if (Math.abs(latents[i]) > bound) symbols[of[at]]++;
  });
  const sum = (values) => values.reduce((all, value) => all + value);
  const counts = symbols.map((count, cell) => count / positions[cell]);
  const mean = sum(counts) / counts.length;
  const activity = (count) => Math.log2((count + FLOOR) / (mean + FLOOR));
  const octaves = (count) => Math.min(Math.max(STRENGTH * activity(count), FINEST), COARSEST);
  const offsets = Int8Array.from(counts, (count) => roundEven(octaves(count) * (OCTAVE / UNIT)));
  const fileBytes = SYMBOL_BYTES * sum(symbols);
  const isWorthIt = encodeOffsets(offsets, columns).length + CHUNK_BYTES <= MAX_SHARE * fileBytes;
  return isWorthIt && offsets.some(Boolean) ? offsets : null;
}
