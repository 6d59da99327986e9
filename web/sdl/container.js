/**
 * The .sdl container, version 1: docs/FORMAT.md, "Layout" and "Reading". The checks come in the order of that page.
 */

import { CorruptError, LimitError, NotSdlError, UnsupportedError } from "./errors.js";

export const MAX_FILE_BYTES = 2 ** 30;
/** Pictures of more pixels are refused unless the caller says otherwise. */
export const DEFAULT_MAX_PIXELS = 178956970;
/** The longest side where there is a limit at all: thin pictures take the work of wide ones, in whole cells. */
export const DEFAULT_MAX_SIDE_PX = 65535;
/** Width and height take three bytes each. */
export const MAX_SIDE_PX = 2 ** 21;
/** So many bytes always hold the picture's size. */
export const SIZE_BYTES = 12;

const MAGIC = [0x53, 0x44, 0x4c];
const MAGIC_BYTES = MAGIC.length;
const VERSION = 1;
const CRC_BYTES = 4;
const SHORTEST_FILE = 20;
const MAX_CHUNKS = 16;
const MAX_CRITICAL_BYTES = 2 ** 28 - 1;
const MAX_ANCILLARY_BYTES = 2 ** 20;
const KNOWN_CRITICAL = ["ALPH", "PTCH", "SCAL", "STEP"];
const CHUNKS_PRESENT = 1 << 10;
const RESERVED = 0b11111 << 11;

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  for (let bit = 0; bit < 8; bit++) byte = byte & 1 ? (byte >>> 1) ^ 0xedb88320 : byte >>> 1;
  return byte;
});

/** The CRC-32 of zlib and PNG. @param {Uint8Array} bytes @returns {number} 0..2^32-1 */
export function crc32(bytes) {
  let crc = -1;
  for (let i = 0; i < bytes.length; i++) crc = CRC_TABLE[(crc ^ bytes[i]) & 255] ^ (crc >>> 8);
  return ~crc >>> 0;
}

/**
 * @typedef {object} SdlFile
 * @property {number} widthPx   of the picture itself, 1..2^21
 * @property {number} heightPx
 * @property {number} codedWidthPx   of the picture that the integers are of
 * @property {number} codedHeightPx
 * @property {number} resampling     1, 2, 4 or 8: the picture's sides over the coded picture's
 * @property {number} stepIndex      0..1023
 * @property {string} space          identity of the latent space, 8 hexadecimal digits
 * @property {string} prior          identity of the prior, the same
 * @property {Map<string, Uint8Array>} chunks
 * @property {Uint8Array} payload
 */

/**
 * Reads the whole of a file.
 * @param {Uint8Array} data
 * @param {number} maxPixels
 * @returns {SdlFile}
 * @throws {NotSdlError | LimitError | UnsupportedError | CorruptError}
 */
export function unpack(data, maxPixels = DEFAULT_MAX_PIXELS) {
  checkMagic(data);
  if (data.length > MAX_FILE_BYTES)
    throw new LimitError(`the file has ${data.length} bytes, an .sdl file has at most ${MAX_FILE_BYTES}`);
  checkVersion(data);
  if (data.length < SHORTEST_FILE)
    throw new CorruptError(`the file is truncated: ${data.length} bytes, the shortest .sdl file has ${SHORTEST_FILE}`);
  const end = data.length - CRC_BYTES;
  const stated = new DataView(data.buffer, data.byteOffset + end).getUint32(0, true);
  if (crc32(data.subarray(0, end)) !== stated)
    throw new CorruptError("the checksum does not match: the file is truncated or altered");
  return readFields(data.subarray(0, end), maxPixels);
}

/**
 * Reads the picture's size from the first SIZE_BYTES of a file; nothing is known of its checksum.
 * @param {Uint8Array} start
 * @returns {{widthPx: number, heightPx: number}}
 */
export function readSize(start, maxPixels = DEFAULT_MAX_PIXELS) {
  checkMagic(start);
  checkVersion(start);
  const { widthPx, heightPx } = readStart(new FieldReader(start, MAGIC_BYTES + 1), maxPixels);
  return { widthPx, heightPx };
}

/**
 * Writes a file.
 * @param {Pick<SdlFile, "widthPx" | "heightPx" | "stepIndex" | "space" | "prior" | "chunks" | "payload">} file
 * @returns {Uint8Array}
 */
export function pack({ widthPx, heightPx, stepIndex, space, prior, chunks, payload }) {
  const identity = (digits) => digits.match(/../g).map((byte) => parseInt(byte, 16));
  const ascending = [...chunks].sort(([a], [b]) => (a < b ? -1 : 1));
  const word = stepIndex | (ascending.length ? CHUNKS_PRESENT : 0);
  const parts = [
    [...MAGIC, VERSION, word & 255, word >> 8, ...varint(widthPx - 1), ...varint(heightPx - 1)],
    [...identity(space), ...identity(prior), ...(ascending.length ? [ascending.length] : [])],
    ...ascending.flatMap(([kind, data]) => [[...kind].map((letter) => letter.charCodeAt(0)), varint(data.length), data]),
    payload,
    new Uint8Array(CRC_BYTES),
  ];
  const file = joined(parts);
  const end = file.length - CRC_BYTES;
  new DataView(file.buffer).setUint32(end, crc32(file.subarray(0, end)), true);
  return file;
}

