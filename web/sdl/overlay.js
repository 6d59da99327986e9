/**
 * Patches laid over a painted picture: docs/FORMAT.md, "Patches", "Feather".
 */

import { decodeAtlas } from "./atlas.js";
import { CELL_PX, decodePatches, markedLines } from "./patches.js";

/** The decoded patches of a picture. */
export class Overlay {
  /**
   * @param {import("./container.js").SdlFile} file
   * @returns {Promise<Overlay | null>} null where it has no patches
   * @throws {CorruptError | UnsupportedError | LimitError}
   */
  static async of(file) {
    const chunk = file.chunks.get("PTCH");
    if (!chunk) return null;
    const patches = decodePatches(chunk, file.heightPx, file.widthPx);
    return new Overlay(patches, await decodeAtlas(patches, file.heightPx, file.widthPx), file.widthPx);
  }

  constructor(patches, atlas, widthPx) {
    this.patches = patches;
    this.atlas = atlas;
    this.widthPx = widthPx;
    this.shares = new Map();
    const { rows, columns } = markedLines(patches);
    this.atlasRow = places(rows);
    this.atlasColumn = places(columns);
  }

  get hidesAll() {
    return this.patches.hidesAll;
  }

  /**
   * Lays the patches over a strip of the painted picture.
   * @param {import("./decoder.js").Strip} strip
   */
  over({ top, rows, rgba }) {
    const { columns, mask, featherPx } = this.patches;
    const most = Math.max(featherPx, 1);
    const { rgba: patch, widthPx: patchWidth } = this.atlas;
    for (let cellY = Math.floor(top / CELL_PX); cellY * CELL_PX < top + rows; cellY++)
      for (let cellX = 0; cellX < columns; cellX++) {
        if (!mask[cellY * columns + cellX]) continue;
        const shares = this.sharesOf(cellY, cellX);
        const pixels = Math.min(CELL_PX, this.widthPx - cellX * CELL_PX);
        const end = Math.min((cellY + 1) * CELL_PX, top + rows);
        for (let y = Math.max(cellY * CELL_PX, top); y < end; y++) {
          const inside = y - cellY * CELL_PX;
          let from = ((this.atlasRow[cellY] + inside) * patchWidth + this.atlasColumn[cellX]) * 4;
          let to = ((y - top) * this.widthPx + cellX * CELL_PX) * 4;
          for (let x = 0; x < pixels; x++, from++, to++) {
            const share = shares[inside * CELL_PX + x];
            for (let c = 0; c < 3; c++, from++, to++)
              rgba[to] = Math.floor((share * patch[from] + (most - share) * rgba[to] + (most >> 1)) / most);
          }
        }
      }
  }

  /** How much of each pixel of a marked cell is patch, 1..max(featherPx, 1), row by row. */
  sharesOf(cellY, cellX) {
    const { rows, columns, mask, featherPx } = this.patches;
    const bare = AROUND.filter(([dy, dx]) => {
      const [y, x] = [cellY + dy, cellX + dx];
      return y >= 0 && y < rows && x >= 0 && x < columns && !mask[y * columns + x];
    });
    const key = bare.join(" ");
    if (!this.shares.has(key)) {
      const distance = (y, x) => Math.min(...bare.map(([dy, dx]) => Math.max(gap(y, dy), gap(x, dx))));
      const capped = (_, at) => Math.min(Math.max(featherPx, 1), distance(Math.floor(at / CELL_PX), at % CELL_PX));
      this.shares.set(key, Uint8Array.from({ length: CELL_PX ** 2 }, capped));
    }
    return this.shares.get(key);
  }
}

/** Steps to the eight cells around one: no feather reaches farther. */
const AROUND = [-1, 0, 1].flatMap((dy) => [-1, 0, 1].map((dx) => [dy, dx])).filter(([dy, dx]) => dy || dx);

/** Pixels along one axis from a place in a cell to the nearest one of the cell before, the same, or the next. */
function gap(place, step) {
  if (step === 0) return 0;
  return step < 0 ? place + 1 : CELL_PX - place;
}

/** Where each row or column of cells begins in the atlas; `kept` says which are in it. */
function places(kept) {
  let at = 0;
  return kept.map((is) => (is ? (at += CELL_PX) - CELL_PX : at));
}
