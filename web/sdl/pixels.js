/**
 * The pixels of what the browser itself has decoded.
 */

import { LimitError } from "./errors.js";

/**
 * @param {ImageBitmap} bitmap  is closed
 * @param {CanvasRenderingContext2DSettings} [settings]  of the canvas that it goes through
 * @returns {ImageData} RGBA, not premultiplied
 * @throws {LimitError}
 */
export function pixelsOf(bitmap, settings) {
  const { width, height } = bitmap;
  try {
    const context = new OffscreenCanvas(width, height).getContext("2d", { ...settings, willReadFrequently: true });
    if (!context) throw new LimitError(`the browser has no canvas of ${width} x ${height} pixels`);
    context.drawImage(bitmap, 0, 0);
    return context.getImageData(0, 0, width, height);
  } finally {
    bitmap.close();
  }
}
