/**
 * Runs the container, the prior and the payload decoder under node: `node integers.mjs < cases.json`, one line of JSON
 * for each case `{sdl, prior, space}`: what was found, or the name and the words of the error; of a case
 * `{latents, prior, rows, columns, indices}` the symbols that the encoder chooses, of a case `{latents, prior, rows,
 * columns, space, downscale, told, step}` the file that it writes.
 */

import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";

import { decodeAlpha } from "../sdl/alpha.js";
import { atlasFile } from "../sdl/atlas.js";
import { writeFile } from "../sdl/bitstream.js";
import { pack, unpack } from "../sdl/container.js";
import { Canvas } from "../sdl/context.js";
import { ModelError, SdrtError } from "../sdl/errors.js";
import { decodePatches } from "../sdl/patches.js";
import { decodePayload, encodePayload } from "../sdl/payload.js";
import { readPrior } from "../sdl/prior.js";
import { quantize } from "../sdl/quantize.js";
import { stepIndices } from "../sdl/step_map.js";

const sha256 = (array) => createHash("sha256").update(new Uint8Array(array.buffer, array.byteOffset, array.byteLength)).digest("hex");
const priors = new Map();

function priorAt(path) {
  if (!priors.has(path)) {
    const data = readFileSync(path);
    priors.set(path, { ...readPrior(data), identity: createHash("sha256").update(data).digest("hex").slice(0, 8) });
  }
  return priors.get(path);
}

/** The symbols that the encoder chooses for latents. */
function choose({ latents, prior, rows, columns, indices }) {
  return { symbols: [...quantize(Float32Array.from(latents), priorAt(prior), { rows, columns, indices: Int32Array.from(indices) })] };
}

/** The file of latents, under a pack whose decoder is told the step of each position or not. */
function write({ latents, prior: path, rows, columns, space, downscale, told, step }) {
  const prior = priorAt(path);
  const pack = { space: { identity: space, downscale }, ownPrior: prior.identity, qualityInput: told };
  const size = { widthPx: columns * downscale, heightPx: rows * downscale };
  const picture = { rows, columns, latents: Float32Array.from(latents) };
  return { file: [...writeFile(pack, prior, picture, { ...size, stepIndex: step, chunks: [] })] };
}

/** The symbols of a payload in the layout that encoders take: (rows, columns, coded channels). */
function coded(payload, prior, grid) {
  const found = new Int32Array(grid.rows * grid.columns * prior.codedChannels);
  const canvas = new Canvas(prior, grid);
  const collect = (scan, { places, values }) =>
    values.forEach((value, i) => {
      const at = canvas.inGrid(places[Math.floor(i / scan.size)]);
      found[at * prior.codedChannels + scan.start + (i % scan.size)] = value;
    });
  decodePayload(payload, prior, grid, collect);
  return found;
}

function run({ sdl, prior: path, space, downscale, scans }) {
  const file = unpack(typeof sdl === "string" ? readFileSync(sdl) : Uint8Array.from(sdl));
  const chunk = file.chunks.get("PTCH");
  const patches = chunk && decodePatches(chunk, file.heightPx, file.widthPx);
  const atlas = patches && atlasFile(patches, file.heightPx, file.widthPx).data;
  if (!path) return { width: file.widthPx, height: file.heightPx, step: file.stepIndex, chunks: [...file.chunks.keys()] };
  const prior = priorAt(path);
  if (space !== file.space) throw new ModelError(`latent space ${file.space}`);
  if (prior.identity !== file.prior) throw new ModelError(`prior ${file.prior}`);
  const grid = stepIndices(file, downscale);
  const seen = [];
  const note = (scan, { means, scales, tables, values }) =>
    seen.push({ means: [...means], scales: [...scales], tables: [...tables], symbols: [...values] });
  const symbols = decodePayload(file.payload, prior, grid, scans ? note : undefined);
  const again = pack({ ...file, payload: encodePayload(coded(file.payload, prior, grid), prior, grid) });
  const alpha = file.chunks.get("ALPH");
  return {
    shape: [prior.channels, grid.rows, grid.columns],
    sha256: sha256(symbols),
    again: sha256(again),
    patches: patches && { mask: [...patches.mask], featherPx: patches.featherPx, atlas: sha256(atlas) },
    alpha: alpha && sha256(decodeAlpha(alpha, file.heightPx, file.widthPx)),
    scans: scans && seen,
  };
}

for await (const line of createInterface({ input: process.stdin })) {
  let answer;
  try {
    const one = JSON.parse(line);
    answer = one.indices ? choose(one) : one.latents ? write(one) : run(one);
  } catch (error) {
    if (!(error instanceof SdrtError)) throw error;
    answer = { error: error.name, message: error.message };
  }
  console.log(JSON.stringify(answer));
}
