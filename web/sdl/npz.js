/**
 * The arrays of a prior.npz, by the letter of docs/PRIOR.md, "The file".
 */

import { crc32 } from "./container.js";
import { ModelError } from "./errors.js";
import { inflate } from "./inflate.js";

/** Of the archive, and of all arrays in it together. */
export const MAX_PRIOR_BYTES = 8 * 2 ** 20;

const MAX_MEMBERS = 64;
const HEADER = /^\{'descr': '([|<]\w\d)', 'fortran_order': False, 'shape': \(((?:\d{1,8}, ?)*(?:\d{1,8})?)\), \} *\n$/;
const KINDS = {
  "|u1": Uint8Array,
  "|i1": Int8Array,
  "<u2": Uint16Array,
  "<i2": Int16Array,
  "<i4": Int32Array,
  "<f4": Float32Array,
};

/**
 * @typedef {object} NpyArray
 * @property {string} kind    as numpy spells it, such as "<i2"
 * @property {number[]} shape at most two sides
 * @property {Uint8Array | Int8Array | Uint16Array | Int16Array | Int32Array | Float32Array} values
 */

/**
 * @param {Uint8Array} data
 * @returns {Map<string, NpyArray>}
 * @throws {ModelError}
 */
export function readArrays(data) {
  if (data.length > MAX_PRIOR_BYTES)
    throw new ModelError(`prior.npz has ${data.length} bytes, the limit is ${MAX_PRIOR_BYTES}`);
  try {
    return new Map([...members(data)].map(([key, member]) => [key, toArray(key, member)]));
  } catch (error) {
    if (error instanceof RangeError) throw new ModelError("prior.npz is not a prior: the archive is cut short");
    throw new ModelError(`prior.npz is not a prior: ${error.message}`);
  }
}

const ascii = (bytes) => String.fromCharCode(...bytes);

/** A DataView throws RangeError beyond its end, so whatever is cut short ends there. */
function members(data) {
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  const end = data.length - 22;
  const count = view.getUint16(end + 10, true);
  let at = view.getUint32(end + 16, true);
  if (view.getUint32(end) !== 0x504b0506 || at + view.getUint32(end + 12, true) !== end)
    throw new Error("no zip archive, or a damaged one");
  if (count > MAX_MEMBERS) throw new Error(`${count} arrays, at most ${MAX_MEMBERS} are possible`);
  const found = new Map();
  let left = MAX_PRIOR_BYTES;
  for (let i = 0; i < count; i++) {
    const method = view.getUint16(at + 10, true);
    const crc = view.getUint32(at + 16, true);
    const packed = view.getUint32(at + 20, true);
    const size = view.getUint32(at + 24, true);
    const nameBytes = view.getUint16(at + 28, true);
    const others = view.getUint16(at + 30, true) + view.getUint16(at + 32, true);
    let start = view.getUint32(at + 42, true);
    const name = ascii(data.subarray(at + 46, at + 46 + nameBytes));
    if (view.getUint32(at) !== 0x504b0102 || !name.endsWith(".npy") || found.has(name.slice(0, -4)))
      throw new Error("the archive's directory is damaged");
    at += 46 + nameBytes + others;
    left -= size;
    if (left < 0) throw new Error(`it unpacks to more than the limit of ${MAX_PRIOR_BYTES} bytes`);
    if (view.getUint32(start) !== 0x504b0304) throw new Error(`${name} is damaged`);
    start += 30 + view.getUint16(start + 26, true) + view.getUint16(start + 28, true);
    const content = unpacked(data.subarray(start, start + packed), method, size);
    if (content.length !== size || crc32(content) !== crc) throw new Error(`${name} is damaged`);
    found.set(name.slice(0, -4), content);
  }
  return found;
}

function unpacked(packed, method, size) {
  if (method === 0) return packed;
  if (method === 8) return inflate(packed, size);
  throw new Error(`compression ${method} of zip is not known`);
}

/** An .npy file of version 1.0 as numpy writes it. */
function toArray(key, member) {
  if (ascii(member.subarray(0, 8)) !== "\x93NUMPY\x01\x00") throw new Error(`array ${key} is no .npy file of version 1.0`);
  const end = 10 + (member[8] | (member[9] << 8));
  const [, kind, sides] = HEADER.exec(ascii(member.subarray(10, end))) ?? [];
  const Kind = KINDS[kind];
  const shape = (sides ?? "").split(",").filter((side) => side.trim()).map(Number);
  if (!Kind || shape.length > 2) throw new Error(`the header of array ${key} is not as it must be`);
  const count = shape.reduce((product, side) => product * side, 1);
  if (count * Kind.BYTES_PER_ELEMENT !== member.length - end)
    throw new Error(`array ${key} has not the bytes for its shape`);
  // Copied, so that the data are aligned; every platform that runs this is little endian.
  return { kind, shape, values: new Kind(new Uint8Array(member.subarray(end)).buffer) };
}
