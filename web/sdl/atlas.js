/**
 * The pixels of an atlas of patches, by the browser's own AVIF and WebP decoders: docs/FORMAT.md, "Patches".
 */

import { CorruptError, UnsupportedError } from "./errors.js";
import { CELL_PX, markedLines } from "./patches.js";
import { pixelsOf } from "./pixels.js";
import { enlargedRows } from "./scaling.js";
import { avifFile, readSequenceHeader, vp8lSize, webpFile } from "./still_streams.js";

const KNOWN_AV1 = "0a08180006880868342032101ec7878559dfffffe2cfc000903597f0";
const KNOWN_VP8L = "2f000000008888fe07";
const CODECS = {
  // `known`: one gray pixel, which every decoder of the format reads; where that fails, the browser lacks the format.
  av1: { name: "AVIF", type: "image/avif", sizeOf: readSequenceHeader, fileOf: avifFile, known: KNOWN_AV1 },
  vp8l: { name: "WebP", type: "image/webp", sizeOf: vp8lSize, fileOf: webpFile, known: KNOWN_VP8L },
};

/** The size of the atlas of a picture: its rows and columns of cells that have a marked one, the last of which is cut. */
function atlasSize(patches, heightPx, widthPx) {
  const total = (kept, side) => kept.reduce((sum, is, at) => sum + (is ? Math.min(CELL_PX, side - at * CELL_PX) : 0), 0);
  const { rows, columns } = markedLines(patches);
  return { heightPx: total(rows, heightPx), widthPx: total(columns, widthPx) };
}

/**
 * The file that a browser reads for the atlas of a picture of this size. The size that the stream itself states is
 * compared first, so nothing is allocated that the picture's size has not announced.
 * @returns {{name: string, type: string, data: Uint8Array, widthPx: number, heightPx: number}}
 * @throws {CorruptError} the stream is of another size, cut short, or not what its coding says
 */
export function atlasFile(patches, heightPx, widthPx) {
  const codec = CODECS[patches.coding];
  const size = atlasSize(patches, heightPx, widthPx);
  const half = patches.halved ? 2 : 1;
  const high = Math.ceil(size.heightPx / half);
  const wide = Math.ceil(size.widthPx / half);
  const stated = codec.sizeOf(patches.stream);
  if (stated.widthPx !== wide || stated.heightPx !== high)
    throw new CorruptError(
      `the patches' stream holds ${stated.widthPx} x ${stated.heightPx} pixels, the mask says ${wide} x ${high}`,
    );
  return { ...codec, data: codec.fileOf(patches.stream), widthPx: wide, heightPx: high };
}

/**
 * @param {import("./patches.js").Patches} patches  of a picture of this size
 * @returns {Promise<{rgba: Uint8ClampedArray, widthPx: number}>} the atlas
 * @throws {CorruptError | UnsupportedError | LimitError}
 */
export async function decodeAtlas(patches, heightPx, widthPx) {
  const file = atlasFile(patches, heightPx, widthPx);
  const bitmap = await bitmapOf(file.data, file.type).catch(async () => {
    const { name, type, fileOf, known } = file;
    const pixel = fileOf(Uint8Array.from(known.match(/../g), (byte) => parseInt(byte, 16)));
    if (await bitmapOf(pixel, type).catch(() => null)) throw new CorruptError(`the patches' ${name} stream cannot be decoded`);
    throw new UnsupportedError(`the file holds patches coded as ${name}, which this browser does not read`);
  });
  const { data: rgba, width, height } = pixelsOf(bitmap, { alpha: false });
  if (width !== file.widthPx || height !== file.heightPx)
    throw new CorruptError(`the patches' ${file.name} stream decodes to ${width} x ${height} pixels`);
  const size = atlasSize(patches, heightPx, widthPx);
  if (!patches.halved) return { rgba, widthPx: size.widthPx };
  const whole = enlargedRows(rgba, file.widthPx, file.heightPx, 2, size.widthPx, 0, size.heightPx);
  return { rgba: whole, widthPx: size.widthPx };
}

const bitmapOf = (data, type) =>
  createImageBitmap(new Blob([data], { type }), { colorSpaceConversion: "none", premultiplyAlpha: "none" });
