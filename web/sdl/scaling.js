/**
 * A smaller coded picture, enlarged: docs/FORMAT.md, "A smaller coded picture".
 */

const REACH = 2;

/** Catmull-Rom weights (a = -1/2) of the taps -2..2 for each of the `factor` places in a pixel. */
function weightsOf(factor) {
  return Array.from({ length: factor }, (_, phase) =>
    [-2, -1, 0, 1, 2].map((tap) => {
      const d = Math.abs((phase + 0.5) / factor - 0.5 - tap);
      if (d < 1) return 1.5 * d ** 3 - 2.5 * d ** 2 + 1;
      return d < 2 ? -0.5 * d ** 3 + 2.5 * d ** 2 - 4 * d + 2 : 0;
    }),
  );
}

/**
 * Rows [top, top + rows) of the enlarged picture.
 * @param {Uint8ClampedArray} small  RGBA of the coded picture, whole
 * @param {number} smallWidth
 * @param {number} smallHeight
 * @param {number} factor  2, 4 or 8
 * @param {number} widthPx of the enlarged picture
 * @returns {Uint8ClampedArray} RGBA, opaque
 */
export function enlargedRows(small, smallWidth, smallHeight, factor, widthPx, top, rows) {
  const weights = weightsOf(factor);
  const out = new Uint8ClampedArray(rows * widthPx * 4);
  const line = new Float32Array((smallWidth + 2 * REACH) * 3); // one enlarged row, before its columns are
  for (let y = 0; y < rows; y++) {
    const center = Math.floor((top + y) / factor);
    const vertical = weights[(top + y) % factor];
    line.fill(0);
    for (let tap = -REACH; tap <= REACH; tap++) {
      const from = Math.min(Math.max(center + tap, 0), smallHeight - 1) * smallWidth * 4;
      const weight = vertical[tap + REACH];
      for (let x = 0, i = 0; x < smallWidth + 2 * REACH; x++) {
        const at = from + Math.min(Math.max(x - REACH, 0), smallWidth - 1) * 4;
        for (let c = 0; c < 3; c++, i++) line[i] += weight * small[at + c];
      }
    }
    for (let x = 0, to = y * widthPx * 4; x < widthPx; x++, to += 4) {
      const horizontal = weights[x % factor];
      const first = Math.floor(x / factor) * 3;
      for (let c = 0; c < 3; c++) {
        let sum = 0;
        for (let tap = 0; tap <= 2 * REACH; tap++) sum += horizontal[tap] * line[first + 3 * tap + c];
        out[to + c] = sum; // rounded, ties to even, and clipped
      }
      out[to + 3] = 255;
    }
  }
  return out;
}