/** Bytes one after another. @param {ArrayLike<number>[]} parts */
export function joined(parts) {
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

function varint(value) {
  const bytes = [];
  for (; value > 0x7f; value >>>= 7) bytes.push((value & 0x7f) | 0x80);
  return [...bytes, value];
}

function checkMagic(data) {
  if (!MAGIC.every((byte, i) => data[i] === byte))
    throw new NotSdlError("not an .sdl file: it does not start with the bytes SDL");
}

function checkVersion(data) {
  const version = data[MAGIC_BYTES];
  if (version > VERSION)
    throw new UnsupportedError(`the file has format version ${version}, this decoder reads ${VERSION}`);
  if (version === 0) throw new CorruptError("the file has format version 0, which does not exist");
}

/** Takes fields one after another; CorruptError at the first that does not fit. */
export class FieldReader {
  constructor(data, at) {
    this.data = data;
    this.at = at;
  }

  take(count, field) {
    const left = this.data.length - this.at;
    if (count > left) throw new CorruptError(`the ${field} does not fit: ${count} bytes wanted, ${Math.max(left, 0)} left`);
    this.at += count;
    return this.data.subarray(this.at - count, this.at);
  }

  varint(limitBytes, field) {
    let value = 0;
    for (let index = 0; index < limitBytes; index++) {
      const byte = this.take(1, field)[0];
      value |= (byte & 0x7f) << (7 * index);
      if (byte < 0x80) {
        if (byte === 0 && index > 0) throw new CorruptError(`the ${field} is not in its shortest form`);
        return value;
      }
    }
    throw new CorruptError(`the ${field} is longer than ${limitBytes} bytes`);
  }
}

/** Two hexadecimal digits for each byte. */
export const hex = (bytes) => Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");

/** Flags and size. */
function readStart(reader, maxPixels) {
  const [low, high] = reader.take(2, "flags");
  const word = low | (high << 8);
  if (word & RESERVED) throw new CorruptError(`reserved bits are set: ${(word & RESERVED).toString(16)}`);
  const widthPx = reader.varint(3, "width") + 1;
  const heightPx = reader.varint(3, "height") + 1;
  if (maxPixels !== Infinity && Math.max(widthPx, heightPx) > DEFAULT_MAX_SIDE_PX)
    throw new LimitError(`the picture has ${widthPx} x ${heightPx} pixels, the limit of a side is ${DEFAULT_MAX_SIDE_PX}`);
  if (widthPx * heightPx > maxPixels)
    throw new LimitError(`the picture has ${widthPx} x ${heightPx} pixels, the limit is ${maxPixels}`);
  return { word, widthPx, heightPx };
}

function readFields(data, maxPixels) {
  const reader = new FieldReader(data, MAGIC_BYTES + 1);
  const { word, widthPx, heightPx } = readStart(reader, maxPixels);
  const space = hex(reader.take(4, "identity of the latent space"));
  const prior = hex(reader.take(4, "identity of the prior"));
  const chunks = word & CHUNKS_PRESENT ? readChunks(reader) : new Map();
  const resampling = resamplingOf(chunks.get("SCAL"));
  return {
    widthPx,
    heightPx,
    codedWidthPx: Math.ceil(widthPx / resampling),
    codedHeightPx: Math.ceil(heightPx / resampling),
    resampling,
    stepIndex: word & 1023,
    space,
    prior,
    chunks,
    payload: data.subarray(reader.at),
  };
}

function readChunks(reader) {
  const count = reader.take(1, "number of chunks")[0];
  if (count < 1 || count > MAX_CHUNKS)
    throw new CorruptError(`the file announces ${count} chunks, 1 to ${MAX_CHUNKS} are possible`);
  const chunks = new Map();
  let previous = "";
  for (let i = 0; i < count; i++) {
    const kind = String.fromCharCode(...reader.take(4, "chunk kind"));
    if (!/^[A-Za-z]{4}$/.test(kind)) throw new CorruptError("a chunk kind is not four ASCII letters");
    if (kind <= previous) throw new CorruptError(`chunk ${kind} is repeated or out of order`);
    const size = reader.varint(4, `length of chunk ${kind}`);
    const critical = kind[0] < "a";
    const limit = critical ? MAX_CRITICAL_BYTES : MAX_ANCILLARY_BYTES;
    if (size > limit) throw new LimitError(`chunk ${kind} has ${size} bytes, at most ${limit} are possible`);
    const content = reader.take(size, `chunk ${kind}`);
    if (critical && !KNOWN_CRITICAL.includes(kind))
      throw new UnsupportedError(`the file needs chunk ${kind}, which this decoder does not know`);
    chunks.set(kind, content);
    previous = kind;
  }
  return chunks;
}

function resamplingOf(scale) {
  if (!scale) return 1;
  if (scale.length !== 1 || scale[0] < 1 || scale[0] > 3)
    throw new CorruptError("chunk SCAL must be one byte from 1 to 3");
  return 1 << scale[0];
}
