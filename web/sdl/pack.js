/**
 * A model pack over HTTP, a zip or a folder, as its manifest describes it (docs/PACKS.md): only what is needed here.
 */

import { hex } from "./container.js";
import { ModelError } from "./errors.js";
import { MAX_PRIOR_BYTES } from "./npz.js";
import { readPrior } from "./prior.js";
import { readZip } from "./zip.js";

/** The graphs that a pack may have of either half, the one to take first: int8 takes half the time. */
const PRECISIONS = [".int8.onnx", ".onnx"];
const PRIOR = /^prior(\..+)?\.npz$/;
const MAX_PACK_BYTES = 2 ** 31 - 1;

/**
 * @typedef {object} Pack
 * @property {string} name
 * @property {{identity: string, channels: number, downscale: number, scale: number, shift: number}} space
 * @property {boolean} qualityInput  the decoder takes one more channel, octaves of the step above index 512
 * @property {boolean} latentDistribution  the encoder gives means, then as many log-variances
 * @property {number | null} halo    latents around a tile that make it equal the whole picture; null: no such number
 * @property {string[]} priors       the identities of its priors, 8 hexadecimal digits each
 * @property {string} ownPrior       the one to write with
 * @property {{coarse: number, fine: number}} quality  step indices of quality 0 and 100
 * @property {number | null} haloPx  as `halo`, of the encoder, in pixels
 * @property {(identity: string) => Promise<import("./prior.js").Prior>} prior  read once
 * @property {(half: "encoder" | "decoder") => Promise<Uint8Array>} graph
 */

function check(good, what) {
  if (!good) throw new ModelError(`the pack's manifest ${what}`);
}

const isInteger = (value, min, max) => Number.isInteger(value) && value >= min && value <= max;

/**
 * @param {string} url  of the pack: of a file that ends in .zip, or of a folder
 * @returns {Promise<Pack>}
 * @throws {ModelError} it cannot be fetched, is of a newer format, or breaks a rule of docs/PACKS.md
 */
export async function openPack(url) {
  const read = new URL(url).pathname.endsWith(".zip") ? await zipReader(url) : folderReader(url);
  let manifest;
  try {
    manifest = JSON.parse(new TextDecoder().decode(await read("manifest.json")));
  } catch (error) {
    if (error instanceof SyntaxError) throw new ModelError(`the pack's manifest is no JSON: ${error.message}`);
    throw error;
  }
  check(isInteger(manifest?.format, 1, 1), `has format ${manifest?.format}, this decoder reads 1`);
  const { space, halo, files, quality_input: qualityInput = false, quality_range: range } = manifest;
  check(typeof space === "object" && space, "has no space");
  check(/^[0-9a-f]{8}$/.test(space.identity), "does not state the identity of its space");
  check(isInteger(space.channels, 1, 256) && isInteger(space.downscale, 1, 256), "has no valid channels or downscale");
  const scale = Math.fround(space.scale);
  const shift = Math.fround(space.shift);
  check(scale >= 2 ** -126 && Number.isFinite(scale) && Number.isFinite(shift), "has no valid scale or shift");
  check(typeof qualityInput === "boolean", "has a quality_input that is neither true nor false");
  check(!halo || (isInteger(halo.decoder_latents, 0, 65536) && isInteger(halo.encoder_px, 0, 2 ** 20)), "has no valid halo");
  check(Array.isArray(range) && range.length === 2 && range.every((index) => isInteger(index, 0, 1023)) && range[0] >= range[1],
    "has no valid quality_range");
  check(typeof files === "object" && files, "lists no files");
  const isListed = (name) => isInteger(files[name]?.bytes, 0, MAX_PACK_BYTES) && /^[0-9a-f]{64}$/.test(files[name].sha256);
  const priors = new Map(Object.keys(files).filter((name) => PRIOR.test(name)).map((name) => [name, undefined]));
  for (const name of ["prior.npz", ...priors.keys()]) check(isListed(name), `lists no ${name}`);
  const nameOf = new Map([...priors.keys()].map((name) => [files[name].sha256.slice(0, 8), name]));
  return {
    name: String(manifest.name),
    space: { identity: space.identity, channels: space.channels, downscale: space.downscale, scale, shift },
    qualityInput,
    latentDistribution: manifest.latent_distribution === true,
    halo: halo ? halo.decoder_latents : null,
    haloPx: halo ? halo.encoder_px : null,
    quality: { coarse: range[0], fine: range[1] },
    priors: [...nameOf.keys()],
    ownPrior: files["prior.npz"].sha256.slice(0, 8),
    async graph(half) {
      const name = PRECISIONS.map((ending) => half + ending).find(isListed);
      if (!name) throw new ModelError(`the pack ${manifest.name} has no ${half}`);
      return verifiedFile(read, name, files);
    },
    prior(identity) {
      const name = nameOf.get(identity);
      if (!priors.get(name)) {
        const loading = loadPrior(read, name, files, space.channels);
        priors.set(name, loading);
        loading.catch(() => priors.delete(name)); // what failed is tried again: a connection may come back
      }
      return priors.get(name);
    },
  };
}

async function loadPrior(read, name, files, channels) {
  check(files[name].bytes <= MAX_PRIOR_BYTES, "lists a prior beyond the limit");
  const prior = readPrior(await verifiedFile(read, name, files));
  if (prior.channels !== channels) throw new ModelError(`the pack's ${name} has ${prior.channels} channels, its space ${channels}`);
  return prior;
}

/** Reads a pack's files one by one, each when it is asked for. */
function folderReader(url) {
  const base = new URL(url.endsWith("/") ? url : `${url}/`);
  return (name) => fetchFile(new URL(name, base), name);
}

/** Fetches a pack at once; its files lie at the top of the zip or in a folder. */
async function zipReader(url) {
  const data = await fetchFile(url, "zip");
  let members;
  try {
    members = readZip(data, MAX_PACK_BYTES);
  } catch (error) {
    const what = error instanceof RangeError ? "the archive is cut short" : error.message;
    throw new ModelError(`the pack's zip cannot be read: ${what}`);
  }
  const files = new Map([...members].map(([path, content]) => [path.slice(path.lastIndexOf("/") + 1), content]));
  return async (name) => {
    if (!files.has(name)) throw new ModelError(`the pack's zip has no ${name}`);
    return files.get(name);
  };
}

async function fetchFile(url, name) {
  let response;
  try {
    response = await fetch(url);
  } catch (error) {
    throw new ModelError(`the pack's ${name} cannot be fetched: ${error.message}`);
  }
  if (!response.ok) throw new ModelError(`the pack's ${name} cannot be fetched: ${response.status} ${response.statusText}`);
  return new Uint8Array(await response.arrayBuffer());
}

async function verifiedFile(read, name, files) {
  const data = await read(name);
  const { bytes, sha256 } = files[name];
  if (data.length !== bytes) throw new ModelError(`the pack's ${name} has ${data.length} bytes, its manifest says ${bytes}`);
  // Browsers offer hashes on https and localhost only; elsewhere the size has to do.
  if (globalThis.crypto?.subtle) {
    const digest = await crypto.subtle.digest("SHA-256", data);
    if (hex(new Uint8Array(digest)) !== sha256) throw new ModelError(`the pack's ${name} is altered: its sha256 is not the manifest's`);
  }
  return data;
}
