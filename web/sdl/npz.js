/**
 * The arrays of a prior.npz, by the letter of docs/PRIOR.md, "The file".
 */

import { ModelError } from "./errors.js";
import { ascii, readZip } from "./zip.js";

/** Of the archive, and of all arrays in it together. */
export const MAX_PRIOR_BYTES = 8 * 2 ** 20;

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
    return new Map([...readZip(data, MAX_PRIOR_BYTES)].map(([name, member]) => [keyOf(name), toArray(name, member)]));
  } catch (error) {
    if (error instanceof RangeError) throw new ModelError("prior.npz is not a prior: the archive is cut short");
    throw new ModelError(`prior.npz is not a prior: ${error.message}`);
  }
}

function keyOf(name) {
  if (!name.endsWith(".npy")) throw new Error(`${name} is no array`);
  return name.slice(0, -4);
}

/** An .npy file of version 1.0 as numpy writes it. */
function toArray(name, member) {
  if (ascii(member.subarray(0, 8)) !== "\x93NUMPY\x01\x00") throw new Error(`${name} is no .npy file of version 1.0`);
  const end = 10 + (member[8] | (member[9] << 8));
  const [, kind, sides] = HEADER.exec(ascii(member.subarray(10, end))) ?? [];
  const Kind = KINDS[kind];
  const shape = (sides ?? "").split(",").filter((side) => side.trim()).map(Number);
  if (!Kind || shape.length > 2) throw new Error(`the header of ${name} is not as it must be`);
  const count = shape.reduce((product, side) => product * side, 1);
  if (count * Kind.BYTES_PER_ELEMENT !== member.length - end)
    throw new Error(`${name} has not the bytes for its shape`);
  // Copied, so that the data are aligned; every platform that runs this is little endian.
  return { kind, shape, values: new Kind(new Uint8Array(member.subarray(end)).buffer) };
}
