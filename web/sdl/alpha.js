/**
 * The alpha plane: docs/FORMAT.md, "The alpha plane", codings 0 to 2; coding 3 is in alpha_edges.js.
 */

import { decodeEdges } from "./alpha_edges.js";
import { CorruptError, UnsupportedError } from "./errors.js";
import { inflate } from "./inflate.js";

const COARSEST = 64;
const MOST_RADIUS = 63;

/**
 * @param {Uint8Array} data  of the chunk ALPH
 * @returns {Uint8Array} (height, width), 0 transparent to 255 opaque
 * @throws {CorruptError | UnsupportedError}
 */
export function decodeAlpha(data, heightPx, widthPx) {
  if (data.length < 2) throw new CorruptError(`the alpha plane has ${data.length} bytes, at least 2 are needed`);
  const [coding, parameter] = data;
  const rest = data.subarray(2);
  const size = widthPx * heightPx;
  switch (coding) {
    case 0:
      if (rest.length) throw new CorruptError("the alpha plane has bytes after its end");
      return new Uint8Array(size).fill(parameter);
    case 1:
      if (parameter > 3) throw new CorruptError(`the alpha plane has unknown differences ${parameter}`);
      return sums(inflated(rest, size), heightPx, widthPx, parameter);
    case 2:
      if (parameter > MOST_RADIUS) throw new CorruptError(`the alpha plane has step radius ${parameter}`);
      return interpolated(inflated(rest, size), heightPx, widthPx, parameter);
    case 3:
      return decodeEdges(data.subarray(1), heightPx, widthPx);
    default:
      throw new UnsupportedError(`the alpha plane has coding ${coding}, this decoder knows 0 to 3`);
  }
}

function inflated(data, size) {
  try {
    return inflate(data, size);
  } catch (error) {
    throw new CorruptError(`the alpha plane cannot be inflated: ${error.message}`);
  }
}

/** Running sums modulo 256: down each column (bit 1), then along each row (bit 0). */
function sums(plane, heightPx, widthPx, parameter) {
  if (parameter & 2) for (let i = widthPx; i < plane.length; i++) plane[i] += plane[i - widthPx];
  if (parameter & 1) for (let i = 1; i < plane.length; i++) if (i % widthPx) plane[i] += plane[i - 1];
  return plane;
}

function interpolated(codes, heightPx, widthPx, radius) {
  const alpha = new Uint8Array(heightPx * widthPx);
  let taken = 0;
  for (let y = 0; y < heightPx; y += COARSEST)
    for (let x = 0; x < widthPx; x += COARSEST) alpha[y * widthPx + x] = codes[taken++];
  const step = 2 * radius + 1;
  // Lines of `length` pixels, `along` apart, of which those at odd multiples of `stride` are next; `lines` of them lie
  // `apart` apart. The outer loop goes over places in a line, so that codes come in the order of the pass.
  const pass = (stride, length, along, lines, apart) => {
    const last = Math.floor((length - 1) / (2 * stride)) * 2 * stride; // the last that is known
    for (let at = stride; at < length; at += 2 * stride) {
      const before = at - stride;
      const after = Math.min(at + stride, last);
      const furtherBefore = Math.max(before - 2 * stride, 0);
      const furtherAfter = Math.min(at + 3 * stride, last);
      for (let line = 0; line < lines; line++) {
        const from = line * apart;
        const a = alpha[from + before * along];
        const b = alpha[from + after * along];
        const cubic = (9 * (a + b) - alpha[from + furtherBefore * along] - alpha[from + furtherAfter * along] + 8) >> 4;
        const prediction = Math.min(Math.max(cubic, Math.min(a, b)), Math.max(a, b));
        const code = codes[taken++];
        const value = prediction + ((code >> 1) ^ -(code & 1)) * step;
        alpha[from + at * along] = radius ? Math.min(Math.max(value, 0), 255) : value;
      }
    }
  };
  for (let stride = COARSEST / 2; stride >= 1; stride /= 2) {
    pass(stride, heightPx, widthPx, Math.ceil(widthPx / (2 * stride)), 2 * stride);
    pass(stride, widthPx, 1, Math.ceil(heightPx / stride), stride * widthPx);
  }
  if (radius)
    for (let i = 0; i < alpha.length; i++) {
      if (alpha[i] <= radius) alpha[i] = 0;
      else if (alpha[i] >= 255 - radius) alpha[i] = 255;
    }
  return alpha;
}
