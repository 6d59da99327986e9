/**
 * A model pack over HTTP, as its manifest describes it (docs/PACKS.md): only what a decoder needs.
 */

import { ModelError } from "./errors.js";
import { MAX_PRIOR_BYTES } from "./npz.js";
import { readPrior } from "./prior.js";

/** The decoders that a pack may have, the one to take first: int8 takes half the time. */
const DECODERS = ["decoder.int8.onnx", "decoder.onnx"];

/**
 * @typedef {object} Pack
 * @property {string} name
 * @property {{identity: string, channels: number, downscale: number, scale: number, shift: number}} space
 * @property {boolean} qualityInput  the decoder takes one more channel, octaves of the step above index 512
 * @property {number | null} halo    latents around a tile that make it equal the whole picture; null: no such number
 * @property {string} priorIdentity  8 hexadecimal digits
 * @property {string} decoder        name of the decoder's file
 * @property {() => Promise<import("./prior.js").Prior>} prior      fetched once
 * @property {() => Promise<Uint8Array>} graph                      of the decoder, fetched once
 */

function check(good, what) {
  if (!good) throw new ModelError(`the pack's manifest ${what}`);
}

const isInteger = (value, least, most) => Number.isInteger(value) && value >= least && value <= most;

/**
 * @param {string} url  of the pack's folder
 * @returns {Promise<Pack>}
 * @throws {ModelError} it cannot be fetched, is of a newer format, or breaks a rule of docs/PACKS.md
 */
export async function openPack(url) {
  const base = new URL(url.endsWith("/") ? url : `${url}/`, globalThis.location?.href);
  let manifest;
  try {
    manifest = JSON.parse(new TextDecoder().decode(await fetchFile(base, "manifest.json")));
  } catch (error) {
    if (error instanceof SyntaxError) throw new ModelError(`the pack's manifest is no JSON: ${error.message}`);
    throw error;
  }
  check(isInteger(manifest?.format, 1, 1), `has format ${manifest?.format}, this decoder reads 1`);
  const { space, halo, files, quality_input: qualityInput = false } = manifest;
  check(typeof space === "object" && space, "has no space");
  check(/^[0-9a-f]{8}$/.test(space.identity), "does not state the identity of its space");
  check(isInteger(space.channels, 1, 256) && isInteger(space.downscale, 1, 256), "has no valid channels or downscale");
  const scale = Math.fround(space.scale);
  const shift = Math.fround(space.shift);
  check(scale >= 2 ** -126 && Number.isFinite(scale) && Number.isFinite(shift), "has no valid scale or shift");
  check(typeof qualityInput === "boolean", "has a quality_input that is neither true nor false");
  check(!halo || isInteger(halo.decoder_latents, 0, 65536), "has no valid halo");
  check(typeof files === "object" && files, "lists no files");
  const decoder = DECODERS.find((name) => files[name]);
  check(decoder, "lists no decoder");
  for (const name of [decoder, "prior.npz"])
    check(isInteger(files[name]?.bytes, 0, 2 ** 31 - 1) && /^[0-9a-f]{64}$/.test(files[name]?.sha256), `lists no ${name}`);
  const once = (load) => {
    let loading;
    // What failed is tried again: a connection may come back.
    return () => (loading ??= load().catch((error) => ((loading = undefined), Promise.reject(error))));
  };
  return {
    name: String(manifest.name),
    space: { identity: space.identity, channels: space.channels, downscale: space.downscale, scale, shift },
    qualityInput,
    halo: halo ? halo.decoder_latents : null,
    priorIdentity: files["prior.npz"].sha256.slice(0, 8),
    decoder,
    graph: once(() => verifiedFile(base, decoder, files)),
    prior: once(async () => {
      check(files["prior.npz"].bytes <= MAX_PRIOR_BYTES, "lists a prior beyond the limit");
      const prior = readPrior(await verifiedFile(base, "prior.npz", files));
      if (prior.channels !== space.channels)
        throw new ModelError(`the pack's prior has ${prior.channels} channels, its space ${space.channels}`);
      return prior;
    }),
  };
}

async function fetchFile(base, name) {
  let response;
  try {
    response = await fetch(new URL(name, base));
  } catch (error) {
    throw new ModelError(`the pack's ${name} cannot be fetched: ${error.message}`);
  }
  if (!response.ok) throw new ModelError(`the pack's ${name} cannot be fetched: ${response.status} ${response.statusText}`);
  return new Uint8Array(await response.arrayBuffer());
}

async function verifiedFile(base, name, files) {
  const data = await fetchFile(base, name);
  const { bytes, sha256 } = files[name];
  if (data.length !== bytes) throw new ModelError(`the pack's ${name} has ${data.length} bytes, its manifest says ${bytes}`);
  // Browsers offer hashes on https and localhost only; elsewhere the size has to do.
  if (globalThis.crypto?.subtle) {
    const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", data));
    const found = Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
    if (found !== sha256) throw new ModelError(`the pack's ${name} is altered: its sha256 is not the manifest's`);
  }
  return data;
}
