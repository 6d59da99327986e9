/**
 * The members of a zip archive, stored or deflated, without zip64: packs, and the arrays of a prior.
 */

import { crc32 } from "./container.js";
import { inflate } from "./inflate.js";

/** No pack and no prior has more. */
const MAX_MEMBERS = 64;

export const ascii = (bytes) => String.fromCharCode(...bytes);

/**
 * @param {Uint8Array} data
 * @param {number} limitBytes  of all members together
 * @returns {Map<string, Uint8Array>} contents by name
 * @throws {Error} what is wrong; RangeError where the archive is cut short
 */
export function readZip(data, limitBytes) {
  // A DataView throws RangeError beyond its end, so whatever is cut short ends there.
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  const end = data.length - 22;
  const count = view.getUint16(end + 10, true);
  let at = view.getUint32(end + 16, true);
  if (view.getUint32(end) !== 0x504b0506 || at + view.getUint32(end + 12, true) !== end)
    throw new Error("no zip archive, or a damaged one");
  if (count > MAX_MEMBERS) throw new Error(`${count} members, at most ${MAX_MEMBERS} are possible`);
  const found = new Map();
  let left = limitBytes;
  for (let i = 0; i < count; i++) {
    const method = view.getUint16(at + 10, true);
    const crc = view.getUint32(at + 16, true);
    const packed = view.getUint32(at + 20, true);
    const size = view.getUint32(at + 24, true);
    const nameBytes = view.getUint16(at + 28, true);
    const others = view.getUint16(at + 30, true) + view.getUint16(at + 32, true);
    let start = view.getUint32(at + 42, true);
    const name = ascii(data.subarray(at + 46, at + 46 + nameBytes));
    if (view.getUint32(at) !== 0x504b0102 || found.has(name)) throw new Error("the archive's directory is damaged");
    at += 46 + nameBytes + others;
    left -= size;
    if (left < 0) throw new Error(`it unpacks to more than the limit of ${limitBytes} bytes`);
    if (view.getUint32(start) !== 0x504b0304) throw new Error(`${name} is damaged`);
    start += 30 + view.getUint16(start + 26, true) + view.getUint16(start + 28, true);
    const content = unpacked(data.subarray(start, start + packed), method, size);
    if (content.length !== size || crc32(content) !== crc) throw new Error(`${name} is damaged`);
    found.set(name, content);
  }
  return found;
}

function unpacked(packed, method, size) {
  if (method === 0) return packed;
  if (method === 8) return inflate(packed, size);
  throw new Error(`compression ${method} of zip is not known`);
}
