/**
 * Alpha planes in codings 0 and 1 of docs/FORMAT.md, "The alpha plane", without loss.
 */

import { joined } from "./container.js";

/**
 * @param {Uint8ClampedArray} rgba
 * @returns {Promise<Uint8Array | null>} the data of the chunk ALPH; null where the picture is opaque
 */
export async function encodeAlpha(rgba, heightPx, widthPx) {
  const plane = Uint8Array.from({ length: heightPx * widthPx }, (_, i) => rgba[4 * i + 3]);
  if (plane.every((value) => value === plane[0])) return plane[0] === 255 ? null : Uint8Array.of(0, plane[0]);
  let best = null;
  for (let parameter = 0; parameter < 4; parameter++) {
    const coded = await deflate(differences(plane, widthPx, parameter));
    if (!best || coded.length < best.coded.length) best = { parameter, coded };
  }
  return joined([[1, best.parameter], best.coded]);
}

/** Differences modulo 256: along each row (bit 0), then down each column (bit 1). */
function differences(plane, widthPx, parameter) {
  const left = parameter & 1 ? plane.map((value, i) => (i % widthPx ? value - plane[i - 1] : value)) : plane;
  return parameter & 2 ? left.map((value, i) => (i < widthPx ? value : value - left[i - widthPx])) : left;
}

async function deflate(data) {
  const stream = new Blob([data]).stream().pipeThrough(new CompressionStream("deflate-raw"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}
